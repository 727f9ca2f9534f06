"""Synthetic LoRA surfaces: a validation loss as a function of four hyperparameters, with a known minimum.

Four variables: `rank` (4 to 512, powers of 2), `dropout` (0 to 0.3 in steps of 0.05), `alpha` (integer, 1 to 512) and
`learning_rate` (1e-6 to 1e-2). They are made like a real surface (SmolLM2-135M-Instruct, 56 points): a narrow valley in
log(learning rate x alpha) explains most of it, its top is flat, and the noise between seeds (0.005) is as large as the
differences between good points. With u the distance to the valley in decades, the loss is FLOOR plus

- the valley: 0.16 (1 - exp(-u^2)) below it (nothing is learned), 0.35 u^2 + 0.5 u^4 above it (too much);
- 0.004 (log2 rank - R)^2, 0.002 (log2(alpha / rank) - S)^2 and 1.5 (dropout - D)^2.

| surface | valley: log10(learning rate x alpha) | R | S | D | diverges (nan) |
|---|---|---|---|---|---|
| `product` | -1.4 | 5 | 1 | 0.05 | no |
| `curved` | -1.4 - 0.15 (log2 rank - R) + 0.02 (log2(alpha / rank) - S)^2 | 4 | 1 | 0.1 + 0.02 (log2 rank - R) | no |
| `cliff` | -1.2 | 6 | 2 | 0 | 0.6 decades above, at scale 1; 0.05 less a doubling |
| `corner` | -1.0 | 9 | 0 | 0 | no |
| `ridge` | -1.4, the valley four times as steep | 3 | 2 | 0.15 | 1 decade above |

`QUICK` names the first three; the other two had a say in the opening alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

FLOOR = 1.84  # the noise-free minimum of every surface
UNTUNED = FLOOR + 0.16  # where nothing is learned, at the best rank, scale and dropout
NOISE = 0.005  # standard deviation of one evaluation
RANK_LOG2 = (2, 9)
DROPOUT = (0.0, 0.3, 0.05)  # low, high, step
ALPHA = (1, 512)
LEARNING_RATE = (1e-6, 1e-2)


@dataclass(frozen=True)
class Surface:
    """A noise-free loss over the four hyperparameters.

    Attributes:
        valley: log10(learning rate x alpha) of the valley, at the best rank and scale.
        rank_log2, scale_log2, dropout: the best ones.
        tilt: decades that the valley moves for each doubling of the rank. bend: decades for a squared doubling of the
            scale. drift: best dropout's move for each doubling of the rank.
        steepness: of the valley. cliff: decades above the valley where training diverges, at scale 1.
    """

    name: str
    valley: float
    rank_log2: int
    scale_log2: int
    dropout: float
    tilt: float = 0.0
    bend: float = 0.0
    drift: float = 0.0
    steepness: float = 1.0
    cliff: float = math.inf

    @property
    def best(self) -> dict[str, float]:
        """The hyperparameters of the minimum."""
        alpha = 2 ** (self.rank_log2 + self.scale_log2)
        rank = 2**self.rank_log2
        return {"rank": rank, "alpha": alpha, "dropout": self.dropout, "learning_rate": 10**self.valley / alpha}

    def __call__(self, hyperparameters: Mapping[str, float]) -> float:
        """The loss at rank, alpha, dropout and learning_rate; nan where training diverges."""
        rank = math.log2(hyperparameters["rank"]) - self.rank_log2
        doublings = math.log2(hyperparameters["alpha"] / hyperparameters["rank"])
        scale = doublings - self.scale_log2
        valley = self.valley + self.tilt * rank + self.bend * scale**2
        above = math.log10(hyperparameters["learning_rate"] * hyperparameters["alpha"]) - valley
        if above > self.cliff - 0.05 * doublings:
            return math.nan
        u = above * math.sqrt(self.steepness)
        step = 0.16 * (1 - math.exp(-(u**2))) if u < 0 else 0.35 * u**2 + 0.5 * u**4
        dropout = hyperparameters["dropout"] - self.dropout - self.drift * rank
        return FLOOR + step + 0.004 * rank**2 + 0.002 * scale**2 + 1.5 * dropout**2


SURFACES = (
    Surface("product", -1.4, 5, 1, 0.05),
    Surface("curved", -1.4, 4, 1, 0.1, tilt=-0.15, bend=0.02, drift=0.02),
    Surface("cliff", -1.2, 6, 2, 0.0, cliff=0.6),
    Surface("corner", -1.0, 9, 0, 0.0),
    Surface("ridge", -1.4, 3, 2, 0.15, steepness=4.0, cliff=1.0),
)
QUICK = SURFACES[:3]
SENSIBLE = {"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 2e-4}  # what a careful user sets today
