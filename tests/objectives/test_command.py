"""Any program as the black box: results, endings, timeouts."""

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from meshtune.objectives import guard
from meshtune.objectives.command import CommandObjective, CommandSpec, fill, last_object
from meshtune.testing.objectives import ObjectiveContract
from meshtune.testing.processes import alive, gone
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Progress, Request, Verdict


def run(folder: Path, code: str, *, timeout: float | None = None, **hyperparameters: object) -> Outcome:
    command = (sys.executable, "-c", code, "{x}")
    objective = CommandObjective(CommandSpec(command, "loss", str(folder), str(folder)))
    request = Request(3, {"x": 1.5, **hyperparameters}, seed=0, timeout=timeout)
    outcomes = [event for event in objective.evaluate([request]) if isinstance(event, Outcome)]
    assert len(outcomes) == 1
    return outcomes[0]


class TestContract(ObjectiveContract):
    def make(self, folder: Path) -> CommandObjective:
        code = "import sys; x = float(sys.argv[1]); print('{\"loss\": ' + str(x * x) + '}'); sys.exit(x < 0)"
        return CommandObjective(CommandSpec((sys.executable, "-c", code, "{x}"), "loss", str(folder), str(folder)))

    def good(self, trial: int) -> Request:
        return Request(trial, {"x": 1.5 + trial}, seed=0)

    def bad(self, trial: int) -> Request:
        return Request(trial, {"x": -1.0}, seed=0)


def test_a_person_has_it_stopped(tmp_path: Path) -> None:
    """The program and all of it is killed; the next one runs."""
    code = "import sys, time; time.sleep(600 * (float(sys.argv[1]) > 2)); print('{\"loss\": 1}')"
    command = (sys.executable, "-c", code, "{x}")
    objective = CommandObjective(CommandSpec(command, "loss", str(tmp_path), str(tmp_path)))
    ended = []
    for event in objective.evaluate([Request(3, {"x": 5.0}, seed=0), Request(4, {"x": 1.0}, seed=0)]):
        if isinstance(event, Progress):
            objective.decide(Decision(3, 2, ((3, AT_ONCE, Verdict.STOPS),)))  # of another attempt
            objective.decide(Decision(3, 1, ((3, 1, Verdict.STOPS),)))  # at a rung, which a program has not
            assert not ended
            objective.decide(Decision(3, 1, ((3, AT_ONCE, Verdict.STOPS),)))
        else:
            ended.append((event.trial, event.ending, event.loss))
    assert ended == [(3, Ending.STOPPED_EARLY, None), (4, Ending.COMPLETE, 1.0)]


def test_the_last_json_line_holds_the_result(tmp_path: Path) -> None:
    code = "import sys; print('{\"loss\": 9}'); print('noise'); print('{\"loss\": ' + sys.argv[1] + ', \"tokens\": 7}')"
    outcome = run(tmp_path, code)
    assert (outcome.ending, outcome.loss, outcome.tokens) == (Ending.COMPLETE, 1.5, 7)


def test_curves_are_kept(tmp_path: Path) -> None:
    assert run(tmp_path, 'print(\'{"loss": 1, "losses": [3, 2, 1]}\')').losses == (3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("code", "ending", "words"),
    [
        ("raise SystemExit(3)", Ending.CRASHED, "exit code 3"),
        ("raise ValueError('what went wrong')", Ending.CRASHED, "what went wrong"),
        ("print('no result')", Ending.CRASHED, "printed no JSON object"),
        ("print('{\"los\": 1}')", Ending.CRASHED, "no number `loss`"),
        ("print('{\"loss\": true}')", Ending.CRASHED, "no number `loss`"),
        ("print('{\"loss\": NaN}')", Ending.DIVERGED, "nan"),
        ("print('{\"loss\": Infinity}')", Ending.DIVERGED, "inf"),
        ('print(\'{"ending": "out_of_memory", "message": "9 GB"}\')', Ending.OUT_OF_MEMORY, "9 GB"),
        ('print(\'{"ending": "tired"}\')', Ending.CRASHED, "tired"),
    ],
)
def test_endings(tmp_path: Path, code: str, ending: Ending, words: str) -> None:
    outcome = run(tmp_path, code)
    assert outcome.ending is ending
    assert words in outcome.message


def test_a_timeout_kills_the_program_and_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('child', 'w').write(str(child.pid)); time.sleep(60)"
    )
    outcome = run(tmp_path, code, timeout=2.0)
    assert outcome.ending is Ending.TIMED_OUT
    assert gone([int((tmp_path / "child").read_text())])


