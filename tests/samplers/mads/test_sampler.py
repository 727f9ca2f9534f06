"""MADS: the sampler contract, limiting cases, and the child's manners."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.errors import SamplerError
from meshtune.samplers import MadsSampler
from meshtune.samplers.encoding import Point
from meshtune.samplers.interface import Sampler
from meshtune.samplers.mads.ledger import NOTE
from meshtune.samplers.mads.nomad import Nomad, NomadRun
from meshtune.testing.processes import descendants, gone
from meshtune.testing.samplers import MIXED, SamplerContract, Space, answer_all, points, search

X0 = {"rank_log2": 3, "scale": 2.0, "learning_rate": 1e-5, "kind": "a"}


class TestMads(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        return MadsSampler(search_space=space, x0=X0, block_size=block_size, seed=seed)


def test_the_start_is_evaluated_once_and_answered_from_memory() -> None:
    study = optuna.create_study()
    study.enqueue_trial({**X0, "fixed": 3})
    study.ask(dict(MIXED))
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=4, seed=0)
    search(study, sampler, MIXED, 20)
    sampler.close()
    assert sum(all(params[name] == value for name, value in X0.items()) for params in points(study)) == 1
    assert NOTE not in study.trials[0].system_attrs


def test_a_failed_start_does_not_end_the_search() -> None:
    study = optuna.create_study()
    sampler = MadsSampler(search_space=MIXED, x0=X0, n_startup=0, seed=0)
    search(study, sampler, MIXED, 12, lambda n, p: TrialState.FAIL if n == 0 else float(p["scale"] ** 2))
    sampler.close()
    assert len(study.trials) == 12


def test_it_converges_on_a_smooth_valley() -> None:
    sampler = MadsSampler(search_space=MIXED, x0=X0, seed=0)
    study = search(optuna.create_study(), sampler, MIXED, 120)
    sampler.close()
    assert study.best_value < 0.01
    assert study.best_params["kind"] == "b"


@pytest.mark.parametrize(
    ("space", "size"),
    [
        ({"a": IntDistribution(0, 4), "b": CategoricalDistribution("xy"), "c": IntDistribution(2, 8, step=2)}, 40),
        ({"a": IntDistribution(0, 9)}, 10),
        ({"a": FloatDistribution(0.0, 1.0, step=0.25), "b": IntDistribution(5, 5)}, 5),
    ],
)
@pytest.mark.parametrize("block_size", [1, 4])
def test_every_point_of_a_finite_space_once_then_exhausted(
    space: dict[str, BaseDistribution], size: int, block_size: int
) -> None:
    sampler = MadsSampler(search_space=space, block_size=block_size)
    study = search(optuna.create_study(), sampler, space, 200, lambda _, p: float(p["a"]))
    assert sampler.available(study) == 0
    sampler.close()
    assert len(study.trials) == len({tuple(p.items()) for p in points(study)}) == size


def test_a_finite_space_to_its_end_though_nomad_crashes_before() -> None:
    space = {"a": IntDistribution(0, 19), "b": IntDistribution(0, 14)}
    study = optuna.create_study(sampler=MadsSampler(search_space=space, seed=1))
    study.optimize(lambda trial: trial.suggest_int("a", 0, 19) + trial.suggest_int("b", 0, 14), n_trials=400)
    assert len(study.trials) == len({tuple(trial.params.items()) for trial in study.trials}) == 300


def test_one_real_variable() -> None:
    space = {"x": FloatDistribution(-1.0, 1.0)}
    sampler = MadsSampler(search_space=space, seed=1)
    study = search(optuna.create_study(), sampler, space, 30, lambda _, p: float((p["x"] - 0.3) ** 2))
    sampler.close()
    assert abs(study.best_params["x"] - 0.3) < 0.05


def test_maximize() -> None:
    space = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}
    sampler = MadsSampler(search_space=space, seed=1)
    study = optuna.create_study(direction="maximize")
    search(study, sampler, space, 60, lambda _, p: float(-((p["x"] - 0.3) ** 2) - p["y"] ** 2))
    sampler.close()
    assert study.best_value > -0.01


def test_plain_optuna_never_waits() -> None:
    study = optuna.create_study(sampler=MadsSampler(search_space=MIXED, block_size=2, seed=0))
    asked = [study.ask(dict(MIXED)) for _ in range(9)]
    assert sum("slot" in trial.system_attrs[NOTE] for trial in study.trials) == 2
    assert len({str(trial.params) for trial in asked}) == 9
    answer_all(study)
    study.sampler.close()  # type: ignore[attr-defined]


def test_a_replay_that_differs_stops_and_a_new_segment_goes_on() -> None:
    study = search(
        optuna.create_study(), first := MadsSampler(search_space=MIXED, x0=X0, block_size=4, seed=0), MIXED, 14
    )
    first.close()
    other = optuna.create_study()
    for trial in study.trials:
        attrs = trial.system_attrs
        if trial.number == 9:
            attrs = {**attrs, NOTE: {**attrs[NOTE], "point": [0.0, *attrs[NOTE]["point"][1:]]}}
        other.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=attrs,
            )
        )
    with pytest.raises(SamplerError, match="--new-segment"):
        MadsSampler(search_space=MIXED, x0=X0, block_size=4, seed=0).available(other)
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=4, seed=0, new_segment=True)
    search(other, sampler, MIXED, 30)
    sampler.close()
    assert {trial.system_attrs[NOTE]["segment"] for trial in other.trials} >= {0, 14}
    assert len({str(params) for params in points(other)}) == 30


SEGMENT = NomadRun((False, True), (0.0, 0.0), (1.0, 5.0), (0.5, 2.0), (), seed=0, block_size=2)


def test_the_child_writes_nothing_and_ends_with_close(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(Path.cwd().iterdir())
    nomad = Nomad(SEGMENT)
    block = nomad.ask()
    assert block is not None
    nomad.tell([(1.0,)] * len(block))
    nomad.ask()
    nomad.close()
    assert gone([nomad.pid])
    assert set(Path.cwd().iterdir()) == before
    assert capfd.readouterr() == ("", "")


def test_the_child_leaves_no_file_where_the_system_has_none_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows: the known points are in a folder until NOMAD has read them."""
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.memfd_create")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    options = ("MAX_BB_EVAL 4",)
    problem = NomadRun((False,), (0.0,), (1.0,), (0.5,), (((0.5,), (0.25,)),), seed=0, block_size=1, options=options)
    nomad = Nomad(problem)
    blocks = []
    while block := nomad.ask():
        assert not list(temporary.iterdir())
        blocks.append(block)
        nomad.tell([(block[0][0] ** 2,)])
    nomad.close()
    assert len(blocks) == 4
    assert (0.5,) not in [point for block in blocks for point in block]  # it was known
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_what_a_batch_system_sends_to_all_processes_does_not_end_the_child(number: signal.Signals) -> None:
    nomad = Nomad(SEGMENT)
    block = nomad.ask()
    assert block is not None
    os.kill(nomad.pid, number)
    nomad.tell([(1.0,)] * len(block))
    assert nomad.ask()
    nomad.close()


