"""A base whose linear layers, attention and head serve several adapters at once, for any causal model of Transformers.

Nothing of a model's code is copied: its linear layers are given another `forward`, its configuration another attention,
and both are taken away again. The weights are never written. Dropout of the base itself (GPT-2, OPT) stays off.

The safety net is a check at load: two sequences, each alone through the untouched model, against both in one pass, and
the gradient of an adapter made up for it against the slope of their loss. What ignores the attention's name, lets
sequences see each other, cannot be differentiated, or is computed otherwise than expected is refused.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from meshtune.training import machine, neftune
from meshtune.training.loss import alike, exact_head, forget_lengths
from meshtune.training.packed.adapters import Group, Now, is_linear, weight_of
from meshtune.training.packed.attention import attention
from meshtune.training.packed.elementwise import replaced
from meshtune.training.packed.flat_adapter import Pair
from meshtune.training.packed.label_head import head_losses
from meshtune.training.packed.mixers import Lanes, Mixer, apart, mixers, output_of
from meshtune.training.packed.rows import Pass, Portion, lay_out
from meshtune.training.packed.unpackable import Unpackable, of_expert

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # of the largest logit; in float32 real models differ by 1e-5
_GAIN = 1000.0
# Nats by which the loss is moved to measure its slope. Where experts are chosen it jumps, so that a small step follows.
_STEPS = (1e-2, 1e-4)
_SLOPE = 0.2  # of the gradient; real models differ by 0.03
_numbers = itertools.count()


class PackedBase:
    """A base while it is packed. Made by `packed`.

    Attributes:
        low: the type of the products of training. names: of the linear layers that are computed here.
    """

    def __init__(self, base: Any, low: torch.dtype):
        self.base, self.low = base, low
        self.now = Now()
        self.forgets = alike(base.config) < math.inf
        self.groups: list[Group] = []
        self.names: frozenset[str] = frozenset()
        self.lanes = Lanes()
        self.mixers: dict[str, Mixer] = {}
        self.head: Any = None  # None: the model's own way to its logits is taken
        self._head_low: torch.Tensor | None = None

    def losses(self, batch: Pass, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each label, float32, and their sum weighted by shares, to be differentiated where `train`.

        Training computes in `low`, measuring in float32; a base in a lower type is multiplied in its own. Call
        `backward` before the next pass.
        """
        kind = self.low if train else torch.float32
        with torch.set_grad_enabled(train):
            if self.head is None:
                logits = self._own_logits(batch, kind)
                losses = cross_entropy(logits.float(), batch.labels, reduction="none")
                return losses.detach(), losses @ batch.shares
            hidden = self._hidden(batch, kind).index_select(0, batch.before)
            weight = self.head.weight
            if kind.itemsize < weight.dtype.itemsize:
                if self._head_low is None:
                    self._head_low = weight.detach().to(kind)
                weight = self._head_low
            return head_losses(hidden, weight, self.head.bias, batch.labels, batch.shares)

    def row_losses(self, batch: Pass) -> list[tuple[float, int]]:
        """Per sequence the summed loss and the number of its labels, in the model's own type, without dropout."""
        losses, _ = self.losses(batch, train=False)
        here = losses.cpu()  # all at once
        sums = [part.sum().item() for part in torch.split(here, list(batch.counts))]
        return list(zip(sums, batch.counts, strict=True))

    def noise(self, embedded: torch.Tensor) -> torch.Tensor | None:
        """What is added to (1, tokens, width) of the embedding, for adapters that are trained with noise."""
        spans = [span for span in self.now.spans if span.noisy]
        if not spans:
            return None
        found = torch.zeros_like(embedded, dtype=torch.float32)
        lengths = torch.tensor(self.now.lengths, device=embedded.device)
        lengths = lengths.repeat_interleave(lengths, output_size=embedded.shape[1])
        for span in spans:
            found[0, span.start : span.stop] = span.noise(lengths, embedded.shape[2])
        return found

    def forget(self) -> None:
        """Hold nothing of a pass that memory ran out in."""
        for group in self.groups:
            group.clear()

    def _begin(self, batch: Pass, kind: torch.dtype) -> dict[str, Any]:
        self.forget()
        if self.forgets:
            forget_lengths(self.base)
        self.now.spans, self.now.lengths, self.now.starts = batch.spans, batch.lengths, batch.starts
        self.now.kind, self.now.attended = kind, 0
        if self.mixers:
            self.lanes.lay(batch.lengths, batch.ids.device)
        return {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}

    def _hidden(self, batch: Pass, kind: torch.dtype) -> torch.Tensor:
        """(tokens, width), what the head is given."""
        hidden: torch.Tensor = self.base.base_model(**self._begin(batch, kind))[0]
        return hidden[0]

    def _own_logits(self, batch: Pass, kind: torch.dtype, gain: float = 1.0) -> torch.Tensor:
        """(labels, words), by the model itself, whose head is shown `gain` times the rows that count."""
        head = self.base.get_output_embeddings()
        keep = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, batch.before] * gain, *inputs[1:]))
        with keep, exact_head(head):
            logits: torch.Tensor = self.base(**self._begin(batch, kind)).logits[0]
        return logits

    @torch.no_grad()
    def check(self, alone: torch.Tensor) -> None:
        """Compare with the untouched model's logits; decides how the head is computed. Raises Unpackable."""
        kind, head = self.base.dtype, self.base.get_output_embeddings()
        batch = lay_out([Portion(None, _sequences(self.base))], self.base.device)
        logits = self._own_logits(batch, kind)
        if not self.now.attended and not self.mixers:
            raise Unpackable("the model ignores the name of the attention in its configuration")
        if not _each_close(logits, alone, batch.counts, kind):
            raise Unpackable("sequences that lie end to end do not have the logits that each has alone")
        if type(head) is nn.Linear:
            # Much larger rows, so that a softcap behind the head shows, which small logits hardly feel.
            hidden = self._hidden(batch, kind)[batch.before] * _GAIN
            if _close(linear(hidden, head.weight, head.bias), self._own_logits(batch, kind, _GAIN), kind):
                self.head = head

    def check_gradient(self) -> None:
        """Compare the gradient of an adapter on all layers with the slope of its loss.

        Raises Unpackable, and what the model raises.
        """
        made_up: Any = _MadeUp(self.groups, self.low)
        rows = _sequences(self.base)
        share = 1 / sum(len(tokens) - 1 for tokens, _ in rows)
        batch = lay_out([Portion(made_up, rows, share)], self.base.device)
        self.losses(batch, train=True)[1].backward()  # type: ignore[no-untyped-call]
        square = float(made_up.gradient.square().sum())
        if not 0 < square < math.inf:
            raise Unpackable(f"the gradient of an adapter over it is {'zero' if square == 0 else 'not finite'}")
        if self.low == self.base.dtype == torch.float32:  # what is rounded more is too coarse for a slope
            slopes = (self._slope(made_up, batch, nats / square) for nats in _STEPS)
            if not any(abs(slope - square) <= _SLOPE * square for slope in slopes):
                raise Unpackable("the gradient of an adapter over it is not the slope of its loss")
        self.forget()
        self.now.spans = ()

    def _slope(self, made_up: _MadeUp, batch: Pass, step: float) -> float:
        """Of the loss along the gradient, by a step to either side."""
        made_up.weights.add_(made_up.gradient, alpha=step)
        above = float(self.losses(batch, train=False)[1])
        made_up.weights.sub_(made_up.gradient, alpha=2 * step)
        below = float(self.losses(batch, train=False)[1])
        made_up.weights.add_(made_up.gradient, alpha=step)
        return (above - below) / (2 * step)


