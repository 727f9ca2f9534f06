"""Predicted memory: against the tensors that autograd really keeps, known models, and limiting cases."""

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data.store import epoch_order
from meshtune.errors import InputError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted
from meshtune.training.loss import IGNORED, Row, collate, label_losses
from meshtune.training.memory import formula
from meshtune.training.memory.shape import measure, shape_of
from meshtune.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT, of GPT-2's transposed linears

SMALL: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 8, "num_key_value_heads": 2}
LLAMA = LlamaConfig(**SMALL, **WIDE, num_hidden_layers=3)
QWEN = Qwen3Config(**SMALL, **WIDE, num_hidden_layers=3, head_dim=16)
GPT2 = GPT2Config(**SMALL, n_embd=64, n_layer=3, n_head=8)
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)


def on_meta(config: PretrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def padded_rows() -> list[Row]:
    """Four rows of 60 tokens but one, the last 35 of each trained."""
    numbers = np.random.default_rng(0)
    lengths = (60, 60, 55, 60)
    return [(numbers.integers(3, 300, n).astype(np.int32), np.arange(n) >= n - 35) for n in lengths]


def really_kept(base: Any, recipe: Recipe) -> int:
    """Bytes that autograd keeps for the backward pass of a batch, weights of the base and the logits left out."""
    batch = collate(padded_rows())
    kept: dict[int, Any] = {}
    with adapted(base, lora_config(base, recipe), 0) as model:
        model.train()
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"),
        ):
            label_losses(model, batch).sum()
    labels = int((batch["labels"] != IGNORED).sum())
    return sum(storage.nbytes() for storage in kept.values()) - 4 * labels * 300


