"""`tune`, `status` and `stop` as a user meets them: exit codes, signals, resuming, refusals."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshtune.plan.locate import locate
from meshtune.study.loop import Finished, Stage
from meshtune.study.status import status
from meshtune.study.stop import stop
from meshtune.study.tune import made_folder, tune
from meshtune.testing.processes import descendants, gone
from tests.kill import command, command_study, meshtune, record_of, run, run_apart


def start(path: Path, *arguments: object) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(meshtune("tune", path, *arguments), stdout=pipe, stderr=pipe, text=True)


def wait_for_trials(path: Path, count: int) -> None:
    """Until so many trials' programs have ended."""
    log = path.parent / "finished.log"
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_programs(process: "subprocess.Popen[str]", count: int = 6) -> set[int]:
    """Until two trials run (two workers, two guards, two programs); returns all processes that came of this one."""
    deadline = time.monotonic() + 120
    while len(family := descendants(process.pid)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return family


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.8")
    return command_study(tmp_path, trials=10)


def test_status_has_what_the_design_promises(tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=6)
    ended = run_apart(path, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)  # one object, and nothing else, on standard output
    assert told["state"] == "finished"
    assert told["trials"]["complete"] + told["trials"].get("out_of_memory", 0) <= 6
    assert set(told["best"]) >= {"trial", "loss", "test_loss", "hyperparameters"}
    assert set(told["baseline"]) >= {"loss", "test_loss", "hyperparameters"}
    keys = {"trial", "ending", "loss", "losses", "hyperparameters", "seconds", "tokens", "peak_memory"}
    assert all(set(trial) >= keys for trial in told["all"])
    for other in (path, tmp_path / "study", tmp_path / "study" / "study.yaml"):
        again = command("status", other, "--json")
        assert json.loads(again.stdout)["best"] == told["best"]


def test_a_study_begun_with_set_names_the_command_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the message of other fixed keys says is run as it stands."""
    path = command_study(tmp_path / "my", sampler="random", trials=3)
    monkeypatch.chdir(tmp_path)
    assert run(path, "--set", "seed=4").returncode == 0
    refused = run(Path("my"))
    assert refused.returncode == 2
    assert "  seed: the study has 4, now given 0" in refused.stderr
    line = refused.stderr.splitlines()[-1]
    assert line == "To go on as it was begun: meshtune tune my/study"
    goes_on = line.rpartition("meshtune tune ")[2]
    done = run(Path(goes_on), "--trials", "5")
    assert done.returncode == 0, done.stderr
    assert len(record_of(path)) == 5
    refused = run(Path(goes_on), "--set", "seed=5")
    assert refused.stderr.splitlines()[-1].endswith(
        "meshtune tune my/study  (without `--set`; a value that was edited there must be written back)"
    )


def test_one_interrupt_saves_and_the_same_command_goes_on(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(slow)
    wait_for_trials(slow, 2)
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; everything finished is saved" in words
    assert "Traceback" not in words
    assert gone(family)
    assert not (slow.parent / "study" / "lease.json").exists()
    monkeypatch.setenv("PROGRAM_SECONDS", "0.01")
    assert run(slow).returncode == 0
    whole = command_study(slow.parent / "whole", trials=10)
    assert run(whole).returncode == 0
    assert record_of(slow) == record_of(whole)


def test_two_interrupts_end_it_now(slow: Path) -> None:
    process = start(slow)
    wait_for_trials(slow, 1)
    family = descendants(process.pid)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert gone(family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_what_a_batch_system_sends_suspends_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "100")
    path = command_study(tmp_path)
    process = start(path)
    family = wait_for_programs(process)
    for pid in (process.pid, *family, process.pid):  # batch systems signal all of a job, and some of it twice
        with contextlib.suppress(ProcessLookupError):  # suspended by then
            os.kill(pid, number)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 75, words
    assert f"{number.name} came; everything finished is saved. Trials 0, 1 were running: " in words
    assert "the next run starts the program again for them. Continue with `meshtune tune" in words
    assert "Traceback" not in words
    assert gone(family)
    assert not list((tmp_path / "study").glob("*lease*"))


@pytest.mark.parametrize("announced", [False, True])
def test_a_second_sigterm_ends_it_at_once(announced: bool) -> None:
    """While the first one still waits for trials to save themselves; what announced it some time before is not one."""
    signals = "import time\nfrom meshtune.study.signals import Signals\n"
    signals += "s = Signals()\ns.cooperative = True\nwith s.taken():\n    print('up', flush=True)\n"
    signals += "    while s.stop() is None:\n        time.sleep(0.01)\n    print(s.stop(), flush=True)\n"
    signals += "    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", signals], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    first = signal.SIGUSR1 if announced else signal.SIGTERM
    process.send_signal(first)
    assert process.stdout.readline() == f"Stop(reason='{first.name} came', seconds=20.0)\n"
    for _ in range(1 + announced):
        time.sleep(2.1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    process.stdout.close()


def test_an_empty_folder_of_checkpoints_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "study" / "checkpoints").mkdir(parents=True)
    assert run(command_study(tmp_path, sampler="random"), "--trials", 1).returncode == 0
    assert not (tmp_path / "study" / "checkpoints").exists()


def test_a_time_limit_stops_in_time(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    limited = run(path, "--trials", 1000, "--time-limit", "4s")
    assert limited.returncode == 75
    assert "the time limit of 4s is near; everything finished is saved" in limited.stderr


def test_stop_now_does_not_wait_for_running_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "100")
    path = command_study(tmp_path)
    process = start(path)
    wait_for_programs(process)
    asked = command("stop", path, "--now")
    assert "suspends its running trials and stops" in asked.stderr
    _, words = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "asked to stop; everything finished is saved. Trials 0, 1 were running: " in words


def test_a_ctrl_c_before_anything_runs(tmp_path: Path) -> None:
    """`check` is at work on data that take long."""
    program = "import time, meshtune.study.check as check\nfrom meshtune.cli import main\n"
    program += "check.build = lambda study: (print('at work', flush=True), time.sleep(60))\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "check", command_study(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 130
    assert words == "meshtune: interrupted\n"


def test_a_stop_while_it_still_prepares_counts(tmp_path: Path) -> None:
    """Also in a first run, which has no record yet, and by the study's folder."""
    path = command_study(tmp_path, trials=5)
    with contextlib.closing(tune(locate(path))) as events:
        assert isinstance(next(events), Stage)
        assert stop(path) is not None
        assert stop(tmp_path / "study") is not None
        ended = [event for event in events if isinstance(event, Finished)]
    assert [event.complete for event in ended] == [False]
    assert status(path)["trials"]["complete"] == 0


def test_a_study_of_crashes_has_failed(tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=1)
    ended = run(path, "--set", "objective.result=no_such_key", "--set", "worker.attempts=1")
    assert ended.returncode == 1, ended.stderr
    assert "no trial completed" in ended.stderr


def test_a_program_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=1)
    ended = run(path, "--set", "objective.command=[no-such-program, '{trial}', '{x}', '{y}', '{k}']")
    assert ended.returncode == 2, ended.stderr
    assert "there is no program `no-such-program`" in ended.stderr


