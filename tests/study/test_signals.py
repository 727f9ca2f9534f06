"""What terminals and shells do to a running study: they close, and they ignore signals for it."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtune.testing.processes import descendants, gone
from tests.kill import command_study, meshtune, record_of, run


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# A login shell in short: the leader of the terminal's session, whose foreground is the command.
ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, sys.argv[1:])
"""


def test_a_closed_terminal_suspends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "600")
    path = command_study(tmp_path, trials=6, sampler="random")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, *meshtune("tune", path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_until(lambda: len(descendants(process.pid)) == 6)  # two workers, two guards, two programs
    family = descendants(process.pid)
    os.close(ours)  # as when the window is closed or the connection is lost: from here on nothing can be written
    assert process.wait(timeout=120) == 75
    assert gone(family)
    assert not list((tmp_path / "study").glob("*lease*"))
    monkeypatch.setenv("PROGRAM_SECONDS", "0.01")
    assert run(path).returncode == 0
    whole = command_study(tmp_path / "whole", trials=6, sampler="random")
    assert run(whole).returncode == 0
    assert record_of(path) == record_of(whole)


def test_what_the_shell_ignores_stays_ignored_and_programs_have_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup, or in the background of a script: Ctrl-C and a closed terminal are not meant for it."""
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")
    path = command_study(tmp_path, trials=4, sampler="random", block=2)
    program = tmp_path / "program.py"
    usual = "signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGHUP).name"
    program.write_text(f"import signal\nprint({usual})\n{program.read_text()}")
    shell = ["sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh"]
    process = subprocess.Popen([*shell, *meshtune("tune", path)], stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "finished.log").exists)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    logs = [log.read_text().splitlines()[0] for log in (tmp_path / "study" / "logs").glob("trial-*.out")]
    assert logs == ["True SIG_DFL"] * 4