def blocks(kills: Callable[[int], bool]) -> list[list[Point]]:
    """Six blocks of NOMAD, whose child is killed before it answers, and after, where `kills(number)` says so."""
    nomad, found = Nomad(SEGMENT), list[list[Point]]()
    for number in range(6):
        if kills(2 * number):
            os.kill(nomad.pid, signal.SIGKILL)
        block = nomad.ask()
        assert block is not None
        found.append(block)
        if kills(2 * number + 1):
            os.kill(nomad.pid, signal.SIGKILL)
            assert gone([nomad.pid])
        nomad.tell([(sum(x * x for x in point),) for point in block])
    nomad.close()
    return found


def test_a_killed_child_is_started_again_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = blocks(lambda _: False)
    assert blocks(lambda number: number in (0, 3, 6)) == undisturbed
    assert caplog.text.count("died, exit code -9. It said nothing. It was started again.") == 3


def test_one_that_is_killed_again_at_once_is_an_error_that_says_so() -> None:
    nomad, done = Nomad(SEGMENT), threading.Event()

    def kill_all() -> None:
        while not done.is_set():
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def drive() -> None:
        while block := nomad.ask():
            nomad.tell([(1.0,)] * len(block))

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(SamplerError, match="exit code -9"):
            drive()
    finally:
        done.set()
        killer.join()
    nomad.close()


def test_the_child_ends_when_its_parent_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from meshtune.samplers.mads.nomad import Nomad, NomadRun\n"
        "n = Nomad(NomadRun((False,), (0.,), (1.,), (.5,), (), seed=0, block_size=1)); n.ask()\n"
        "print(n.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone([child])


@pytest.mark.parametrize(
    "problem",
    [
        NomadRun((False,), (0.0,), (0.0,), (0.0,), (), seed=0, block_size=1),
        NomadRun((False,), (0.0,), (1.0,), (2.0,), (), seed=0, block_size=1),
        NomadRun((True,), (0.0,), (3.0,), (1.5,), (), seed=0, block_size=1),
    ],
)
def test_what_would_crash_nomad_is_refused_before(problem: NomadRun) -> None:
    with pytest.raises(SamplerError, match="cannot be started"):
        Nomad(problem)


def test_signal_handlers_of_the_host_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    search(optuna.create_study(), sampler := MadsSampler(search_space=MIXED, seed=0), MIXED, 5)
    sampler.close()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_crash_of_nomad_costs_a_segment_and_not_the_study() -> None:
    """Options under which NOMAD 4.6 crashes, with some seeds: mixed search and poll with its default directions."""
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("sum", x + y - 1)
        return (x - 0.8) ** 2 + (y - 0.7) ** 2

    crashed = 0
    for seed in range(6):
        options = {"DIRECTION_TYPE": "ORTHO N+1 QUAD"}
        sampler = MadsSampler(search_space=space, seed=seed, block_size=4, nomad_options=options)
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=12)
        opened = [t.system_attrs[NOTE]["open"] for t in study.trials if "open" in t.system_attrs[NOTE]]
        crashed += sum("points" in definition for definition in opened) - 1
        assert len(study.trials) == 12
        sampler.close()
    assert crashed