def test_stop_finishes_running_trials_and_says_so(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(slow, "--trials", 1000)
    wait_for_trials(slow, 1)
    asked = command("stop", slow)
    assert f"process {process.pid} " in asked.stderr
    _, words = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "asked to stop; everything finished is saved. Continue with `meshtune tune" in words
    assert status(slow)["state"] == "stopped"
    monkeypatch.setenv("PROGRAM_SECONDS", "0.01")
    assert run(slow).returncode == 0
    asked = command("stop", slow)
    assert "not running" in asked.stderr


def test_stop_during_the_last_trial_leaves_a_finished_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "2")
    path = command_study(tmp_path, sampler="random", trials=1)
    process = start(path)
    wait_for_programs(process, 3)
    assert command("stop", path).returncode == 0
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    assert status(path)["state"] == "finished"


def test_a_second_coordinator_is_refused_and_readers_are_not(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(slow, "--trials", 1000)
    wait_for_trials(slow, 1)
    refused = run(slow)
    assert refused.returncode == 2
    assert f"held by process {process.pid}" in refused.stderr
    assert "running since" in refused.stderr
    assert status(slow)["state"] == "running"
    process.kill()
    process.communicate()
    monkeypatch.setenv("PROGRAM_SECONDS", "0.01")
    assert run(slow).returncode == 0


def test_fixed_keys_are_fixed_and_the_budget_is_not(tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=4)
    assert run(path).returncode == 0
    refused = run(path, "--set", "seed=5", "--set", "sampler.name=tpe")
    assert refused.returncode == 2
    assert "seed: the study has 0, now given 5" in refused.stderr
    assert "sampler.name: the study has 'mads', now given 'tpe'" in refused.stderr
    assert run(path, "--trials", 6, "--set", "worker.processes=1").returncode == 0
    assert len(record_of(path)) == 6


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_nothing_is_lost(tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=16)
    assert run(path, "--trials", 2).returncode == 0
    size = (tmp_path / "study" / "study.db").stat().st_size

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    full = subprocess.run(meshtune("tune", path), capture_output=True, text=True, check=False, preexec_fn=limited)
    assert full.returncode == 2
    assert "Is the disk full" in full.stderr
    assert "Traceback" not in full.stderr
    assert run(path).returncode == 0
    whole = command_study(tmp_path / "whole", trials=16)
    assert run(whole, "--trials", 2).returncode == 0
    assert run(whole).returncode == 0
    assert record_of(path) == record_of(whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tune", "absent.yaml"), "no such file"),
        (("status", "study.yaml"), "has not been started"),
        (("tune", "."), "exactly one study"),
        (("tune", "study.yaml", "--folder", "program.py/inside"), "cannot be written"),
        (("tune", "study.yaml", "--set", "budget.trials=0"), "budget.trials"),
        (("tune", "study.yaml", "--set", "sampler.options={colour: 3}"), "sampler.options of `mads`"),
        (("tune", "study.yaml", "--set", "smapler=mads"), "Did you mean `sampler`?"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    command_study(tmp_path / "here", trials=4)
    folder = tmp_path / "here"
    if arguments == ("tune", "."):
        (folder / "study.yaml").rename(folder / "other.yaml")
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    answer = command(*arguments)
    assert answer.returncode == 2, answer.stderr
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_command_placeholder_that_nothing_fills_is_a_fault(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    path.write_text(path.read_text().replace("{y}", "{why}"))
    refused = run(path)
    assert refused.returncode == 2
    assert "{why}" in refused.stderr


def test_a_study_that_is_moved_away_while_it_runs_says_so_itself(tmp_path: Path) -> None:
    """What tidies up found no folder, and its error took the place of the one that was raised."""
    folder = tmp_path / "study"
    with contextlib.ExitStack() as stack:
        stack.enter_context(made_folder(folder))
        stack.callback(folder.rename, tmp_path / "moved")
    assert (tmp_path / "moved").is_dir()
    with made_folder(folder):
        pass
    assert not folder.exists()
