"""MADS in threads, interrupted, and in hosts of all kinds: no block is left waiting, nothing is printed or left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers import MadsSampler
from meshtune.samplers.mads.ledger import NOTE
from meshtune.testing.processes import descendants, gone
from tests.shared_study import SPACES, fills, note, objective, points

ROOT = Path(__file__).parents[3]
MIXED = SPACES["mixed"]

pytestmark = pytest.mark.usefixtures("quiet")


# -- threads and endings


def bad(trial: optuna.Trial) -> float:
    """Raises and prunes among good values."""
    value = objective(trial)
    if trial.number % 4 == 1:
        raise ValueError(trial.number)
    if trial.number % 4 == 2:
        raise optuna.TrialPruned
    return value


def stop_at_nine(study: optuna.Study, trial: FrozenTrial) -> None:
    if trial.number >= 9:
        study.stop()


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("n_jobs", [1, 4])
@pytest.mark.parametrize(
    "arguments", [{"n_trials": 14}, {"timeout": 0.5}, {"callbacks": [stop_at_nine]}], ids=["trials", "timeout", "stop"]
)
def test_no_ending_leaves_a_block_waiting(arguments: dict[str, Any], n_jobs: int, block_size: int) -> None:
    sampler = MadsSampler(search_space=MIXED, block_size=block_size, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(bad, n_jobs=n_jobs, catch=(ValueError,), **arguments)
    before = len(study.trials)
    assert before > 1
    study.optimize(bad, n_trials=10, catch=(ValueError,))
    sampler.close()
    assert all(trial.state.is_finished() for trial in study.trials)
    assert len(points(study.trials)) == len(study.trials) == before + 10
    assert fills(study.trials[before:]) == 0


def test_an_error_that_is_not_caught_leaves_no_block_waiting() -> None:
    sampler = MadsSampler(search_space=MIXED, block_size=4, seed=0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\d"):
            study.optimize(bad, n_trials=30)
    study.optimize(objective, n_trials=12)
    sampler.close()
    assert fills(study.trials) == 0


@pytest.mark.parametrize("prunes", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_an_objective_that_ends_before_it_asks_for_all(given: bool, prunes: bool) -> None:
    def branched(trial: optuna.Trial) -> float:
        a = trial.suggest_float("a", -1, 1)
        if a < 0:
            if prunes:
                raise optuna.TrialPruned
            return 2 - a
        return float(a + trial.suggest_float("b", -1, 1) ** 2)

    def run(kills: tuple[int, ...]) -> list[FrozenTrial]:
        space = {"a": FloatDistribution(-1, 1), "b": FloatDistribution(-1, 1)} if given else None
        study = optuna.create_study()
        for trials in kills:
            study.sampler = MadsSampler(search_space=space, seed=0, warn_independent_sampling=False)
            study.optimize(branched, n_trials=trials)
            study.sampler.close()
        return study.trials

    trials = run((40,))
    noted = [tuple(note(trial)["point"]) for trial in trials if NOTE in trial.system_attrs]
    assert len(set(noted)) == len(noted) > 30
    assert [trial.params for trial in run((13, 7, 20))] == [trial.params for trial in trials]


# -- interrupted


def test_an_interrupt_while_nomad_computes_changes_nothing_after_it() -> None:
    def run(interrupt: bool) -> list[dict[str, Any]]:
        known = descendants(os.getpid())
        study = optuna.create_study(sampler=MadsSampler(search_space=MIXED, block_size=2, n_startup=4, seed=0))
        study.optimize(objective, n_trials=6)
        if interrupt:
            children = descendants(os.getpid()) - known
            for child in children:
                os.kill(child, signal.SIGSTOP)  # it does not answer
            main = threading.main_thread().ident
            assert main is not None
            timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                study.optimize(objective, n_trials=1)
            timer.join()
            assert study.trials[-1].state is TrialState.FAIL
            assert gone(children)
        study.optimize(objective, n_trials=12)
        study.sampler.close()  # type: ignore[attr-defined]
        return [trial.params for trial in study.trials if trial.params]

    assert run(interrupt=True) == run(interrupt=False)


INTERRUPTED = """
import json, signal, time
import optuna
from meshtune.samplers import MadsSampler
from tests.shared_study import SPACES, objective

def announced(trial):
    value = objective(trial)
    print(trial.number, flush=True)
    time.sleep(0.02)
    return value

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(sampler=MadsSampler(search_space=SPACES["mixed"], block_size=4, seed=0))
try:
    study.optimize(announced, n_trials=1000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
before = len(study.trials)
study.optimize(objective, n_trials=12)
print(sum("fill" in trial.system_attrs.get("mads", {}) for trial in study.trials[before:]))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
study.optimize(announced, n_trials=1000)
"""


@pytest.mark.usefixtures("environment")
def test_ctrl_c_ends_a_program_as_in_plain_optuna() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # a terminal sends Ctrl-C to the whole group
    )
    assert program.stdout is not None
    lines = iter(program.stdout.readline, "")
    next(line for line in lines if line == "10\n")
    children = descendants(program.pid)
    os.killpg(program.pid, signal.SIGINT)
    next(line for line in lines if line == "interrupted\n")
    assert [next(lines), next(lines)] == ["0\n", "True\n"]
    next(lines)
    children |= descendants(program.pid)
    os.killpg(program.pid, signal.SIGINT)
    said = program.communicate(timeout=120)[1]
    assert program.returncode == -signal.SIGINT
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert said.count("Traceback") == 1
    assert children
    assert gone(children)


# -- hosts


def run_program(program: str, tmp_path: Path, *, as_file: bool = False) -> str:
    """Run a program to its end; what it prints. It leaves neither a process nor a file, and no error output."""
    if as_file:
        (tmp_path / "program.py").write_text(program)
    arguments = ["program.py"] if as_file else ["-c", program]
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == ({"program.py"} if as_file else set())
    return done.stdout


HEAD = """
import multiprocessing, os, sys, threading
import optuna
from meshtune.samplers import MadsSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)

def objective(trial):
    return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("n", 1, 9)

def run(study=None):
    study = study or optuna.create_study(sampler=MadsSampler(seed=0))
    study.optimize(objective, n_trials=15)
    assert sum("mads" in trial.system_attrs for trial in study.trials) >= 14
    return study
"""
THREAD = """
run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
print("ended")
"""
DAEMONS = """
def daemon(how, study=None):
    process = multiprocessing.get_context(how).Process(target=run, args=(study,), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0, how

if __name__ == "__main__":
    daemon("spawn")
    study, other = run(), run()
    daemon("fork", study)  # it goes on with a copy of the study, and leaves this process's child alone
    assert [trial.params for trial in run(study).trials] == [trial.params for trial in run(other).trials]
    print("ended")
"""


@pytest.mark.usefixtures("environment")
def test_from_the_command_line_and_in_a_thread(tmp_path: Path) -> None:
    assert run_program(HEAD + THREAD, tmp_path) == "ended\n"


@pytest.mark.usefixtures("environment")
def test_in_daemons(tmp_path: Path) -> None:
    assert run_program(HEAD + DAEMONS, tmp_path, as_file=True) == "ended\n"


@pytest.mark.usefixtures("environment")
def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    cells = [nbformat.v4.new_code_cell(source) for source in (HEAD, "study = run()", "len(run(study).trials)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    ended = NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    outputs = [output for cell in ended["cells"][1:] for output in cell["outputs"]]  # Optuna's import may warn
    assert [output["output_type"] for output in outputs] == ["execute_result"]
    assert outputs[0]["data"]["text/plain"] == "30"
