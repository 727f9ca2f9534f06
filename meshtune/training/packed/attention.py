"""Attention over sequences that lie end to end: each attends to itself alone.

It is given to Transformers under a name for which no mask function is registered, so that models make no mask; one
that makes its own is refused. Causal only. Which path is taken follows from the device, the type of the products and
the model; on a GPU a path takes as many launches for a hundred sequences as for two:

- CPU: in float32, a call of SDPA a sequence, which is the fastest there. What a softcap needs is written out.
- GPU, bfloat16 and float16: `torch.nn.attention.varlen`, which is flash; windows and fewer heads for keys included. Its
  backward pass adds in no fixed order, so that gradients do not repeat bitwise.
- GPU, float32, and where flash does not serve (cards before Ampere, heads of more than 256 numbers): the
  memory-efficient kernel, which takes sequences end to end as well; keys are repeated for all heads.
- GPU with a softcap (Gemma 2), which neither kernel has: written out over sequences of about the same length together,
  padded to the longest of them; it keeps all scores.

On a card a path is first tried once on made-up numbers, forward and backward, against a call of SDPA a sequence; where
it fails or differs, the next one is taken, and that one at last. On `meta` the paths are those of a GPU. None of them
has been run on a card yet.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from meshtune.training.packed.adapters import Now, lower
from meshtune.training.packed.launches import launches
from meshtune.training.packed.unpackable import Unpackable

try:
    from torch.nn.attention import varlen
except ImportError:
    _varlen: Any = None
else:
    _varlen = varlen.varlen_attn
# In torch 2.10 it has neither scale nor window; before 2.12 it takes no fewer heads for keys.
_VARLEN = frozenset(inspect.signature(_varlen).parameters if _varlen else ())

_REFUSED = ("s_aux", "sinks", "position_bias")
_SPREAD = 2  # times as many tokens as its shortest sequence has the longest of those that are padded together
_CAUSAL = 1  # the memory-efficient kernel's number for it


@dataclass(frozen=True)
class Setting:
    """Attention over sequences of these lengths, end to end, for (tokens, heads, size) of queries, keys and values.

    `starts`: of the sequences and the end of the last, int32, on a GPU's device; None on a CPU. `window`: of how many
    tokens each sees, itself included.
    """

    lengths: tuple[int, ...]
    starts: torch.Tensor | None
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


Path = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Setting], torch.Tensor]


def attention(now: Now) -> Callable[..., tuple[torch.Tensor, None]]:
    """The function for a base that computes what `now` says, as `AttentionInterface` wants it."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **given: Any,
    ) -> tuple[torch.Tensor, None]:
        if attention_mask is not None:
            raise Unpackable("the model makes an attention mask of its own")
        for name in _REFUSED:
            if given.get(name) is not None:
                raise Unpackable(f"the model's attention has `{name}`")
        if query.shape[0] != 1 or query.shape[2] != sum(now.lengths) or key.shape[2] != query.shape[2]:
            raise Unpackable("the model's attention is given other rows than the tokens of the batch")
        now.attended += 1
        window = sliding_window if sliding_window is not None and sliding_window < max(now.lengths) else None
        setting = Setting(tuple(now.lengths), now.starts, scaling, window, softcap)
        kind = torch.float32 if query.device.type == "cpu" else lower(now.kind, query.dtype)
        path = chosen(query.device, kind, query.shape[1], key.shape[1], query.shape[3], value.shape[3], softcap)
        now.path = path.__name__
        q, k, v = (x.squeeze(0).transpose(0, 1).to(kind) for x in (query, key, value))
        return path(q, k, v, setting)[None].to(query.dtype), None

    return attend


@functools.cache
def chosen(
    device: torch.device,
    kind: torch.dtype,
    heads: int,
    key_heads: int,
    size: int,
    value_size: int,
    softcap: float | None,
) -> Path:
    """The path for heads of so many numbers; see the module."""
    if device.type == "cpu":
        return by_sequence
    half = kind in (torch.bfloat16, torch.float16)
    served = size == value_size <= 256 and size % 8 == 0 and {"scale", "window_size"} <= _VARLEN
    paths: list[Path] = [flash, efficient] if half and served else [efficient]
    for path in paths if softcap is None else [capped]:
        if device.type == "meta" or _serves(path, device, kind, heads, key_heads, size, value_size, softcap):
            return path
    return by_sequence


def _serves(
    path: Path,
    device: torch.device,
    kind: torch.dtype,
    heads: int,
    key_heads: int,
    size: int,
    value_size: int,
    softcap: float | None,
) -> bool:
    """Whether it gives outputs and gradients like those of a call of SDPA a sequence."""
    starts = torch.tensor([0, 5, 75, 92], dtype=torch.int32, device=device)
    setting = Setting((5, 70, 17), starts, 0.3, None, softcap)
    chance = torch.Generator().manual_seed(0)
    shapes = ((92, heads, size), (92, key_heads, size), (92, key_heads, value_size), (92, heads, value_size))
    query, key, value, grad = (torch.randn(shape, generator=chance).to(device, kind) for shape in shapes)
    try:
        with torch.enable_grad():
            for window in (None, 9):
                found = []
                for tried in (path, by_sequence):
                    own = [x.clone().requires_grad_() for x in (query, key, value)]
                    out = tried(own[0], own[1], own[2], replace(setting, window=window))
                    found.append([out.detach(), *torch.autograd.grad(out, own, grad)])
                for one, other in zip(*found, strict=True):
                    # In float32 a GPU's products may be rounded to ten bits.
                    if not (one - other).abs().max().item() <= 0.02 * other.abs().max().item():
                        return False
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):
        return False
    return True


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, setting: Setting) -> torch.Tensor:
    """One call; half precision, no softcap."""
    fewer = {}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in _VARLEN:
            fewer = {"enable_gqa": True}
        else:
            key, value = _for_all_heads(query, key, value)
    window = (-1 if setting.window is None else setting.window - 1, 0)  # besides the token itself
    ends: Any = (setting.starts, setting.starts, setting.longest, setting.longest)
    found: torch.Tensor = _varlen(query, key, value, *ends, scale=setting.scale, window_size=window, **fewer)
    return found


def efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, setting: Setting) -> torch.Tensor:
    """One call; no softcap."""
    key, value = _for_all_heads(query, key, value)
    found: torch.Tensor = _Efficient.apply(query, key, value, setting)  # type: ignore[no-untyped-call]
    return found


class _Efficient(torch.autograd.Function):
    """The memory-efficient kernel over sequences end to end, whose own derivative knows nothing of windows."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, setting: Setting
    ) -> torch.Tensor:
        ends = (setting.starts, setting.starts, setting.longest, setting.longest)
        states = [x.unsqueeze(0) for x in (query, key, value)]
        out, sums, seed, offset, *_ = torch.ops.aten._efficient_attention_forward(
            *states, None, *ends, 0.0, _CAUSAL, True, scale=setting.scale, window_size=setting.window
        )
        ctx.save_for_backward(*states, out, sums, seed, offset)
        ctx.setting, ctx.ends = setting, ends
        found: torch.Tensor = out.squeeze(0)
        return found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        found = _efficient_backward(grad[None].contiguous(), ctx.saved_tensors, ctx.ends, ctx.setting)
        return *(x.squeeze(0) for x in found), None


@launches(4)
def _efficient_backward(
    grad: torch.Tensor, saved: tuple[torch.Tensor, ...], ends: tuple[Any, ...], setting: Setting
) -> Sequence[torch.Tensor]:
    query, key, value, out, sums, seed, offset = saved
    if grad.is_meta:  # torch 2.13 has no shapes for it with a scale or a window
        return [torch.empty_like(x) for x in (query, key, value)]
    given = (grad, query, key, value, None, out, *ends, sums, 0.0, seed, offset, _CAUSAL, False)
    found: Sequence[torch.Tensor] = torch.ops.aten._efficient_attention_backward(
        *given, scale=setting.scale, window_size=setting.window
    )
    return found[:3]


def capped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Sequences of about the same length together; what they are padded with comes behind them, where none looks."""
    sizes, there, back = _together(setting.lengths, query.device)
    key, value = _for_all_heads(query, key, value)
    counts = [rows * longest for rows, longest in sizes]
    parts = zip(*(torch.split(x.index_select(0, there), counts) for x in (query, key, value)), strict=True)
    found = []
    for (rows, longest), states in zip(sizes, parts, strict=True):
        q, k, v = (x.view(rows, longest, *x.shape[1:]).transpose(1, 2) for x in states)
        found.append(_one(q, k, v, setting.scale, setting.window, setting.softcap).transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, back)


@functools.lru_cache(maxsize=4)
def _together(
    lengths: tuple[int, ...], device: torch.device
) -> tuple[list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """Sequences in groups of lengths that are at most `_SPREAD` times each other, each padded to its longest.

    Gives the sequences and the length of each group; of which token each place is a copy; and the place of each token.
    """
    starts = np.cumsum(lengths) - lengths
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    groups: list[list[int]] = []
    for number in order:
        if groups and lengths[groups[-1][0]] <= _SPREAD * lengths[number]:
            groups[-1].append(number)
        else:
            groups.append([number])
    there, back, begin = list[Any](), np.empty(sum(lengths), dtype=np.int64), 0
    for group in groups:
        longest = lengths[group[0]]
        for number in group:
            places = np.minimum(np.arange(longest), lengths[number] - 1)
            there.append(starts[number] + places)
            back[starts[number] : starts[number] + lengths[number]] = begin + np.arange(lengths[number])
            begin += longest
    both = torch.from_numpy(np.concatenate([*there, back])).to(device)
    return [(len(group), lengths[group[0]]) for group in groups], both[:begin], both[begin:]


def by_sequence(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, setting: Setting) -> torch.Tensor:
    """A call a sequence."""
    split = zip(
        *(torch.split(x.transpose(0, 1)[None], list(setting.lengths), 2) for x in (query, key, value)), strict=True
    )
    parts = [_one(q, k, v, setting.scale, setting.window, setting.softcap).transpose(1, 2) for q, k, v in split]
    return torch.cat(parts, 1).squeeze(0)


def _one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of one sequence: (1, heads, tokens, size), keys and values perhaps of fewer heads."""
    length = query.shape[2]
    seen = None
    if window is not None and window < length:
        place = torch.arange(length, device=query.device)
        behind = place[:, None] - place
        seen = (behind >= 0) & (behind < window)
    if softcap is not None:
        return _capped(query, key, value, scale, seen, softcap)
    fewer = key.shape[1] != query.shape[1]
    if fewer and query.device.type != "cpu" and (seen is not None or query.dtype == torch.float32):
        # Only flash takes fewer heads, and it knows neither masks nor float32: else all scores would be kept.
        key, value, fewer = *_for_all_heads(query, key, value), False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=fewer
    )


def _for_all_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    repeats = query.shape[1] // key.shape[1]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    seen: torch.Tensor | None,
    softcap: float,
) -> torch.Tensor:
    length, size = query.shape[2:]
    key, value = _for_all_heads(query, key, value)
    scores = query @ key.transpose(2, 3) * (size**-0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    weights = scores.float().masked_fill(~seen, float("-inf")).softmax(-1)
    return weights.to(value.dtype) @ value
