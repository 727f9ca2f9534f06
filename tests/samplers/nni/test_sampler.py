"""NNI's TPE behind the sampler contract, against NNI called by hand, and what it is told of trials."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError, MissingExtra, SamplerError
from meshtune.samplers.build import build
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import Sampler
from meshtune.samplers.nni.events import described, earlier, events
from meshtune.samplers.nni.sampler import PROGRAM, VARIABLE, NniTPESampler, interpreter
from meshtune.testing.samplers import SamplerContract, Space, points, search
from tests.samplers import stories


def has_nni() -> bool:
    try:
        interpreter()
    except MissingExtra:
        return False
    return True


needs_nni = pytest.mark.skipif(not has_nni(), reason=f"NNI 3.0 is not installed, nor named by {VARIABLE}")

SPACE: dict[str, BaseDistribution] = {
    "dropout": FloatDistribution(0.0, 0.3, step=0.05),  # 7 values: a choice
    "alpha": IntDistribution(1, 64),  # quniform
    "rank_log2": IntDistribution(2, 9),  # 8 values: a choice
    "learning_rate": FloatDistribution(1e-6, 1e-2, log=True),
}

POINT = {"dropout": 0.1, "alpha": 2, "rank_log2": 4, "learning_rate": 1e-4}
STORY_SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution((False, True)),
    "rank": IntDistribution(4, 512, log=True),
    "alpha": IntDistribution(1, 100),
    "rate": FloatDistribution(1e-6, 1e-3, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.125),
}
SMALL: dict[str, BaseDistribution] = {"kind": CategoricalDistribution("ab"), "n": IntDistribution(1, 3)}

GOLDEN: dict[int, list[float]] = {  # trials of seed 7: alpha, dropout, log10 of the learning rate, rank
    0: [39, 4, -2.89725723901923, 7],
    19: [24, 4, -3.64003322795756, 7],
    20: [24, 4, -3.44462531020816, 6],
    21: [48, 6, -3.29866062613972, 6],
    30: [43, 2, -2.33662930019414, 6],
    39: [7, 5, -3.66779590552537, 5],
}

# The same, as a user of NNI would write it, run by hand: `ask` so many, then `tell` them.
BY_HAND = """
import json, math, sys
block, seed, total = map(int, sys.argv[1:])
from nni.algorithms.hpo.tpe_tuner import TpeTuner
tuner = TpeTuner("minimize", seed)
tuner.update_search_space({
    "alpha": {"_type": "quniform", "_value": [0.0, 63.0, 1]},
    "dropout": {"_type": "choice", "_value": [0, 1, 2, 3, 4, 5, 6]},
    "learning_rate": {"_type": "uniform", "_value": [-6.0, -2.0]},
    "rank_log2": {"_type": "choice", "_value": [0, 1, 2, 3, 4, 5, 6, 7]},
})
found = []
while len(found) < total:
    numbers = range(len(found), len(found) + block)
    asked = [tuner.generate_parameters(number) for number in numbers]
    for number, p in zip(numbers, asked):
        loss = (p["learning_rate"] + 3.5) ** 2 + (p["alpha"] / 63 - 0.5) ** 2
        loss += (p["rank_log2"] - 5) ** 2 / 50 + p["dropout"] / 60
        tuner.receive_trial_result(number, p, loss)
        tuner.trial_end(number, True)
        found.append([p["alpha"], p["dropout"], p["learning_rate"], p["rank_log2"]])
