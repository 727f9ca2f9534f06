"""Trials that take the coordinator with them: found out, run by themselves, given up in the end; others are spared."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from meshtune.plan.budget import Budget, Stop
from meshtune.study.deaths import STARTED
from meshtune.study.loop import StudyEvent, TrialFinished, run
from meshtune.trial import Ending, Event, Request
from meshtune.workers.planner import Packing
from tests.kill import command
from tests.study.test_loop import AtOnce, opened, sampler, squared

ATTEMPTS, BAD = 2, 1


class Dies(AtOnce):
    """Its coordinator dies while trial BAD runs: the record's folder as it is then is copied to `grave`."""

    def __init__(self, folder: Path, grave: Path, places: int = 2):
        super().__init__(places=places)
        self.folder, self.grave, self.died = folder, grave, list[int]()

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        if BAD in [request.trial for request in requests]:
            self.died = sorted(request.trial for pack in self.running for request in pack)

    def events(self, timeout: float) -> list[Event]:
        if self.died:
            shutil.copytree(self.folder, self.grave)
            raise EOFError
        return super().events(timeout)


def run_of(
    folder: Path, worker: AtOnce, *, pack: int = 1, stop: Callable[[], Stop | None] = lambda: None
) -> list[StudyEvent]:
    record, made, events = opened(folder), sampler("random"), list[StudyEvent]()
    packing = Packing(2, pack, exact=True)
    loop = run(
        record,
        made,
        worker,
        Budget(trials=4),
        seed=0,
        packing=packing,
        attempts=ATTEMPTS,
        stop=stop,
        saved=folder / "saved",
    )
    try:
        for event in loop:
            events.append(event)
    except EOFError:
        pass
    return events


def died(folder: Path, number: int, *, pack: int = 1) -> tuple[Path, list[int]]:
    """A run that dies with trial BAD: its folder, and what ran then."""
    grave = folder.parent / f"after-{number}"
    worker = Dies(folder, grave)
    run_of(folder, worker, pack=pack)
    return grave, worker.died


@pytest.mark.parametrize("pack", [1, 2])
def test_it_runs_alone_and_is_given_up_and_the_others_are_not(tmp_path: Path, pack: int) -> None:
    folder, beside = tmp_path / "study", list[list[int]]()
    folder.mkdir()
    for number in range(1 + 2 * ATTEMPTS):
        folder, ran = died(folder, number, pack=pack)
        beside.append(ran)
    assert beside == [[0, BAD]] * (1 + ATTEMPTS) + [[BAD]] * ATTEMPTS
    worker = AtOnce()
    events = run_of(folder, worker)
    assert BAD not in [request.trial for request in worker.submitted]
    told = {event.trial.number: event.trial.outcome for event in events if isinstance(event, TrialFinished)}
    assert told[BAD] is not None
    assert told[BAD].ending is Ending.CRASHED
    assert "died in 4 runs while this trial was running, the last 2 times with no other trial" in told[BAD].message
    record = opened(folder)
    assert not record.pending
    assert [trial.outcome.ending for trial in record.trials if trial.outcome and trial.number != BAD] == [
        "complete"
    ] * 3


def test_one_that_saved_since_its_last_start_is_counted_anew(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for number in range(3 * ATTEMPTS):
        folder, ran = died(folder, number)
        assert BAD in ran
        state = folder / "saved" / str(BAD) / "state.pt"
        state.parent.mkdir(parents=True, exist_ok=True)
        state.touch()
        os.utime(state, ns=(number + 1, number + 1))
    assert opened(folder).notes[STARTED][str(BAD)] == [1, 3 * ATTEMPTS - 1]


def test_a_run_that_ends_by_itself_counts_for_nothing(tmp_path: Path) -> None:
    """Suspended, interrupted, or with an error: here the error of `Dies`, which is caught, as Ctrl-C would be."""
    folder = tmp_path / "study"
    folder.mkdir()
    for number in range(4 * ATTEMPTS):
        _, ran = died(folder, number)
        assert ran == [0, BAD]
    assert set(map(tuple, opened(folder).notes[STARTED].values())) == {(0, 0)}


def test_a_study_that_does_not_die_writes_nothing_of_it(tmp_path: Path) -> None:
    tmp_path.joinpath("study").mkdir()
    run_of(tmp_path / "study", AtOnce(squared))
    assert STARTED not in opened(tmp_path / "study").notes


PROGRAM = """
import os, pathlib, signal, sys, time
trial = int(sys.argv[1])
with open("started.log", "a") as log:
    log.write(f"{trial}\\n")
if trial == 3:
    time.sleep(0.5)  # others run by now
    coordinator = int(pathlib.Path("coordinator").read_text())
    os.kill(coordinator, getattr(signal, pathlib.Path("signal").read_text()))
    time.sleep(60)
time.sleep(0.1)
print('{"loss": %f}' % abs(float(sys.argv[2])))
"""

COORDINATOR = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("meshtune.cli", run_name="__main__")
"""


@pytest.mark.slow
def test_a_program_that_kills_its_coordinator_is_given_up(tmp_path: Path) -> None:
    """With real processes; a run in which it sends Ctrl-C in place of SIGKILL counts for nothing."""
    tmp_path.joinpath("program.py").write_text(PROGRAM)
    path = tmp_path / "study.yaml"
    path.write_text(
        f"objective: {{command: [{sys.executable}, program.py, '{{trial}}', '{{x}}']}}\n"
        "space: {x: {low: -5, high: 5}}\nsampler: {name: random, block_size: 4}\nbudget: {trials: 8}\n"
        f"worker: {{name: local, processes: 2, attempts: {ATTEMPTS}}}\n"
    )
    codes, died = list[int](), -signal.SIGKILL
    for name in ("SIGKILL", "SIGKILL", "SIGINT", *["SIGKILL"] * 4):
        tmp_path.joinpath("signal").write_text(name)
        # By default, whatever the shell of the tests ignores.
        process = subprocess.Popen([sys.executable, "-c", COORDINATOR, "tune", path])
        tmp_path.joinpath("coordinator").write_text(str(process.pid))
        codes.append(process.wait(timeout=300))
        if codes[-1] == 0:
            break
    assert codes == [died, died, 130, died, died, died, 0]
    told = json.loads(command("status", path, "--json", "--trials").stdout)
    endings = {trial["trial"]: trial["ending"] for trial in told["all"]}
    assert endings == {number: "crashed" if number == 3 else "complete" for number in range(8)}
    starts = tmp_path.joinpath("started.log").read_text().split()
    assert starts.count("3") == 6
