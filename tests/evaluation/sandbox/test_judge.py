"""The sandbox judges as HumanEval does, keeps order, and never takes a machine's failure for a model's."""

import gzip
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune.evaluation.sandbox.judge import (
    CodeProblem,
    CodeVerdict,
    Limits,
    SandboxError,
    available,
    check,
    check_many,
)

DATA = Path(__file__).parents[4] / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"


def problem(test: str, prompt: str = "def f(*given):\n", solution: str = "    return given\n") -> CodeProblem:
    """`test` is the body of `check`."""
    lines = "".join(f"    {line}\n" for line in test.splitlines())
    return CodeProblem("made/1", prompt, "f", f"def check(candidate):\n{lines}", solution)


ECHO = problem("assert candidate(1, 'two') == (1, 'two')")


@pytest.fixture(scope="module")
def humaneval() -> list[CodeProblem]:
    if not DATA.exists():
        pytest.skip(f"HumanEval's file is not there: {DATA}")
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        return [CodeProblem(**json.loads(line)) for line in lines]


def test_it_is_available_here() -> None:
    assert available() is None


def test_all_canonical_solutions_pass(humaneval: list[CodeProblem]) -> None:
    assert len(humaneval) == 164
    verdicts = check_many([(each, each.canonical_solution) for each in humaneval])
    failed = {
        each.task_id: verdict.reason for each, verdict in zip(humaneval, verdicts, strict=True) if not verdict.passed
    }
    assert failed == {}


@pytest.mark.parametrize("completion", ["    return None\n", "    return True\n", "    return (\n"])
def test_a_solution_that_solves_nothing_passes_nowhere(humaneval: list[CodeProblem], completion: str) -> None:
    verdicts = check_many([(each, completion) for each in humaneval])
    assert [each.task_id for each, verdict in zip(humaneval, verdicts, strict=True) if verdict.passed] == []


def test_a_redefined_helper_does_not_change_the_judge(humaneval: list[CodeProblem]) -> None:
    """HumanEval/38 encodes with a function of its prompt; where all runs together, these two undo each other."""
    (decode,) = (each for each in humaneval if each.task_id == "HumanEval/38")
    completion = "    return s\n\ndef encode_cyclic(s):\n    return s\n"
    together: dict[str, object] = {}
    exec(decode.prompt + completion + decode.test, together)
    together["check"](together["decode_cyclic"])  # type: ignore[operator]
    verdict = check(decode, completion)
    assert not verdict.passed
    assert verdict.reason == "assert candidate(encoded_str) == str (AssertionError)"


@pytest.mark.parametrize(
    "value",
    ["None", "-1", "2**4000", "-0.0", "1e400", "2.5j", "'é\\ud800\\n'", "b'\\x00\\xff'", "({1: (2,)}, {3, 4}, [{}])"],
)
def test_values_cross_unchanged_both_ways(value: str) -> None:
    test = f"value = {value}\nassert candidate(value) == [value]\nassert repr(candidate(value)) == repr([value])"
    assert check(problem(test), "    (value,) = given\n    return [value]\n") == passed()


def test_not_a_number_crosses() -> None:
    assert (
        check(problem("assert candidate(float('nan')) != candidate(float('nan'))"), "    return given[0]\n") == passed()
    )


@pytest.mark.parametrize(
    ("code", "equal"),
    [
        ("import collections\n    return collections.Counter('aab')", "{'a': 2, 'b': 1}"),
        ("import collections\n    return collections.namedtuple('P', 'x y')(1, 2)", "(1, 2)"),
        ("import enum\n    return enum.IntEnum('E', 'A B').B", "2"),
        ("return type('S', (str,), {})('x')", "'x'"),
        ("return bytearray(b'x')", "b'x'"),
        ("import fractions\n    return [fractions.Fraction(-5, 2)]", "[-2.5]"),
        ("import decimal\n    return {decimal.Decimal('0.50'): 1}", "{0.5: 1}"),
        ("import decimal\n    return given[0] if given else decimal.Decimal(2)", "candidate(candidate()) == 2"),
    ],
)
def test_subclasses_of_built_in_types_count_as_those(code: str, equal: str) -> None:
    assert check(problem(f"assert candidate() == {equal}"), f"    {code}\n") == passed()


