"""Trials in this process, for tests of what a study leaves: another process would import torch and Transformers first,

which takes longer than all trials of the tiny model. Tests of workers, signals and kills have processes of their own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from meshtune.objectives.build import ObjectiveSpec, build
from meshtune.trial import Event, Request


class Here:
    """A worker that trains one pack after another on this process's CPU, with one thread."""

    def __init__(self, _: Any, objective: ObjectiveSpec, *__: Any):
        self._objective = build(objective, device="cpu", threads=1)
        self._waiting: list[Sequence[Request]] = []

    def free(self) -> int:
        return 1 - len(self._waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting.append(requests)

    def events(self, timeout: float) -> list[Event]:
        waiting, self._waiting = self._waiting, []
        return [event for requests in waiting for event in self._objective.evaluate(requests)]

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
