"""The base: where it comes from, and what is said where it cannot be had."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from meshtune.config.sections import ModelConfig
from meshtune.data.embedded import CONVERTED, embedded_gguf
from meshtune.errors import InputError, StorageError
from meshtune.training import models
from meshtune.training.loss import Row, row_losses
from meshtune.training.models import resolve_precision


def refused(model: ModelConfig) -> str:
    """What `check_model` and `load_model` say, which is the same."""
    with pytest.raises(InputError) as checked:
        models.check_model(model)
    with pytest.raises(InputError) as loaded:
        models.load_model(model, "cpu")
    assert str(checked.value) == str(loaded.value)
    return str(checked.value)


def test_a_folder(tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Frozen, in evaluation mode, float32, and quiet."""
    model = ModelConfig(name=str(tiny_model_folder))
    models.check_model(model)
    base = models.load_model(model, "cpu")
    assert not base.training
    assert {weight.dtype for weight in base.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in base.parameters())
    assert base.name_or_path == str(tiny_model_folder)
    half = models.load_model(model.model_copy(update={"dtype": "bfloat16"}), "cpu")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert capfd.readouterr() == ("", "")


def test_no_model(tmp_path: Path, tiny_model_folder: Path) -> None:
    """One clear message for each way in which there is none."""
    assert "there is no folder" in refused(ModelConfig(name=str(tmp_path / "nothing")))
    assert "there is no file" in refused(ModelConfig(name=str(tmp_path / "nothing.gguf")))
    assert "no config.json" in refused(ModelConfig(name=str(tmp_path)))
    shutil.copy(tiny_model_folder / "config.json", tmp_path)
    assert "holds no weights" in refused(ModelConfig(name=str(tmp_path)))
    assert "not in the local cache" in refused(ModelConfig(name="nobody/nothing"))
    assert "neither" in refused(ModelConfig(name="a/b/c"))


