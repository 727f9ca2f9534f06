"""One adapter of a pack: all its weights in one float32 tensor, its gradient in another, one optimizer over them.

It starts as PEFT starts it, and is given back as PEFT saves it. Products in bfloat16 read a copy, made once a step.

Its dropout masks are a function of its seed, the pass and the module, whatever else is trained beside it. A mask has no
history: a training that goes on, or a layer that is computed twice, draws the same one again. Sixteen bits decide about
a value, four values a draw; so the rate is rounded to a 32768th. On a CPU the draws are NumPy's SFC64, which is the
fastest there is; on a GPU they are the device's own, so that masks differ between the two. Not run on a GPU yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meshtune.training.checkpoints import new_adapter, tensors
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe
from meshtune.training.trainer import lora_config

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Pair:
    """The adapter's two matrices on one module, A (rank, inputs) and B (outputs, rank), with their gradients.

    `a`, `b` are float32, `low_a`, `low_b` the type of the products; all are parts of the adapter's flat tensors.
    """

    a: torch.Tensor
    b: torch.Tensor
    low_a: torch.Tensor
    low_b: torch.Tensor
    grad_a: torch.Tensor
    grad_b: torch.Tensor

    def at(self, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B in a type."""
        return (self.a, self.b) if kind == torch.float32 else (self.low_a, self.low_b)


class FlatAdapter:
    """An adapter over a base, at its start.

    Attributes:
        pairs: by the name of the module in the base. config: PEFT's, with the target modules resolved.
        scale: of the product B A, without what dropout needs. rate: of the dropout; a share of `kept` stays.
        weights: the flat tensor, with `gradient` as its gradient; after every change call `refresh`.

    Raises:
        InputError: the base lacks a target module.
        Unpackable: PEFT puts something on the base that is no pair of matrices.
    """

    def __init__(self, base: Any, recipe: Recipe, kind: torch.dtype):
        with new_adapter(base, lora_config(base, recipe), recipe.seed) as adapter:
            start = tensors(adapter.model)
            self.config: Any = adapter.saved_config
        other = [name for name in start if not (name.startswith(_PREFIX) and name.endswith((_A, _B)))]
        if other:
            raise Unpackable(f"PEFT trains `{other[0]}`, which is no matrix of a linear layer")
        self.shapes = {name: weight.shape for name, weight in start.items()}
        flat = torch.cat([weight.flatten() for weight in start.values()]).float().to(base.device)
        self.weights = torch.nn.Parameter(flat)
        self.gradient = torch.zeros_like(flat)
        self.weights.grad = self.gradient
        self.low = self.weights.detach() if kind == torch.float32 else flat.to(kind)
        self.scale = recipe.alpha / (math.sqrt(recipe.rank) if recipe.use_rslora else recipe.rank)
        self.rate, self.seed = recipe.dropout, recipe.seed
        self.kept = kept_share(recipe.dropout)
        whole, low, gradient = (self._parts(x) for x in (self.weights.detach(), self.low, self.gradient))
        names = [name.removeprefix(_PREFIX).removesuffix(_A) for name in start if name.endswith(_A)]
        self.pairs = {
            name: Pair(*(part[_PREFIX + name + end] for part in (whole, low, gradient) for end in (_A, _B)))
            for name in names
        }

    def refresh(self) -> None:
        """Let the products see the weights as they are now."""
        if self.low.dtype != torch.float32:
            self.low.copy_(self.weights.detach())

    def named(self, flat: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Flat weights as copies on the CPU, named as PEFT's files name them."""
        return {name: part.to("cpu", copy=True).contiguous() for name, part in self._parts(flat).items()}

    def _parts(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = torch.split(flat, sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


_BITS = 1 << 15
_ONE = 0x3F80  # 1.0 in bfloat16


def kept_share(rate: float) -> float:
    """Which share of the values stays, exactly; what stays is divided by it."""
    return _bound(rate) / _BITS


def mask(rows: int, width: int, rate: float, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """(rows, width) of 1 and 0, in bfloat16; about `rate` of them are 0. The key, of whole numbers from 0, decides."""
    bits = _draws((rows * width + 3) // 4, key, device).view(torch.int16)[: rows * width]
    # The sign of (draw - bound), spread over all bits, is all ones where the value stays.
    bits.bitwise_and_(_BITS - 1).sub_(_bound(rate)).bitwise_right_shift_(15).bitwise_and_(_ONE)
    return bits.view(torch.bfloat16).view(rows, width)


def _bound(rate: float) -> int:
    return round((1 - rate) * _BITS)


def _draws(count: int, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Whole numbers of 64 bits, of which the highest may be 0 in all."""
    if device.type == "cpu":
        return torch.from_numpy(np.random.SFC64(key).random_raw(count).view(np.int64))
    generator = None
    if device.type != "meta":  # which has no values, but what is computed with them can be counted
        generator = torch.Generator(device)
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
    return torch.empty(count, dtype=torch.int64, device=device).random_(generator=generator)