DAEMON = """
import subprocess, sys, time
left = "import os, sys, time; os.fork() and sys.exit(); open('daemon', 'w').write(str(os.getpid())); time.sleep(600)"
subprocess.run([sys.executable, "-c", left], start_new_session=True)
while not open("daemon", "a+").seek(0, 2):
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("then", "ending"),
    [
        ("print('{\"loss\": 1}')", Ending.COMPLETE),
        ("os.kill(os.getppid(), 9); time.sleep(600)", Ending.CRASHED),  # its guard is gone, and it lives on
    ],
)
def test_nothing_that_a_program_started_outlives_its_trial(tmp_path: Path, then: str, ending: Ending) -> None:
    """A daemon: forked twice and in a session of its own."""
    outcome = run(tmp_path, f"import os\nopen('program', 'w').write(str(os.getpid()))\n{DAEMON}{then}")
    assert outcome.ending is ending
    assert not any(alive(int((tmp_path / name).read_text())) for name in ("program", "daemon"))


def test_an_attempt_begins_once_the_one_before_is_gone(tmp_path: Path) -> None:
    """As where worker and guard of that one were killed at once."""
    mark = {guard.MARK: f"{tmp_path}/trial-3"}
    wait = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(wait, env={**os.environ, **mark}, stdout=subprocess.PIPE) as before:
        assert before.stdout is not None
        before.stdout.readline()  # before it runs, nothing can be read of its environment
        state = f"open('/proc/{before.pid}/stat').read().rpartition(')')[2].split()[0]"
        outcome = run(tmp_path, f"print('{{\"loss\": ' + str(ord({state})) + '}}')")
    assert outcome.loss == ord("Z")  # it had ended, and nobody had waited for it
    assert before.returncode == -signal.SIGKILL


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    objective = CommandObjective(CommandSpec(("no-such-program",), "loss", str(tmp_path), str(tmp_path)))
    (outcome,) = objective.evaluate([Request(0, {}, seed=0)])
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.CRASHED
    assert "no-such-program" in outcome.message


def test_no_shell_reads_the_arguments() -> None:
    spec = CommandSpec(("p", "--x={x}", "{trial}:{seed}", "{other}"), "loss", "/f", "/d")
    filled = fill(spec, Request(3, {"x": "$(rm -rf); a b"}, seed=5))
    assert filled == ["p", "--x=$(rm -rf); a b", "3:5", "{other}"]


def test_reals_keep_their_digits() -> None:
    spec = CommandSpec(("{x}",), "loss", "/f", "/d")
    assert float(fill(spec, Request(0, {"x": 0.1 + 0.2}, seed=0))[0]) == 0.1 + 0.2


def test_broken_json_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "out").write_text('{"loss": 1}\n{"loss": \n{not json}\n')
    assert last_object(tmp_path / "out") == (1, {"loss": 1})
    (tmp_path / "out").write_text('{"loss": 1}\n{"a": ' + "[" * 100_000 + "\n")
    assert last_object(tmp_path / "out") == (1, {"loss": 1})


def test_a_flood_of_output_is_not_read_into_memory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        file.write(b"begun\n\n")
        file.seek(2**28)  # a line of zeros, which takes no room on the disk
        file.write(b'\n  {"loss": 1}\r\n{"loss": 2\nended')
    tracemalloc.start()
    try:
        assert last_object(out) == (4, {"loss": 1})
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    out.write_text("")
    assert last_object(out) is None


DIGITS = "1" + "0" * 400


@pytest.mark.parametrize(
    ("result", "ending", "words"),
    [
        ('"loss": 1, "other": ' + DIGITS, Ending.COMPLETE, ""),
        ('"loss": 1, "other": ' + "9" * 5000, Ending.COMPLETE, ""),
        ('"loss": 1, "losses": 5', Ending.COMPLETE, "left out: `losses`, which is a list of numbers (line 2 of "),
        ('"loss": 1, "losses": [2, ' + DIGITS + ", 1e300, true]", Ending.COMPLETE, ""),
        ('"loss": 1, "tokens": -7', Ending.COMPLETE, "left out: `tokens`, which is a number from 0 on (line 2 of "),
        ('"loss": 1, "tokens": 1e400', Ending.COMPLETE, "left out: `tokens`"),
        ('"loss": ' + DIGITS, Ending.DIVERGED, "`loss` was inf"),
        ('"loss": 1e308', Ending.DIVERGED, "`loss` was 1e+308"),
        ('"loss": -1e308', Ending.CRASHED, "`loss` was -1e+308; numbers from -1e+100 on are allowed (line 2 of "),
        ('"loss": -1e400', Ending.CRASHED, "`loss` was -inf; numbers from -1e+100 on"),
    ],
)
def test_absurd_numbers_are_named_and_spoil_no_good_trial(
    tmp_path: Path, result: str, ending: Ending, words: str
) -> None:
    outcome = run(tmp_path, f"print('first'); print('{{{result}}}')")
    assert (outcome.ending, outcome.message[: len(words)]) == (ending, words)
    assert outcome.message.endswith(")") or not words.startswith("left")
    if ending is Ending.COMPLETE:
        assert (outcome.loss, outcome.tokens) == (1.0, 0)
        assert "other" not in outcome.extra
        assert set(outcome.losses) <= {1.0, 2.0}


def test_last_words_hold_no_terminal_escapes(tmp_path: Path) -> None:
    outcome = run(tmp_path, r"import sys; sys.exit('\x1b]0;owned\x07\x1b[2Jgone')")
    assert r"\x1b]0;owned\x07\x1b[2Jgone" in outcome.message
    told = r"""print('{"ending": "diverged", "message": "\\u001b[31mred"}')"""
    assert run(tmp_path, told).message == r"\x1b[31mred"
    assert Outcome(0, 1, Ending.CRASHED, message="as recorded before \x1b[2J").message == r"as recorded before \x1b[2J"
