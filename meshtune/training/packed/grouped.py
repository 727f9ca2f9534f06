"""The products of all adapters on the linear layers of a group at once: what a GPU does in place of a loop over them.

The formula is that of `adapters.py`; A, B and the factor s / q stand for all adapters of the pass, stacked and with
their ranks filled up to the largest, a multiple of 8. Each adapter's rows are multiplied by its own matrices: by
`torch.nn.functional.grouped_mm` where the device has a kernel for it (bfloat16, compute capability 9 and 10; elsewhere
it would loop, and the host would wait), else by `torch.bmm` over rows that are filled up to the longest adapter's.
Either way a row meets the matrices of its own adapter alone, so that an adapter that diverges does no harm to others.

Where nothing is dropped, the A matrices of all layers of the group are one product; else each layer has a mask of its
own, and they are one call still. Masks are made anew in the backward pass and never kept. A value's mask is a function
of the adapter's seed, its portion, the row in there, the module and the column, by a hash of integers, which a compiler
makes one kernel of. It is another function than a CPU's (`flat_adapter.py`), which takes its draws one after the other:
the same on every GPU, compiled or not, but other masks than on a CPU. Not run on a GPU yet.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grouped_mm

from meshtune.training.packed.flat_adapter import BITS, FlatAdapter, Span, bound
from meshtune.training.packed.fused import fused

_EIGHT = 8  # values: the 16 bytes in bfloat16 that `grouped_mm` asks strides to be multiples of
_MOST_PARTS = 8  # layers that read one tensor; Phi and Cohere have four and five


def has_grouped_mm(device: torch.device, kind: torch.dtype, sizes: Sequence[int]) -> bool:
    """Whether `grouped_mm` is one kernel for products of these widths; on `meta` as on an H100."""
    if kind != torch.bfloat16 or any(size % _EIGHT for size in sizes):
        return False
    return device.type == "meta" or (device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10))


class Rows:
    """Whose the rows of a pass are, as tensors on the device, made when they are first asked for.

    Attributes:
        adapters: by span. drops: whether any has dropout in this pass.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device):
        self.spans, self.device = spans, device
        self.adapters = tuple(span.adapter for span in spans)
        self.drops = any(span.drops for span in spans)
        self.lengths = np.array([span.stop - span.start for span in spans])
        self.longest = int(self.lengths.max())

    @functools.cached_property
    def ends(self) -> torch.Tensor:
        """Of the groups, one span after the other, and the same again behind that for each further layer."""
        ends = np.cumsum(self.lengths)
        return self._tensor(np.concatenate([ends + n * ends[-1] for n in range(_MOST_PARTS)]).astype(np.int32))

    @functools.cached_property
    def hashed(self) -> torch.Tensor:
        """(rows, 4), int32: two words of the row's key, the bound below which a value stays, and its factor's bits."""
        return self._tensor(self._hashed())

    @functools.cached_property
    def hashed_apart(self) -> torch.Tensor:
        """The same for rows that are filled up to the longest span; in the filling nothing stays."""
        source, real = self._apart()
        hashed = self._hashed()[source]
        hashed[~real, 2] = 0
        return self._tensor(hashed)

    @functools.cached_property
    def factors(self) -> torch.Tensor:
        """(rows, 1): of each row's adapter."""
        return self._tensor(np.repeat(self._factors(), self.lengths)[:, None])

    @functools.cached_property
    def factors_apart(self) -> torch.Tensor:
        """(spans, 1, 1)."""
        return self._tensor(self._factors()[:, None, None])

    @functools.cached_property
    def source(self) -> torch.Tensor:
        """(spans x longest,): the row that each of the filled up rows is; the filling repeats a span's last."""
        return self._tensor(self._apart()[0])

    @functools.cached_property
    def real(self) -> torch.Tensor:
        """(spans x longest, 1): which of them are no filling."""
        return self._tensor(self._apart()[1][:, None])

    @functools.cached_property
    def place(self) -> torch.Tensor:
        """(rows,): where each row stands among the filled up ones."""
        return self._tensor(np.flatnonzero(self._apart()[1]))

    def _factors(self) -> NDArray[np.float32]:
        return np.array([span.factor for span in self.spans], dtype=np.float32)

    def _apart(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        column = np.arange(self.longest)
        starts = np.array([span.start for span in self.spans])
        source = starts[:, None] + np.minimum(column, self.lengths[:, None] - 1)
        return source.reshape(-1), (column < self.lengths[:, None]).reshape(-1)

    def _hashed(self) -> NDArray[np.int32]:
        made = np.empty((int(self.lengths.sum()), 4), dtype=np.int32)
        for span, length in zip(self.spans, self.lengths.tolist(), strict=True):
            own = made[span.start : span.stop]
            if span.adapter is not None and span.drops:
                key = np.random.SeedSequence((span.adapter.seed, span.draw or 0)).generate_state(1, np.uint64)[0]
                own[:, :2] = _words(key, np.arange(span.skipped, span.skipped + length))
                own[:, 2] = bound(span.adapter.rate)
            else:
                own[:, 2] = BITS
        made[:, 3] = np.repeat(self._factors(), self.lengths).view(np.int32)
        return made

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        made = torch.from_numpy(values)
        if self.device.type != "cuda":
            return made.to(self.device)
        return made.pin_memory().to(self.device, non_blocking=True)


def _words(key: np.uint64, numbers: Any) -> NDArray[np.int32]:
    """(numbers, 2): two words of each number under a key, by splitmix64 (Steele et al. 2014)."""
    word = key + (np.asarray(numbers, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word.view(np.int32).reshape(-1, 2)


@dataclass(frozen=True)
class Stack:
    """The matrices of a pass's adapters on the layers of a group that any of them adapts.

    Attributes:
        parts: which of the group's layers. a: (layers x spans, rank, inputs) where something is dropped, else
            (spans, layers x rank, inputs). b: of each layer (spans, rank, outputs). keys: (layers, 2), of the modules.
        slots: (which of the matrices of `a` cut apart, rank, gradient) of each pair, and of each pair's B the same.
    """

    parts: tuple[int, ...]
    a: torch.Tensor
    b: tuple[torch.Tensor, ...]
    keys: torch.Tensor
    slots: tuple[tuple[int, int, torch.Tensor], ...]
    slots_b: tuple[tuple[int, int, torch.Tensor], ...]


@dataclass
class _Set:
    """The stacks of some adapters, by the number of the group; `copies` are parts of them, of these `sources`."""

    adapters: list[weakref.ref[FlatAdapter]]
    stacks: dict[int, Stack] = field(default_factory=dict)
    copies: list[torch.Tensor] = field(default_factory=list)
    sources: list[torch.Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def fill(self) -> None:
        """Copy the weights, unless they are what they were: a few launches for all layers."""
        versions = [adapter.weights._version for adapter in (found() for found in self.adapters) if adapter is not None]
        if versions != self.versions:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.sources)
            self.versions = versions


class Stacks:
    """Stacks of all groups, for the adapters of a pass. Those of adapters that stay together stay too."""

    def __init__(self) -> None:
        self._sets: dict[tuple[Any, ...], _Set] = {}

    def of(self, rows: Rows, kind: torch.dtype, groups: Sequence[Any]) -> dict[int, Stack]:
        """By the number of the group; only groups with a layer that is adapted."""
        ids = tuple(id(adapter) for adapter in rows.adapters)
        key = (kind, rows.drops, ids)
        found = self._sets.get(key)
        if found is None or any(adapter() is None for adapter in found.adapters):
            for other, old in list(self._sets.items()):  # nothing is held twice, nor for an adapter that is gone
                if other[0] != kind or not set(ids).isdisjoint(other[2]) or any(a() is None for a in old.adapters):
                    del self._sets[other]
            found = self._sets[key] = _Set([weakref.ref(a) for a in rows.adapters if a is not None])
            for number, group in enumerate(groups):
                if (stack := _stack(group, rows, kind, found)) is not None:
                    found.stacks[number] = stack
        if found.copies:
            found.fill()
        return found.stacks


def _stack(group: Any, rows: Rows, kind: torch.dtype, of: _Set) -> Stack | None:
    """A group's stack, of zeros, and what is to be copied into it; None where none of its layers is adapted."""
    named = [
        (at, part, pairs)
        for at, part in enumerate(group.parts)
        if any(pairs := [a.pairs.get(part.name) if a else None for a in rows.adapters])
    ]
    present = [pair for _, _, pairs in named for pair in pairs if pair is not None]
    if not present:
        return None
    rank, inputs = max(len(pair.a) for pair in present), present[0].a.shape[1]
    rank += -rank % _EIGHT
    layers, spans = len(named), len(rows.adapters)
    taken = functools.partial(torch.zeros, dtype=kind, device=rows.device)
    a = taken(layers, spans, rank, inputs) if rows.drops else taken(spans, layers, rank, inputs)
    b, slots, slots_b = [], [], []
    for layer, (_, part, pairs) in enumerate(named):
        b.append(taken(spans, rank, part.columns.stop - part.columns.start))
        for span, pair in enumerate(pairs):
            if pair is None:
                continue
            width, (first, second) = len(pair.a), (layer, span) if rows.drops else (span, layer)
            of.copies += [a[first, second, :width], b[layer][span, :width]]
            of.sources += [pair.a, pair.b.t()]
            slots.append((first * a.shape[1] + second, width, pair.grad_a))
            slots_b.append((layer * spans + span, width, pair.grad_b.t()))
    return Stack(
        parts=tuple(at for at, _, _ in named),
        a=a.view(-1, rank if rows.drops else layers * rank, inputs),
        b=tuple(b),
        keys=torch.from_numpy(_words(np.uint64(0), [part.number for _, part, _ in named])).to(rows.device),
        slots=tuple(slots),
        slots_b=tuple(slots_b),
    )


@dataclass(frozen=True)
class Use:
    """A stack on the rows of a pass; `apart`: rows are filled up for `torch.bmm`."""

    rows: Rows
    stack: Stack
    apart: bool

    def forward(self, flat: torch.Tensor, out: torch.Tensor, columns: Sequence[slice]) -> torch.Tensor:
        """Add to the outputs, (rows, all columns), what the adapters change; gives what `backward` needs."""
        inner = self._product(self._inputs(flat), self.stack.a.transpose(1, 2))
        if not self.rows.drops:
            inner.mul_(self._factors())
        inner = self._by_layer(inner)
        for at, part in enumerate(self.stack.parts):
            self._add(out[:, columns[part]], self._product(self._of(inner, at), self.stack.b[at]))
        return inner

    def backward(
        self,
        flat: torch.Tensor,
        inner: torch.Tensor,
        grad: torch.Tensor,
        columns: Sequence[slice],
        below: torch.Tensor | None,
    ) -> None:
        """Add the gradients of the matrices to the adapters', and to `below` that of the input."""
        inner_grads, grads_b = [], []
        for at, part in enumerate(self.stack.parts):
            own = self._spread(grad[:, columns[part]])
            inner_grads.append(self._product(own, self.stack.b[at].transpose(1, 2)))
            grads_b.append(self._outer(self._of(inner, at), own))
        inner_grad = self._all(inner_grads)
        if not self.rows.drops:
            inner_grad.mul_(self._factors())
        self._add_gradients(self._outer(inner_grad, self._inputs(flat)), grads_b)
        if below is not None:
            self._add_below(below, self._product(inner_grad, self.stack.a))

    def _inputs(self, flat: torch.Tensor) -> torch.Tensor:
        """Rows as the products want them; where something is dropped, those of each layer with its mask and factors."""
        if not self.rows.drops:
            return self._spread(flat)
        if not self.apart:
            return masked(flat, self.rows.hashed, self.stack.keys).view(-1, flat.shape[1])
        rows = masked_apart(flat, self.rows.source, self.rows.hashed_apart, self.stack.keys)
        return rows.view(-1, self.rows.longest, flat.shape[1])

    def _add_below(self, below: torch.Tensor, change: torch.Tensor) -> None:
        if not self.rows.drops:
            self._add(below, change)
            return
        change = change.view(len(self.stack.parts), -1, below.shape[1])
        if self.apart:
            add_masked_apart(below, change, self.rows.place, self.rows.hashed, self.stack.keys)
        else:
            add_masked(below, change, self.rows.hashed, self.stack.keys)

    def _add_gradients(self, grad_a: torch.Tensor, grads_b: list[torch.Tensor]) -> None:
        made = [grad_a, *grads_b]
        if grad_a.dtype != torch.float32:
            high = [torch.empty_like(x, dtype=torch.float32) for x in made]
            torch._foreach_copy_(high, made)
            made = high
        rank, inputs = grads_b[0].shape[1], grad_a.shape[-1]
        some_a = made[0].view(-1, rank, inputs).unbind()
        some_b = [x for grads in made[1:] for x in grads.unbind()]
        totals, parts = list[torch.Tensor](), list[torch.Tensor]()
        for some, slots in ((some_a, self.stack.slots), (some_b, self.stack.slots_b)):
            for at, width, total in slots:
                totals.append(total)
                parts.append(some[at] if width == rank else some[at][:width])
        torch._foreach_add_(totals, parts)

    def _product(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Of the rows of each group by its own matrix: weights are (groups, width, outputs)."""
        if self.apart:
            return torch.bmm(rows, weights)
        return grouped_mm(rows, weights, offs=self.rows.ends[: len(weights)])

    def _outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Over the rows of each group, the sum of the outer products: (groups, left's width, right's width)."""
        if self.apart:
            return torch.bmm(left.transpose(1, 2), right)
        groups = len(left) // self.rows.spans[-1].stop * len(self.rows.spans)
        return grouped_mm(left.t(), right, offs=self.rows.ends[:groups])

    def _spread(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.apart:
            return rows
        return spread(rows, self.rows.source, self.rows.real).view(-1, self.rows.longest, rows.shape[1])

    def _add(self, total: torch.Tensor, change: torch.Tensor) -> None:
        if self.apart:
            add_apart(total, change.view(-1, total.shape[1]), self.rows.place)
        else:
            total.add_(change)

    def _factors(self) -> torch.Tensor:
        return self.rows.factors_apart if self.apart else self.rows.factors

    def _by_layer(self, inner: torch.Tensor) -> torch.Tensor:
        """The layers of (layers x groups, ...) or (..., layers x rank) as a dimension of their own."""
        layers = len(self.stack.parts)
        if self.rows.drops:
            return inner.view(layers, -1, *inner.shape[1:])
        return inner.view(*inner.shape[:-1], layers, -1)

    def _of(self, inner: torch.Tensor, layer: int) -> torch.Tensor:
        return inner[layer] if self.rows.drops else inner[..., layer, :]

    def _all(self, inners: list[torch.Tensor]) -> torch.Tensor:
        """The reverse of `_of` and `_by_layer`."""
        if len(inners) == 1:
            return inners[0]
        if self.rows.drops:
            return torch.cat(inners)
        return torch.cat(inners, -1)


def _stays(hashed: torch.Tensor, keys: torch.Tensor, width: int) -> torch.Tensor:
    """(layers, rows, width): which values stay. Twice the mixing of a 32-bit word by C. Wellons (lowbias32)."""
    column = torch.arange(width, device=hashed.device, dtype=torch.int32) * -1640531527
    word = _stirred(column ^ hashed[:, :1] ^ keys[:, :1, None])
    word = _stirred(word ^ hashed[:, 1:2] ^ keys[:, 1:, None])
    return ((word >> 16) & (BITS - 1)) < hashed[:, 2:3]


def _stirred(word: torch.Tensor) -> torch.Tensor:
    word = (word ^ ((word >> 16) & 0xFFFF)) * 0x7FEB352D
    word = (word ^ ((word >> 15) & 0x1FFFF)) * -2073254261
    return word ^ ((word >> 16) & 0xFFFF)


def _kept(rows: torch.Tensor, hashed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(layers, rows, width) in float32: with the row's factor, or 0 where dropped. rows: of one layer, or of each."""
    factor = hashed[:, 3:].view(torch.float32)
    return torch.where(_stays(hashed, keys, rows.shape[-1]), rows.float() * factor, 0.0)


@fused
def masked(rows: torch.Tensor, hashed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Each layer's rows (layers, rows, width), as they go into its A."""
    return _kept(rows, hashed, keys).to(rows.dtype)


@fused
def masked_apart(rows: torch.Tensor, source: torch.Tensor, hashed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The same of the rows `source`."""
    return _kept(rows[source], hashed, keys).to(rows.dtype)


@fused
def add_masked(total: torch.Tensor, changes: torch.Tensor, hashed: torch.Tensor, keys: torch.Tensor) -> None:
    """Add to (rows, width) what has come back from each layer, (layers, rows, width)."""
    total.add_(_kept(changes, hashed, keys).sum(0))


@fused
def add_masked_apart(
    total: torch.Tensor, changes: torch.Tensor, place: torch.Tensor, hashed: torch.Tensor, keys: torch.Tensor
) -> None:
    """The same from the rows `place`."""
    total.add_(_kept(changes[:, place], hashed, keys).sum(0))


@fused
def spread(rows: torch.Tensor, source: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The rows `source`, or zeros."""
    return torch.where(real, rows[source], 0.0)


@fused
def add_apart(total: torch.Tensor, changes: torch.Tensor, place: torch.Tensor) -> None:
    """Add the rows `place`."""
    total.add_(changes[place])
