"""The study's trials by what MADS asks about them: who holds a slot of a block, who has evaluated a point.

The note on a trial (system attribute `mads`) says what it was lent:
`{"trial", "segment", "block", "slot", "space", "point", "open": the segment's definition, on its first trial}`, or
`{"trial", "fill": true, "space", "point"}` for a point that is none of NOMAD's. `trial` is the trial's number: a copy
under another one (`study.add_trial`, Optuna's retry of a stale trial) is a trial from elsewhere. On a shared storage
also `"by"`, the process that runs it, where that is `study.optimize`: such a trial dies with its process. What was
asked for may be told by another one.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.interface import given_params, note_of

NOTE = "mads"

Slot = tuple[int, int, int]  # segment, block, index in the block


class Ledger:
    """An index of the trials over one search space, kept up by `update`.

    `space` names it in notes. Trials that have other values than the `fixed` ones are not of it.
    `trials`: as they were at the last update. `openers`: numbers of the trials that began a segment.
    """

    def __init__(self, encoding: Encoding, space: str, fixed: Mapping[str, Any]):
        self._encoding, self._space, self._fixed = encoding, space, fixed
        self._keys: dict[int, Point | None] = {}  # of finished trials
        self._by_key: dict[Point, int] = {}  # the first finished trial of a point
        self._lent: dict[Slot, list[int]] = {}
        self._open: dict[int, Point] = {}  # points that unfinished trials evaluate
        self.openers: list[int] = []
        self.trials: Sequence[FrozenTrial] = ()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Take up what has happened since."""
        self.trials = trials
        self._open = {}
        for trial in trials:
            number = trial.number
            if number in self._keys:
                continue
            note = note_of(trial, NOTE)
            if trial.state.is_finished():
                self._finish(trial)
            elif (point := self._claimed(trial, note)) is not None and not _abandoned(note):
                self._open[number] = point
        self._lend(trials)

    def holder(self, slot: Slot, key: Point) -> int | None:
        """The trial that answers a slot, finished or not; None where the slot is free.

        A trial to which it was lent answers it if its point is exactly the slot's; else any trial of that point does.
        Of several to which it was lent (the first one's process may have died) the first that ended does.
        """
        lent = [number for number in self._lent.get(slot, ()) if self._keys.get(number, self._open.get(number)) == key]
        if lent:
            return min(lent, key=self._ended)
        held = [number for number, point in self._open.items() if point == key]
        if key in self._by_key:
            held.append(self._by_key[key])
        return min(held, default=None)

    @property
    def latest(self) -> int | None:
        """The number of the trial that began the last segment."""
        return max(self.openers, default=None)

    def finished(self) -> list[int]:
        """Numbers of the finished trials that have a point of the space."""
        return sorted(number for number, key in self._keys.items() if key is not None)

    def params(self, trial: FrozenTrial) -> Mapping[str, Any]:
        """A finished trial's values by name.

        An objective may end before it asks for all, pruned or on a branch: the rest is then as it was lent.
        """
        space, note = self._encoding.space, note_of(trial, NOTE)
        asked = {name: value for name, value in trial.params.items() if name in space}
        if not asked or len(asked) == len(space) or note.get("space") != self._space:
            return trial.params
        params = {**self._encoding.decode(note["point"]), **asked}
        exact = self._encoding.has(params) and self._encoding.key(params) == tuple(note["point"])
        return params if exact else trial.params

    def lent(self, segment: int) -> Iterator[tuple[Slot, int]]:
        """Slots of a segment with the numbers of the trials that they were lent to."""
        return ((slot, number) for slot, numbers in self._lent.items() if slot[0] == segment for number in numbers)

    def is_taken(self, key: Point, but: int = -1) -> bool:
        """Whether a trial, other than number `but`, has evaluated a point or evaluates it."""
        return key in self._by_key or any(point == key for number, point in self._open.items() if number != but)

    def visited(self) -> set[Point]:
        """All points that have a trial."""
        return set(self._by_key) | set(self._open.values())

    # -- inside

    def _finish(self, trial: FrozenTrial) -> None:
        params = self.params(trial)
        key = self._key(params)
        self._keys[trial.number] = key
        if key is not None:
            self._by_key[key] = min(self._by_key.get(key, trial.number), trial.number, key=self._ended)

    def _ended(self, number: int) -> tuple[datetime, int]:
        """Sorts trials by when they ended: one that is ended from outside, long after, changes no answer."""
        return self.trials[number].datetime_complete or datetime.max, number

    def _claimed(self, trial: FrozenTrial, note: Mapping[str, Any]) -> Point | None:
        if "point" in note:
            return tuple(note["point"]) if note["space"] == self._space else None
        return self._key(given_params(trial))

    def _key(self, params: Mapping[str, Any]) -> Point | None:
        """The point that a trial's values are; None where they are none of this space."""
        here = self._encoding.has(params) and all(params.get(k, value) == value for k, value in self._fixed.items())
        return self._encoding.key(params) if here else None

    def _lend(self, trials: Sequence[FrozenTrial]) -> None:
        self._lent, self.openers = {}, []
        for trial in trials:
            note = note_of(trial, NOTE)
            if "slot" not in note or note["space"] != self._space:
                continue
            self._lent.setdefault((note["segment"], note["block"], note["slot"]), []).append(trial.number)
            if "open" in note:
                self.openers.append(trial.number)


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[0, 1, 2, 5] as [[0, 2], [5, 5]]: notes stay small."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def members(ranges: Iterable[Sequence[int]]) -> list[int]:
    """[[0, 2], [5, 5]] as [0, 1, 2, 5]."""
    return [number for low, high in ranges for number in range(low, high + 1)]


def owner() -> str:
    """This process, as a note names it: where its number holds, the number, and when it began."""
    return f"{_realm()}:{os.getpid()}:{_began(os.getpid())}"


def _abandoned(note: Mapping[str, Any]) -> bool:
    """Whether the process that ran an unfinished trial is known to have ended; of another machine nothing is known."""
    if "by" not in note:
        return False
    realm, pid, began = note["by"].rsplit(":", 2)
    return realm == _realm() and _began(int(pid)) not in (began, "")


def _realm() -> str:
    """The machine, and on Linux the container: process numbers mean nothing elsewhere."""
    namespace = Path("/proc/self/ns/pid")
    return f"{platform.node()}:{namespace.readlink().name}" if namespace.exists() else platform.node()


def _began(pid: int) -> str | None:
    """When a process began, empty where the system does not say; None where it has ended, waited for or not."""
    if os.name != "posix":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]
