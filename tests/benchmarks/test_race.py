"""The race's problems, sides and picture, and the table of the race with real trainings."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from meshtune.samplers.encoding import Encoding

ROOT = Path(__file__).parents[2]
NAMES = ("product", "curved", "cliff", "corner", "ridge", "bowl", "seven", "measured", "nmt")


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_has_no_loss_below_its_floor_and_a_start_that_can_be_bettered(name: str) -> None:
    from problems import PROBLEMS, problem, there

    assert tuple(PROBLEMS) == NAMES  # their order is a part of the noise
    if not there(name):
        pytest.skip("the table is not here: set MESHTUNE_TABLES to the folder that has it")
    made = problem(name)
    encoding = Encoding(made.space)
    assert encoding.has(made.start)
    assert made.floor + made.least < made.loss(made.start)
    assert made.floor < made.worst
    shares = np.random.default_rng(0).random((1000, len(made.space)))
    points = [encoding.decode(encoding.at(share)) for share in shares.tolist()]
    losses = np.array([made.loss(point) for point in points])
    assert np.nanmin(losses) >= made.floor
    assert np.isnan(losses).mean() < 0.2
    assert all(made.noise(point) >= 0 for point, loss in zip(points, losses, strict=True) if not math.isnan(loss))


def test_the_measured_surface_stands_on_all_its_points() -> None:
    """Those with one seed too, and the noise of twenty seeds; at its points it is near what was measured."""
    from learning_curves import TABLE
    from problems import problem

    _, *lines = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    assert len({line["point"] for line in lines} - {-1}) >= 150
    assert len({line["seed"] for line in lines if line["point"] == -1}) >= 20
    made = problem("measured")
    off = [abs(made.loss(line["params"]) - min(line["losses"])) for line in lines if min(line["losses"]) < made.worst]
    assert np.median(off) < made.noise(made.start) < 0.03


def test_noise_is_the_same_for_all_sides_and_the_course_ends_in_the_best() -> None:
    from optimizer_sides import BUDGETS, Course
    from problems import problem

    one, other = (Course(problem("cliff"), 3) for _ in range(2))
    point = problem("cliff").start
    far = {**point, "learning_rate": 1e-2, "alpha": 512}
    assert one.evaluate(point) == other.evaluate(point)
    assert math.isnan(one.evaluate(far))
    for _ in range(BUDGETS[-1] - 2):
        one.evaluate(point)
    regrets = one.regrets()
    assert len(regrets["course"]) == BUDGETS[-1]
    assert regrets["best"] == regrets["recommended"] == pytest.approx([regrets["course"][0]] * 3, abs=1e-6)


def test_variables_go_to_nomad_and_hebo_and_back() -> None:
    from optimizer_others import declared, from_hebo, to_hebo
    from optimizer_sides import Variable, drawn
    from problems import problem

    made = problem("seven")
    assert from_hebo(made, to_hebo(made)) == pytest.approx(made.start)
    assert [declared(*each)["type"] for each in made.space.items()] == [
        "int", "int", "pow_int", "pow", "num", "pow", "cat",
    ]  # fmt: skip
    for seed in range(20):
        point = drawn(made, seed)
        assert Encoding(made.space).has(point)
        for name, distribution in made.space.items():
            variable = Variable.of(distribution)
            assert variable.low <= variable.code(point[name]) <= variable.high
            back = variable.value(variable.code(point[name]))
            assert back == (pytest.approx(point[name]) if isinstance(back, float) else point[name])


@pytest.mark.parametrize("name", ["product", "seven", "measured"])
def test_the_grid_has_a_point_for_each_trial(name: str) -> None:
    import optuna
    from optimizer_sides import BUDGETS, Setting, grid
    from problems import problem

    made = problem(name)
    study = optuna.create_study(sampler=grid(made, 0, Setting(1, False)))
    points = []
    for _ in range(BUDGETS[-1]):
        trial = study.ask(made.space)
        study.tell(trial, 0.0)
        points.append(json.dumps(trial.params))
    assert len(set(points)) == BUDGETS[-1]


def test_the_picture_is_whole_and_its_names_do_not_overlap() -> None:
    from optimizer_plot import spread, svg

    rng = np.random.default_rng(0)
    sides = ("batch-gp", "mads", "Optuna TPE", "a < b", "random")
    courses = {side: np.minimum.accumulate(rng.random((12, 100)), axis=1) for side in sides}
    drawn = ElementTree.fromstring(svg({"one": courses, "two": courses}, "R & D"))
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert all(texts.count(side) == 2 for side in sides)
    assert "R & D" in texts
    heights = spread([10.0, 10.0, 11.0, 40.0])
    assert min(np.diff(heights)) > 13.9


def test_tables_show_ratios_and_who_won() -> None:
    from optimizer_tables import by_problem, overall

    theirs = np.log(np.full((3, 2, 1), 0.02))
    ours = theirs + np.log([[[0.5], [2.0]]] * 3)  # half of it on one problem, twice on the other
    settings = {"one at a time": {"us": ours, "them": theirs}, "blocks": {"us": theirs, "them": theirs}}
    rows = list(overall(settings, "us", (20,)))
    assert len(rows) == 2 + 2 + 1
    assert rows[2].startswith("| one at a time: them | 1.00 (.00-66")  # two problems say next to nothing
    assert rows[3] == "| blocks: them | 1.00 (1.00-1.00) 0-0 |"
    assert list(by_problem(settings, "us", "them", ("a", "b")))[2:] == ["| `a` | .50 | 1.00 |", "| `b` | 2.00 | 1.00 |"]
    noise = np.array([0.03, math.nan])
    (*_, row), (head, *_) = (list(overall({"one": settings["one at a time"]}, "us", (20,), noise)) for _ in range(2))
    assert head == "| | 20 | ahead by, nats | ratio, floor at half the noise |"
    assert row.endswith(f"3-3 | .0100 | {(0.015 / 0.02 * 2) ** 0.5:.2f} |")  # the second problem is not in nats


def test_intervals_are_over_problems_and_not_over_pairs() -> None:
    """Eight problems, 10 seeds each, that are alike within a problem: pairs would seem ten times as many."""
    from optimizer_tables import over_problems

    each = np.random.default_rng(0).normal(-0.5, 0.4, 8)
    mean, low, high = over_problems(np.tile(each, (10, 1)))
    half = stats.t.ppf(0.975, 7) * each.std(ddof=1) / 8**0.5
    assert (mean, low, high) == pytest.approx(tuple(np.exp(each.mean() + half * np.array([0, -1, 1]))))
    alone = over_problems(np.array([[0.1], [0.3], [0.2]]))  # of one problem it is over seeds
    assert alone[0] == pytest.approx(math.exp(0.2))
    assert alone[1] < alone[0] < alone[2]
    assert np.isnan(over_problems(np.array([[0.1]]))[1:]).all()


def test_the_whole_front_of_two_objectives_is_nowhere_bettered() -> None:
    from multi_objective import pareto, two, whole
    from problems import problem

    assert pareto(np.array([[1, 5], [2, 4], [2, 6], [math.nan, math.nan], [3, 1], [1, 5]])) == [0, 1, 4]
    rng = np.random.default_rng(0)
    for name in ("cliff, size", "seven, size", "product, ridge"):
        made, best = two(name), whole(name)
        space = Encoding(problem(made.first).space)
        points = [space.decode(space.at(row)) for row in rng.random((1000, len(space.lower))).tolist()]
        values = np.array([made.values(point) for point in points])
        values = values[~np.isnan(values).any(axis=1)]
        assert 0 < made.hypervolume(values[pareto(values)]) <= best
        assert made.hypervolume(np.array([made.worst])) == 0


def test_a_race_of_two_objectives_goes_on_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import multi_objective
    from multi_objective import Results, lines
    from optimizer_sides import BUDGETS, Setting

    file, settings = tmp_path / "runs.jsonl", [Setting(1, True), Setting(8, False)]
    names = ("corner, size", "product, ridge")
    first = [Results(file).log_gaps("random", name, 0, each) for name in names for each in settings]
    assert all(len(gaps) == len(BUDGETS) and sorted(gaps, reverse=True) == gaps for gaps in first[:2])
    assert len(file.read_text().splitlines()) == len(first)
    monkeypatch.setattr(multi_objective, "run", None)  # nothing is run again
    again = [Results(file).log_gaps("random", name, 0, each) for name in names for each in settings]
    assert again == first
    logs = {"mads": np.zeros((2, 3, 3)), "random": np.log(np.full((2, 3, 3), 2.0))}
    found = list(lines(logs, "mads", "one at a time"))
    assert [line["ratio"] for line in found] == [2.0] * 3
    assert found[0]["won"] == 6


def test_a_side_that_is_not_installed_is_left_out_unless_its_runs_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from optimizer_sides import NEEDS, Setting, missing
    from optimizers import Results, entered

    lacking = next((side for side in NEEDS if missing(side)), None)
    if lacking is None:
        pytest.skip("every side's library is installed here")
    setting, file = Setting(8, False), tmp_path / "runs.jsonl"
    assert entered(Results(None), ["random", lacking], ["product"], [(0, setting)]) == ["random"]
    assert f"{lacking} is left out: {NEEDS[lacking]} is not installed" in capsys.readouterr().err
    file.write_text(json.dumps([[lacking, "product", 0, 8, False], {}]) + "\n", encoding="utf-8")
    assert entered(Results(file), ["random", lacking], ["product"], [(0, setting)]) == ["random", lacking]


def test_lines_of_the_race_with_real_trainings() -> None:
    from real_race import MODELS, lines, row

    def of(loss: float) -> dict[str, dict[str, object]]:
        point = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "learning_rate": 2e-4}
        return {model: {"loss": loss, "test_loss": loss, "hyperparameters": point} for model in MODELS}

    made = lines({"batch-gp": [of(2.0), of(2.1)], "tpe": [of(2.2), of(2.1)]})
    assert [line["ratio"] for line in made] == [pytest.approx(4.3 / 4.1, abs=1e-4)] * 2
    assert [(line["low"], line["high"]) for line in made] == [(1.0, 1.1)] * 2
    assert row("tpe", 1, of(2.0)) == "| tpe | 1 | 2.000 | 2.000 | 2.000 | 2.000 | 2.000 | 16, 32, 0, 2.0e-04 |"


@pytest.mark.slow
def test_the_race_with_real_trainings_goes_on_from_its_studies(tmp_path: Path) -> None:
    """One seed, five trials and two sides; the second call trains nothing."""
    program = [sys.executable, "benchmarks/real_race.py", str(tmp_path), "--seeds", "1", "--trials", "5"]
    program += ["--sides", "batch-gp", "random"]
    first, second = (subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) == 2