sys.stderr.write(json.dumps(found))
"""


def loss(number: int, params: dict[str, Any]) -> float:
    """That of BY_HAND."""
    rate = math.log10(params["learning_rate"]) + 3.5
    rank = (params["rank_log2"] - 7) ** 2 / 50
    return float(rate**2 + ((params["alpha"] - 1) / 63 - 0.5) ** 2 + rank + round(params["dropout"] / 0.05) / 60)


def run(space: Space, total: int, block_size: int, seed: int, judge: Any = loss) -> optuna.Study:
    sampler = NniTPESampler(space, block_size=block_size, seed=seed)
    study = search(optuna.create_study(), sampler, space, total, judge)
    sampler.close()
    return study


@needs_nni
class TestContract(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        # From the third answer on the tuner has its models, though the contract's studies are short.
        config = SamplerConfig(name="nni-tpe", options={"n_startup_jobs": 3})
        sampler: Sampler = build(config, space, x0=None, block_size=block_size, seed=seed)
        return sampler


@needs_nni
def test_the_points_are_those_of_nni_called_by_hand() -> None:
    """In blocks of 8, from chance to models."""
    command = [interpreter(), "-c", BY_HAND, "8", "7", "40"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    by_hand = json.loads(said.splitlines()[-1])
    assert coordinates(run(SPACE, 40, 8, 7)) == [pytest.approx(point, rel=1e-9) for point in by_hand]


@needs_nni
def test_golden_points() -> None:
    """What NNI 3.0 gives with seed 7 on numpy 2.4, one at a time: chance, the first modelled points, the last."""
    found = coordinates(run(SPACE, 40, 1, 7))
    assert {number: found[number] for number in GOLDEN} == {n: pytest.approx(p, rel=1e-9) for n, p in GOLDEN.items()}


def coordinates(study: optuna.Study) -> list[tuple[float, ...]]:
    return [Encoding(SPACE).encode(params) for params in points(study)]


# -- exact resume


def story_sampler(block_sizes: tuple[int, int], number: int) -> Sampler:
    size = block_sizes[number >= stories.CHANGED]
    return NniTPESampler(STORY_SPACE, block_size=size, seed=11, n_startup_jobs=4)


def story_judge(trial: optuna.Trial) -> None:
    """Failures, stopped trials and infeasible ones among the others."""
    study, number, params = trial.study, trial.number, trial.params
    if number % 7 == 6:
        trial.report(number / 10, 1)
        study.tell(trial, state=TrialState.FAIL if number % 2 else TrialState.PRUNED)
        return
    trial.set_constraint("cost", params["rank"] / 100 - 1)
    study.tell(trial, -abs(params["rank"] - 60) / 100 - params["step"] - abs(params["rate"] - 3e-4) * 1e3)


def play(kills: tuple[int, ...], enqueue: tuple[int, ...], sizes: tuple[int, int], storage: str | None = None) -> Any:
    return stories.play(
        partial(story_sampler, sizes),
        story_judge,
        space=STORY_SPACE,
        directions=["maximize"],
        total=28,
        enqueue=enqueue,
        kills=kills,
        storage=storage,
    )


@pytest.mark.slow
@needs_nni
def test_the_same_continuation_after_kills_out_of_a_database(tmp_path: Path) -> None:
    """Killed inside blocks, with points from elsewhere, whole and in part, and another block size from trial 16 on."""
    enqueue, sizes = (9, 22), (8, 3)
    assert play((5, 18), enqueue, sizes, f"sqlite:///{tmp_path}/story.db") == play((), enqueue, sizes)


@needs_nni
def test_the_order_of_answers_in_a_block_changes_nothing() -> None:
    """And one sampler serves several studies, one after another."""
    sampler = NniTPESampler(SPACE, block_size=6, seed=2, n_startup_jobs=4)
    runs = []
    for backwards in (False, True):
        study = optuna.create_study(sampler=sampler)
        for _ in range(5):
            block = [study.ask(dict(SPACE)) for _ in range(6)]
            for trial in reversed(block) if backwards else block:
                study.tell(trial, loss(trial.number, trial.params))
        runs.append(points(study))
    sampler.close()
    assert runs[0] == runs[1]


@needs_nni
def test_sampler_and_study_survive_pickle() -> None:
    sampler = NniTPESampler(SPACE, seed=3, n_startup_jobs=4)
    study = search(optuna.create_study(), sampler, SPACE, 6, loss)
    other = pickle.loads(pickle.dumps(study))
    both = [points(search(each, each.sampler, SPACE, 10, loss)) for each in (study, other)]
    sampler.close()
    other.sampler.close()
    assert both[0] == both[1]


# -- what NNI is told


def finished(number: int, params: dict[str, Any], state: TrialState, value: float | None, **more: Any) -> Any:
    """A trial as the record of a study of SPACE holds it."""
    space = {name: SPACE[name] for name in params}
    trial = optuna.trial.create_trial(state=state, value=value, params=params, distributions=space, **more)
    trial.number = number
    return trial


def test_the_space_is_described_as_a_user_of_nni_writes_it() -> None:
    space: dict[str, BaseDistribution] = {
        **SPACE,
        "kind": CategoricalDistribution(tuple(range(30))),
        "fixed": IntDistribution(3, 3),
        "rank": IntDistribution(1, 100, log=True),
        "scale": FloatDistribution(-2.0, 5.0),
    }
    assert described(Encoding(space)) == {
        "alpha": {"_type": "quniform", "_value": [0.0, 63.0, 1]},
        "dropout": {"_type": "choice", "_value": [0, 1, 2, 3, 4, 5, 6]},
        "kind": {"_type": "choice", "_value": list(range(30))},
        "learning_rate": {"_type": "uniform", "_value": [-6.0, -2.0]},
        "rank": {"_type": "uniform", "_value": [0.0, 2.0]},
        "rank_log2": {"_type": "choice", "_value": [0, 1, 2, 3, 4, 5, 6, 7]},
        "scale": {"_type": "uniform", "_value": [-2.0, 5.0]},
    }


def test_endings_are_told_at_the_end_of_their_block() -> None:
    params = POINT
    encoding = Encoding(SPACE)
    point = [1.0, 2.0, -4.0, 2.0]  # alpha, dropout, learning rate, rank
    trials = [
        finished(0, params, TrialState.COMPLETE, 1.5),
        finished(1, params, TrialState.FAIL, None),
        finished(2, params, TrialState.PRUNED, 9.0, intermediate_values={10: 3.0, 20: 2.0}),
        finished(3, params, TrialState.COMPLETE, 0.5, constraints={"ending": 1.0}),
        finished(4, {"alpha": 2}, TrialState.FAIL, None),
        finished(5, params, TrialState.RUNNING, None),
    ]
    added = [["take", number, point] for number in (0, 1, 2, 3, 5)]
    ends = [["tell", 0, 1.5], ["forget", 1, None], ["tell", 2, 2.0], ["bad", 3, None]]
    assert events(trials, encoding, 6) == ([*added, *ends], [end[1] for end in ends])
    assert events(trials, encoding, 2)[0] == [*added, *ends[:2]]
    assert earlier(trials[:2], encoding) == [
        ["take", -1, point],
        ["tell", -1, 1.5],
        ["take", -2, point],
        ["forget", -2, None],
    ]


@needs_nni
def test_what_is_infeasible_is_avoided_and_what_failed_is_forgotten() -> None:
    """The same points fall where half of the range has no honest value: told so, NNI goes elsewhere."""
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    there = {}
    sampler = NniTPESampler(space, seed=0)
    for ending in ("infeasible", "failed"):
        study = optuna.create_study(sampler=sampler)
        for _ in range(60):
            trial = study.ask(dict(space))
            x = trial.params["x"]
            if x > 0.5 and ending == "failed":
                study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_constraint("ending", 1.0 if x > 0.5 else 0.0)
            study.tell(trial, 1.0 - x)
        there[ending] = sum(params["x"] > 0.5 for params in points(study)[30:])
    sampler.close()
    assert there["infeasible"] < there["failed"]


@needs_nni
def test_a_finite_space_is_searched_to_its_end() -> None:
    """Every point once, also where one is enqueued, whole or in part."""
    sampler = NniTPESampler(SMALL, block_size=4, seed=0)
    for enqueued in ({}, {"n": 2}, {"kind": "b", "n": 3}):
        study = optuna.create_study()
        if enqueued:
            study.enqueue_trial(enqueued)
        search(study, sampler, SMALL, 100, lambda number, _: float(number))
        found = [(params["kind"], params["n"]) for params in points(study)]
        assert sorted(found) == [(kind, n) for kind in "ab" for n in (1, 2, 3)]
    sampler.close()


@needs_nni
def test_what_is_not_allowed_is_never_proposed_and_a_resume_is_exact() -> None:
    def allows(params: dict[str, Any]) -> bool:
        return bool(params["rank_log2"] <= 4 and params["alpha"] > 20)

    def made() -> NniTPESampler:
        return NniTPESampler(SPACE, block_size=4, seed=6, n_startup_jobs=5, allows=allows)

    sampler = made()
    whole = points(search(optuna.create_study(), sampler, SPACE, 22, loss))
    assert all(map(allows, whole))
    study = search(optuna.create_study(), sampler, SPACE, 10, loss, answer_rest=False)
    sampler.close()
    sampler = made()
    assert points(search(study, sampler, SPACE, 22, loss)) == whole
    sampler.close()


@needs_nni
def test_a_finite_space_ends_with_its_last_allowed_point() -> None:
    sampler = NniTPESampler(SMALL, block_size=4, seed=0, allows=lambda params: params["n"] != 2)
    study = search(optuna.create_study(), sampler, SMALL, 100, lambda number, _: float(number))
    sampler.close()
    assert sorted(params["n"] for params in points(study)) == [1, 1, 3, 3]


@needs_nni
def test_known_points_are_learned_from_whichever_way_is_better() -> None:
    """Known from the start there is no random start: proposals are near the best known points."""
    known = [finished(n, {**POINT, "alpha": n + 1}, TrialState.COMPLETE, abs(n - 40.0)) for n in range(64)]
    config = SamplerConfig(name="nni-tpe")
    sampler = build(config, SPACE, x0=None, block_size=1, seed=0, warm_start=known)
    low = [params["alpha"] for params in points(search(optuna.create_study(), sampler, SPACE, 12, near_40))]
    high = optuna.create_study(direction="maximize")
    search(high, sampler, SPACE, 12, lambda *_: 0.0)
    sampler.close()
    assert sum(30 <= alpha <= 52 for alpha in low) >= 9
    assert sum(params["alpha"] < 15 for params in points(high)) >= 9


def near_40(_: int, params: dict[str, Any]) -> float:
    return float(abs(params["alpha"] - 41))


@needs_nni
def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=NniTPESampler(SPACE))
    with pytest.raises(ValueError, match="multi-objective optimization, NniTPESampler"):
        study.ask(dict(SPACE))


# -- the child program and its interpreter


@needs_nni
def test_a_killed_child_is_an_error_and_the_next_proposal_goes_on() -> None:
    sampler = NniTPESampler(SPACE, seed=1)
    whole = points(search(optuna.create_study(), sampler, SPACE, 8, loss))
    study = search(optuna.create_study(), sampler, SPACE, 5, loss)
    assert sampler._child is not None
    os.kill(sampler._child.pid, signal.SIGKILL)
    with pytest.raises(SamplerError, match=r"NNI's child process .* died, exit code -9"):
        study.ask(dict(SPACE))
    other = optuna.create_study()
    other.add_trials([trial for trial in study.trials if trial.state.is_finished()])
    search(other, sampler, SPACE, 8, loss)
    sampler.close()
    assert points(other) == whole


@needs_nni
def test_the_child_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import optuna; from meshtune.samplers.nni.sampler import NniTPESampler; from optuna.distributions import *\n"
        "s = NniTPESampler({'x': FloatDistribution(0, 1)}); study = optuna.create_study(sampler=s)\n"
        "study.ask({'x': FloatDistribution(0, 1)}); s.close()"
    )
    root = Path(__file__).parents[3]
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0
    assert done.stdout == b""
    assert not list(tmp_path.iterdir())


@needs_nni
def test_the_child_loads_the_tuner_alone() -> None:
    program = (
        f"import runpy, sys; runpy.run_path({str(PROGRAM)!r})['tuner_class']()\n"
        "print(sorted({'nni.tuner', 'nni.experiment', 'pandas', 'requests', 'scipy.stats'} & sys.modules.keys()))"
    )
    done = subprocess.run([interpreter(), "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['nni.tuner']\n"


def test_an_interpreter_without_nni_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / "bin" / "python"
    monkeypatch.setenv(VARIABLE, str(bare))
    with pytest.raises(MissingExtra, match=r"pip install '\.\[nni\]'.*nni==3\.0.*MESHTUNE_NNI_PYTHON"):
        build(SamplerConfig(name="nni-tpe"), SPACE, x0=None, block_size=1, seed=0)


def test_an_interpreter_that_is_none_or_has_another_nni_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sampler\.options\.python: `no-such-python` is no program"):
        interpreter("no-such-python")
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 2.10\n")
    other.chmod(0o755)
    with pytest.raises(InputError, match=r"has NNI 2\.10; version 3\.0 is needed"):
        interpreter(str(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gama": 1}, r"`gama` is unknown; .* Did you mean `gamma`\?"),
        ({"constant_liar_type": "none"}, "allowed are best, worst, mean and null"),
        ({"n_startup_jobs": 1, "prior_weight": 0}, "at least 2; prior_weight is 0; it is a number above 0"),
        ({"gamma": 5.0}, r"of the 20 first trials \(n_startup_jobs\) none would be bad.* at most 4\.25"),
    ],
)
def test_options_that_nni_would_crash_on_are_faults(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"sampler\.options of `nni-tpe`: .*" + message):
        build(SamplerConfig(name="nni-tpe", options=options), SPACE, x0=None, block_size=1, seed=0)
