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
from transformers.pytorch_utils import Conv1D

from meshtune.training.packed.flat_adapter import Pair, Span
from meshtune.training.packed.grouped import Rows, Stacks, Use, has_grouped_mm
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.quantized import QuantizedLinear


@dataclass
class Now:
    """What the layers of a base compute at the moment; one object for all of them.

    `lengths`: of the sequences, end to end; `starts`: of each, and the end of the last, on the device. `kind`: the type
    of the products; those of the base are in its own, where that is lower. `attended`: calls of the attention, which
    took `path` at last.
    `groups`: all there are. `grouped`: whether adapters are computed together; None: as suits the device.
    `lockstep`: whether gradients pass through all layers, whoever is adapted there: other processes wait for that.
    """

    spans: Sequence[Span] = ()
    lengths: Sequence[int] = ()
    kind: torch.dtype = torch.float32
    attended: int = 0
    starts: torch.Tensor | None = None
    path: str = ""
    groups: list[Group] = field(default_factory=list)
    grouped: bool | None = None
    lockstep: bool = False
    _stacks: Stacks = field(default_factory=Stacks)
    _rows: Rows | None = None

    def together(self, device: torch.device) -> bool:
        """Whether adapters are computed together."""
        return device.type != "cpu" if self.grouped is None else self.grouped

    def use(self, group: Group, device: torch.device) -> Use | None:
        """How the adapters of the spans are computed together on the layers of a group; None: one by one, or none."""
        if not (self.together(device) and self.spans):
            return None
        if self._rows is None or self._rows.spans is not self.spans:
            self._rows = Rows(self.spans, device)
        stack = self._stacks.of(self._rows, self.kind, self.groups).get(group.place)
        if stack is None:
            return None
        sizes = (stack.a.shape[-1], *(b.shape[-1] for b in stack.b))
        return Use(self._rows, stack, apart=not has_grouped_mm(device, self.kind, sizes))


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
    of a quantized base are written out once a pass and direction, for all adapters' rows. A base in a lower type than
    the products of adapters is multiplied in its own, as in PEFT's layers.
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
        self.outputs, self.place = begin, len(self.now.groups)
        self.columns = [part.columns for part in self.parts]
        self.now.groups.append(self)
        own = weight_of(self.parts[0].module)
        self.dtype = own.dtype
        self.dummy = torch.zeros((), device=own.device, requires_grad=True)
        self._stacked = None
        if self.low.itemsize < own.dtype.itemsize and not isinstance(self.parts[0].module, QuantizedLinear):
            self._stacked = torch.cat([weight_of(part.module).detach().to(self.low) for part in self.parts])

    def blocks(self, kind: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """The weights, (outputs, inputs), with their columns in the output; quantized ones written out one by one."""
        if self._stacked is not None and kind == self.low:
            yield slice(0, self.outputs), self._stacked
            return
        for part in self.parts:
            quantized = isinstance(part.module, QuantizedLinear)
            weight = part.module.dequantized(lower(kind, self.dtype)) if quantized else weight_of(part.module)
            yield part.columns, weight

    def clear(self) -> None:
        """Forget outputs that nobody fetched."""
        self._input = None
        self._outputs = {}

    def output(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        """What the `index`-th layer makes of its input: (..., inputs) to (..., outputs)."""
        if rows is not self._input or index not in self._outputs:
            if rows.numel() // rows.shape[-1] != sum(self.now.lengths):
                raise Unpackable(f"`{self.parts[index].name}` is given other rows than the tokens of the batch")
            adapted = self.now.lockstep or any(
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


def lower(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """That of two types which rounds more."""
    return min(one, other, key=lambda kind: kind.itemsize)


def is_linear(module: nn.Module) -> bool:
    """Whether the pack computes such a module."""
    return type(module) in (nn.Linear, Conv1D, QuantizedLinear)


@dataclass(frozen=True)
class _One:
    """One adapter on one layer in one pass; `inner` and `mask` are where its tensors lie among the saved ones."""

    span: Span
    part: Part
    pair: Pair
    inner: int
    mask: int | None


class _Product(torch.autograd.Function):
    """Outputs of all layers of a group. See the module."""

    @staticmethod
    def forward(ctx: Any, dummy: torch.Tensor, rows: torch.Tensor, group: Group) -> tuple[torch.Tensor, ...]:
        now = group.now
        flat = rows.reshape(-1, rows.shape[-1]).to(now.kind)
        out = _base_product(group, flat)
        ctx.together, ctx.ones = now.use(group, flat.device), []
        saved = []
        if ctx.together is not None:
            saved.append(ctx.together.forward(flat, out, group.columns))
        elif not now.together(flat.device):
            saved, ctx.ones = _one_by_one(group, flat, out)
        ctx.save_for_backward(flat, *saved)
        ctx.group, ctx.kind = group, now.kind
        ctx.shape, ctx.dtype = rows.shape, rows.dtype
        ctx.set_materialize_grads(False)
        shape = rows.shape[:-1]
        # What writes to the residual stream is added to it in the base's own type. The others need no copy on a GPU.
        inner = flat.device.type != "cpu" and len(group.parts) > 1
        kinds = [lower(now.kind, group.dtype) if part.wide or inner else group.dtype for part in group.parts]
        return tuple(
            out[:, part.columns].to(kind).view(*shape, -1) for part, kind in zip(group.parts, kinds, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        group, kind = ctx.group, ctx.kind
        flat, *saved = ctx.saved_tensors
        out = _gathered(grads, group, flat)
        below = None
        if ctx.needs_input_grad[1]:
            for columns, weight in group.blocks(kind):
                if below is None:
                    below = (out[:, columns].to(weight.dtype) @ weight).to(kind)
                elif weight.dtype == kind:
                    below.addmm_(out[:, columns], weight)
                else:
                    below.add_(out[:, columns].to(weight.dtype) @ weight)
        if ctx.together is not None:
            ctx.together.backward(flat, saved[0], out, group.columns, below)
        for one in ctx.ones:
            _back(one, flat, saved, out, below)
        return None, None if below is None else below.view(ctx.shape).to(ctx.dtype), None


def _one_by_one(group: Group, flat: torch.Tensor, out: torch.Tensor) -> tuple[list[torch.Tensor], list[_One]]:
    """Add to the outputs what each adapter changes; gives tensors and notes for the backward pass.

    Masks are kept: on a CPU, to draw them once more takes longer than memory is worth.
    """
    saved, ones = list[torch.Tensor](), list[_One]()
    for span in group.now.spans:
        if span.adapter is None:
            continue
        own = flat[span.start : span.stop]
        for part in group.parts:
            pair = span.adapter.pairs.get(part.name)
            if pair is None:
                continue
            a, b = pair.at(flat.dtype)
            bits = span.mask(own.shape[1], part.number)
            kept, at = own, None
            if bits is not None:
                kept, at = own * bits.to(flat.dtype), len(saved)
                saved.append(bits)
            inner = (kept @ a.t()).mul_(span.factor)
            out[span.start : span.stop, part.columns].addmm_(inner, b.t())
            ones.append(_One(span, part, pair, len(saved), at))
            saved.append(inner)
    return saved, ones


def _back(
    one: _One, flat: torch.Tensor, saved: Sequence[torch.Tensor], out: torch.Tensor, below: torch.Tensor | None
) -> None:
    """Add one adapter's gradients on one layer to its own, and to that of the input."""
    rows = slice(one.span.start, one.span.stop)
    a, b = one.pair.at(flat.dtype)
    grad, inner, own = out[rows, one.part.columns], saved[one.inner], flat[rows]
    bits = None if one.mask is None else saved[one.mask].to(flat.dtype)
    _add_product(one.pair.grad_b, grad.t(), inner)
    inner_grad = (grad @ b).mul_(one.span.factor)
    _add_product(one.pair.grad_a, inner_grad.t(), own if bits is None else own * bits)
    if below is None:
        return
    if bits is None:
        below[rows].addmm_(inner_grad, a)
    else:
        below[rows].addcmul_(inner_grad @ a, bits)


def _gathered(grads: Sequence[torch.Tensor | None], group: Group, flat: torch.Tensor) -> torch.Tensor:
    """The gradients of the outputs, (rows, all columns), in the type of the products."""
    if all(grad is not None for grad in grads) and flat.device.type != "cpu":  # one launch
        own = [grad.reshape(len(flat), -1) for grad in grads if grad is not None]
        return own[0].to(flat.dtype) if len(own) == 1 else torch.cat(own, 1).to(flat.dtype)
    out = flat.new_empty(len(flat), group.outputs)
    for part, grad in zip(group.parts, grads, strict=True):
        if grad is None:
            out[:, part.columns].zero_()
        else:
            out[:, part.columns].copy_(grad.reshape(len(flat), -1))
    return out


def _base_product(group: Group, flat: torch.Tensor) -> torch.Tensor:
    out = flat.new_empty(len(flat), group.outputs)
    for columns, weight in group.blocks(flat.dtype):
        if weight.dtype == flat.dtype:
            torch.mm(flat, weight.t(), out=out[:, columns])
        else:
            out[:, columns] = flat.to(weight.dtype) @ weight.t()
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
