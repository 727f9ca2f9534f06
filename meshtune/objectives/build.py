"""The objective that a frozen spec describes. The spec crosses to the worker as JSON and is built there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from meshtune.trial import Decision, Event, Request


class Objective(Protocol):
    """Evaluates requests: the seam between workers and what is optimized.

    `evaluate(requests)` yields progress at any time, rungs where a request asks (see `Asking`), and exactly one outcome
    a request, as each ends. The first word about a request comes once what it needs is loaded: it starts the clock of
    the timeout. It does not raise for what an evaluation does: that is an ending. Closing the iterator cancels what is
    unfinished and leaves nothing running.
    `suspend()`, from another thread: save what runs, where that can be done, so that the same request goes on from
    there in another process, and end the iterator soon, without outcomes for what is unfinished.
    """

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """See the class."""

    def suspend(self) -> None:
        """See the class."""


@runtime_checkable
class Asking(Protocol):
    """An objective that knows rungs: at one it yields a `Rung`, and computes nothing until it is answered.

    It does not wait for ever, nor once it is asked to suspend: what has no answer then goes on, and an answer that
    comes late is followed as soon as it comes. Both methods are called from another thread.
    """

    def decide(self, decision: Decision) -> None:
        """The answer; one to another attempt, or to what has ended, is no concern of what runs."""

    def join(self, pack: int, request: Request) -> bool:
        """Evaluate one more with the pack that runs; False: that attempt of it is over, and nothing comes of it."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """What an objective is built from: its kind (`lora`, `command`, `trainer`) and its own spec, plain JSON values."""

    kind: str
    spec: dict[str, Any]


def build(
    spec: ObjectiveSpec, *, device: str, threads: int | None, devices: int = 1, sharded: bool = False
) -> Objective:
    """The objective, in the process that evaluates it.

    `device` is a torch device such as `cpu` or `cuda`, of which `devices` share the rows of what is trained, and
    where `sharded` the base's layers too.
    """
    match spec.kind:
        case "lora":
            from meshtune.objectives.lora import LoraObjective, LoraSpec

            lora = LoraSpec.model_validate_json(json.dumps(spec.spec))
            return LoraObjective(lora, device=device, threads=threads, devices=devices, sharded=sharded)
        case "command":
            from meshtune.objectives.command import CommandObjective, CommandSpec

            return CommandObjective(CommandSpec(**spec.spec))
        case "trainer":
            from meshtune.objectives.trainer import TrainerObjective, TrainerSpec

            return TrainerObjective(TrainerSpec(**spec.spec))
        case other:
            raise ValueError(f"unknown objective: {other!r}")
