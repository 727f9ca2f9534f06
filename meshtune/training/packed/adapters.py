"""Several LoRA adapters over one frozen linear layer: one base product over all rows, theirs over each one's own rows.

With h the rows, W the frozen weight, s = alpha / rank and m an adapter's dropout mask (1 or 0, kept with share q):

    y = h W^T,   and for each adapter a on its rows   U = m(h) A^T s / q,   y += U B^T
    dh = dy W,   dB = dy^T U,   dU = dy B s / q,   dA = dU^T m(h),   dh += m(dU A)

at its true rank, as PEFT's layer computes it (Hu et al. 2022, arXiv:2106.09685; rsLoRA: s = alpha / sqrt(rank),
Kalajdzievski 2023, arXiv:2312.03732). dA and dB are added to the adapter's flat gradient, in float32. Linear layers
that read the very same tensor (query, key and value; gate and up) are computed together.

Rows do not mix: what an adapter is given back depends on its own rows alone, but for rounding, since products of
another size may be summed in another order. Experts, whose rows are not those of the batch, are no affair of this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from meshtune.training.packed.flat_adapter import FlatAdapter, Pair, mask
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.quantized import QuantizedLinear


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

    def mask(self, width: int, number: int, device: torch.device) -> torch.Tensor | None:
        """(rows, width) of 1 and 0 for the module of that number, in bfloat16; None where nothing is dropped."""
        if self.adapter is None or self.draw is None or self.adapter.rate <= 0:
            return None
        count, key = self.stop - self.start, (self.adapter.seed, self.draw, number)
        if self.drawn is None:
            return mask(count, width, self.adapter.rate, key, device)
        found = mask(self.drawn, width, self.adapter.rate, key, device)[self.skipped : self.skipped + count]
        return pad(found, (0, 0, 0, count - len(found)))  # as a copy; the last rows may be filler


@dataclass
class Now:
    """What the layers of a base compute at the moment; one object for all of them.

    `lengths`: of the sequences, end to end; `starts`: of each, and the end of the last, on the device. `kind`: the type
    of the products. `attended`: calls of the attention, which took `path` at last.
    """

    spans: Sequence[Span] = ()
    lengths: Sequence[int] = ()
    kind: torch.dtype = torch.float32
    attended: int = 0
    starts: torch.Tensor | None = None
    path: str = ""


@dataclass(frozen=True)
class Part:
    """A linear layer: its name and its number in the base, and the columns of the group's output that are its own."""

    name: str
    number: int
    module: Any
    columns: slice
    wide: bool