def test_a_completion_may_look_itself_up_as_where_all_runs_together() -> None:
    code = """\
    return Node(given).value

import dataclasses, sys
@dataclasses.dataclass
class Node:
    value: 'tuple'
    after: 'Node' = None
sys.modules[__name__]
"""
    assert check(ECHO, code) == passed()


def test_the_test_may_call_the_function_by_its_name_and_helpers_of_the_prompt() -> None:
    by_name = problem(
        "assert candidate(2) == f(2) == double(1)", "def double(x):\n    return 2 * x\n\ndef f(x):\n", "    return x\n"
    )
    assert check(by_name, by_name.canonical_solution) == passed()


def test_a_candidate_keeps_its_state_between_calls_and_shares_none() -> None:
    counts = problem("assert [candidate() for _ in range(3)] == [1, 2, 3]", "seen = []\n\ndef f():\n")
    completion = "    seen.append(0)\n    return len(seen)\n"
    assert list(check_many([(counts, completion)] * 3, workers=1)) == [passed()] * 3


def test_random_numbers_repeat() -> None:
    """In a test and in a candidate; so a verdict does too."""
    draws = problem("import random\nassert candidate() == 0, random.random()\n", "import random\n\ndef f():\n")
    first = "    raise ValueError(random.random(), list({str(n) for n in range(9)}))\n"
    assert len({verdict.reason for verdict in check_many([(draws, first)] * 4)}) == 1
    draws = problem("import random\ncandidate(random.random())")
    (said,) = {verdict.reason for verdict in check_many([(draws, "    raise ValueError(given)\n")] * 4)}
    assert said.startswith("ValueError: (0.")


def test_verdicts_come_in_order_and_as_they_are_asked_for() -> None:
    asked = []

    def pairs() -> Iterator[tuple[CodeProblem, str]]:
        for n in range(40):
            asked.append(n)
            wait = "    import time\n    time.sleep(0.2)\n" if n == 0 else ""
            yield problem(f"assert candidate() == {n}"), f"{wait}    return {n if n % 3 else None}\n"

    verdicts = check_many(pairs())
    first = next(verdicts)
    assert len(asked) < 10
    assert [verdict.passed for verdict in (first, *verdicts)] == [n % 3 > 0 for n in range(40)]


def test_verdicts_that_nobody_waits_for_leave_nothing_running() -> None:
    before = set(children())
    verdicts = check_many(
        [(ECHO, "    return given\n"), (ECHO, "    while True: pass\n"), (ECHO, "    while True: pass\n")]
    )
    assert next(verdicts) == passed()
    verdicts.close()  # type: ignore[attr-defined]
    assert set(children()) == before


def test_without_the_sandbox_limits_still_end_a_loop() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=600)  # however busy the machine is
    given = [(ECHO, "    return given\n"), (ECHO, "    while True: pass\n"), (ECHO, "    return bytearray(10**11)\n")]
    right, loop, memory = check_many(given, limits=limits, unsafe=True)
    assert right.passed
    assert loop.reason == "it used more than 1 s of processor time"
    assert memory.reason == "MemoryError: "


# What fails but is not the candidate's: the machine.


def test_without_bubblewrap_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install bubblewrap" in str(available())
    with pytest.raises(SandboxError, match="made/1: no sandbox could be started: bubblewrap is not installed"):
        check(ECHO, "    return given\n")
    assert check(ECHO, "    return given\n", unsafe=True).passed


def test_a_bubblewrap_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch, broken_bubblewrap: Path) -> None:
    monkeypatch.setenv("PATH", f"{broken_bubblewrap}:{os.environ['PATH']}")
    assert "here: bwrap: No permissions to create new namespace. Containers and some systems" in str(available())
    with pytest.raises(SandboxError, match="made/1: the sandbox ended: bwrap: No permissions to create new namespace"):
        check(ECHO, "    return given\n")