def test_not_a_causal_model(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Is said before any weight is read."""
    shutil.copy(tiny_model_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="`t5` model, no causal language model"):
        models.check_model(ModelConfig(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma3"}, "`gemma3` model, which reads images beside text"),
        ({"model_type": "llava"}, "`llava` model, which reads images"),
        ({"model_type": "qwen2_vl"}, "`qwen2_vl` model, which reads images"),
        ({"model_type": "phi4_multimodal"}, "`phi4_multimodal` model, which reads images or sound"),
        ({"model_type": "t5"}, "`t5` model, no causal language model but an encoder with a decoder"),
        ({"model_type": "bart"}, "`bart` model, no causal language model but an encoder with a decoder"),
        ({"model_type": "bert", "is_encoder_decoder": False}, None),
        ({"model_type": "vit"}, "`vit` model, no causal language model"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_kinds_of_models(tmp_path: Path, tiny_model_folder: Path, config: dict[str, object], message: str) -> None:
    """One message each, before any weight is read; an encoder that can be a decoder is one (BERT)."""
    shutil.copy(tiny_model_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if message is None:
        models.check_model(ModelConfig(name=str(tmp_path)))
        return
    with pytest.raises(InputError) as caught:
        models.check_model(ModelConfig(name=str(tmp_path)))
    assert message in str(caught.value)
    assert len(caught.value.faults) == 1


def test_the_language_part_of_a_vision_model_is_a_model(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Transformers has it as a class of its own, and loads that."""
    shutil.copy(tiny_model_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5"}))
    models.check_model(ModelConfig(name=str(tmp_path)))


def test_target_modules_are_checked_without_weights(tmp_path: Path, tiny_model_folder: Path) -> None:
    """From the configuration alone, of a model that would not fit into this machine's memory."""
    shutil.copy(tiny_model_folder / "model.safetensors", tmp_path)
    large = {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672}
    (tmp_path / "config.json").write_text(json.dumps(large))
    models.check_model(ModelConfig(name=str(tmp_path)), "all-linear")
    with pytest.raises(InputError, match="Did you mean `q_proj`"):
        models.check_model(ModelConfig(name=str(tmp_path)), ("q_prj",))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    with pytest.raises(InputError, match="mixture of experts"):
        models.check_model(ModelConfig(name=str(tmp_path)), "all-linear")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch has its GPU")
def test_a_gpu_that_torch_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's tool names it: an answer to `cuda` and to `auto`, where without one there is nothing to say."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert models.advice("cpu") is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    advice = models.advice("cpu")
    assert advice is not None
    assert advice.startswith("this machine has GPU 0: NVIDIA H100 80GB HBM3, but ")
    if torch.version.cuda is None:
        assert "built for CPUs only" in advice
    assert models.advice("cuda") is None
    with pytest.raises(InputError) as caught:
        models.resolve_device(ModelConfig(name="embedded", device="cuda"))
    assert advice in str(caught.value)


def test_no_pad_token(tmp_path: Path, tiny_model_folder: Path, train_rows: list[Row]) -> None:
    """None is needed: padding is told by the mask alone, and the losses are those of rows one at a time."""
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        values = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({k: v for k, v in values.items() if "pad_token" not in k}))
    base = models.load_model(ModelConfig(name=str(tmp_path)), "cpu")
    assert base.config.pad_token_id is None
    alone = [row_losses(base, [row])[0][0] for row in train_rows]
    assert [total for total, _ in row_losses(base, train_rows)] == pytest.approx(alone, abs=1e-3)


def test_code_of_its_own_is_not_run_unless_asked_for(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The message names the key."""
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise RuntimeError('it was run')")
    assert "trust_remote_code: true" in refused(ModelConfig(name=str(tmp_path)))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Transformers would take random ones, with a warning."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, such as `model[.]layers[.]1[.]mlp[.]up_proj"):
        models.load_model(ModelConfig(name=str(tmp_path)), "cpu")


def test_damaged_weights(tmp_path: Path, tiny_model_folder: Path) -> None:
    """A download that broke off."""
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load_model(ModelConfig(name=str(tmp_path)), "cpu")


def test_devices() -> None:
    """`auto` is what there is; what is not there is refused."""
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert models.resolve_device(ModelConfig(name="embedded")) == expected
    assert models.resolve_device(ModelConfig(name="embedded", device="cpu")) == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees none"):
            models.resolve_device(ModelConfig(name="embedded", device="cuda"))


def test_precision() -> None:
    """`auto` takes bfloat16 only where the CPU has units for it."""
    assert resolve_precision("float32", "cpu") == "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_precision("auto", "cpu") == ("bfloat16" if fast else "float32")
    assert resolve_precision("auto", "mps") == "float32"
    with pytest.raises(InputError, match="float16 is for CUDA"):
        resolve_precision("float16", "cpu")


@pytest.mark.slow
def test_the_embedded_model_is_converted_once_by_two_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One converts (here what a killed one left is in the way), the other waits; both get a whole folder."""
    try:
        embedded_gguf()
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MESHTUNE_CACHE", str(tmp_path))
    (tmp_path / f"{CONVERTED}.part").mkdir(parents=True)
    script = "from meshtune.training.models import embedded_folder; print(embedded_folder())"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate()
        assert (out.strip(), err) == (str(tmp_path / CONVERTED), "")
    assert {path.name for path in tmp_path.iterdir()} == {CONVERTED, f"{CONVERTED}.lock"}
    base = models.load_model(ModelConfig(name="embedded"), "cpu")
    assert sum(weight.numel() for weight in base.parameters()) == 134_515_008
    assert base.name_or_path == str(tmp_path / CONVERTED)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which folder, and how to name another."""
    try:
        embedded_gguf()
    except InputError as error:
        pytest.skip(str(error))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MESHTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="MESHTUNE_CACHE"):
        models.embedded_folder()


LOADING = """
import gc, re, sys, threading, time
from meshtune.config.sections import ModelConfig
from meshtune.training.models import load_model
small, large, device = sys.argv[1:]
anonymous = lambda: int(re.search(r"^RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read(), re.M)[1]) << 10
load_model(ModelConfig(name=small), device)  # what loading itself needs once
gc.collect()
before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(1e-3)
watching = threading.Thread(target=watch)
watching.start()
base = load_model(ModelConfig(name=large), device)
done = True
watching.join()
held = sum(weight.numel() * 4 for weight in base.parameters())
assert {(weight.device.type, str(weight.dtype)) for weight in base.parameters()} == {(device, "torch.float32")}
print(held, max(peak, anonymous()) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
@pytest.mark.parametrize(("device", "most"), [("cpu", 1.2), ("meta", 0.2)])
def test_loading_takes_no_more_memory_than_the_model_on_its_device(
    tiny_model_folder: Path, tmp_path: Path, device: str, most: float
) -> None:
    """100 MB in float32, published in bfloat16; where the device's memory is not the CPU's, next to nothing there."""
    config = LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1536, num_hidden_layers=5, num_attention_heads=8
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    arguments = [str(tiny_model_folder), str(tmp_path), device]
    told = subprocess.run([sys.executable, "-c", LOADING, *arguments], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    held, peak = map(int, told.stdout.split())
    assert 90e6 < held < 120e6
    assert peak <= most * held


@pytest.mark.parametrize(
    ("device", "precision", "parameters", "begun", "dtype"),
    [
        ("cuda", "bfloat16", 999_885_952, None, "bfloat16"),  # Gemma 3 1B
        ("cuda", "bfloat16", 596_049_920, None, "auto"),
        ("cuda", "float32", 8_030_261_248, None, "auto"),
        ("cpu", "bfloat16", 8_030_261_248, None, "auto"),
        ("cuda", "bfloat16", 8_030_261_248, "auto", "auto"),  # as earlier versions began it
        ("cpu", "float32", 8_030_261_248, "bfloat16", "bfloat16"),
    ],
)
def test_a_large_base_on_a_gpu_is_bfloat16(
    device: str, precision: str, parameters: int, begun: str | None, dtype: str
) -> None:
    """Where nothing else is said."""
    model = ModelConfig(name="x")
    assert models.in_its_type(model, device, precision, parameters, begun).dtype == dtype
    said = model.model_copy(update={"dtype": "float32"})
    assert models.in_its_type(said, device, precision, parameters, begun) == said
