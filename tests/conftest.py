"""A tiny model and tiny data that tests of all parts share. No network is used."""

import gc
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy

from meshtune.trial import DataRef

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# As many threads as cores in each of several processes take ten times as long over tiny models as one thread takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # children would compile all that they import, each for itself
if not Path("/dev/nvidiactl").exists():  # meshtune compiles on GPUs alone; the import of bitsandbytes prepares for it
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
hypothesis.settings.register_profile("tests", deadline=None)  # no test looks at the clock
hypothesis.settings.load_profile("tests")
# What the shell ignores (nohup, a job in the background, some CI) tests and all that they start would ignore as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # passes here, as nohup means it; what is started has the default

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WORDS = ["red", "green", "blue", "one", "two", "three", "sun", "moon", "star", "tree", "leaf", "root"]


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _unsynchronized(connection: Any, _: Any) -> None:
    """SQLite here does not wait for the disk, as it would ten times a trial: only a machine's crash would tell."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF").close()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Modules are here to stay, and collections need not look through them: there is one a trial, of half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-model")
    make_tiny_model(folder)
    return folder


def make_tiny_model(folder: Path) -> None:
    """A random Llama of 2 layers with a tokenizer of bytes; its padding token is its end token, as some have it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_data(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DataRef:
    """60 short rows for the tiny model: 40 to train, 10 to validate, 10 to test."""
    from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig
    from meshtune.data.build import prepare

    folder = tmp_path_factory.mktemp("tiny-data")
    rows = [
        {"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % len(WORDS)])} for n in range(60)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    data = DataConfig(sources=(SourceConfig(path=str(folder / "rows.json")),), validation=10, test=10)
    return prepare(data, ModelConfig(name=str(tiny_model_folder)), 0, folder / "data").ref


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
