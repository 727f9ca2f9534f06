"""How sure a choice is: chances of being best and Pareto-optimal, and the candidates that may still be the best.

`confidence_set` is a multiple comparison with the best (Hsu 1984) that serves every rule: a candidate leaves only where
some other one has a higher merit in all but a share (1 - level) / (others) of the resamples, which is the bootstrap's
one-sided comparison with Bonferroni's correction over the others. Equal merits keep both. What it holds with the stated
confidence is the best by the rule on all items of the kind asked; seeds of training are not covered.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meshtune.selection.measured import Array
from meshtune.selection.rules import winners

LEVEL, POWER = 0.95, 0.8
_SAME = 1e-9


def chance_best(merits: Array) -> Array:
    """The share of draws that each candidate wins, tied wins shared: from (draws, candidates)."""
    won = winners(merits)
    return np.asarray((won / won.sum(axis=1, keepdims=True)).mean(axis=0))


def confidence_set(merits: Array, chosen: int, level: float = LEVEL) -> NDArray[np.bool_]:
    """Who may be the best, from the merits (draws, candidates); the chosen one always may."""
    size = merits.shape[1]
    least = (1 - level) / max(size - 1, 1)
    at_least = np.array([(merits[:, [mine]] >= merits - _SAME).mean(axis=0).min() for mine in range(size)])
    may = at_least >= least
    may[chosen] = True
    return np.asarray(may)


def items_to_separate(difference: float, error: float, items: int, level: float = LEVEL) -> int | None:
    """How many more items would show a difference of this size at `level`, two-sided, four times in five.

    `error`: the standard error of the difference on the present `items`. 0 where they do already; None where no number
    would (there is no difference) or more than a thousand times the present items are needed.
    """
    needed = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))
    if abs(difference) < _SAME or abs(difference) * math.sqrt(1000) < needed * error:
        return None
    return max(0, math.ceil(items * ((needed * error / difference) ** 2 - 1)))
