"""Limits are possible ones, and what is around the sandbox changes no verdict."""

import itertools
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.evaluation.sandbox.checker import TICK, TimeOver, deadline
from meshtune.evaluation.sandbox.judge import Limits, check, check_many
from tests.evaluation.sandbox.test_judge import ECHO, passed, problem


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory": 0, "processes": -1}, r"memory: is 0; .* number from 67108864 to \d+\nLimits\.processes: is -1"),
        ({"memory": 10**30, "answer": 2}, r"memory: is 1000000.*\nLimits\.answer: is 2; .* from 64 to "),
        ({"cpu_seconds": 1.5}, r"cpu_seconds: is 1\.5; it must be a whole number from 1 to 1000000"),
        ({"wall_seconds": float("inf")}, r"wall_seconds: is inf; it must be a number from 0\.1 to 1000000"),
        ({"wall_seconds": float("nan"), "open_files": 3}, r"wall_seconds: is nan.*\nLimits\.open_files: is 3"),
        ({"processes": True}, "processes: is True"),
        ({"processes": "4"}, "processes: is '4'"),
    ],
)
def test_limits_must_be_possible(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)


def test_the_least_limits_let_a_right_solution_pass() -> None:
    least = Limits(cpu_seconds=1, memory=64 * 2**20, processes=1, open_files=16, answer=64)
    assert check(ECHO, "    import json, decimal\n    return given\n", limits=least) == passed()


def test_there_must_be_a_worker() -> None:
    with pytest.raises(InputError, match="workers: is 0; it must be 1 or more"):
        next(check_many([(ECHO, "    return given\n")], workers=0))


# What is around it does not change a verdict.


def test_optimized_python_still_asserts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    assert not check(ECHO, "    return 0\n").passed


@pytest.mark.parametrize("unsafe", [False, True])
def test_a_file_of_the_working_folder_takes_no_modules_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unsafe: bool
) -> None:
    (tmp_path / "random.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert check(ECHO, "    return given\n", unsafe=unsafe) == passed()


def test_a_large_stack_leaves_threads_their_memory() -> None:
    limits = resource.getrlimit(resource.RLIMIT_STACK)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2**30:
        pytest.skip("stacks are limited")
    resource.setrlimit(resource.RLIMIT_STACK, (2**30, limits[1]))
    try:
        code = "    import threading\n    thread = threading.Thread()\n    thread.start()\n    return given\n"
        assert check(ECHO, code) == passed()
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, limits)


def test_many_open_files_are_no_hindrance() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1200:
        pytest.skip("open files are limited")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1200), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert check(ECHO, "    return given\n") == passed()
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


FREEZE = """\
import os, signal, subprocess
subprocess.Popen(["sh", "-c", f"sleep 2.5; kill -CONT {os.getpid()}"])
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_machine_that_stands_still_is_no_verdict() -> None:
    test = problem(f"{FREEZE}assert candidate(1) == (1,)")
    assert check(test, "    return given\n", limits=Limits(wall_seconds=1.5)) == passed()


def test_work_that_no_alarm_can_end_counts_as_time() -> None:
    """In steps that hold off the alarm for at least two ticks each, however fast the machine is."""

    size, steps = 1_000_000, list[float]()

    def step() -> float:
        before = time.process_time()
        sum(itertools.repeat(1, size))
        return time.process_time() - before

    def work() -> None:
        while True:
            steps.append(step())

    while step() < 2 * TICK:
        size *= 2
    with pytest.raises(TimeOver), deadline(1):
        work()
    assert sum(steps) < 1


def test_an_answer_of_members_with_equal_hashes_stops_nothing() -> None:
    code = "    return {1 + k * (2**61 - 1) for k in range(2000)}\n"
    wrong, right = check_many([(ECHO, code), (ECHO, "    return given\n")], workers=1)
    assert wrong.reason.startswith("the answer is no value: more than 1000 members of sets, or keys, have equal hashes")
    assert right == passed()


def test_an_empty_answer_has_a_reason() -> None:
    code = "    import os, contextlib\n    for n in range(3, 64):\n        with contextlib.suppress(OSError):\n"
    code += "            os.write(n, bytes(4))\n"
    assert check(ECHO, code).reason == "the answer is no value"
