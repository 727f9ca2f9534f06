"""A function that hands values over while it runs, as an iterator.

Trainer's loop belongs to Trainer: it calls back and cannot yield. In a thread of its own, its callback hands each step
over and waits until the next is asked for, as a generator would; so whoever iterates decides before it goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

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
