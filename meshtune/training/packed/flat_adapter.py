"""One adapter of a pack: all its weights in one float32 tensor, its gradient in another, one optimizer over them.

It starts as PEFT starts it, and is given back as PEFT saves it. Products in bfloat16 read a copy, made once a step.

Its dropout masks are a function of its seed, the pass and the module, whatever else is trained beside it. A mask has no
history: a training that goes on, or a layer that is computed twice, draws the same one again. Fifteen bits decide about
a value; so the rate is rounded to a 32768th. On a CPU four values share a draw of NumPy's SFC64, which is the fastest
there is; a GPU computes each value's bits for itself (`grouped.py`), so that masks differ between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from meshtune.training import neftune
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, tensors
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe

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
        scale: of the product B A, without what dropout needs. rate: of the dropout; a share of `kept` stays. noise:
            NEFTune's alpha.
        weights: the flat tensor, with `gradient` as its gradient; after every change call `refresh`, which counts them
            in `changes`. On a GPU each B lies in it transposed, since stacks of matrices then are filled in one launch;
            `plain` turns them back.

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
        self.turned = base.device.type != "cpu"
        flat = self.own(torch.cat([weight.flatten() for weight in start.values()]).float().to(base.device))
        self.weights = torch.nn.Parameter(flat)
        self.gradient = torch.zeros_like(flat)
        self.weights.grad = self.gradient
        # On a GPU products read stacks, which are in their type.
        self.low = self.weights.detach() if kind == torch.float32 or self.turned else flat.to(kind)
        self.scale = recipe.alpha / (math.sqrt(recipe.rank) if recipe.use_rslora else recipe.rank)
        self.rate, self.seed, self.noise = recipe.dropout, recipe.seed, recipe.neftune_alpha
        self.kept = kept_share(recipe.dropout)
        self.changes = 0
        whole, low, gradient = (self._parts(x, self.turned) for x in (self.weights.detach(), self.low, self.gradient))
        names = [name.removeprefix(_PREFIX).removesuffix(_A) for name in start if name.endswith(_A)]
        self.pairs = {
            name: Pair(*(part[_PREFIX + name + end] for part in (whole, low, gradient) for end in (_A, _B)))
            for name in names
        }

    def refresh(self) -> None:
        """Let the products see the weights as they are now."""
        self.changes += 1
        if self.low.dtype != torch.float32:
            self.low.copy_(self.weights.detach())

    def matrices(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Each matrix, by PEFT's name, as a parameter that shares its memory with `weights`; gradients alike.

        As it lies there, on a GPU with B transposed: bitsandbytes steps over a copy of what is not contiguous.
        """
        found = []
        gradients = self._parts(self.gradient, self.turned)
        for name, part in self._parts(self.weights.detach(), self.turned).items():
            weight, gradient = (x if x.is_contiguous() else x.t() for x in (part, gradients[name]))
            found.append((name, torch.nn.Parameter(weight)))
            found[-1][1].grad = gradient
        return found

    def named(self, flat: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Flat weights as copies on the CPU, named as PEFT's files name them."""
        return {name: part.to("cpu", copy=True).contiguous() for name, part in self._parts(flat).items()}

    def plain(self, flat: torch.Tensor) -> torch.Tensor:
        """A flat tensor of this adapter as it is kept on disk, with each B as it is."""
        if not self.turned:
            return flat
        return torch.cat([part.reshape(-1) for part in self._parts(flat, True).values()])

    def own(self, plain: torch.Tensor) -> torch.Tensor:
        """The reverse of `plain`."""
        if not self.turned:
            return plain
        parts = self._parts(plain).items()
        return torch.cat([(part.t() if name.endswith(_B) else part).reshape(-1) for name, part in parts])

    def _parts(self, flat: torch.Tensor, turned: bool = False) -> dict[str, torch.Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self.shapes.values()])
        return {
            name: part.view(shape[::-1]).t() if turned and name.endswith(_B) else part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a pass, and whose they are (None: nobody's, the base alone).

    `draw` is the number of the adapter's portion, which its dropout masks depend on; None: no dropout. Of a portion
    that is computed in pieces, masks are drawn for all its `drawn` rows, of which `skipped` come before this piece.
    """

    adapter: FlatAdapter | None
    start: int
    stop: int
    draw: int | None = None
    skipped: int = 0
    drawn: int | None = None

    @property
    def drops(self) -> bool:
        """Whether values are dropped."""
        return self.adapter is not None and self.draw is not None and self.adapter.rate > 0

    @property
    def factor(self) -> float:
        """Of the adapter's product; of what is left, where values are dropped."""
        if self.adapter is None:
            return 0.0
        if not self.drops:
            return self.adapter.scale
        return self.adapter.scale / self.adapter.kept if self.adapter.kept else 0.0  # as torch's Dropout(1)

    @property
    def noisy(self) -> bool:
        """Whether noise is added to embeddings."""
        return self.adapter is not None and self.draw is not None and self.adapter.noise > 0

    def noise(self, lengths: torch.Tensor, width: int) -> torch.Tensor:
        """(rows, width) of NEFTune's noise; `lengths`: of the sequences that all rows of the pass are of."""
        assert self.adapter is not None
        own, drawn = lengths[self.start : self.stop], self.drawn or self.stop - self.start
        found = neftune.draw(drawn, width, self.adapter.seed, self.draw or 0, lengths.device)
        found = found[self.skipped : self.skipped + len(own)]
        return neftune.scaled(pad(found, (0, 0, 0, len(own) - len(found))), own, self.adapter.noise)

    def mask(self, width: int, number: int) -> torch.Tensor | None:
        """On a CPU (rows, width) of 1 and 0 for the module of that number, in bfloat16; None: nothing is dropped."""
        if self.adapter is None or not self.drops:
            return None
        count, key = self.stop - self.start, (self.adapter.seed, self.draw or 0, number)
        if self.drawn is None:
            return mask(count, width, self.adapter.rate, key)
        found = mask(self.drawn, width, self.adapter.rate, key)[self.skipped : self.skipped + count]
        return pad(found, (0, 0, 0, count - len(found)))  # as a copy; the last rows may be filler


BITS = 1 << 15
_ONE = 0x3F80  # 1.0 in bfloat16


def kept_share(rate: float) -> float:
    """Which share of the values stays, exactly; what stays is divided by it."""
    return bound(rate) / BITS


def bound(rate: float) -> int:
    """What a draw below `BITS` must be below, for its value to stay."""
    return round((1 - rate) * BITS)


def mask(rows: int, width: int, rate: float, key: tuple[int, ...]) -> torch.Tensor:
    """On a CPU (rows, width) of 1 and 0, in bfloat16; about `rate` of them are 0. The key, whole numbers, decides."""
    draws = np.random.SFC64(key).random_raw((rows * width + 3) // 4)
    bits = torch.from_numpy(draws.view(np.int16))[: rows * width]
    # The sign of (draw - bound), spread over all bits, is all ones where the value stays.
    bits.bitwise_and_(BITS - 1).sub_(bound(rate)).bitwise_right_shift_(15).bitwise_and_(_ONE)
    return bits.view(torch.bfloat16).view(rows, width)
