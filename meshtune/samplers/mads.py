"""MADS (NOMAD) as an Optuna sampler.

The Optuna study is the only state. NOMAD runs in *segments*; the first trial of a segment carries the segment's
definition and every trial its place in it (segment, block, slot), so a fresh sampler replays the last segment to a
fresh child and continues as an uninterrupted one would. Points that decode to a known one are answered from the study.

Not here yet: several objectives, constraints by the progressive barrier, warm starts from other studies.
Source: Audet and Dennis 2006 (MADS); NOMAD 4 (Audet, Le Digabel, Rochon Montplaisir, Tribes 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.errors import SamplerError
from meshtune.samplers.encoding import bounds, from_number, ranges, to_number, whole
from meshtune.samplers.encoding import key as key_of
from meshtune.samplers.nomad import LARGE, Nomad, Point, Segment
from meshtune.samplers.seam import Sampler
from meshtune.samplers.seeds import derived_seed

PLACE = "mads"  # trial attribute: {"segment", "block", "slot", "open": definition on a segment's first trial}
SEGMENTS_WITHOUT_NEWS = 3  # as many segments in a row that propose nothing new: the space is exhausted


@dataclass(frozen=True)
class _Slot:
    """One point of the open block; `trial` is the number of the trial that answers it, None until it is proposed."""

    key: Point
    params: Mapping[str, Any]
    trial: int | None

    def answered(self, key: Point, trial: int) -> _Slot:
        """The slot, answered by a trial if that trial's point is its own."""
        return _Slot(self.key, self.params, trial) if key == self.key else self