def test_other_failures_of_bubblewrap_are_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, broken_bubblewrap: Path
) -> None:
    monkeypatch.setenv("PATH", f"{broken_bubblewrap}:{os.environ['PATH']}")
    for does, says in (
        ("echo 'bwrap: no disk' >&2", "bwrap: no disk"),
        ("", "it ended with exit code 1 and said nothing"),
    ):
        (broken_bubblewrap / "bwrap").write_text(f"#!/bin/sh\n{does}\nexit 1\n")
        assert available() == f"bubblewrap is installed but cannot start a sandbox here: {says}"


@pytest.fixture
def broken_bubblewrap() -> Iterator[Path]:
    """A folder that every user can read, with a `bwrap` that fails as one without user namespaces does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        program = folder / "bwrap"
        program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        yield folder


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            problem("candidate(print)"),
            "its test cannot be run on a sandboxed candidate: .*a builtin_function_or_method",
        ),
        (problem("pass", solution="    return (\n"), "made/1: the problem's own code fails: '\\(' was never closed"),
        (problem("open('/nowhere')"), "made/1: its test cannot be run .*No such file"),
        (CodeProblem("made/2", "def f():\n", "f", "x = 1\n", "    pass\n"), "made/2: .* defines no function `check`"),
    ],
)
def test_a_problem_that_cannot_be_judged_is_named(broken: CodeProblem, message: str) -> None:
    with pytest.raises(SandboxError, match=message):
        check(broken, "    return given\n")


KILL_SANDBOX = """\
import os, signal
with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
    for child in map(int, file.read().split()):
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
"""


def test_a_sandbox_that_dies_is_started_again_once(tmp_path: Path) -> None:
    mark = str(tmp_path / "killed")
    once = f"import os\nif not os.path.exists({mark!r}):\n    open({mark!r}, 'w')\n"
    again = "".join(f"    {line}\n" for line in KILL_SANDBOX.splitlines())
    assert check(problem(f"{once}{again}assert candidate(1) == (1,)"), "    return given\n") == passed()
    with pytest.raises(SandboxError, match="made/1: the sandbox ended"):
        check(problem(f"{KILL_SANDBOX}candidate(1)"), "    return given\n")


def test_a_checker_that_dies_is_no_verdict_and_takes_its_sandbox_along() -> None:
    code = "    import ctypes, time\n    ctypes.CDLL(None).prctl(15, b'mt-orphan', 0, 0, 0)\n    return given\n"
    with pytest.raises(SandboxError, match="made/1: the checker ended \\(exit code 3\\)"):
        check(problem("candidate()\nimport os\nos._exit(3)"), code)
    end = time.monotonic() + 120
    while "mt-orphan" in names_of_processes():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_checker_that_says_no_more_is_no_verdict_either() -> None:
    with pytest.raises(SandboxError, match="made/1: the checker ended \\(exit code -9\\)"):
        check(problem("import os, time\nos.closerange(3, 256)\ntime.sleep(600)"), "    return given\n")


def test_signals_to_the_whole_job_are_no_verdict() -> None:
    signals = "import os, signal\nfor n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n    os.killpg(0, n)\n"
    assert check(problem(f"{signals}assert candidate(1) == (1,)"), "    return given\n") == passed()


def passed() -> object:
    """Equal to any verdict of a pass."""

    class Passed:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, CodeVerdict) and other.passed and other.reason == "passed" and other.seconds > 0

    return Passed()


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def names_of_processes() -> set[str]:
    names = set()
    for process in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.add(process.read_text().strip())
        except OSError:  # it ended meanwhile
            continue
    return names


def test_the_guides_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    (code, said) = re.findall(r"```(?:python|text)\n(.*?)```", guide, re.DOTALL)
    exec(compile(code, "docs/sandbox.md", "exec"), {})
    assert capsys.readouterr().out == said
