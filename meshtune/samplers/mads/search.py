"""MADS over one study and one search space: blocks of points, and who answers them.

The study is the only state. Points come in *segments*; the first trial of a segment carries the segment's definition
and every trial its place in it (segment, block, slot), so that a fresh search replays the last segment and goes on as
an uninterrupted one would. Several processes may run replicas of one segment: they share its blocks.

A new segment begins from the record: after the opening, when NOMAD has converged, when constraints appear that the open
one does not know, when a trial from elsewhere (enqueued, a fill, another segment's) is better than all that the open
one knows, and when the sampler's settings have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.logging import get_logger
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from meshtune.errors import SamplerError
from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.mads.ledger import NOTE, Ledger, members, owner
from meshtune.samplers.mads.nomad import Nomad, NomadCrashed
from meshtune.samplers.mads.segments import Definition, MadsSettings, Points, Segments
from meshtune.samplers.outcomes import Outputs, TrialReader, constraint_names

_logger = get_logger(__name__)

CRASHES = 3  # as many crashes of NOMAD in a row: an error
ENDED = 3  # as many NOMAD runs in a row that propose nothing new: the space is exhausted
SPINS = 2000  # as many blocks in a row without a point to evaluate: so too
TRIES = 20  # to lend a point that no other process takes at the same time
UNBORN = -1  # the number of a segment that has no trial yet


@dataclass(frozen=True)
class _Slot:
    """One point of the open block. `params` is None where what is known before evaluation rules it out."""

    key: Point
    params: Mapping[str, Any] | None


class Search:
    """The open block of a study, and what comes after it.

    Args:
        settings: see there. study: its directions count. encoding: the space. fixed: values by name of parameters
            outside it (`PartialFixedSampler`): trials with other values are not of this search.
        new_segment: replay nothing.

    Raises:
        SamplerError: NOMAD's process died, or a replay proposed other points than the recorded ones.
    """

    def __init__(
        self,
        settings: MadsSettings,
        study: Study,
        encoding: Encoding,
        fixed: Mapping[str, Any] | None = None,
        *,
        new_segment: bool = False,
    ):
        self.encoding = encoding
        self._space = encoding.name(fixed)
        self.ledger = Ledger(encoding, self._space, fixed or {})
        self._segments = Segments(settings, encoding, study.directions)
        self._shared = not isinstance(study._storage, InMemoryStorage)
        self._force_new = self.forced = new_segment
        self._source: Nomad | Points | None = None
        self._definition: Definition = {}
        self._reader = TrialReader(tuple(study.directions))
        self._segment = UNBORN
        self._latest: int | None = None  # the last segment's number when this one was begun
        self._block = -1
        self._slots: list[_Slot] = []
        self._inside: set[int] = set()  # numbers of the trials whose answers the open segment knows
        self._refused: set[Point] = set()
        self._empty = 0  # NOMAD runs in a row without news
        self._crashes = 0  # in a row

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing new to propose."""
        if self._empty >= ENDED:
            return True
        return len(self.ledger.visited() | self._refused) >= self.encoding.size

    @property
    def awaited(self) -> dict[str, Any] | None:
        """A point of the open block; None where it has none that may be evaluated."""
        return next((dict(slot.params) for slot in self._slots if slot.params is not None), None)

    def allows(self, params: Mapping[str, Any]) -> bool:
        """Whether a point keeps the constraints that are known before training."""
        return self._segments.allows(params)

    def free(self, study: Study) -> int:
        """Points of the open block that can be proposed now. Opens the next block where this one is answered."""
        self._advance(study)
        return len({slot.key for index, slot in enumerate(self._slots) if self._is_free(index)})

    def lend(self, study: Study, trial: FrozenTrial) -> dict[str, Any] | None:
        """The first free point, for a trial; None where there is none."""
        for _ in range(TRIES):
            self._advance(study)
            index = next((i for i in range(len(self._slots)) if self._is_free(i)), None)
            if index is None:
                return None
            slot = self._slots[index]
            opens = self._segment in (UNBORN, trial.number)  # the latter after a lost claim: others may have joined
            segment = trial.number if opens else self._segment
            place: dict[str, Any] = {"segment": segment, "block": self._block, "slot": index}
            if opens:
                place["open"] = self._definition
            claimed = self.claim(study, trial, slot.key, place)
            if opens:
                self._segment = self._latest = trial.number
            self.forced = False
            if claimed:
                return dict(slot.params or {})
        return None

    def fill(self, study: Study, trial: FrozenTrial, key: Point) -> bool:
        """Write down a trial's point that is none of NOMAD's, beside the open block."""
        return self.claim(study, trial, key, {"fill": True})

    def claim(self, study: Study, trial: FrozenTrial, key: Point, note: Mapping[str, Any]) -> bool:
        """Write down that a trial evaluates a point; False where another process has done so for this point.

        Each writes first and looks then: of two that take the same point at once, at least one sees the other.
        """
        dies = self._shared and study._thread_local.in_optimize_loop  # with its process; what was asked for lives on
        note = {
            **note,
            "trial": trial.number,
            "space": self._space,
            "point": list(key),
            **({"by": owner()} if dies else {}),
        }
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)
        if self._shared:
            self.ledger.update(study.get_trials(deepcopy=False))
            return not self.ledger.is_taken(key, but=trial.number)
        return True

    def close(self) -> None:
        """End the child. The study holds all that is needed to go on."""
        if self._source is not None:
            self._source.close()
            self._source = None

    # -- blocks

    def _is_free(self, index: int) -> bool:
        slot = self._slots[index]
        return slot.params is not None and self._holder(index) is None

    def _holder(self, index: int) -> int | None:
        return self.ledger.holder((self._segment, self._block, index), self._slots[index].key)

    def _answers(self) -> list[Outputs | None] | None:
        """The answers of the open block's points; None while one of them is free or awaited."""
        answers: list[Outputs | None] = []
        holders = []
        start = self._definition.get("start")
        for index, slot in enumerate(self._slots):
            outputs = None
            if slot.params is not None:
                holder = self._holder(index)
                if holder is None or not self.ledger.trials[holder].state.is_finished():
                    return None
                outputs = self._reader.outputs(self.ledger.trials[holder])
                holders.append(holder)
            if outputs is None and start and slot.key == self.encoding.key(self.encoding.decode(start)):
                outputs = self._reader.failed_start()
            answers.append(outputs)
        self._inside.update(holders)
        return answers

    def _advance(self, study: Study) -> None:
        """Go on until a point is free, an answer is awaited, or the space is exhausted.

        Where an exception cuts an exchange with the child, such as Ctrl-C, the next call replays to a fresh one.
        """
        try:
            self._update(study)
            if self.exhausted:
                return
            self._attach()
            for _ in range(SPINS):
                if self.exhausted or (answers := self._answers()) is None:
                    return
                self._go_on(answers)
            self._empty = ENDED
        except BaseException:
            self.close()
            raise

    def _update(self, study: Study) -> None:
        """Read the trials; where a segment has begun once more, since the first time may have missed what it knows."""
        self.ledger.update(study.get_trials(deepcopy=False))
        if self._shared and self.ledger.latest != self._latest:
            self.ledger.update(study.get_trials(deepcopy=False))

    def _go_on(self, answers: Sequence[Outputs | None]) -> None:
        """From an answered block to the next one."""
        assert self._source is not None
        if rest := self._segments.rest(self.ledger, self._refused):
            self._begin(rest)
            return
        self._source.tell(answers)
        if "points" not in self._definition and self._segment != UNBORN and self._outdated():
            self._begin(self._segments.descent(self.ledger, self._empty))
        elif not self._next_block():
            wide = None
            if "points" not in self._definition:
                self._empty = self._empty + 1 if self._segment == UNBORN else 0
                if self._empty >= ENDED:
                    return
                wide = self._segments.widening(self.ledger, self._empty)
            self._begin(wide or self._segments.descent(self.ledger, self._empty))

    def _next_block(self) -> bool:
        """Take the next block from the source; False where that has ended.

        Where NOMAD crashes, points all over the space come next, and then a run that knows them: the same one again
        would crash again.
        """
        assert self._source is not None
        try:
            block = self._source.ask()
        except NomadCrashed as error:
            self._crashes += 1
            wide = self._segments.rest(self.ledger, self._refused, crashed=True)
            wide = wide or self._segments.widening(self.ledger, self._empty + self._crashes)
            if self._crashes > CRASHES or wide is None:
                raise
            _logger.warning(f"{error} It goes on with points all over the space.")
            self._begin(wide)
            return True
        if isinstance(self._source, Nomad):
            self._crashes = 0
        self._block += 1
        self._slots = [self._slot(point) for point in block or ()]
        return block is not None

    def _slot(self, point: Point) -> _Slot:
        params = self.encoding.decode(point)
        key = self.encoding.key(params)
        if not self._segments.allows(params):
            self._refused.add(key)
            return _Slot(key, None)
        return _Slot(key, params)

    # -- segments

    def _attach(self) -> None:
        """Open the segment to work in, where it is not open yet or another process has begun a later one."""
        latest = self.ledger.latest
        begun = self._source is not None
        if begun and latest == self._latest:
            return
        if latest is not None and not self._force_new:
            definition = self.ledger.trials[latest].system_attrs[NOTE]["open"]
            if begun or self._segments.fits(definition):
                self._replay(latest, definition)
                return
        opening = self._segments.opening(self.ledger) if latest is None else None
        self._begin(opening or self._segments.descent(self.ledger, self._empty))
        self._force_new = False

    def _begin(self, definition: Definition) -> None:
        """A new segment, which gets its number from its first trial."""
        self._open(definition, UNBORN)
        self._latest = self.ledger.latest
        self._next_block()

    def _open(self, definition: Definition, segment: int) -> None:
        self.close()
        self._definition, self._segment = definition, segment
        self._source, self._reader = self._segments.open(definition, self.ledger)
        self._block, self._slots = -1, []
        self._inside = set(members(definition.get("known", ())))

    def _outdated(self) -> bool:
        """Whether the record holds what the open segment cannot take up: other constraints, or a better point."""
        trials, reader = self.ledger.trials, self._reader
        if set(constraint_names(trials, reader.hidden)) - set(reader.constraints):
            return True
        if len(reader.directions) > 1:
            return False
        valued = [(number, outputs) for number in self.ledger.finished() if (outputs := reader.outputs(trials[number]))]
        leader = reader.leader([outputs for _, outputs in valued])
        return leader is not None and valued[leader][0] not in self._inside

    def _replay(self, segment: int, definition: Definition) -> None:
        """Feed the recorded answers to a fresh source, up to the open block, and compare what it proposes."""
        self._open(definition, segment)
        self._latest, self._empty = segment, 0
        places = {(block, index): number for (_, block, index), number in self.ledger.lent(segment)}
        last = max(block for block, _ in places)
        while True:
            if not self._next_block():
                self._differs(f"NOMAD ended at block {self._block}")
            for index, slot in enumerate(self._slots):
                number = places.get((self._block, index))
                if number is not None and self.ledger.trials[number].system_attrs[NOTE]["point"] != list(slot.key):
                    was = self.ledger.trials[number].params
                    self._differs(f"trial {number} was {was} and would be {slot.params}")
            answers = self._answers()
            if self._block == last or answers is None or self._source is None:
                return
            self._source.tell(answers)

    def _differs(self, how: str) -> None:
        self.close()
        raise SamplerError(
            f"the replay of the MADS segment that trial {self._segment} began differs from the record: {how}. Another"
            " version of NOMAD, or of its numerical libraries, proposes other points; so does another `a_priori`. Go on"
            " from the recorded points with `MadsSampler(.., new_segment=True)`, on the command line `--new-segment`."
        )
