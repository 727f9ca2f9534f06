"""Trials in this process, for tests of what a study leaves: another process would import torch and Transformers first,

which takes longer than all trials of the tiny model. Tests of workers, signals and kills have processes of their own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from meshtune.objectives.build import Asking, ObjectiveSpec, build
from meshtune.trial import Decision, Event, Request, Rung


class Here:
    """A worker that trains one pack after another on this process's CPU, with one thread."""

    def __init__(self, _: Any, objective: ObjectiveSpec, *__: Any):
        self._objective = build(objective, device="cpu", threads=1)
        self._running: Iterator[Event] | None = None

    def free(self) -> int:
        return 1 if self._running is None else 0

    def submit(self, requests: Sequence[Request]) -> None:
        self._running = self._objective.evaluate(requests)

    def events(self, timeout: float) -> list[Event]:
        """All up to the next question, or to the end."""
        found: list[Event] = []
        for event in self._running or ():
            found.append(event)
            if isinstance(event, Rung):
                return found
        self._running = None
        return found

    def decide(self, decision: Decision) -> None:
        assert isinstance(self._objective, Asking)
        self._objective.decide(decision)

    def join(self, pack: int, request: Request) -> bool:
        return isinstance(self._objective, Asking) and self._objective.join(pack, request)

    def suspend(self, seconds: float) -> None:
        raise AssertionError("nobody stops it")

    def close(self) -> None:
        pass


@contextlib.contextmanager
def trials_here() -> Iterator[None]:
    """Whatever `worker` says, studies that run within train here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("meshtune.study.tune.build_worker", Here)
        yield
