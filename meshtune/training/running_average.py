"""A running average of an adapter's weights, which stands in for the decay of `wsd` at rungs.

While the rate is constant the weights swing around where a decay would take them, so that a loss on the way is worse
than what it promises, and by more at high rates. Their average is near that place (docs/decisions/2026-12-01-wsd.md).
It begins where the warm-up ends. After n steps it is moved by (SPREAD + 1) / (n + SPREAD) of the way to the weights, so
that its memory is about the last n / (SPREAD + 1) steps, however long the training shall be. Once the decay has begun
the weights are measured as they are. The average is never trained on, and never what a training gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from meshtune.training.recipe import Recipe, decay_steps, warmup_steps

SPREAD = 8
_PIECE = 1 << 20  # values exchanged at once, so that no third copy is needed


class RunningAverage:
    """Of some tensors that are trained, in float32.

    Args:
        steps: of the training. weights: looked at after each step. changed: called after they were exchanged.
    """

    def __init__(
        self, recipe: Recipe, steps: int, weights: Sequence[torch.Tensor], changed: Callable[[], object] = lambda: None
    ):
        self.weights, self.changed = [weight.detach() for weight in weights], changed
        self.values = [weight.to(torch.float32, copy=True) for weight in self.weights]
        self.first, self.last = warmup_steps(recipe, steps), steps - decay_steps(recipe, steps)

    def move(self, step: int) -> None:
        """After so many steps."""
        if self._stands(step):
            share = (SPREAD + 1) / (step - self.first + SPREAD)
            for value, weight in zip(self.values, self.weights, strict=True):
                value.lerp_(weight.to(torch.float32), share)

    @contextlib.contextmanager
    def in_place(self, step: int) -> Iterator[None]:
        """Measure it instead of the weights, where the rate is constant after so many steps. Nothing may be trained."""
        if not self._stands(step):
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _stands(self, step: int) -> bool:
        return self.first < step <= self.last

    def _exchange(self) -> None:
        for value, weight in zip(self.values, self.weights, strict=True):
            pieces = (torch.split(tensor.view(-1), _PIECE) for tensor in (value, weight))
            for average, own in zip(*pieces, strict=True):
                kept = own.clone()
                own.copy_(average)
                average.copy_(kept)
        self.changed()


def averages(recipe: Recipe, rungs: Sequence[int]) -> bool:
    """Whether a training is measured on an average: with `wsd`, where it has rungs at all."""
    return recipe.lr_scheduler == "wsd" and bool(rungs)
