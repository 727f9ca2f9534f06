"""A base in few bits: its weights, and that both trainers, packs and validation compute with the same ones."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig
from meshtune.data.build import prepare
from meshtune.data.store import Rows
from meshtune.errors import InputError, MissingExtra
from meshtune.testing.packs import losses, mean_difference, of
from meshtune.training import chosen_trainer, trainer
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.memory import formula
from meshtune.training.memory.formula import full_batch
from meshtune.training.memory.packs import PackSetting
from meshtune.training.memory.shape import measure
from meshtune.training.merge import merge
from meshtune.training.models import check_model, load_model
from meshtune.training.packed.trainer import train, train_pack
from meshtune.training.quantized import Quantization, QuantizedLinear, check_quantizable, dequantize, quantize
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Trained
from tests.training.architectures import MIXTURES, PACKABLE, make

MakeRecipe = Callable[..., Recipe]
BOTH = pytest.mark.parametrize("quantization", ["int8", "nf4"])


def quantized(folder: Path, quantization: Quantization, dtype: Any = "auto") -> Any:
    return load_model(ModelConfig(name=str(folder), quantization=quantization, dtype=dtype), "cpu")


@BOTH
def test_weights_are_those_of_bitsandbytes(quantization: Quantization) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0)) * 0.1
    plain = nn.Linear(40, 24, bias=False)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    layer = QuantizedLinear(plain, quantization, torch.float32, "cpu")
    if quantization == "int8":
        theirs = functional.int8_vectorwise_dequant(*functional.int8_vectorwise_quant(weight.half())[:2])
    else:
        theirs = functional.dequantize_4bit(*functional.quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    torch.testing.assert_close(layer.weight, theirs, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(layer.dequantized(torch.bfloat16), theirs.bfloat16(), rtol=2**-7, atol=0)
    error = (layer.weight - weight).norm() / weight.norm()
    assert error < (0.01 if quantization == "int8" else 0.12)


@BOTH
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_product_and_its_gradient(quantization: Quantization, kind: torch.dtype) -> None:
    """Those of the layer with its weight written out, under autocast too."""
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(32, 16).requires_grad_(False), quantization, torch.float32, "cpu")
    rows = torch.randn(5, 32)
    outputs, gradients = [], []
    for computed in (layer, layer.plain()):
        given = rows.clone().requires_grad_()
        with torch.autocast("cpu", kind) if kind != torch.float32 else contextlib.nullcontext():
            outputs.append(computed(given))
        outputs[-1].float().square().sum().backward()
        gradients.append(given.grad)
    close = 1e-5 if kind == torch.float32 else 0.02
    assert outputs[0].dtype == kind
    torch.testing.assert_close(*outputs, rtol=close, atol=close)
    torch.testing.assert_close(*gradients, rtol=close, atol=close)


@BOTH
def test_what_is_quantized_and_back(tiny_model_folder: Path, quantization: Quantization) -> None:
    """The linear layers, and neither the head nor the embedding; written out they give the same logits bit by bit."""
    base = quantized(tiny_model_folder, quantization)
    kinds = {name: type(part) for name, part in base.named_modules()}
    assert sum(kind is QuantizedLinear for kind in kinds.values()) == 14
    assert kinds["lm_head"] is nn.Linear
    assert base.dtype == torch.float32
    assert not any(weight.requires_grad for weight in base.parameters())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = base(ids).logits
        plain = dequantize(base)
        torch.testing.assert_close(plain(ids).logits, before, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, QuantizedLinear) for part in plain.modules())


@pytest.mark.parametrize(
    ("name", "quantization"), [("llama", "int8"), ("llama", "nf4"), ("gpt2", "nf4"), ("phi", "int8")]
)
def test_both_trainers_and_packs(
    name: str, quantization: Quantization, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """The transformers trainer, the packed one, and an adapter beside another train to the same, biases included."""
    base = quantize(make(PACKABLE[name]()), quantization, device="cpu", dtype=torch.float32)
    recipe, other = make_recipe({"epochs": 2}), make_recipe({"epochs": 2}, rank=8, dropout=0.1)
    sides = train_rows[:14], validation_rows
    theirs = list(trainer.train(base, *sides, recipe, at="best"))
    ours = list(train(base, *sides, recipe, at="best"))
    pack = of(list(train_pack(base, *sides, [other, recipe], at="best")), 1)
    for events in (ours, pack):
        assert losses(events) == pytest.approx(losses(theirs), abs=1e-5)
        assert mean_difference(events[-1], theirs[-1]) <= 1e-5


@BOTH
def test_low_precision_and_checkpoints(
    tiny_model_folder: Path,
    quantization: Quantization,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
) -> None:
    """Products of bfloat16 move a loss a little, activations that are computed again do not."""
    base = quantized(tiny_model_folder, quantization)
    sides = train_rows, validation_rows
    exact = list(train(base, *sides, make_recipe(), at="last"))
    again = list(train(base, *sides, make_recipe({"gradient_checkpointing": True}), at="last"))
    assert losses(again) == pytest.approx(losses(exact), abs=1e-5)
    rounded = make_recipe({"precision": "bfloat16"})
    for which in (train, trainer.train):
        assert losses(list(which(base, *sides, rounded, at="last"))) == pytest.approx(losses(exact), abs=0.05)


@BOTH
def test_a_saved_adapter_measures_as_it_was_trained(
    tiny_model_folder: Path,
    tmp_path: Path,
    quantization: Quantization,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
) -> None:
    """On the quantized base; and merged into its weights written out."""
    base = quantized(tiny_model_folder, quantization)
    *_, trained = train(base, train_rows, validation_rows, make_recipe(), at="best")
    assert isinstance(trained, Trained)
    save_adapter(tmp_path / "adapter", trained.weights, trained.config, str(tiny_model_folder))
    with attached(base, tmp_path / "adapter"):
        assert mean_loss(row_losses(base, validation_rows)) == pytest.approx(trained.loss, abs=1e-5)
    assert sum(isinstance(part, QuantizedLinear) for part in base.modules()) == 14
    (tmp_path / "merged").mkdir()
    found = merge(
        ModelConfig(name=str(tiny_model_folder), quantization=quantization),
        tmp_path / "adapter",
        tmp_path / "merged",
        device="cpu",
        rows=validation_rows,
        adapter_loss=None,
        report=lambda _: None,
    )
    assert (found.loss, found.adapter_loss) == pytest.approx((trained.loss, trained.loss), abs=1e-5)


def test_the_rest_is_of_the_type_that_was_asked_for(tiny_model_folder: Path) -> None:
    base = quantized(tiny_model_folder, "nf4", "bfloat16")
    assert {weight.dtype for weight in base.parameters()} == {torch.bfloat16}
    layer = base.model.layers[0].mlp.up_proj
    assert (layer.weight.dtype, layer.scales.dtype) == (torch.bfloat16, torch.float32)


def test_packs_are_possible(tiny_model_folder: Path) -> None:
    from meshtune.config.sections import TrainingConfig

    base = quantized(tiny_model_folder, "nf4")
    assert chosen_trainer.why_not_packed(base, TrainingConfig(precision="float32"), [{}]) is None


@pytest.mark.parametrize("values", [{"use_dora": True}, {"use_rslora": True}, {"init_lora_weights": "orthogonal"}])
def test_other_adapters_by_the_transformers_trainer(
    tiny_model_folder: Path,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    values: dict[str, Any],
) -> None:
    """As over the same weights written out."""
    base = quantized(tiny_model_folder, "nf4")
    sides = train_rows[:8], validation_rows
    first = list(trainer.train(base, *sides, make_recipe(values), at="last"))
    second = list(trainer.train(dequantize(base), *sides, make_recipe(values), at="last"))
    assert losses(first) == pytest.approx(losses(second), abs=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_start_weights_that_change_the_base(tiny_model_folder: Path, make_recipe: MakeRecipe, start: str) -> None:
    base = quantized(tiny_model_folder, "nf4")
    with pytest.raises(InputError, match="keeps in few bits; write another"):
        lora_config(base, make_recipe({"init_lora_weights": start}))


def test_what_cannot_be_quantized(tiny_model_folder: Path) -> None:
    with pytest.raises(InputError, match="mixture of experts"):
        quantize(make(MIXTURES["mixtral"]()), "nf4", device="cpu", dtype=torch.float32)
    base = make(PACKABLE["llama"]())
    base.is_quantized = True
    with pytest.raises(InputError, match="quantized as they are published"):
        quantize(base, "int8", device="cpu", dtype=torch.float32)
    with pytest.raises(InputError, match="can be had on CPUs and CUDA devices, not on mps"):
        check_quantizable("nf4", "mps")


def test_without_bitsandbytes(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before weights are read, with the line that installs it."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        MissingExtra, match=r"a base in nf4 needs .*`bitsandbytes`.*pip install '\.\[gpu\]' in your clone"
    ):
        check_model(ModelConfig(name=str(tiny_model_folder), quantization="nf4"))


@BOTH
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bytes_are_predicted(name: str, quantization: Quantization, make_recipe: MakeRecipe) -> None:
    """Of the base, exactly; of a pack without a copy of its weights."""
    plain = make(PACKABLE[name]())
    shape = measure(plain)
    base = quantize(plain, quantization, device="cpu", dtype=torch.float32)
    tensors = {id(x): x for x in (*base.parameters(), *base.buffers())}
    held = sum(x.numel() * x.element_size() for x in tensors.values())
    extra = sum(x.numel() * x.element_size() for part in base.modules() for x in _own_buffers(part))
    assert formula.of_base(shape, "auto", quantization) == held - extra
    largest = max(x.inputs * x.outputs for x in shape.linears if not x.lookup and x.name != shape.head)
    setting = PackSetting(shape, full_batch(4, 20), "cpu", "auto", quantization)
    assert setting.base(make_recipe()) == held - extra + 4 * largest
    head = next(x.inputs * x.outputs for x in shape.linears if x.name == shape.head)
    assert setting.base(make_recipe({"precision": "bfloat16"})) == held - extra + 4 * largest + 2 * head
    batch, recipe = full_batch(4, 20), make_recipe({"precision": "bfloat16"})
    alone = formula.of_recipe(shape, recipe, batch, device="cpu", dtype="auto", quantization=quantization)
    assert alone.base == held - extra + 4 * largest
    copies, none = (
        formula._kept(shape, recipe, shape.targets("all-linear"), batch, 4, True, few_bits)
        for few_bits in (False, True)
    )
    assert copies - none == sum(2 * x.inputs * x.outputs for x in shape.linears if not x.lookup) - 2 * head


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "untuned", "adapted"), [("int8", 0.1, 0.1), ("nf4", 1.2, 1.0)])
def test_the_embedded_model(
    tmp_path: Path, make_recipe: MakeRecipe, quantization: Quantization, untuned: float, adapted: float
) -> None:
    """Losses beside those in float32, and both trainers alike over few bits; 4 steps of two rows."""
    sources = (SourceConfig(embedded="python-stdlib-describe"),)
    whole = ModelConfig(name="embedded")
    few = ModelConfig(name="embedded", quantization=quantization)
    data = prepare(DataConfig(sources=sources, rows=60, validation=4, test=0), whole, 0, tmp_path).ref
    rows = [Rows.open(data, "train")[number] for number in range(8)]
    validation = [Rows.open(data, "validation")[number] for number in range(4)]
    recipe = make_recipe({"epochs": 1, "batch_size": 2, "gradient_accumulation": 1}, rank=8, learning_rate=1e-3)
    found = []
    for model in (whole, few):
        base = load_model(model, "cpu")
        before = mean_loss(row_losses(base, validation))
        *_, trained = train(base, rows, validation, recipe, at="last")
        assert isinstance(trained, Trained)
        found.append((before, trained.loss))
    *_, theirs = trainer.train(base, rows, validation, recipe, at="last")
    assert isinstance(theirs, Trained)
    assert found[1][1] == pytest.approx(theirs.loss, abs=1e-4)
    assert found[1][0] == pytest.approx(found[0][0], abs=untuned)
    assert found[1][1] == pytest.approx(found[0][1], abs=adapted)
    assert found[1][1] < found[1][0]


def _own_buffers(part: nn.Module) -> list[torch.Tensor]:
    return [] if isinstance(part, QuantizedLinear | Conv1D) else list(part.buffers(recurse=False))
