"""A Gaussian process for few, noisy, parallel trials, as an Optuna sampler.

Two views of the values propose in turn, each by improvement and by lower bound, so that a block's points differ and no
single belief decides. Measured against other samplers in docs/decisions/2026-11-26-batch-gp.md. Several objectives are
refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.allowed import COUNTED, check, draw, start_point
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.acquisition import Score, best_point, log_feasible, log_improvement, log_news
from meshtune.samplers.gp.model import Fitted, FittedByName, constraint, objective
from meshtune.samplers.gp.observations import NOTE, Observations, Pruned, observed
from meshtune.samplers.gp.space import Array, Cube
from meshtune.samplers.interface import BlockSampler, Ends, Knowledge, fixed_beside, given_params, note_of
from meshtune.samplers.outcomes import TrialReader, Values, WarmStart, constraint_names

N_STARTUP = 8
BEST = 5  # rows of the lowest means, around which is looked
LIKELY = np.log(0.5)  # log probability from which a point counts as feasible
KNOWN = 0.5  # of the noise: what is known better, as by four evaluations, is not evaluated for its lower bound
TRIES = 100  # to draw a point that nobody has


@final
class BatchGPSampler(BlockSampler):
    """Bayesian optimization in blocks of points that do not wait for each other.

    Works with `study.optimize`, also with `n_jobs`, and with ask and tell. Proposals follow from the study's trials,
    the seed and the trial's number: a fresh sampler goes on exactly where another one was interrupted. Parameters are
    floats, integers, categories and booleans; a linear range that is wide and positive is seen in logarithms where that
    fits better. Constraints are those of `trial.set_constraint`. A failed trial counts as the worst success.

    Args:
        x0: the start point by name, of some or all parameters; the rest, or all of it, is the middle of the space.
        search_space: Optuna distributions by name. Left out, it is what the complete trials have in common, so the
            first trial is random. Where it is given and finite, `available` ends at its last point.
        block_size: points that are proposed before an answer is needed; one by default.
        n_startup: points before the first model: the start point and a Latin hypercube; 8 by default.
        warm_start: an earlier study, or finished trials, from which the search starts.
        warm_start_values: `as_is`; or `shifted` where they come from another fidelity: the best four are evaluated
            again, and the others are moved by the median difference.
        known: what is known of a LoRA study beforehand: points after the start, and an expected loss, which is the
            process's mean. Of no use beside `warm_start`, whose trials say more, and then left aside.
        a_priori: says of a point, by name, whether it is allowed. What it refuses is never proposed and costs nothing.
        hidden_constraints: names of constraints whose violation means that the trial has no honest value.
        pruned: `failed`; `left_out`, as if it had not been; or `value`: a pruned trial's value is what it would have
            ended with, and one without value is left out. Optuna's own pruners leave there what was reported last,
            which is no such value.
        ends: of pruned trials that have a value, what they would have ended with and how sure that is, by what is known
            when a point is proposed: in place of the value, which counts like a loss that was measured.
        seed: of all that is random; drawn where it is left out.

    Raises:
        ValueError: an argument is not allowed, or the study has several objectives.
        SamplerError: from a proposal: no point is found that is allowed.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        x0: Mapping[str, Any] | None = None,
        block_size: int | None = None,
        n_startup: int | None = None,
        warm_start: Study | Sequence[FrozenTrial] | None = None,
        warm_start_values: Values = "as_is",
        known: Knowledge | None = None,
        a_priori: Callable[[dict[str, Any]], bool] | None = None,
        hidden_constraints: Collection[str] = (),
        pruned: Pruned = "failed",
        ends: Ends | None = None,
        seed: int | None = None,
    ):
        check(
            least={"block_size": (block_size, 1), "n_startup": (n_startup, 0)},
            words={
                "warm_start_values": (warm_start_values, ("as_is", "shifted")),
                "pruned": (pruned, ("failed", "value", "left_out")),
            },
            hidden_constraints=hidden_constraints,
            x0=x0,
            space=search_space,
        )
        drawn = int(np.random.SeedSequence().generate_state(1)[0])
        super().__init__(drawn if seed is None else int(seed), 1 if block_size is None else int(block_size))
        self._space = None if search_space is None else dict(search_space)
        self._x0 = dict(x0 or {})
        self._n_startup = N_STARTUP if n_startup is None else int(n_startup)
        self._warm = None if warm_start is None else WarmStart.of(warm_start, warm_start_values)
        self._known = known if self._warm is None else None
        self._a_priori = a_priori
        self._hidden = frozenset(hidden_constraints)
        self._pruned = pruned
        self._ends = ends
        self._common = IntersectionSearchSpace()

    learns = True

    # -- Optuna's

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that was given, or what the complete trials have in common."""
        with self._lock:
            return dict(Encoding(self._common.calculate(study) if self._space is None else self._space).space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of this trial's place in its block. Of an enqueued trial only what is left open is chosen."""
        with self._lock:  # so that trials of other threads see each other's points
            return self._propose(study, trial, search_space)

    def _propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        if self._warm is not None and self._warm.directions not in (None, tuple(study.directions)):
            raise ValueError("the study of `warm_start` has other directions than this one")
        cube = Cube(Encoding(search_space), self._known)
        names = list(cube.encoding.space)
        given = given_params(trial)
        if all(name in given for name in names):
            return {}
        middle = cube.encoding.decode(cube.encoding.middle)
        inside = {name: value for name, value in given.items() if _has(cube, name, value)}
        row = cube.rows([{**middle, **inside}])[0]
        fixed = {names.index(name): float(row[names.index(name)]) for name in names if name in inside}
        trials = study.get_trials(deepcopy=False)
        observations = self._observations(study, cube, trials, but=trial.number)
        newly_fitted: FittedByName = {}
        space = cube.encoding.name(fixed_beside(study))
        found = self._opening(cube, observations, self._reader(study, trials), trial.number, fixed)
        if found is None:
            found = self._modelled(
                cube, observations, trial.number, fixed, _last_fitted(trials, trial.number, space), newly_fitted
            )
        note = {"trial": trial.number, "space": space, "point": found.tolist()}
        if newly_fitted:
            note["fits"] = {name: fit.to_json() for name, fit in newly_fitted.items()}
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)
        return cube.encoding.decode(found.tolist())

    # -- inside

    def _reader(self, study: Study, trials: Sequence[FrozenTrial]) -> TrialReader:
        complete = any(trial.state is TrialState.COMPLETE for trial in trials)
        earlier = self._warm.trials if self._warm is not None and not complete else ()
        names = constraint_names([*trials, *earlier], self._hidden)
        return TrialReader(
            tuple(study.directions), names, self._hidden, "value" if self._pruned == "value" else "failed"
        )

    def _observations(self, study: Study, cube: Cube, trials: Sequence[FrozenTrial], but: int = -1) -> Observations:
        fixed = fixed_beside(study)
        return observed(
            [trial for trial in trials if all(trial.params.get(name, value) == value for name, value in fixed.items())],
            cube,
            self._reader(study, trials),
            space=cube.encoding.name(fixed),
            but=but,
            pruned=self._pruned,
            warm=self._warm,
            ends=self._ends(trials) if self._ends and self._pruned == "value" else None,
        )

    def _left(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """Points of a finite space that was given, as far as they are counted."""
        fixed = fixed_beside(study)
        cube = Cube(Encoding({name: of for name, of in (self._space or {}).items() if name not in fixed}))
        if self._space is None or cube.encoding.size == float("inf"):
            return sys.maxsize
        taken = self._observations(study, cube, trials).visited
        if self._a_priori is None or cube.encoding.size > COUNTED:
            return max(0, int(cube.encoding.size) - len(taken))
        points = cube.points()
        return len(set(cube.keys(points[self._allowed(cube, points)])).difference(taken))

    def _allowed(self, cube: Cube, rows: Array) -> NDArray[np.bool_]:
        """Whether each row may be proposed."""
        if self._a_priori is None:
            return np.ones(len(rows), dtype=bool)
        return np.array([self._a_priori(cube.encoding.decode(row)) for row in rows.tolist()], dtype=bool)

    def _opening(
        self, cube: Cube, observations: Observations, reader: TrialReader, number: int, fixed: Mapping[int, float]
    ) -> Array | None:
        """A point before there is a model: the start, earlier points again, a Latin hypercube; None: there is one."""
        starts = self._starts(cube, observations, reader)
        if starts and not fixed:
            return starts[0]
        if observations.succeeded and observations.size >= self._n_startup:
            return None
        size = max(self._n_startup, 1)
        rng = np.random.default_rng([self._seed, number // size, 1])
        cells = np.array([rng.permutation(size) for _ in range(len(cube))]).T
        shares = (cells + rng.random((size, len(cube)))) / size
        row = cube.at(shares)[number % size, :]
        rng = np.random.default_rng([self._seed, number, 2])
        taken = observations.visited.union(cube.keys(observations.rows))  # an earlier study of this seed began so, too
        for _ in range(TRIES):
            row[list(fixed)] = list(fixed.values())
            if cube.keys(row[None])[0] not in taken and self._allowed(cube, row[None]).all():
                return row
            row = cube.at(rng.random((1, len(cube))))[0, :]
        return self._kept(cube, row, observations, rng, fixed)

    def _kept(
        self,
        cube: Cube,
        row: Array,
        observations: Observations,
        rng: np.random.Generator,
        fixed: Mapping[int, float],
        score: Score | None = None,
    ) -> Array:
        """The row where it is new and allowed, or where some of it is given; else one that is, as far as there are any.

        Of the last points of a finite space it is the one with the best `score`, a random one without.
        """
        if fixed:
            return row
        allowed = bool(self._allowed(cube, row[None]).all())
        if cube.encoding.size <= COUNTED and not (allowed and cube.keys(row[None])[0] not in observations.visited):
            points = cube.points()
            new = np.array([key not in observations.visited for key in cube.keys(points)], dtype=bool)
            left = points[new & self._allowed(cube, points)]
            if len(left):
                return left[int(np.argmax(score(left))) if score else int(rng.integers(len(left))), :]
        if allowed or self._a_priori is None:
            return row
        return cube.rows([draw(cube.encoding.space, self._a_priori, rng)])[0, :]

    def _starts(self, cube: Cube, observations: Observations, reader: TrialReader) -> list[Array]:
        """Points to begin with that have no trial yet."""
        encoding = cube.encoding
        points = [trial.params for trial in self._warm.again(encoding, reader)] if self._warm else []
        if self._x0 or (self._warm is None and self._n_startup > 0):
            points.insert(0, start_point(self._x0, encoding))
        points += [dict(point) for point in cube.known.points] if cube.known else []
        rows = [cube.snapped(cube.rows([point]))[0] for point in points]
        rows = [row for row in rows if self._allowed(cube, row[None]).all()]
        return [row for row in rows if cube.keys(row[None])[0] not in observations.visited]

    def _modelled(
        self,
        cube: Cube,
        observations: Observations,
        number: int,
        fixed: Mapping[int, float],
        earlier: Mapping[str, Fitted],
        newly_fitted: FittedByName,
    ) -> Array:
        """The best point by the view and the rule of its place in the block."""
        place, half = number % self._block_size, (self._block_size + 1) // 2
        improve = (place if place < half else place - half) % 2 == 0
        steady = place < half
        if self._block_size == 1:
            improve, steady = number % 2 == 0, number % 2 == 1
        belief = objective(cube, observations, "steady" if steady else "raw", earlier, newly_fitted)
        limits = [constraint(cube, observations, name, earlier, newly_fitted) for name in observations.constraints]

        def feasible(rows: Array) -> Array:
            return sum((log_feasible(*limit(rows), 0.0) for limit in limits), np.zeros(len(rows)))

        seen = np.concatenate([observations.rows, observations.pending])
        means = belief(seen)[0]
        chances = feasible(seen)
        likely = chances >= LIKELY
        incumbent = float(means[likely].min()) if likely.any() else None

        def score(rows: Array) -> Array:
            mean, deviation = belief(rows)
            chance = feasible(rows)
            if incumbent is None:
                return chance
            if improve:
                worth = log_improvement(mean, deviation, incumbent) + log_news(deviation, belief.noise)
                return worth + chance
            within = (incumbent - mean + deviation) / belief.scale
            within = np.where(deviation >= KNOWN * belief.noise, within, within - 1e3)
            return within if not limits else np.where(chance >= LIKELY, within, chance - 1e6)

        order = np.lexsort((means, ~likely)) if likely.any() else np.argsort(-chances, kind="stable")
        rng = np.random.default_rng([self._seed, number, 0])
        allowed = None if self._a_priori is None else partial(self._allowed, cube)
        found = best_point(cube, score, seen[order[:BEST]], observations.visited, fixed, rng, allowed)
        return self._kept(cube, found, observations, rng, fixed, score)


def _last_fitted(trials: Sequence[FrozenTrial], number: int, space: str) -> dict[str, Fitted]:
    """The last fit of each name before a trial."""
    found: dict[str, Fitted] = {}
    for trial in reversed(trials[:number]):
        for name, fit in note_of(trial, NOTE, space).get("fits", {}).items():
            found.setdefault(name, Fitted.from_json(fit))
    return found


def _has(cube: Cube, name: str, value: Any) -> bool:
    space = cube.encoding.space
    return name in space and Encoding({name: space[name]}).has({name: value})
