"""Predicted memory of packs: against the tensors that autograd really keeps, real weights and peaks, limiting cases."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, Qwen3_5TextConfig, Qwen3MoeConfig

from meshtune.training.loss import GPU_TOKENS, Row
from meshtune.training.memory.formula import Batch, batches_of, full_batch
from meshtune.training.memory.packs import CPU_SPARE, PackSetting
from meshtune.training.memory.shape import measure
from meshtune.training.packed.base import PackedBase, packed
from meshtune.training.packed.changes import PassLimit
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.limits import CPU_TOKENS, LEAST
from meshtune.training.packed.rows import Pass, Portion, lay_out
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Trained
from tests.training.architectures import NOT_EXPERTS, PACKABLE, make

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT, of GPT-2's transposed linears

TOKENS = 240
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)

LLAMA_70B = LlamaConfig(
    vocab_size=128256,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
)


def four_rows() -> list[Row]:
    """Four rows of 60 tokens, the last 35 of each trained."""
    numbers = np.random.default_rng(0)
    return [(numbers.integers(3, 250, 60).astype(np.int32), np.arange(60) >= 25) for _ in range(4)]


def setting_of(base: Any, dtype: str = "auto") -> PackSetting:
    return PackSetting(measure(base), Batch(4, 60, 140), "cpu", dtype)


def really_kept(pack: PackedBase, adapter: FlatAdapter, rows: list[Row] | None = None) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out."""
    weights = [*pack.base.parameters(), adapter.weights, adapter.low, *(group._stacked for group in pack.groups)]
    left_out = {weight.untyped_storage().data_ptr() for weight in weights if weight is not None}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    alive: list[Any] = []
    batch = lay_out([Portion(adapter, rows or four_rows(), 1 / 140, 0)], pack.base.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pack.losses(batch, train=True)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("name", "within"),
    [("llama", 0.02), ("qwen2", 0.02), ("phi3", 0.02), ("phi", 0.1), ("gpt2", 0.1), ("qwen3", 0.12), ("gpt-neox", 0.2)],
)
@pytest.mark.parametrize(
    ("dtype", "precision", "dropout"),
    [
        ("float32", "float32", 0.0),
        ("float32", "float32", 0.1),
        ("float32", "bfloat16", 0.0),
        ("float32", "bfloat16", 0.1),
        ("bfloat16", "bfloat16", 0.1),
    ],
)
def test_what_a_pass_keeps(
    make_recipe: Callable[..., Recipe], name: str, within: float, dtype: str, precision: str, dropout: float
) -> None:
    """Counted by the formula, beside what autograd keeps."""
    base = make(PACKABLE[name](), getattr(torch, dtype))
    recipe = make_recipe({"precision": precision}, dropout=dropout)
    kind = getattr(torch, precision)
    with packed(base, kind) as pack:
        really = really_kept(pack, FlatAdapter(base, recipe, kind))
    assert setting_of(base, dtype).kept(recipe) * TOKENS == pytest.approx(really, rel=within)


