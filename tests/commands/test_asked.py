"""Signals that ask a training to save itself and end."""

import os
import signal
import threading

import pytest

from meshtune.commands.asked import asked_by_signals


@pytest.mark.parametrize(("name", "interrupted"), [("SIGINT", True), ("SIGTERM", False), ("SIGUSR1", False)])
def test_a_signal_asks_and_the_handlers_are_put_back(name: str, interrupted: bool) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with asked_by_signals() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert asked.interrupted is interrupted
    assert signal.getsignal(number) is before


def test_the_first_signal_counts() -> None:
    with asked_by_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not asked.interrupted


def test_in_another_thread_signals_are_left_alone() -> None:
    """As in a notebook's or a server's thread, where Python allows no handlers."""
    told: list[bool] = []

    def work() -> None:
        with asked_by_signals() as asked:
            told.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False]
