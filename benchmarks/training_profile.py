"""Where the time of a packed step goes, and how far the processor's limit is.

torch's profiler names each operation with the shapes of what it was given, and these say what it belongs to: the rank
of the adapter stands in its products alone, the number of words in the head's alone. Operations are counted without
those that they call; what the profiler itself adds is told. The limit is a step that consists of its matrix products
alone, each at the speed that this processor reaches on these very shapes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as profiler
from training_sides import BATCH, LORA, folder_of, made_rows, our_order, our_recipe
from transformers import AutoConfig

from meshtune.config.sections import ModelConfig
from meshtune.training.models import load_model
from meshtune.training.packed import flat_adapter as layers
from meshtune.training.packed.trainer import train_pack
from meshtune.training.steps import Step

KINDS = ("base products", "head", "LoRA", "attention", "dropout", "optimizer", "norms, activations, residuals")
MOST = 4  # steps of a profile; more take minutes to be added up
_DRAWS = "draws of dropout"  # made by NumPy, so they are named to the profiler here
_DROPOUT = (_DRAWS, "random_", "bitwise", "sub_")
_OPTIMIZER = ("_fused_adamw", "linalg_vector_norm", "_foreach")


@contextlib.contextmanager
def draws_named() -> Iterator[None]:
    """Let the profiler see the masks as operations of their own."""
    mask = layers.mask

    def named(*arguments: Any) -> torch.Tensor:
        with record_function(_DRAWS):
            return mask(*arguments)

    layers.mask = named
    try:
        yield
    finally:
        layers.mask = mask


class Shapes:
    """Tells from the name and the shapes of an operation what it belongs to."""

    def __init__(self, base: Any):
        head = base.get_output_embeddings()
        linears = [part for part in base.modules() if type(part) is nn.Linear and part is not head]
        self.words, self.width = head.weight.shape
        self.pairs = [tuple(part.weight.shape) for part in linears]  # (outputs, inputs)
        sizes = {size for pair in self.pairs for size in pair}
        # In bf16 the layers that read the same tensor are one weight, so sums of outputs occur too.
        self.wide = sizes | {sum(some) for n in (2, 3) for some in itertools.combinations_with_replacement(sizes, n)}
        self.adapter = LORA["rank"] * sum(sum(pair) for pair in self.pairs)
        if LORA["rank"] in self.wide:
            raise SystemExit(f"the model has layers of size {LORA['rank']}, the rank: take another model")

    def kind(self, name: str, shapes: list[list[int]]) -> str:
        sizes = [shape for shape in shapes if shape]
        dims = {size for shape in sizes for size in shape}
        product = name in ("aten::mm", "aten::addmm_", "aten::addmm")
        if "attention" in name or "flash" in name:
            return "attention"
        if any(part in name for part in _OPTIMIZER) or [self.adapter] in sizes:
            return "optimizer"
        if name == _DRAWS:
            return "dropout"
        if self.words in dims and "embedding" not in name:
            return "head"
        if LORA["rank"] in dims:
            return "LoRA"
        if product:
            return "base products"
        first = sizes[0] if sizes else []
        flat = len(first) == 2 and first[1] in self.wide
        if any(part in name for part in _DROPOUT) or (flat and name in ("aten::mul", "aten::addcmul_")):
            return "dropout"
        return "norms, activations, residuals"


def profile(model: str, rows: str, steps: int, warm_up: int) -> None:
    """Print for one adapter and for a pack of 4, in both precisions, where the time goes."""
    torch.set_num_threads(1)
    words = AutoConfig.from_pretrained(folder_of(model)).vocab_size
    data = made_rows(rows, words, steps + warm_up)
    base = load_model(ModelConfig(name=model), "cpu")
    shapes = Shapes(base)
    labels = sum(int(trained[1:].sum()) for _, trained in data[: BATCH * (warm_up + steps)])
    share = labels / sum(len(tokens) for tokens, _ in data[: BATCH * (warm_up + steps)])
    steps = min(steps, MOST)
    for precision, adapters in itertools.product(("float32", "bfloat16"), (1, 4)):
        recipes = [our_recipe(precision)] * adapters
        events = steps_of(train_pack(base, our_order(data), data[:1], recipes, at="last"), adapters)
        for _ in range(warm_up):
            next(events)
        begun, first = time.perf_counter(), next(events)  # a step without the profiler
        plain = time.perf_counter() - begun
        with draws_named(), profiler(activities=[ProfilerActivity.CPU], record_shapes=True) as watched:
            begun, before = time.perf_counter(), first
            for _ in range(steps - 1):
                after = next(events)
            seconds = time.perf_counter() - begun
        events.close()
        tokens = adapters * (after - before)
        spent = dict.fromkeys(KINDS, 0.0)
        calls = 0
        for entry in watched.key_averages(group_by_input_shape=True):
            spent[shapes.kind(entry.key, entry.input_shapes)] += entry.self_cpu_time_total / 1e6
            calls += entry.count
        spent["Python, and the profiler"] = seconds - sum(spent.values())
        limit = limit_of(shapes, precision, share, tokens // (steps - 1))
        found = {
            "name": "packed_training_profile",
            "setting": f"{rows} rows, {precision}, {adapters} adapter(s), one thread",
            "tokens_per_second": round(tokens / seconds, 1),
            "first_step_without_profiler_seconds": round(plain, 3),
            "limit_tokens_per_second": round(limit, 1),
            "of_limit": round(tokens / seconds / limit, 3),
            "calls_per_step": calls // (steps - 1),
            "share": {name: round(value / seconds, 3) for name, value in spent.items()},
            "milliseconds_per_token": {name: round(1e3 * value / tokens, 3) for name, value in spent.items()},
        }
        print(json.dumps(found), flush=True)


def steps_of(events: Any, adapters: int) -> Iterator[int]:
    """After each step of the pack: tokens of one adapter so far."""
    try:
        for number, event in events:
            if isinstance(event, Step) and event.training_loss is not None and number == adapters - 1:
                yield event.tokens
    finally:
        events.close()


def limit_of(shapes: Shapes, precision: str, share: float, rows: int) -> float:
    """Tokens a second, were a step but its matrix products at their best."""
    kind = getattr(torch, precision)
    seconds = 0.0  # a token
    for outputs, inputs in sorted(set(shapes.pairs)):
        count = shapes.pairs.count((outputs, inputs))
        seconds += count * (best(rows, inputs, outputs, kind) + best(rows, outputs, inputs, kind)) / rows
        rank = LORA["rank"]
        # Forward, and twice as much backward: gradients of the inputs and of the weights. Rated as the base's products.
        seconds += count * 3 * best(rows, inputs, outputs, kind) / rows * rank * (inputs + outputs) / (inputs * outputs)
    labels = max(1, round(share * rows))
    head = best(labels, shapes.width, shapes.words, kind) + best(labels, shapes.words, shapes.width, kind)
    return 1 / (seconds + share * head / labels)


def best(rows: int, inputs: int, outputs: int, kind: torch.dtype, repeats: int = 5) -> float:
    """Seconds of one product (rows, inputs) by (inputs, outputs), the least of some."""
    left, weight = torch.randn(rows, inputs).to(kind), torch.randn(outputs, inputs).to(kind)
    out = torch.empty(rows, outputs, dtype=kind)
    calls = max(1, round(2e9 / (rows * inputs * outputs)))
    least = float("inf")
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        for _ in range(calls):
            torch.mm(left, weight.t(), out=out)
        least = min(least, (time.perf_counter() - begun) / calls)
    return least