class _MadeUp:
    """What the layers need of an adapter, of rank 1, on all of them."""

    scale, rate, kept, seed, noise = 1.0, 0.0, 1.0, 0, 0.0

    def __init__(self, groups: Sequence[Group], low: torch.dtype):
        parts = [part for group in groups for part in group.parts]
        sizes = [size for part in parts for size in reversed(weight_of(part.module).shape)]
        device = groups[0].dummy.device
        chance = torch.Generator().manual_seed(0)
        self.weights = torch.cat([torch.randn(size, generator=chance) / size**0.5 for size in sizes]).to(device)
        self.low, self.gradient = self.weights.to(low), torch.zeros_like(self.weights)
        flats = [torch.split(flat, sizes) for flat in (self.weights, self.low, self.gradient)]
        self.pairs = {
            part.name: Pair(*(side for flat in flats for side in (flat[2 * n][None], flat[2 * n + 1][:, None])))
            for n, part in enumerate(parts)
        }


@contextlib.contextmanager
def packed(base: Any, low: torch.dtype, *, checkpointing: bool = False, lockstep: bool = False) -> Iterator[PackedBase]:
    """The base, packed and checked; afterwards as it was.

    Args:
        low: the type of the products of training; other than the base's own, their weights are copied.
        checkpointing: whether layers forget their activations and compute them again in the backward pass.
        lockstep: whether its layers are cut over processes that do the same at the same time (`sharded.py`).

    Raises:
        Unpackable: the check failed, or the model is not of the kind that is expected.
    """
    pack = PackedBase(base, low)
    pack.now.lockstep = lockstep
    with contextlib.ExitStack() as undo:
        try:
            if any("forward" in vars(part) for part in base.modules()):
                raise Unpackable("another pack or hook has replaced the forward of its layers")
            alone = _alone(base)
            undo.enter_context(replaced(base, pack.now))
            undo.enter_context(neftune.adding(base, pack.noise))
            undo.enter_context(_attention(pack))
            pack.mixers = undo.enter_context(apart(mixers(base), pack.lanes))
            linears = [
                (n, name, part)
                for n, (name, part) in enumerate(base.named_modules())
                if is_linear(part) and not of_expert(name)
            ]
            for named in _reading_together(pack, linears):
                group = Group(named, low, pack.now)
                pack.groups.append(group)
                for index, (_, name, part) in enumerate(named):
                    part.forward = output_of(pack.mixers, name, group, index)
                    undo.callback(_forget_forward, part)
            pack.names = frozenset(part.name for group in pack.groups for part in group.parts)
            pack.check(alone)
            if checkpointing:
                undo.enter_context(_checkpointed(base))
            pack.check_gradient()
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            if machine.is_out_of_memory(error) or machine.is_device_lost(error):
                raise
            raise Unpackable(f"the model cannot be run so: {type(error).__name__}: {error}") from error
        yield pack


