"""How long passes of packs take on a GPU, by formula: for plans before there is one, and for what packs gain.

Assumptions, until a card has measured them: matrix products reach `SHARE` of the card's peak; a layer starts `LAUNCHES`
kernels forward and backward, each of which takes the host `LAUNCH` seconds. A pass takes the longest of three: its
products; the reading of the frozen weights, once forward and once backward, with the writing out of weights in few
bits; and its launches. So a small pass is bound by launches or weights, and gains by every trial that is packed with
it; a large one is bound by products, and gains nothing.

Products, counted as 2 operations a multiply-add (Kaplan et al. 2020, section 2.1): a frozen weight costs 2 a token
forward and 2 for the gradient of its input, but none for its own; an adapter's weight 6; the head counts at labels
alone; attention is causal, its backward 2.5 times its forward (FlashAttention-2). Gradient checkpointing computes the
forward pass once more: half as much again of what a frozen base costs (a third, where all weights are trained).

Nothing here is measured, so it may steer blocks and packs as predicted memory does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshtune.training.loss import GPU_TOKENS as VALIDATION_TOKENS
from meshtune.training.memory.cards import Card
from meshtune.training.memory.formula import BYTES
from meshtune.training.memory.packs import PackSetting
from meshtune.training.packed.limits import token_limit
from meshtune.training.recipe import Recipe

SHARE = 0.4  # of the peak
LAUNCHES = 150  # a layer, forward and backward
LAUNCH = 8e-6  # seconds of the host
STEP_BYTES = 36  # of an adapter's parameter, read and written by the optimizer's step, clipping, and zeroing
LOADING = 1e9  # bytes of a base that are loaded a second


@dataclass(frozen=True)
class Speed:
    """What decides the time of packs on a card.

    Attributes:
        packs: the model and its types. row: mean tokens of a row. labels: share of the tokens that are labels.
    """

    packs: PackSetting
    card: Card
    row: float
    labels: float

    def training(self, members: Sequence[Recipe]) -> float:
        """Tokens a second of a pack, all members together, validation left out."""
        tokens = [self._portion(recipe) for recipe in members]
        limit = min(token_limit(self.packs.device), members[0].pass_tokens or token_limit(self.packs.device))
        seconds, at = 0.0, 0
        while at < len(members):  # passes, as the trainer gathers portions for them
            end, together = at + 1, tokens[at]
            while end < len(members) and together + tokens[end] <= limit:
                together += tokens[end]
                end += 1
            cut = max(1.0, together / max(limit, self.row))  # a portion of more tokens is computed in several passes
            seconds += cut * self._pass(members[at:end], [count / cut for count in tokens[at:end]])
            at = end
        parameters = sum(self.packs.parameters(recipe) for recipe in members)
        return sum(tokens) / (seconds + STEP_BYTES * parameters / self.card.bandwidth)

    def gains(self, member: Recipe, most: int) -> int:
        """Trials like this one that a pack has, at most so many, while twice as many make it faster by a tenth."""
        count, rate = 1, self.training([member])
        while 2 * count <= most and (faster := self.training([member] * (2 * count))) >= 1.1 * rate:
            count, rate = 2 * count, faster
        return count

    def enough(self, member: Recipe) -> int:
        """Tokens of a pass whose products take four times as long as its launches and its reading of the weights."""
        one, many = (replace(member, pass_tokens=None, batch_size=rows) for rows in (1, 10**6))
        fixed = self._pass([one], [0.0])
        a_token = (self._pass([many], [1e9]) - fixed) / 1e9
        return math.ceil(4 * fixed / a_token)

    def validation(self) -> float:
        """Tokens a second of a validation, of one adapter or of several after each other."""
        tokens, own = float(VALIDATION_TOKENS), BYTES.get(self.packs.dtype, 4)
        products = tokens * (2 * self._weights + 2 * self.labels * self._head + self._attention)
        reading = self._frozen_bytes(own) / self.card.bandwidth
        launches = self.packs.shape.layers * LAUNCHES / 3 * LAUNCH
        return tokens / max(products / self._peak(own), reading, launches)

    def trial(self, members: Sequence[Recipe], train_tokens: int, held_out_tokens: int) -> float:
        """Seconds of a pack over seconds of its members: what one trial of it takes, trained and validated."""
        epochs = sum(recipe.epochs for recipe in members) / len(members)
        return epochs * (train_tokens / self.training(members) + held_out_tokens / self.validation())

    def _portion(self, recipe: Recipe) -> float:
        return recipe.batch_size * self.row

    def _pass(self, members: Sequence[Recipe], tokens: Sequence[float]) -> float:
        """Seconds of one pass, forward and backward."""
        again = 0.5 if members[0].gradient_checkpointing else 0.0
        width = 2 if members[0].precision in ("bfloat16", "float16") else BYTES.get(self.packs.dtype, 4)
        together = sum(tokens)
        products = together * (4 + 4 * again) * self._weights
        products += together * (3.5 + 2 * again) * self._attention
        products += together * 4 * self.labels * self._head
        for recipe, count in zip(members, tokens, strict=True):
            products += (6 + 4 * again) * count * self.packs.parameters(recipe)
        reading = (2 + 2 * again) * self._frozen_bytes(width) / self.card.bandwidth
        launches = (1 + again) * self.packs.shape.layers * LAUNCHES * LAUNCH
        return max(products / self._peak(width), reading, launches)

    def _peak(self, width: int) -> float:
        return SHARE * (self.card.bfloat16 if width < 4 else self.card.float32)

    def _frozen_bytes(self, width: int) -> float:
        """Read of the linear layers in a pass; in few bits they are read, written out, and read once more."""
        quantization = self.packs.quantization
        if quantization is None:
            return width * self._weights
        return self._weights * (2 * width + (1 if quantization == "int8" else 0.5))

    @property
    def _weights(self) -> int:
        """Weights of the linear layers, the head left out."""
        shape = self.packs.shape
        return sum(x.inputs * x.outputs for x in shape.linears if not x.lookup and x.name != shape.head)

    @property
    def _head(self) -> int:
        return self.packs.shape.hidden * self.packs.shape.vocab

    @property
    def _attention(self) -> float:
        """Operations of a token's scores and sums, forward, over the half of a row that is before it."""
        shape = self.packs.shape
        return 2 * self.row * shape.layers * shape.heads * shape.head_dim