@dataclass
class Group:
    """Linear layers that read the same tensor.

    Args:
        named: number, name and module of each. low: the type of the products of training. now: shared by all groups.

    In float32 the weights are the base's own. In a lower type one stacked copy serves all products of the group. Those
    of a quantized base are written out once a pass and direction, for all adapters' rows.
    """

    named: Sequence[tuple[int, str, Any]]
    low: torch.dtype
    now: Now
    parts: list[Part] = field(default_factory=list)
    _input: torch.Tensor | None = None
    _outputs: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        begin = 0
        for number, name, module in self.named:
            outputs, inputs = weight_of(module).shape
            self.parts.append(Part(name, number, module, slice(begin, begin + outputs), outputs > inputs))
            begin += outputs
        self.outputs = begin
        own = weight_of(self.parts[0].module)
        self.dtype = own.dtype
        self.dummy = torch.zeros((), device=own.device, requires_grad=True)
        self._stacked = None
        if self.low != own.dtype and not isinstance(self.parts[0].module, QuantizedLinear):
            self._stacked = torch.cat([weight_of(part.module).detach().to(self.low) for part in self.parts])

    def blocks(self, kind: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """The weights, (outputs, inputs), with their columns in the output; quantized ones written out one by one."""
        if self._stacked is not None and kind == self.low:
            yield slice(0, self.outputs), self._stacked
            return
        for part in self.parts:
            quantized = isinstance(part.module, QuantizedLinear)
            yield part.columns, part.module.dequantized(kind) if quantized else weight_of(part.module)

    def clear(self) -> None:
        """Forget outputs that nobody fetched."""
        self._input = None
        self._outputs = {}

    def output(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        """What the `index`-th layer makes of its input: (..., inputs) to (..., outputs)."""
        if rows is not self._input or index not in self._outputs:
            if rows.numel() // rows.shape[-1] != sum(self.now.lengths):
                raise Unpackable(f"`{self.parts[index].name}` is given other rows than the tokens of the batch")
            adapted = any(
                span.adapter is not None and any(part.name in span.adapter.pairs for part in self.parts)
                for span in self.now.spans
            )
            dummy = self.dummy if adapted else self.dummy.detach()
            outputs = _Product.apply(dummy, rows, self)  # type: ignore[no-untyped-call]
            self._input, self._outputs = rows, dict(enumerate(outputs))
        output = self._outputs.pop(index)
        if not self._outputs:
            self._input = None
        return output


def weight_of(module: Any) -> torch.Tensor:
    """The weight as (outputs, inputs), also where it is kept transposed."""
    weight: torch.Tensor = module.weight
    return weight.t() if isinstance(module, Conv1D) else weight


def is_linear(module: nn.Module) -> bool:
    """Whether the pack computes such a module."""
    return type(module) in (nn.Linear, Conv1D, QuantizedLinear)


@dataclass(frozen=True)
class _Use:
    """One adapter on one layer in one pass; `inner` and `mask` are where its tensors lie among the saved ones."""

    span: Span
    part: Part
    pair: Pair
    factor: float
    inner: int
    mask: int | None


class _Product(torch.autograd.Function):
    """Outputs of all layers of a group. See the module."""

    @staticmethod
    def forward(ctx: Any, dummy: torch.Tensor, rows: torch.Tensor, group: Group) -> tuple[torch.Tensor, ...]:
        now = group.now
        flat = rows.reshape(-1, rows.shape[-1]).to(now.kind)
        out = _base_product(group, flat)
        saved: list[torch.Tensor] = [flat]
        uses: list[_Use] = []
        for span in now.spans:
            if span.adapter is None:
                continue
            own = flat[span.start : span.stop]
            for part in group.parts:
                pair = span.adapter.pairs.get(part.name)
                if pair is None:
                    continue
                a, b = pair.at(now.kind)
                bits = span.mask(own.shape[1], part.number, own.device)
                factor = span.adapter.scale / (1 if bits is None else span.adapter.kept)
                kept, at = own, None
                if bits is not None:
                    kept, at = own * bits.to(now.kind), len(saved)
                    saved.append(bits)
                inner = (kept @ a.t()).mul_(factor)
                out[span.start : span.stop, part.columns].addmm_(inner, b.t())
                uses.append(_Use(span, part, pair, factor, len(saved), at))
                saved.append(inner)
        ctx.save_for_backward(*saved)
        ctx.group, ctx.kind, ctx.uses = group, now.kind, uses
        ctx.shape, ctx.dtype = rows.shape, rows.dtype
        ctx.set_materialize_grads(False)
        shape = rows.shape[:-1]
        return tuple(
            out[:, part.columns].to(now.kind if part.wide else group.dtype).view(*shape, -1) for part in group.parts
        )

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        group, kind = ctx.group, ctx.kind
        flat, *_ = saved = ctx.saved_tensors
        out = flat.new_empty(len(flat), group.outputs)
        for part, grad in zip(group.parts, grads, strict=True):
            if grad is None:
                out[:, part.columns].zero_()
            else:
                out[:, part.columns].copy_(grad.reshape(len(flat), -1))
        below = None
        if ctx.needs_input_grad[1]:
            for columns, weight in group.blocks(kind):
                if below is None:
                    below = out[:, columns] @ weight
                else:
                    below.addmm_(out[:, columns], weight)
        for use in ctx.uses:
            rows = slice(use.span.start, use.span.stop)
            a, b = use.pair.at(kind)
            grad, inner, own = out[rows, use.part.columns], saved[use.inner], flat[rows]
            bits = None if use.mask is None else saved[use.mask].to(kind)
            _add_product(use.pair.grad_b, grad.t(), inner)
            inner_grad = (grad @ b).mul_(use.factor)
            _add_product(use.pair.grad_a, inner_grad.t(), own if bits is None else own * bits)
            if below is None:
                continue
            if bits is None:
                below[rows].addmm_(inner_grad, a)
            else:
                below[rows].addcmul_(inner_grad @ a, bits)
        return None, None if below is None else below.view(ctx.shape).to(ctx.dtype), None


def _base_product(group: Group, flat: torch.Tensor) -> torch.Tensor:
    out = flat.new_empty(len(flat), group.outputs)
    for columns, weight in group.blocks(flat.dtype):
        torch.mm(flat, weight.t(), out=out[:, columns])
    for part in group.parts:
        if part.module.bias is not None:
            out[:, part.columns].add_(part.module.bias)
    return out


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product to a float32 tensor."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