_SMALL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
HYBRIDS: dict[str, Any] = {
    "qwen3.5": Qwen3_5TextConfig(**_SMALL, **_DELTA, head_dim=32),
    "lfm2": Lfm2Config(**_SMALL, layer_types=["full_attention", "conv"], block_auto_adjust_ff_dim=False),
    "qwen3-moe": Qwen3MoeConfig(**_SMALL, head_dim=32, num_experts=8, num_experts_per_tok=4, moe_intermediate_size=64),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_what_hybrid_models_and_experts_keep(make_recipe: Callable[..., Recipe], name: str) -> None:
    """As above; without their own part the formula has .6 of it."""
    base = make(HYBRIDS[name])
    recipe = make_recipe(target_modules=NOT_EXPERTS) if name == "qwen3-moe" else make_recipe()
    with packed(base, torch.float32) as pack:
        really = really_kept(pack, FlatAdapter(base, recipe, torch.float32))
    assert setting_of(base).kept(recipe) * TOKENS == pytest.approx(really, rel=0.12)


def test_a_gpu_keeps_no_masks(make_recipe: Callable[..., Recipe]) -> None:
    """Counted by the formula, and by autograd on the path that a GPU takes."""
    base = make(PACKABLE["llama"]())
    plain, dropped = make_recipe(rank=8), make_recipe(rank=8, dropout=0.1)
    setting = replace(setting_of(base), device="cuda")
    assert setting.kept(plain) == setting.kept(dropped)
    with packed(base, torch.float32) as pack:
        pack.now.grouped = True
        pack.losses(lay_out([Portion(None, four_rows())], base.device), train=False)
        sizes = [really_kept(pack, FlatAdapter(base, recipe, torch.float32)) for recipe in (plain, dropped)]
    assert sizes[0] == sizes[1]


def test_a_gpu_has_stacks_of_the_largest_rank(make_recipe: Callable[..., Recipe]) -> None:
    """Each member's matrices have its rank."""
    base = make(PACKABLE["llama"]())
    few, many = make_recipe(rank=8), make_recipe(rank=24)
    setting = replace(setting_of(base), device="cuda")
    with packed(base, torch.float32) as pack:
        pack.now.grouped = True
        adapters = [FlatAdapter(base, recipe, torch.float32) for recipe in (few, many)]
        pack.losses(lay_out([Portion(a, four_rows(), 0.1, 0) for a in adapters], base.device), train=True)
        (found,) = (own for own in pack.now._stacks._sets.values() if len(own.adapters) == 2)
        held = sum(x.nbytes for stack in found.stacks.values() for x in (stack.a, *stack.b))
    counted = setting.memory([few, many])
    sizes = [setting.parameters(recipe) for recipe in (few, many)]
    assert counted.adapter + counted.optimizer - 16 * sum(sizes) == held


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_weights(make_recipe: Callable[..., Recipe], name: str) -> None:
    """The base's copy for the whole pack, and an adapter's flat tensors."""
    base = make(PACKABLE[name]())
    setting = setting_of(base)
    low, plain = make_recipe({"precision": "bfloat16"}, rank=3), make_recipe(rank=3)
    adapter = FlatAdapter(base, low, torch.bfloat16)
    assert setting.parameters(low) == adapter.weights.numel() == adapter.low.numel()
    # Weight, gradient, two moments and the best epoch's in float32, and the copy in bfloat16.
    assert setting.adapter(low) == 22 * setting.parameters(low)
    assert setting.adapter(plain) == 20 * setting.parameters(plain)
    with packed(base, torch.bfloat16) as pack:
        pack.losses(lay_out([Portion(adapter, four_rows(), 1 / 140, 0)], base.device), train=True)
        copies = [group._stacked for group in pack.groups] + [pack._head_low]
        copied = sum(copy.numel() for copy in copies if copy is not None)
    own = sum(weight.numel() for weight in base.parameters())
    assert setting.base(plain) == 4 * own
    assert setting.base(low) == 4 * own + 2 * copied
    assert replace(setting, dtype="bfloat16").base(low) == 2 * own


def test_a_pack_is_less_than_its_members_alone(make_recipe: Callable[..., Recipe]) -> None:
    """One more costs its adapter and the tokens that it brings, up to the limit of a pass; then the adapter alone."""
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(LLAMA_8B))
    setting = PackSetting(shape, full_batch(4, 100), "cpu", "bfloat16")
    recipe = make_recipe({"precision": "bfloat16"}, rank=16)
    totals = [setting.memory([recipe] * count).total for count in range(1, 9)]
    steps = np.diff(totals)
    assert steps[0] == max(steps)
    assert totals[7] < 8 * totals[0] / 4
    assert steps[0] > 1.5 * setting.adapter(recipe)
    assert steps[6] == pytest.approx(setting.adapter(recipe), rel=0.1)
    found = setting.memory([recipe])
    assert found.total == sum((found.base, found.adapter, found.optimizer, found.activations, found.overhead))
    assert found.adapter + found.optimizer == setting.adapter(recipe)
    mixed = setting.memory([replace(recipe, rank=rank) for rank in (4, 64)])
    assert mixed.adapter + mixed.optimizer == sum(setting.adapter(replace(recipe, rank=rank)) for rank in (4, 64))


