"""Norms, rotary positions and gated activations of a model, on a GPU as one kernel each, forward and backward.

As models write them, they are eighty launches a layer; their work is nothing beside the products. While a model is
packed, its RMS norms and gated layers are given another `forward`, and the file of the model another
`apply_rotary_pos_emb`; on a CPU these call the model's own. What is replaced is first compared with the model's on a
few numbers; what differs stays as it is, so nothing is assumed of a model. Weights of norms are frozen: they have no
gradient. Sums are in float32, as in the models. Not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from meshtune.training.packed.adapters import Now, is_linear, weight_of
from meshtune.training.packed.fused import fused

_SAME = 1e-5  # of the largest number, in float32; in a lower type rounding decides
_ROTARY = "apply_rotary_pos_emb"
_GATED = ("gate_proj", "up_proj", "down_proj")
Piece = Callable[..., Any]


@contextlib.contextmanager
def replaced(base: Any, now: Now, *, cpu: bool = False) -> Iterator[None]:
    """Replace what can be replaced in a model, before its linear layers are; afterwards it is as it was.

    `cpu`: on a CPU as well, for tests.
    """
    own = Own(now, cpu)
    with contextlib.ExitStack() as undo:
        with torch.no_grad():
            for part in base.modules():
                if (made := own.norm(part) or own.gate(part)) is not None:
                    part.forward = made
                    undo.callback(part.__dict__.pop, "forward", None)
            for file in {sys.modules[type(part).__module__] for part in base.modules()}:
                rotary = getattr(file, _ROTARY, None)
                if rotary is not None and _tried(_turns, rotary):
                    setattr(file, _ROTARY, functools.partial(own.rotary, rotary))
                    undo.callback(setattr, file, _ROTARY, rotary)
        yield


class Own:
    """What takes the place of a model's own functions."""

    def __init__(self, now: Now, cpu: bool):
        self.now, self.cpu = now, cpu
        self._known: dict[Any, Any] = {}  # by the kinds of parts: how they are computed, or None

    def norm(self, part: Any) -> Piece | None:
        """The `forward` of an RMS norm; None: it is none, or another."""
        eps, weight = getattr(part, "variance_epsilon", getattr(part, "eps", None)), getattr(part, "weight", None)
        if not type(part).__name__.endswith("RMSNorm") or not isinstance(eps, float) or weight is None:
            return None
        own, key = part.forward, (type(part), eps)
        if key not in self._known:
            x = _numbers(3, len(weight)).to(weight.device, weight.dtype)
            fits = (n for n in (0.0, 1.0) if _tried(_same, own, functools.partial(_normed, part, eps, n), x))
            self._known[key] = next(fits, None)
        offset = self._known[key]
        return None if offset is None else self._on_gpu(own, functools.partial(_normed, part, eps, offset))

    def gate(self, part: Any) -> Piece | None:
        """The `forward` of a gated layer; None: it is none, or another."""
        if not all(is_linear(getattr(part, name, part)) for name in _GATED) or not hasattr(part, "act_fn"):
            return None
        own, key = part.forward, (type(part), type(part.act_fn))
        if key not in self._known:
            weight = weight_of(part.gate_proj)
            kind = next(x.dtype for x in (weight, part.down_proj.weight, torch.empty(0)) if x.is_floating_point())
            x = _numbers(3, part.gate_proj.in_features).to(weight.device, kind)
            acts = (n for n, (act, _) in enumerate(_ACTS) if _tried(_same, part.act_fn, act, x))
            fits = (n for n in acts if _tried(_same, own, functools.partial(_gated, part, n), x))
            self._known[key] = next(fits, None)
        number = self._known[key]
        return None if number is None else self._on_gpu(own, functools.partial(_gated, part, number))

    def rotary(self, own: Piece, *given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Turned queries and keys, in the type of the products at once, which the attention would make of them."""
        # Else heads are elsewhere, or a part of each is turned.
        usual = len(given) == 4 and not named and len({x.shape[-1] for x in given}) == 1
        if self._own_way(given[0]) or not usual:
            found: tuple[torch.Tensor, torch.Tensor] = own(*given, **named)
            return found
        q, k, cos, sin = given
        at, by = cos.unsqueeze(1), sin.unsqueeze(1)
        return _Turn.apply(q, at, by, self.now.kind), _Turn.apply(k, at, by, self.now.kind)  # type: ignore[no-untyped-call]

    def _own_way(self, x: torch.Tensor) -> bool:
        return x.device.type == "cpu" and not self.cpu

    def _on_gpu(self, own: Piece, ours: Piece) -> Piece:
        def forward(x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = (own if self._own_way(x) else ours)(x)
            return found

        return forward


# ---- RMS norms: y = x / sqrt(mean(x^2) + eps) * (weight + offset)


@functools.cache
def _norm_pieces(eps: float, offset: float) -> tuple[Piece, Piece]:
    @fused
    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        if offset:  # Gemma's, which is rounded once
            return (normed * (weight.float() + offset)).to(x.dtype)
        return weight * normed.to(x.dtype)

    @fused
    def norm_back(x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        wide, own = x.float(), grad.float() * (weight.float() + offset)
        root = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (root * (own - wide * root.square() * (own * wide).mean(-1, keepdim=True))).to(x.dtype)

    return norm, norm_back


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pieces = _norm_pieces(eps, offset)
        found: torch.Tensor = ctx.pieces[0](x, weight)
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        return ctx.pieces[1](x, weight, grad), None, None, None


def _normed(part: Any, eps: float, offset: float, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _Norm.apply(x, part.weight, eps, offset)  # type: ignore[no-untyped-call]
    return found


# ---- Gated layers: down(act(gate(x)) * up(x))

_ACTS: tuple[tuple[Piece, Piece], ...] = (
    (functional.silu, torch.ops.aten.silu_backward),
    (
        functools.partial(functional.gelu, approximate="tanh"),
        functools.partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    ),
)


@functools.cache
def _gate_pieces(number: int) -> tuple[Piece, Piece]:
    act, back = _ACTS[number]

    @fused
    def gate_act(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = act(gate) * up
        return found

    @fused
    def gate_act_back(gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return back(grad * up, gate), grad * act(gate)

    return gate_act, gate_act_back


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, number: int) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.pieces = _gate_pieces(number)
        found: torch.Tensor = ctx.pieces[0](gate, up)
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return *ctx.pieces[1](*ctx.saved_tensors, grad), None


def _gated(part: Any, number: int, x: torch.Tensor) -> torch.Tensor:
    inner: torch.Tensor = _Gate.apply(part.gate_proj(x), part.up_proj(x), number)  # type: ignore[no-untyped-call]
    found: torch.Tensor = part.down_proj(inner)
    return found


# ---- Rotary positions: x cos + (-second half, first half) sin


@functools.cache
def _turn_pieces(kind: torch.dtype) -> tuple[Piece, Piece]:
    @fused
    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return (x * cos + torch.cat((-second, first), -1) * sin).to(kind)

    @fused
    def turn_back(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        first, second = (grad * sin).chunk(2, -1)
        return (grad * cos + torch.cat((second, -first), -1)).to(kind)

    return turn, turn_back


class _Turn(torch.autograd.Function):
    """In the type of the products at once, which the attention would make of it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        found: torch.Tensor = _turn_pieces(kind)[0](x, cos, sin)
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return _turn_pieces(ctx.dtype)[1](grad, *ctx.saved_tensors), None, None, None


def _turns(own: Piece) -> bool:
    """Whether a model's function does it so."""
    q, k = (_numbers(5 * heads, 8).view(1, heads, 5, 8) for heads in (3, 1))
    cos, sin = (_numbers(5, 8).add(n).view(1, 5, 8) for n in (0, 1))
    turn, _ = _turn_pieces(torch.float32)
    wanted = [turn(x, cos.unsqueeze(1), sin.unsqueeze(1)) for x in (q, k)]
    return all(torch.allclose(x, y, atol=_SAME) for x, y in zip(own(q, k, cos, sin), wanted, strict=True))


def _tried(work: Callable[..., bool], *given: Any) -> bool:
    """What it says; no where a part is called otherwise than it is here."""
    try:
        return work(*given)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError):
        return False


def _numbers(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def _same(own: Piece, ours: Piece, x: torch.Tensor) -> bool:
    """Whether both make the same of some rows."""
    one, other = own(x), ours(x)
    near = _SAME if x.dtype == torch.float32 else 1e-2
    return one.dtype == other.dtype and bool((one - other).abs().max() <= near * one.abs().max())
