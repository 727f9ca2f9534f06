"""MADS over one study and one search space: segments of NOMAD, blocks of points, and who answers them.

The study is the only state. NOMAD runs in *segments*; the first trial of a segment carries the segment's definition and
every trial its place in it (segment, block, slot), so that a fresh search replays the last segment to a fresh child and
goes on as an uninterrupted one would. Several processes may run replicas of one segment: they share its blocks.

A new segment begins from the record: when NOMAD has converged, when constraints appear that the open one does not know,
when a trial from elsewhere (enqueued, a fill, another segment's) is better than all that the open one knows, and when
the sampler's settings have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from meshtune.errors import SamplerError
from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.ledger import NOTE, Ledger, members, owner, ranges
from meshtune.samplers.nomad import Nomad, Outputs, Problem
from meshtune.samplers.settings import Settings
from meshtune.samplers.told import Teller, constraint_names

AGAIN = -1  # the segment of points that are evaluated again before the first real one
ENDED = 3  # as many segments in a row that propose nothing new: the space is exhausted
SPINS = 2000  # as many blocks in a row without a point to evaluate: so too
TRIES = 20  # to lend a point that no other process takes at the same time


@dataclass(frozen=True)
class _Slot:
    """One point of the open block. `params` is None where what is known before evaluation rules it out."""

    key: Point
    params: Mapping[str, Any] | None


class Search:
    """The open block of a study, and what comes after it.

    Args:
        settings: see there. study: its directions count. encoding: the space. new_segment: replay nothing.

    Raises:
        SamplerError: the child died, or a replay proposed other points than the recorded ones.
    """

    def __init__(self, settings: Settings, study: Study, encoding: Encoding, *, new_segment: bool = False):
        self.encoding = encoding
        described = repr([(name, distribution_to_json(d)) for name, d in encoding.space.items()])
        self.space = hashlib.sha256(described.encode()).hexdigest()[:8]
        self.ledger = Ledger(encoding, self.space)
        self._settings = settings
        self._directions = tuple(study.directions)
        self._shared = not isinstance(study._storage, InMemoryStorage)
        self._force_new = new_segment
        self._nomad: Nomad | None = None
        self._definition: dict[str, Any] = {}
        self._teller = Teller(self._directions, (), settings.hidden)
        self._segment: int | None = None  # the number of its first trial; None until it has one
        self._latest: int | None = None  # the last segment's number when this one was begun
        self._block = -1
        self._slots: list[_Slot] = []
        self._inside: set[int] = set()  # numbers of the trials whose answers the open segment knows
        self._refused: set[Point] = set()
        self._empty = 0  # segments in a row without news

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing new to propose."""
        if self._empty >= ENDED:
            return True
        # NOMAD may crash when it looks for one point more than there are.
        return len(self.encoding.space) == 0 or len(self.ledger.visited() | self._refused) >= self.encoding.size

    def free(self, study: Study) -> int:
        """Points of the open block that can be proposed now; opens the next block where this one is answered."""
        self._advance(study)
        return sum(self._is_free(index) for index in range(len(self._slots)))

    def lend(self, study: Study, trial: FrozenTrial) -> dict[str, Any] | None:
        """The first free point, for a trial; None where there is none."""
        for _ in range(TRIES):
            self._advance(study)
            index = next((i for i in range(len(self._slots)) if self._is_free(i)), None)
            if index is None:
                return None
            slot = self._slots[index]
            opens = self._segment is None
            segment = trial.number if self._segment is None else self._segment
            place: dict[str, Any] = {"segment": segment, "block": self._block, "slot": index, "space": self.space}
            if opens:
                place["open"] = self._definition
            if self.claim(study, trial, slot.key, place):
                if opens:
                    self._segment = self._latest = trial.number
                return dict(slot.params or {})
        return None

    def claim(self, study: Study, trial: FrozenTrial, key: Point, note: Mapping[str, Any]) -> bool:
        """Write down that a trial evaluates a point; False where another process has done so for this point.

        Each writes first and looks then: of two that take the same point at once, at least one sees the other.
        """
        note = {**note, "point": list(key), **({"by": owner()} if self._shared else {})}
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)
        if self._shared:
            self.ledger.update(study.get_trials(deepcopy=False))
            return not self.ledger.is_taken(key, but=trial.number)
        return True

    def close(self) -> None:
        """End the child. The study holds all that is needed to go on."""
        if self._nomad is not None:
            self._nomad.close()
            self._nomad = None

    # -- blocks

    def _is_free(self, index: int) -> bool:
        slot = self._slots[index]
        return slot.params is not None and self._holder(index) is None

    def _holder(self, index: int) -> int | None:
        segment = -2 if self._segment is None else self._segment
        return self.ledger.holder((segment, self._block, index), self._slots[index].key)

    def _answers(self) -> list[Outputs | None] | None:
        """What the open block's points are told; None while one of them is free or awaited."""
        answers: list[Outputs | None] = []
        holders = []
        start = tuple(self._definition.get("start", ()))
        for index, slot in enumerate(self._slots):
            outputs = None
            if slot.params is not None:
                holder = self._holder(index)
                if holder is None or not self.ledger.trials[holder].state.is_finished():
                    return None
                outputs = self._teller.outputs(self.ledger.trials[holder])
                holders.append(holder)
            if outputs is None and start and slot.key == self.encoding.key(self.encoding.decode(start)):
                outputs = self._teller.failed_start()
            answers.append(outputs)
        self._inside.update(holders)
        return answers

    def _advance(self, study: Study) -> None:
        """Go on until a point is free, an answer is awaited, or the space is exhausted."""
        self.ledger.update(study.get_trials(deepcopy=False))
        spins = 0
        while not self.exhausted:
            if self._attach():
                continue
            answers = self._answers()
            if answers is None:
                return
            spins += 1
            if spins > SPINS:
                self._empty = ENDED
                return
            self._go_on(answers)

    def _go_on(self, answers: Sequence[Outputs | None]) -> None:
        """From an answered block to the next one."""
        if self._segment == AGAIN:
            self._start_segment()
            return
        assert self._nomad is not None
        self._nomad.tell(answers)
        if self._segment is not None and self._outdated():
            self.close()
            self._start_segment()
        elif not self._next_block():
            self._empty = self._empty + 1 if self._segment is None else 0
            self.close()
            if self._empty < ENDED:
                self._start_segment(again=True)

    def _next_block(self) -> bool:
        """Take the next block from the child; False where NOMAD has ended."""
        assert self._nomad is not None
        block = self._nomad.ask()
        self._block += 1
        self._slots = [self._slot(point) for point in block or ()]
        return block is not None

    def _slot(self, point: Point) -> _Slot:
        params = self.encoding.decode(point)
        key = self.encoding.key(params)
        if self._settings.a_priori is not None and not self._settings.a_priori(dict(params)):
            self._refused.add(key)
            return _Slot(key, None)
        return _Slot(key, params)

    # -- segments

    def _attach(self) -> bool:
        """Open the segment to work in, where that is not open yet; whether anything was done."""
        latest = max(self.ledger.openers, default=None)
        begun = self._nomad is not None or self._segment == AGAIN
        if begun and latest == self._latest:
            return False
        self.close()
        if latest is not None and not self._force_new:
            opening = self.ledger.trials[latest].system_attrs[NOTE]["open"]
            if begun or self._fits(opening):
                self._replay(latest, opening)
                return True
        self._latest = latest
        again = self._points_again() if latest is None else []
        if again:
            self._segment, self._block, self._slots = AGAIN, 0, again
        else:
            self._start_segment()
        self._force_new = False
        return True

    def _fits(self, definition: Mapping[str, Any]) -> bool:
        """Whether a segment was made with the present settings, as far as these are given."""
        settings = self._settings
        return (
            settings.block_size in (None, definition["block_size"])
            and list(settings.options) == definition["options"]
            and settings.barrier == definition["barrier"]
            and (None if settings.warm_start is None else settings.warm_start.digest) == definition["warm_start"]
        )

    def _points_again(self) -> list[_Slot]:
        warm = self._settings.warm_start
        if warm is None:
            return []
        if len(self._directions) > 1 and warm.values == "shifted":
            raise ValueError("warm_start_values: `shifted` is for one objective; with several only `as_is` is allowed")
        hidden = self._settings.hidden
        self._teller = Teller(self._directions, constraint_names(warm.trials, hidden), hidden)
        return [self._slot(self.encoding.encode(t.params)) for t in warm.again(self.encoding, self._teller)]

    def _start_segment(self, *, again: bool = False) -> None:
        """A new segment from the record; `again`: after one that has converged, with a start as wide as the first."""
        settings, encoding = self._settings, self.encoding
        numbers = self.ledger.finished()
        warm = settings.warm_start
        names = constraint_names([*self.ledger.trials, *(warm.trials if warm else ())], settings.hidden)
        self._teller = Teller(self._directions, names, settings.hidden)
        cache = self._known(numbers)
        valued = [(point, outputs) for point, outputs in cache.items() if outputs is not None]
        first = not self.ledger.openers and not self._empty
        leader = self._teller.leader([outputs for _, outputs in valued])
        if leader is None or (first and settings.x0 and warm is None):
            middle = encoding.decode(encoding.middle)
            start = encoding.encode({**middle, **{k: v for k, v in settings.x0.items() if k in middle}})
        else:
            start = valued[leader][0]
        startup = 2 * len(encoding.space) if settings.n_startup is None else settings.n_startup
        self._definition = {
            "seed": settings.seed + len(self.ledger.openers) + self._empty,
            "start": list(start),
            "startup": startup if again else max(startup - len(valued), 0),
            "block_size": settings.block_size or 2 * len(encoding.space),
            "barrier": settings.barrier,
            "constraints": list(names),
            "options": list(settings.options),
            "warm_start": None if warm is None else warm.digest,
            "known": ranges(numbers),
        }
        self._segment, self._latest = None, max(self.ledger.openers, default=None)
        self._run(cache)
        self._next_block()

    def _known(self, numbers: Sequence[int]) -> dict[Point, Outputs | None]:
        """What NOMAD's cache is told: coordinates with outputs, of these trials and of the earlier study's."""
        known: dict[Point, Outputs | None] = {}
        here: dict[Point, Outputs | None] = {}
        for number in numbers:
            trial = self.ledger.trials[number]
            outputs = self._teller.outputs(trial)
            known.setdefault(self.encoding.encode(trial.params), outputs)
            here.setdefault(self.encoding.key(trial.params), outputs)
        warm = self._settings.warm_start
        if warm is not None:
            trials = {key: trial for key, (trial, _) in warm.known(self.encoding, self._teller).items()}
            for key, outputs in warm.outputs(self.encoding, self._teller, here).items():
                known.setdefault(self.encoding.encode(trials[key].params), outputs)
        return known

    def _run(self, cache: Mapping[Point, Outputs | None]) -> None:
        """Start the child on the definition. A start that failed is asked again, and told as bad instead of failed."""
        definition, encoding = self._definition, self.encoding
        start = tuple(definition["start"])
        several = len(self._directions) > 1  # where NOMAD crashes if it knows its start
        kept = [(p, o) for p, o in cache.items() if p != start or not (several or o is None)]
        barrier = "EB" if definition["barrier"] == "extreme" else "PB"
        self._nomad = Nomad(
            Problem(
                integer=encoding.integer,
                lower=encoding.lower,
                upper=encoding.upper,
                start=start,
                cache=tuple(kept),
                seed=definition["seed"],
                block_size=definition["block_size"],
                startup=definition["startup"],
                outputs=("OBJ",) * len(self._directions) + (barrier,) * len(definition["constraints"]),
                options=tuple(definition["options"]),
            )
        )
        self._block, self._slots = -1, []
        self._inside = set(members(definition["known"]))

    def _outdated(self) -> bool:
        """Whether the record holds what the open segment cannot take up: other constraints, or a better point."""
        trials, teller = self.ledger.trials, self._teller
        if set(constraint_names(trials, self._settings.hidden)) - set(self._definition["constraints"]):
            return True
        if len(self._directions) > 1:
            return False
        valued = [(number, outputs) for number in self.ledger.finished() if (outputs := teller.outputs(trials[number]))]
        leader = teller.leader([outputs for _, outputs in valued])
        return leader is not None and valued[leader][0] not in self._inside

    def _replay(self, segment: int, definition: dict[str, Any]) -> None:
        """Feed the recorded answers to a fresh child, up to the open block, and compare what it proposes."""
        self._segment = self._latest = segment
        self._definition = definition
        self._teller = Teller(self._directions, tuple(definition["constraints"]), self._settings.hidden)
        self._empty = 0
        self._run(self._known(members(definition["known"])))
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
            if self._block == last or answers is None or self._nomad is None:
                return
            self._nomad.tell(answers)

    def _differs(self, how: str) -> None:
        self.close()
        raise SamplerError(
            f"the replay of the MADS segment that trial {self._segment} began differs from the record: {how}. Another"
            " version of NOMAD, or of its numerical libraries, proposes other points. Go on from the recorded points"
            " with `--new-segment`, in Python `MadsSampler(.., new_segment=True)`."
        )