@contextlib.contextmanager
def _attention(pack: PackedBase) -> Iterator[None]:
    """Name our attention in the configuration, and the text's configuration in it."""
    name = f"meshtune_packed_{next(_numbers)}"
    configs = {id(part.config): part.config for part in pack.base.modules() if hasattr(part, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    AttentionInterface.register(name, attention(pack.now))
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, old in before:
            config._attn_implementation = old
        AttentionInterface._global_mapping.pop(name)


def _reading_together(pack: PackedBase, linears: Sequence[tuple[int, str, Any]]) -> list[list[tuple[int, str, Any]]]:
    """The linear layers that the body calls, those together that are given the very same tensor. By a trial run."""
    read: dict[int, list[tuple[int, str, Any]]] = {}
    inputs: list[torch.Tensor] = []  # kept, so that no two have the same id
    calls: dict[str, int] = {}

    def note(entry: tuple[int, str, Any], _: Any, given: tuple[torch.Tensor, ...]) -> None:
        inputs.append(given[0])
        read.setdefault(id(given[0]), []).append(entry)
        calls[entry[1]] = calls.get(entry[1], 0) + 1

    batch = lay_out([Portion(None, _sequences(pack.base))], pack.base.device)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for entry in linears:
            hooks.enter_context(entry[2].register_forward_pre_hook(functools.partial(note, entry)))
        pack._hidden(batch, pack.base.dtype)
    if twice := [name for name, count in calls.items() if count > 1]:
        raise Unpackable(f"the model calls `{twice[0]}` several times a pass")
    found: list[list[tuple[int, str, Any]]] = []
    for given, entries in zip(_first_of_each(inputs), read.values(), strict=True):
        apart = any(entries[0][1].startswith(f"{name}.") for name in pack.mixers)
        if given.numel() != given.shape[-1] * (math.prod(pack.lanes.shape) if apart else batch.ids.numel()):
            raise Unpackable(f"`{entries[0][1]}` is given other rows than the tokens of the batch")
        found += _alike(entries)
    return found


def _first_of_each(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _alike(entries: list[tuple[int, str, Any]]) -> list[list[tuple[int, str, Any]]]:
    """Layers of one type of weights together."""
    kinds: dict[torch.dtype, list[tuple[int, str, Any]]] = {}
    for entry in entries:
        kinds.setdefault(entry[2].weight.dtype, []).append(entry)
    return list(kinds.values())


def _sequences(base: Any) -> list[tuple[Any, Any]]:
    """Two short rows of different tokens, all but the first learned or not: of each all places count."""
    words = base.get_input_embeddings().weight.shape[0]
    rows, most = [], alike(base.config)
    for usual, first in ((19, 3), (14, 11)):
        length = int(min(usual, most))
        tokens = ((first + 7919 * np.arange(length)) % words).astype(np.int32)
        rows.append((tokens, np.ones(length, dtype=np.bool_)))
    return rows


def _alone(base: Any) -> torch.Tensor:
    """The logits of each of the sequences alone, of all places but the last, one after the other: (places, words)."""
    forget_lengths(base)
    with torch.no_grad():
        ids = [torch.from_numpy(tokens.astype(np.int64))[None].to(base.device) for tokens, _ in _sequences(base)]
        return torch.cat([base(input_ids=x, use_cache=False).logits[0, :-1] for x in ids])


def _close(one: torch.Tensor, other: torch.Tensor, kind: torch.dtype) -> bool:
    if one.shape != other.shape:
        return False
    return (one - other).abs().max().item() <= CLOSE[kind] * other.abs().max().item()


def _each_close(one: torch.Tensor, other: torch.Tensor, counts: Sequence[int], kind: torch.dtype) -> bool:
    """Whether the logits of each of some sequences are close, their rows one after the other.

    In a lower type single tokens may be far off by rounding alone (SmolLM2 has huge values at a row's second token,
    whose logits then differ by 9 of 33), so the middle one of a sequence counts; a sequence that sees another is off at
    all its tokens.
    """
    if kind == torch.float32 or one.shape != other.shape:
        return _close(one, other, kind)
    off, most = (one - other).abs().amax(1), CLOSE[kind] * other.abs().max().item()
    return all(part.median().item() <= most for part in torch.split(off, list(counts)))


def _forget_forward(part: nn.Module) -> None:
    del part.forward


@contextlib.contextmanager
def _checkpointed(base: Any) -> Iterator[None]:
    layers = [part for part in base.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise Unpackable("it has no layers that gradient checkpointing can compute again")
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            _forget_forward(layer)
