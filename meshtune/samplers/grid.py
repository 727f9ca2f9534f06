"""Every point of a finite space once, in an order that the seed shuffles.

Optuna's `GridSampler` evaluates a point twice where it was enqueued, such as the baseline; here the study's trials say
what is left, and the block ends where the grid does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import BlockSampler, visited

MOST = 100_000  # points of a grid


@final
class GridSampler(BlockSampler):
    """The points of choices, steps and integers, each once.

    Args:
        search_space: Optuna distributions by name. seed: of the order. block_size: points proposed together.
        allows: says of a point, by name, whether it is of the grid.

    Raises:
        ValueError: a parameter has no grid (real without a step, or logarithmic), or there are too many points.
    """

    several_objectives = True

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        seed: int,
        block_size: int = 1,
        allows: Callable[[dict[str, Any]], bool] | None = None,
    ):
        super().__init__(seed, block_size)
        self._encoding = encoding = Encoding(search_space)
        whole = zip(encoding.space, encoding.integer, strict=True)
        if without := [name for name, integer in whole if not integer]:
            names = ", ".join(f"`{name}`" for name in without)
            raise ValueError(
                f"a grid needs values to choose from, and {names} {'has' if len(without) == 1 else 'have'} none: give a"
                " list such as [1e-5, 1e-4, 1e-3], in place of the interval"
            )
        if encoding.size > MOST:
            raise ValueError(f"the grid has {encoding.size:,.0f} points, of at most {MOST:,}: narrow the space")
        points = list(encoding.points())
        order = np.random.default_rng(seed).permutation(len(points))
        decoded = (encoding.decode(points[index]) for index in order)
        kept = (point for point in decoded if allows is None or allows(point))
        self._points = {encoding.key(point): point for point in kept}

    @property
    def size(self) -> int:
        """Points of the grid."""
        return len(self._points)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What there is to choose."""
        return dict(self._encoding.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The first point that no trial has; after the last of them the first one again."""
        others = (other for other in study.get_trials(deepcopy=False) if other.number != trial.number)
        taken = visited(self._encoding, others)
        left = (point for key, point in self._points.items() if key not in taken)
        return dict(next(left, next(iter(self._points.values()), {})))

    def _left(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        return len(self._points.keys() - visited(self._encoding, trials))
