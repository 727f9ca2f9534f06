"""What ends a run from outside: terminals that close, shells that ignore signals for it, and the end of its time."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.study.signals import running_clock, seconds, time_limit
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", 5400),
        ("3h30m", 12600),
        ("1d2h", 93600),
        ("45s", 45),
        ("90", 5400),
        ("30:15", 1815),
        ("12:00:00", 43200),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:00:30", 216030),
    ],
)
def test_lengths_of_time(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "0", "0m", "-5m", "1.5h", "30m3h", "1:2:3:4", "h", "2-"])
def test_what_is_none_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(InputError, match=r"--time-limit.*3h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "margin"), [("10s", 5), ("2m", 60), ("10m", 60), ("1h", 180), ("12h", 300), ("7d", 300)]
)
def test_the_margin_grows_with_the_time_that_there_is(text: str, margin: float) -> None:
    limit = time_limit(text, {})
    assert limit is not None
    assert limit.moment == pytest.approx(running_clock() + seconds(text) - margin, abs=60)
    assert 0 < limit.grace < margin
    assert limit.stop() is None
    assert limit.left() == pytest.approx(seconds(text) - 0.1 * margin, abs=1)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_is_set_moves_no_limit(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    now = time.time()
    limits = [time_limit("1h", {}), time_limit(None, {"SLURM_JOB_END_TIME": str(int(now + 3600))})]
    monkeypatch.setattr(time, "time", lambda: now + jump)
    for limit in limits:
        assert limit is not None
        assert limit.stop() is None
        assert limit.left() == pytest.approx(3600, abs=120)


def test_the_earlier_end_counts_and_one_that_is_over_does_not() -> None:
    now = time.time()
    job = {"SLURM_JOB_END_TIME": str(int(now + 3600))}
    for text, reason in (("30m", "time limit of 30m"), ("2h", "SLURM job"), (None, "SLURM job")):
        limit = time_limit(text, job)
        assert limit is not None
        assert reason in limit.reason
    assert time_limit(None, {}) is None
    for old in (str(int(now - 5)), "", "Unknown"):
        assert time_limit(None, {"SLURM_JOB_END_TIME": old}) is None
