"""What was decided about packs that ran, as the record holds it, in its order.

One note for what was decided together at rungs, one for each trial that joined a pack, and one for each that thawed:
it had been stopped and told to the sampler, and trains on in the search. Where a frozen trial takes a place that comes
free at a rung, the decision's own note says so, and the notes that it thaws and joins follow from it. Where it stops
again, a note of the thaw's number says how it stood; else its promotion's note says how it ended. One for each whose
state was dropped, since the disk's limit left no room for it: it cannot thaw any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from meshtune.trial import Verdict

IN_PACK = "decided_in_pack"  # the note: of a study whose trials are stopped by what is decided while they run
DECIDED = "decided"  # with a number: the note of one decision
JOINED = "joined"  # with a number: the note of a trial that joined a pack
THAWED = "thawed"  # with a number: the note of a trial that was stopped and goes on
DROPPED = "dropped"  # with a number: the note of a trial whose state was dropped
FROZEN = "frozen_again"  # with the number of a thaw: the note of how that trial stood when it was stopped again


@dataclass(frozen=True)
class Decided:
    """What becomes of a trial at a rung.

    Attributes:
        tokens, loss: of the rung. value: what samplers get of a trial that stops there; None: nothing but that it does.
    """

    trial: int
    tokens: int
    loss: float
    verdict: Verdict
    value: float | None = None


@dataclass(frozen=True)
class Joined:
    """A trial that waited takes a place that came free in a pack that runs, and belongs to that from here on; or one
    that was frozen does, and trains on there.

    Attributes:
        pack: its number. after: (trial, tokens) of the last rung that was decided in it before. thaw: the number of the
            thaw with which it did; None: it had not begun.
    """

    trial: int
    pack: int
    after: tuple[int, int]
    thaw: int | None = None


@dataclass(frozen=True)
class Thawed:
    """A trial that had been stopped and goes on in the search.

    Attributes:
        tokens: of the rung that it was stopped at. seen: how many trials had ended when that was decided.
    """

    trial: int
    tokens: int
    seen: int


@dataclass(frozen=True)
class Dropped:
    """A trial that was stopped and whose state is given up: it can only begin anew.

    Attributes:
        tokens: of the rung that it was stopped at. seen: how many trials had ended when that was decided.
    """

    trial: int
    tokens: int
    seen: int


def noted(decided: Sequence[Decided], taken: Sequence[Joined] = ()) -> list[list[Any]]:
    """As plain values: rows of five of what was decided, and of four of the frozen trials that take places there."""
    rows: list[list[Any]] = [[*astuple(each)[:3], str(each.verdict), each.value] for each in decided]
    return rows + [[each.trial, each.pack, *each.after] for each in taken]


def read(notes: Mapping[str, Any]) -> Iterator[Decided]:
    """All that was decided, in its order."""
    for note in _each(notes, DECIDED):
        for trial, tokens, loss, verdict, value in (row for row in note if len(row) == 5):
            yield Decided(trial, tokens, loss, Verdict(verdict), value)


def read_taken(notes: Mapping[str, Any]) -> Iterator[Joined]:
    """The frozen trials that take places by the last decision."""
    for note in list(_each(notes, DECIDED))[-1:]:
        for trial, pack, at, tokens in (row for row in note if len(row) == 4):
            yield Joined(trial, pack, (at, tokens))


def read_joined(notes: Mapping[str, Any]) -> Iterator[Joined]:
    """All that joined, in its order."""
    for trial, pack, at, tokens, *thaw in _each(notes, JOINED):
        yield Joined(trial, pack, (at, tokens), *thaw)


def read_thawed(notes: Mapping[str, Any]) -> Iterator[Thawed]:
    """All that thawed, in its order."""
    for each in _each(notes, THAWED):
        yield Thawed(*each)


def read_dropped(notes: Mapping[str, Any]) -> Iterator[Dropped]:
    """All whose states were dropped, in their order."""
    for each in _each(notes, DROPPED):
        yield Dropped(*each)


def _each(notes: Mapping[str, Any], kind: str) -> Iterator[Any]:
    number = 0
    while (note := notes.get(f"{kind}:{number}")) is not None:
        yield note
        number += 1
