"""What people asked of single trials, as the record holds it: one note a request, with its origin and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

NOTE = "request"  # with a request's number: the note of its answer
Action = Literal["stop", "finish", "retry", "enqueue"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class ControlRequest:
    """What is asked, and by whom.

    Attributes:
        number: its name, which no other request has; in the order in which they were made.
        trial: that it is about; None: it enqueues one. hyperparameters: of that one.
        by: user, host and process. at: when, by the clock of that host.
    """

    number: str
    action: Action
    by: str
    at: str
    trial: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What became of a request: done, or refused; in words. `trial`: that it is about, or that was enqueued."""

    request: ControlRequest
    done: bool
    words: str
    trial: int | None = None

    def noted(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self.request), "done": self.done, "answer": self.words, "trial": self.trial}


def parsed(fields: Mapping[str, Any]) -> ControlRequest:
    """The request of plain values, whoever wrote them. Raises ValueError, TypeError or KeyError where they are none."""
    if fields["action"] not in ACTIONS:
        raise ValueError(f"unknown action: {fields['action']!r}")
    made = ControlRequest(**fields)
    if not (isinstance(made.number, str) and type(made.trial) in (int, type(None))):
        raise TypeError(f"no request: {fields!r}")
    if not (isinstance(made.hyperparameters, Mapping) and (made.trial is not None or made.action == "enqueue")):
        raise TypeError(f"no request: {fields!r}")
    return made


def read(notes: Mapping[str, Any]) -> dict[str, Answer]:
    """All answers by the request's number, in the order in which the requests were made."""
    found = {}
    for key in sorted(key for key in notes if key.startswith(f"{NOTE}:")):
        note = dict(notes[key])
        done, words = note.pop("done"), note.pop("answer")
        found[note["number"]] = Answer(ControlRequest(**note), done, words, note["trial"])
    return found