@pytest.mark.parametrize("config", [LLAMA, QWEN, GPT2], ids=["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(
    ("dtype", "training", "dropout"),
    [
        ("float32", {"precision": "float32"}, 0.0),
        ("float32", {"precision": "float32"}, 0.1),
        ("float32", {"precision": "bfloat16"}, 0.0),
        ("float32", {"precision": "bfloat16"}, 0.1),
        ("bfloat16", {"precision": "bfloat16"}, 0.0),
        ("float32", {"precision": "float32", "use_dora": True}, 0.0),
    ],
)
def test_what_is_kept_for_the_backward_pass(
    make_recipe: Callable[..., Recipe],
    config: PretrainedConfig,
    dtype: str,
    training: dict[str, Any],
    dropout: float,
) -> None:
    """Counted by the formula, within a twentieth of what autograd keeps."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).requires_grad_(False)
    recipe = make_recipe(training, dropout=dropout)
    shape = measure(base)
    batch = formula.batches_of(padded_rows(), 0, 1)(4)
    targets = shape.targets(recipe.target_modules)
    counted = formula._kept(shape, recipe, targets, batch, formula.BYTES[dtype], True)
    assert counted == pytest.approx(really_kept(base, recipe), rel=0.06)


@pytest.mark.parametrize("config", [LLAMA, QWEN, GPT2], ids=["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_an_adapters_parameters(
    make_recipe: Callable[..., Recipe], config: PretrainedConfig, targets: str | list[str]
) -> None:
    """As PEFT makes them, 8 bytes each for the weights and their copy, and 12 for the optimizer."""
    if config is GPT2 and targets != "all-linear":
        targets = ["c_attn"]
    base = AutoModelForCausalLM.from_config(config)
    for dora in (False, True):
        recipe = make_recipe({"target_modules": targets, "use_dora": dora}, rank=3)
        with adapted(base, lora_config(base, recipe), 0) as model:
            parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        found = formula.of_recipe(measure(base), recipe, formula.full_batch(1, 8), device="cpu", dtype="auto")
        assert (found.adapter, found.optimizer) == (8 * parameters, 12 * parameters)


def test_an_8b_model(make_recipe: Callable[..., Recipe]) -> None:
    """Known figures: 8,030,261,248 parameters, 16 GB in bfloat16; 0.67 GB of adapter at rank 16, 10.7 GB at 256."""
    shape = measure(on_meta(LLAMA_8B))
    assert (shape.parameters, shape.layers, shape.head) == (8_030_261_248, 32, "lm_head")
    batch = formula.full_batch(1, 2048)

    def at(device: str = "cuda", **values: Any) -> formula.Memory:
        return formula.of_recipe(
            shape, make_recipe({"precision": "bfloat16"}, **values), batch, device=device, dtype="bfloat16"
        )

    small, large = at(rank=16), at(rank=256)
    assert small.base == 2 * shape.parameters
    assert small.adapter + small.optimizer == pytest.approx(0.67e9, rel=0.01)
    assert large.adapter + large.optimizer == pytest.approx(10.7e9, rel=0.01)
    assert small.total == sum((small.base, small.adapter, small.optimizer, small.activations, small.overhead))
    assert small.to_dict()["total"] == small.total
    assert at(device="cpu", rank=16).adapter == 2 * small.adapter  # the best epoch's copy lies there too
    assert at(dropout=0.05).activations < at(device="cpu", dropout=0.05).activations  # a GPU's masks are bytes


def test_what_a_stopped_trial_of_an_8b_model_keeps(make_recipe: Callable[..., Recipe]) -> None:
    """At rank 64 on all linear layers, 167,772,160 parameters: 2 GB with AdamW, and less with other optimizers."""
    shape = measure(on_meta(LLAMA_8B))

    def at(*, validated: bool = False, **values: Any) -> int:
        return formula.of_state(shape, make_recipe({"target_modules": "all-linear"}, **values), validated=validated)

    assert at(rank=64) == 12 * 167_772_160 == 2_013_265_920
    assert at(rank=64, validated=True) == 16 * 167_772_160
    assert at(rank=64, optimizer="muon") == 8 * 167_772_160
    assert at(rank=64, optimizer="adamw_8bit") == pytest.approx(6.03 * 167_772_160, rel=1e-3)
    assert at(rank=128) == 2 * at(rank=64)


def test_memory_grows_with_what_it_should(make_recipe: Callable[..., Recipe]) -> None:
    """And is less with checkpoints, where one layer is kept at a time."""
    shape = measure(on_meta(LLAMA_8B))

    def at(length: int, training: dict[str, Any] | None = None, **values: Any) -> int:
        recipe = make_recipe({"precision": "bfloat16", **(training or {})}, **values)
        batch = formula.full_batch(4, length)
        return formula.of_recipe(shape, recipe, batch, device="cuda", dtype="bfloat16").total

    assert at(256) < at(512) < at(512, dropout=0.1) < at(512, {"use_dora": True}, dropout=0.1)
    assert at(512) == at(512, {"lr_scheduler": "wsd"}) < at(512, rank=64)
    assert at(512, {"target_modules": ["q_proj"]}) < at(512)
    assert at(2048, {"gradient_checkpointing": True}) < at(2048) / 2


def test_the_shape_comes_without_weights(tmp_path: Any, tiny_model_folder: Any) -> None:
    """The file of the weights is there, and not read."""
    (tmp_path / "config.json").write_text((tiny_model_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    shape = shape_of(ModelConfig(name=str(tmp_path)))
    assert (shape.hidden, shape.layers, shape.heads, shape.head_dim) == (32, 2, 4, 8)
    assert len(shape.targets("all-linear")) == 14
    assert [linear.name for linear in shape.targets(("layers.1.self_attn.q_proj",))] == [
        "model.layers.1.self_attn.q_proj"
    ]
    with pytest.raises(InputError, match="no such model folder"):
        shape_of(ModelConfig(name=str(tmp_path / "nothing")))


def test_the_largest_batch_is_one_that_comes() -> None:
    """By padded tokens, of the batches that the epochs of this seed have."""
    lengths = [3, 9, 4, 30, 5, 6, 7, 8, 2, 10, 11]
    rows = [(np.arange(n, dtype=np.int32), np.arange(n) >= n // 2) for n in lengths]
    batches = formula.batches_of(rows, 7, 3)
    assert batches(1) == formula.Batch(1, 30, 15, 30)
    assert batches(100) == formula.Batch(11, 30, sum(n - n // 2 for n in lengths), sum(lengths))
    found = batches(4)
    made = [epoch_order(11, 7, epoch).tolist()[start : start + 4] for epoch in range(3) for start in (0, 4, 8)]
    assert found.rows * found.length == max(len(b) * max(lengths[row] for row in b) for b in made)
    assert found.labels in [sum(lengths[row] - lengths[row] // 2 for row in b) for b in made]


def test_predict_takes_a_point(tiny_model_folder: Any) -> None:
    """Hyperparameters go before what the section says."""
    shape = shape_of(ModelConfig(name=str(tiny_model_folder)))
    training = TrainingConfig(precision="float32")
    point = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 1e-4}
    batch = formula.full_batch(4, 32)
    few = formula.predict(
        shape, training, {**point, "target_modules": "q_proj,v_proj"}, batch, device="cpu", dtype="auto"
    )
    all_of_them = formula.predict(shape, training, point, batch, device="cpu", dtype="auto")
    assert few.adapter < all_of_them.adapter
    with pytest.raises(InputError, match="is missing"):
        formula.predict(shape, training, {"rank": 4}, batch, device="cpu", dtype="auto")


PEAK = """
import numpy as np, sys
from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.training import machine
from meshtune.training.memory import formula
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe
from meshtune.training.memory.shape import measure
from meshtune.training.trainer import train
rows, length, rank, precision = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
machine.use_threads(1)
base = load_model(ModelConfig(name="embedded"), "cpu")
numbers = np.random.default_rng(0)
lengths = [length, *numbers.integers(length // 3, length, 6 * rows - 1).tolist()]
data = [(numbers.integers(3, 49000, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths]
point = {"rank": rank, "alpha": rank, "dropout": 0.0, "learning_rate": 1e-4}
made = recipe(TrainingConfig(batch_size=rows, epochs=1, precision=precision), point, 0)
machine.reset_peak("cpu")
for step in train(base, data, data[:1], made, at="best"):
    pass
found = formula.of_recipe(measure(base), made, formula.batches_of(data, 0, 1)(rows), device="cpu", dtype="auto")
print(machine.peak("cpu"), found.total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("setting", ["4 64 16 float32", "4 64 16 bfloat16", "2 64 256 float32"])
def test_measured_peaks_of_the_embedded_model(setting: str) -> None:
    """Of a process of its own, within a quarter."""
    done = subprocess.run([sys.executable, "-c", PEAK, *setting.split()], capture_output=True, text=True, check=False)
    if "not installed" in done.stderr:
        pytest.skip("the embedded model is not installed")
    assert done.returncode == 0, done.stderr
    peak, predicted = map(int, re.findall(r"\d+", done.stdout))
    assert predicted == pytest.approx(peak, rel=0.25)
