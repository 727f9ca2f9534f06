"""What was decided at rungs, as the record holds it: one note for what was decided together, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from meshtune.trial import Verdict

IN_PACK = "decided_in_pack"  # the note: of a study whose trials are stopped by what is decided while they run
DECIDED = "decided"  # with a number: the note of one decision


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


def noted(decided: Sequence[Decided]) -> list[list[Any]]:
    """As plain values."""
    return [[*astuple(each)[:3], str(each.verdict), each.value] for each in decided]


def read(notes: Mapping[str, Any]) -> Iterator[Decided]:
    """All that was decided, in its order."""
    number = 0
    while (note := notes.get(f"{DECIDED}:{number}")) is not None:
        for trial, tokens, loss, verdict, value in note:
            yield Decided(trial, tokens, loss, Verdict(verdict), value)
        number += 1