def test_smaller_passes_where_memory_is_short(make_recipe: Callable[..., Recipe]) -> None:
    """To the byte; of several members, and of one whose batch is cut."""
    setting = replace(setting_of(make(PACKABLE["llama"]())), batch=Batch(32, 60, 700))
    for members in ([make_recipe()] * 5, [make_recipe()]):
        whole = setting.memory(members)
        assert setting.pass_tokens(members, whole.total) == CPU_TOKENS
        assert setting.pass_tokens(members, whole.total - 1) == CPU_TOKENS // 2
        halved = [replace(member, pass_tokens=CPU_TOKENS // 2) for member in members]
        assert setting.tokens(halved) == CPU_TOKENS // 2 + 8 * len(members)
        assert setting.memory(halved).total < whole.total
        assert setting.pass_tokens(members, 0) == LEAST
    setting = replace(setting, batch=Batch(4, 60, 140))
    assert setting.memory([make_recipe()] * 5, 1).total < setting.memory([make_recipe()] * 5).total


def test_smaller_passes_train_the_same(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for rounding; none has more tokens than it may, or than one member's micro-batch."""
    passes: list[int] = []
    losses = PackedBase.losses

    def noted(pack: PackedBase, batch: Pass, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if train:
            passes.append(batch.ids.numel())
        return losses(pack, batch, train=train)

    monkeypatch.setattr(PackedBase, "losses", noted)
    recipes = [make_recipe(seed=seed, dropout=0.1, rank=rank) for seed, rank in enumerate((2, 4, 8))]

    def trained(pass_tokens: int | None) -> tuple[list[float], int]:
        passes.clear()
        events = train_pack(base, train_rows, validation_rows, recipes, at="last", limit=PassLimit(pass_tokens))
        found = [event.loss for _, event in events if isinstance(event, Trained)]
        return found, max(passes)

    whole, most = trained(None)
    small, fewest = trained(1)
    assert small == pytest.approx(whole, abs=1e-5)
    assert fewest <= 4 * 40 < most
    recipes = [replace(recipe, dropout=0.0) for recipe in recipes]
    whole, _ = trained(None)
    recipes = [replace(recipe, pass_tokens=50) for recipe in recipes]
    small, fewest = trained(None)
    assert small == pytest.approx(whole, abs=1e-5), "steps that are cut"
    assert fewest <= 50


def test_checkpoints_and_logits(make_recipe: Callable[..., Recipe]) -> None:
    """Checkpoints keep a layer at a time; where logits are capped, all of them are kept."""
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(LLAMA_8B))
    setting = PackSetting(shape, full_batch(4, 1024), "cuda", "bfloat16")
    plain = make_recipe({"precision": "bfloat16"})
    checkpointed = make_recipe({"precision": "bfloat16", "gradient_checkpointing": True})
    assert setting.memory([checkpointed]).activations < setting.memory([plain]).activations / 5
    assert not shape.scaled_logits
    capped = replace(setting, shape=replace(shape, scaled_logits=True))
    assert capped.memory([plain]).activations > setting.memory([plain]).activations
    # However short a micro-batch is, a validation is not.
    assert replace(capped, batch=full_batch(1, 8)).memory([plain]).activations > 12 * GPU_TOKENS * shape.vocab
    assert measure(make(PACKABLE["gemma2"]())).scaled_logits
    assert measure(make(PACKABLE["granite"]())).scaled_logits


PEAK = """
import json, numpy as np, sys
from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.training import machine
from meshtune.training.memory import formula
from meshtune.training.models import load_model
from meshtune.training.memory.packs import PackSetting
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import recipe
from meshtune.training.memory.shape import measure, shape_of
members, rows, length, rank, precision = *map(int, sys.argv[1:5]), sys.argv[5]
few = "nf4" in sys.argv
machine.use_threads(1)
base = load_model(ModelConfig(name="embedded", **({"quantization": "nf4", "dtype": "bfloat16"} if few else {})), "cpu")
numbers = np.random.default_rng(0)
lengths = [length, *numbers.integers(length // 3, length, 3 * rows - 1).tolist()]
data = [(numbers.integers(3, 49000, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths]
point = {"rank": rank, "alpha": rank, "dropout": 0.0, "learning_rate": 1e-4}
training = TrainingConfig(batch_size=rows, epochs=1, precision=precision, gradient_checkpointing=few)
made = [recipe(training, point, seed) for seed in range(members)]
machine.reset_peak("cpu")
for event in train_pack(base, data, data[:1], made, at="best"):
    pass
of = ("bfloat16", "nf4") if few else ("auto", None)
shape = shape_of(ModelConfig(name="embedded")) if few else measure(base)
setting = PackSetting(shape, formula.batches_of(data, 0, 1)(rows), "cpu", *of)
print(json.dumps([machine.peak("cpu"), setting.memory(made).total]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "setting",
    [
        "1 4 64 16 float32",
        "1 4 64 16 bfloat16",
        "4 4 64 16 bfloat16",
        "2 2 64 256 float32",
        "4 4 64 16 bfloat16 nf4",  # with gradient checkpointing, as a large model on one GPU
    ],
)
def test_measured_peaks_of_the_embedded_model(setting: str) -> None:
    """Of a process of its own, within a quarter."""
    done = subprocess.run([sys.executable, "-c", PEAK, *setting.split()], capture_output=True, text=True, check=False)
    if "not installed" in done.stderr:
        pytest.skip("the embedded model is not installed")
    assert done.returncode == 0, done.stderr
    peak, predicted = json.loads(done.stdout.splitlines()[-1])
    assert predicted == pytest.approx(peak, rel=0.25)


def test_padding_is_not_counted(make_recipe: Callable[..., Recipe]) -> None:
    """A pack has none: one long row among short ones makes no large pass."""
    lengths = [600, *[30] * 15]
    rows = [(np.zeros(n, dtype=np.int32), np.ones(n, dtype=np.bool_)) for n in lengths]
    batch = batches_of(rows, 0, 1)(16)
    assert (batch.rows, batch.length, batch.unpadded) == (16, 600, sum(lengths))
    setting = replace(setting_of(make(PACKABLE["llama"]())), batch=batch, device="cuda")
    assert setting.tokens([make_recipe()] * 3) == 3 * (sum(lengths) + 8)


LONG = LlamaConfig(
    vocab_size=128256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32768,
)


@pytest.mark.parametrize("length", [8192, pytest.param(32768, marks=pytest.mark.slow)])
def test_long_rows_and_a_large_vocabulary(make_recipe: Callable[..., Recipe], length: int) -> None:
    """What is kept grows with the row and not with its square, nor with the vocabulary times the labels."""
    base = make(LONG)
    row = (np.full(length, 7, dtype=np.int32), np.arange(length) >= length - 700)  # two chunks of labels
    setting = PackSetting(measure(base), full_batch(1, length), "cpu", "auto")
    recipe = make_recipe()
    with packed(base, torch.float32) as pack:
        really = really_kept(pack, FlatAdapter(base, recipe, torch.float32), [row])
    assert setting.kept(recipe) * length == pytest.approx(really, rel=0.05)
    of_labels = replace(setting, batch=replace(setting.batch, labels=700)).memory([recipe]).activations
    assert of_labels == setting.memory([recipe]).activations, "of the logits one chunk is there at a time"
    chunk = 512 * 128256 * 4
    assert setting.memory([recipe]).activations == pytest.approx(CPU_SPARE * (really + chunk), rel=0.05)


def test_70b_in_four_bits_on_one_card_of_80_gb(make_recipe: Callable[..., Recipe]) -> None:
    """Packs of 4 of rank 16 with checkpoints, rows of 4,096 tokens; of rank 64 not."""
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(LLAMA_70B))
    setting = PackSetting(shape, full_batch(1, 4096), "cuda", "bfloat16", "nf4")
    given = {"precision": "bfloat16", "gradient_checkpointing": True, "batch_size": 1, "pass_tokens": 4096}
    found = setting.memory([make_recipe(given, rank=16)] * 4)
    assert found.total < 80 * 10**9 < setting.memory([make_recipe(given, rank=64)] * 4).total
    assert 42e9 < found.base < 44e9
    plain = {**given, "gradient_checkpointing": False}
    assert setting.memory([make_recipe(plain, rank=16)]).total > 80 * 10**9


def test_one_large_member_and_nine_smaller_ones(make_recipe: Callable[..., Recipe]) -> None:
    """Ten of them fit at 8B on a card of 79 GiB, which has room for four of the largest."""
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(LLAMA_8B))
    setting = PackSetting(shape, full_batch(16, 1024), "cuda", "bfloat16")
    given = {"precision": "bfloat16", "batch_size": 16, "pass_tokens": 2048}
    large, small = (make_recipe(given, rank=rank, dropout=0.1) for rank in (256, 64))
    assert setting.memory([large, *[small] * 9]).total < 79 << 30
    assert setting.memory([large] * 4).total < 79 << 30 < setting.memory([large] * 5).total
