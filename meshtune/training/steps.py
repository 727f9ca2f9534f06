"""What a trainer says while it trains: the seam of trainers, ours and those that a study imports.

`train(base, train_rows, validation_rows, recipe, *, at, checkpoint=None, rungs=None)` is an iterator of `Step`s whose
last value is `Trained`. Closing it ends the training within a step and leaves the base as it was; a loss that is not
finite raises `Diverged`. With a `Checkpoint` it saves itself, and where the folder holds what it saved, it goes on from
there to the same losses: it first tells the steps of its history again (the first, each rung, each epoch's end), then
where it stands. With `Rungs` it measures also between the epochs' ends, and what it trains does not depend on that; it
is stopped at a rung by being asked for its checkpoint there. A trainer that has no `checkpoint` argument starts over,
and one without `rungs` cannot be stopped early. `meshtune.testing.trainers` holds the contract. The `transformers`
trainer is in `trainer.py`.

Trainer's loop belongs to Trainer: it calls back and cannot yield. `in_thread` runs such a function in a thread of its
own, where its callback hands each step over and waits until the next is asked for, as a generator would; so whoever
iterates decides before it goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Required, TypedDict, TypeVar, Unpack

import torch

from meshtune.training.loss import RowSet
from meshtune.training.recipe import Recipe


class Diverged(ArithmeticError):
    """A training or validation loss was not finite."""


class NoRoom(MemoryError):
    """Not even a single row of the adapter has room in memory, alone in a pass; or its weights have none."""


class Suspended(Exception):
    """The training was asked to stop where it is; what can be saved is saved."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and when a training saves itself.

    Attributes:
        folder: of this training alone; made when there is something to save, removed by whoever gave it.
        seconds: of training between two saves; None: only when asked.
        asked: whether to save now and raise `Suspended`; looked at between batches.
    """

    folder: Path
    seconds: float | None
    asked: Callable[[], bool]


@dataclass(frozen=True)
class Rungs:
    """Where a training is measured on the way: after the step at which it has trained on so many tokens.

    Attributes:
        tokens: ascending. Those that one step passes together are measured once, and told one after the other.
        rows: some of the validation rows, the same for all trials of a study.
    """

    tokens: tuple[int, ...]
    rows: RowSet


@dataclass(frozen=True)
class Step:
    """Where a training stands.

    Attributes:
        step, steps: optimizer steps done and to be done. epoch: epochs done, a fraction.
        tokens: trained on so far, padding left out.
        training_loss: of the step just done, or at an epoch's end of the epoch: the mean over its label tokens.
        validation_loss: at an epoch's end the loss of the validation rows, else None.
        earlier: seconds that the training had taken when the checkpoint was saved from which it went on.
        rung_loss: of the rungs' rows, where a rung was just measured, else None; such a step tells no other loss.
        rung: the tokens of that rung, as they were asked for.
    """

    step: int
    steps: int
    epoch: float
    tokens: int
    training_loss: float | None = None
    validation_loss: float | None = None
    earlier: float = 0.0
    rung_loss: float | None = None
    rung: int | None = None


@dataclass(frozen=True)
class Trained:
    """A trained adapter, of the epoch that was asked for, with that epoch's validation loss.

    `weights` are named as PEFT's files name them, `config` is PEFT's, with the target modules resolved. Both belong to
    the base as it was before the training, whatever the start weights did to it.
    """

    loss: float
    weights: Mapping[str, torch.Tensor]
    config: Any


class Given(TypedDict, total=False):
    """What a training is given beside its rows and its recipe; a trainer may lack the last two."""

    at: Required[Literal["best", "last"]]
    checkpoint: Checkpoint | None
    rungs: Rungs | None


class Train(Protocol):
    """The function that a trainer is. See the module."""

    def __call__(
        self, base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, **given: Unpack[Given]
    ) -> Iterator[Step | Trained]:
        """See the module."""


T = TypeVar("T")


class Cancelled(BaseException):
    """Raised inside the function by what it hands over, once the iterator is closed.

    No `Exception`, so that nothing on its way takes it for a failure.
    """


@dataclass(frozen=True)
class _Value(Generic[T]):
    value: T


def in_thread(work: Callable[[Callable[[T], None]], None]) -> Generator[T, None, None]:
    """Yields what `work(emit)` emits, as it comes; raises what it raises.

    Closing the iterator makes the `emit` of what came last raise `Cancelled`, and waits until `work` has ended.
    """
    passed: queue.SimpleQueue[_Value[T] | BaseException | None] = queue.SimpleQueue()
    asked, closed = threading.Semaphore(0), threading.Event()

    def emit(value: T) -> None:
        if not closed.is_set():
            passed.put(_Value(value))
            asked.acquire()
        if closed.is_set():
            raise Cancelled

    def run() -> None:
        try:
            work(emit)
        except BaseException as error:  # it is raised again where the values are read
            passed.put(error)
        else:
            passed.put(None)

    thread = threading.Thread(target=run, name="meshtune-trainer", daemon=True)
    thread.start()
    try:
        while (item := passed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.value
            asked.release()
    finally:
        closed.set()
        asked.release()
        thread.join()