@final
class MadsSampler(Sampler):
    """Mesh adaptive direct search in blocks.

    Args:
        search_space: Optuna distributions by name; those with a single value are left to Optuna.
        x0: the start point by name, inside the space; the middle of the space by default.
        block_size: most points that NOMAD proposes before it needs an answer.
        n_startup: size of the Latin-hypercube start; twice the number of variables by default (measured:
            it halves the regret at 20 trials).
        nomad_options: further NOMAD parameters by name, such as `{"VNS_MADS_SEARCH": "yes"}`.
        seed: of NOMAD.
        new_segment: do not replay the last segment: go on from the recorded points as a cache.

    Raises:
        SamplerError: the child died, or a replay proposed other points than the recorded ones.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        x0: Mapping[str, Any] | None = None,
        block_size: int = 1,
        n_startup: int | None = None,
        nomad_options: Mapping[str, object] | None = None,
        seed: int = 0,
        new_segment: bool = False,
    ):
        self._space = {name: search_space[name] for name in sorted(search_space) if not search_space[name].single()}
        self._x0 = dict(x0) if x0 is not None else None
        self._block_size = block_size
        self._n_startup = n_startup
        self._options = tuple(f"{name} {value}" for name, value in (nomad_options or {}).items())
        self._seed = seed
        self._force_new = new_segment
        self._nomad: Nomad | None = None
        self._segment = -1
        self._definition: dict[str, Any] = {}
        self._block = -1
        self._slots: list[_Slot] = []
        self._news = False  # whether the open segment has proposed a new point
        self._empty = 0  # segments in a row without news

    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """
        trials = study.get_trials(deepcopy=False)
        if self._nomad is None and self._empty < SEGMENTS_WITHOUT_NEWS and not self._visited(trials):
            self._open(study, trials)
        while self._empty < SEGMENTS_WITHOUT_NEWS:
            if waiting := sum(slot.trial is None for slot in self._slots):
                return waiting
            if self._visited(trials) or not self._answer(study, trials):
                return 0
            self._next_block(trials)
            if self._nomad is None:
                self._empty = 0 if self._news else self._empty + 1
                if self._empty < SEGMENTS_WITHOUT_NEWS:
                    self._start_segment(study, trials)
        return 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that was given."""
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point of the open block; beyond the block a random fill, never a wait."""
        if not self._space:
            return {}
        if self.available(study) == 0:
            random = RandomSampler(seed=derived_seed(self._seed, trial.number))
            return {name: random.sample_independent(study, trial, name, d) for name, d in self._space.items()}
        index, slot = next((i, slot) for i, slot in enumerate(self._slots) if slot.trial is None)
        place: dict[str, Any] = {"segment": self._segment, "block": self._block, "slot": index}
        if not self._news:
            place["open"] = self._definition
            self._news = True
        study._storage.set_trial_system_attr(trial._trial_id, PLACE, place)
        # The same point may stand twice in a block: one trial answers both.
        self._slots = [other.answered(slot.key, trial.number) for other in self._slots]
        return dict(slot.params)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A single-valued parameter, or one outside the given space: at random."""
        random = RandomSampler(seed=derived_seed(self._seed, trial.number))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def close(self) -> None:
        """End the child. The study holds all that is needed to go on."""
        if self._nomad is not None:
            self._nomad.close()
            self._nomad = None

    # -- segments

    def _open(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        placed = [trial for trial in trials if PLACE in trial.system_attrs]
        self._segment = max((trial.system_attrs[PLACE]["segment"] for trial in placed), default=-1)
        if not placed or self._force_new:
            self._force_new = False
            self._start_segment(study, trials)
            return
        members = [trial for trial in placed if trial.system_attrs[PLACE]["segment"] == self._segment]
        self._definition = next(t.system_attrs[PLACE]["open"] for t in members if "open" in t.system_attrs[PLACE])
        self._news = True
        self._run(study, trials)
        self._replay(study, trials, members)

    def _start_segment(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        """A new segment from the record: first from the start point alone, later from all known points."""
        first = self._segment < 0
        self._segment += 1
        known = [] if first else [trial.number for trial in trials if trial.state.is_finished()]
        valued = [(value, trial.number) for trial in trials if (value := _value(study, trial)) is not None]
        start = self._x0 if first or not valued else trials[min(valued)[1]].params
        self._definition = {
            "seed": self._seed + self._segment,
            "start": list(self._middle() if start is None else self._encode(start)),
            "startup": 2 * len(self._space) if self._n_startup is None else self._n_startup,
            "block_size": self._block_size,
            "options": list(self._options),
            "known": ranges(known),
        }
        self._news = False
        self._run(study, trials)
        self._next_block(trials)

    def _run(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        definition = self._definition
        known = {n for low, high in definition["known"] for n in range(low, high + 1)}
        cache = {
            self._encode(trial.params): _value(study, trial)
            for trial in trials
            if trial.number in known and self._has(trial.params)
        }
        ends = [bounds(distribution) for distribution in self._space.values()]
        self._nomad = Nomad(
            Segment(
                integer=tuple(map(whole, self._space.values())),
                lower=tuple(low for low, _ in ends),
                upper=tuple(high for _, high in ends),
                start=tuple(definition["start"]),
                cache=tuple(cache.items()),
                seed=definition["seed"],
                block_size=definition["block_size"],
                startup=definition["startup"],
                options=tuple(definition["options"]),
            )
        )
        self._block, self._slots = -1, []

    def _replay(self, study: Study, trials: Sequence[FrozenTrial], members: Sequence[FrozenTrial]) -> None:
        """Feed the recorded answers to the fresh child, up to the open block, and compare what it proposes."""
        places = {(t.system_attrs[PLACE]["block"], t.system_attrs[PLACE]["slot"]): t for t in members}
        last = max(block for block, _ in places)
        while self._block < last:
            if self._block >= 0 and not self._answer(study, trials):
                break
            self._next_block(trials)
            if self._nomad is None:
                self._differs(f"NOMAD ended at block {self._block}")
            for i, slot in enumerate(self._slots):
                recorded = places.get((self._block, i))
                if recorded is None:
                    continue
                if {name: recorded.params[name] for name in self._space} != dict(slot.params):
                    self._differs(f"trial {recorded.number} was {recorded.params} and would be {dict(slot.params)}")
                self._slots = [other.answered(slot.key, recorded.number) for other in self._slots]

    def _visited(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every point of a finite space has a trial. NOMAD may crash when it looks for one more."""
        if not all(map(whole, self._space.values())):
            return False
        size = math.prod(bounds(distribution)[1] + 1 for distribution in self._space.values())
        return len({key_of(self._encode(trial.params)) for trial in trials if self._has(trial.params)}) >= size

    def _differs(self, how: str) -> None:
        self.close()
        raise SamplerError(
            f"the replay of MADS segment {self._segment} differs from the record: {how}. Another version of NOMAD, or"
            " of its numerical libraries, proposes other points. Go on from the recorded points with `--new-segment`."
        )

    # -- blocks

    def _next_block(self, trials: Sequence[FrozenTrial]) -> None:
        """Take the next block from the child; a point of an earlier trial is answered by that trial."""
        if self._nomad is None:
            return
        block = self._nomad.ask()
        if block is None:
            self.close()
            self._slots = []
            return
        self._block += 1
        known = {
            key_of(self._encode(t.params)): t.number
            for t in reversed(trials)
            if self._has(t.params) and not self._later(t)
        }
        self._slots = [_Slot(key_of(p), self._decode(p), known.get(key_of(p))) for p in block]

    def _later(self, trial: FrozenTrial) -> bool:
        """Whether a trial belongs to this or a later block of the open segment (while replaying)."""
        place = trial.system_attrs.get(PLACE)
        return place is not None and place["segment"] == self._segment and place["block"] >= self._block

    def _answer(self, study: Study, trials: Sequence[FrozenTrial]) -> bool:
        """Tell the child the open block's values; False where one of them is still awaited."""
        answers = [trials[slot.trial] for slot in self._slots if slot.trial is not None]
        if len(answers) < len(self._slots) or not all(trial.state.is_finished() for trial in answers):
            return False
        values = [_value(study, trial) for trial in answers]
        start = key_of(self._definition["start"])
        if self._nomad is not None and values:
            self._nomad.tell(
                [LARGE if v is None and s.key == start else v for v, s in zip(values, self._slots, strict=True)]
            )
        return True

    # -- the encoding: logarithms to base 10, integers and indices as they are

    def _has(self, params: Mapping[str, Any]) -> bool:
        return all(name in params for name in self._space)

    def _encode(self, params: Mapping[str, Any]) -> Point:
        return tuple(to_number(params[name], distribution) for name, distribution in self._space.items())

    def _decode(self, point: Point) -> dict[str, Any]:
        named = zip(point, self._space.items(), strict=True)
        return {name: from_number(value, distribution) for value, (name, distribution) in named}

    def _middle(self) -> Point:
        middles = []
        for distribution in self._space.values():
            low, high = bounds(distribution)
            middles.append(float((int(low) + int(high)) // 2) if whole(distribution) else (low + high) / 2)
        return tuple(middles)


def _value(study: Study, trial: FrozenTrial) -> float | None:
    """What NOMAD is told of a finished trial: its value to minimise, or None for failed and infeasible ones."""
    if trial.state is not TrialState.COMPLETE or trial.value is None or not math.isfinite(trial.value):
        return None
    if any(violation > 0 for violation in trial.constraints.values()):
        return None
    return -trial.value if study.direction is StudyDirection.MAXIMIZE else trial.value
