"""Studies with several objectives and with constraints, on a small program: searched, killed, resumed, told."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meshtune.cli.display import Display
from meshtune.errors import InputError, MeshtuneError, StudyMismatch
from meshtune.plan.locate import locate
from meshtune.report.write import report
from meshtune.study.check import check
from meshtune.study.loop import StudyEvent, TrialFinished
from meshtune.study.status import status
from meshtune.study.tune import tune

PROGRAM = """
import json, sys
x, k = float(sys.argv[1]), int(sys.argv[2])
print(json.dumps({"ending": "diverged"} if x > 0.95 else {"loss": (x - 0.8) ** 2 + 1 / k, "size": k * (1 + x)}))
"""


def study(folder: Path, *lines: str, sampler: str = "mads", trials: int = 10, block: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    path = folder / "study.yaml"
    head = [
        f"objective: {{command: [{sys.executable}, -S, program.py, '{{x}}', '{{k}}']}}",
        "space: {x: {low: 0, high: 1}, k: {low: 1, high: 8, integer: true}}",
        f"sampler: {{name: {sampler}, block_size: {block}}}",
        f"budget: {{trials: {trials}}}",
        "worker: {processes: 2}",
    ]
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


def run(path: Path, stop_after: int | None = None) -> list[StudyEvent]:
    """The study's events; abandoned after so many tells."""
    events, told = tune(locate(path)), 0
    found = []
    for event in events:
        found.append(event)
        told += isinstance(event, TrialFinished)
        if told == stop_after:
            events.close()
    return found


def record_of(path: Path) -> list[dict[str, Any]]:
    """What must be equal in an interrupted and an uninterrupted study."""
    keys = ("trial", "origin", "block", "ending", "loss", "hyperparameters", "quantities", "violations")
    return [{key: trial[key] for key in keys} for trial in status(path, trials=True)["all"]]


@pytest.mark.parametrize("sampler", ["mads", "tpe", "nsga2"])
def test_two_objectives_have_a_pareto_set_and_a_resume_goes_on_exactly(tmp_path: Path, sampler: str) -> None:
    two = "objectives: [loss, size]"
    options = "{population_size: 4}" if sampler == "nsga2" else "{}"
    paths = [study(tmp_path / name, two, sampler=sampler) for name in ("whole", "cut")]
    for path in paths:
        path.write_text(path.read_text().replace("block_size: 4}", f"block_size: 4, options: {options}}}"))
    run(paths[0])
    for cut in (2, 5, None):
        run(paths[1], stop_after=cut)
    assert record_of(paths[1]) == record_of(paths[0])
    told = status(paths[0], trials=True)
    complete = {t["trial"]: (t["loss"], t["quantities"]["size"]) for t in told["all"] if t["ending"] == "complete"}
    front = {
        number
        for number, (loss, size) in complete.items()
        if not any(a <= loss and b <= size and (a, b) != (loss, size) for a, b in complete.values())
    }
    assert set(told["pareto"]) == front
    assert told["best"]["loss"] == min(loss for loss, _ in complete.values())
    assert told["best"]["quantities"]["size"] == complete[told["best"]["trial"]][1]
    made = report([paths[0]])
    assert "Objectives and constraints" in Path(made["page"]).read_text()
    assert "size" in Path(made["csv"]).read_text().splitlines()[0]


@pytest.mark.parametrize("sampler", ["mads", "tpe", "batch-gp"])
def test_a_measured_constraint_is_kept_by_the_best_and_resumed_exactly(tmp_path: Path, sampler: str) -> None:
    line = "constraints: [size <= 5]"
    whole, cut = (study(tmp_path / name, line, sampler=sampler) for name in ("whole", "cut"))
    run(whole)
    run(cut, stop_after=5)
    run(cut)
    assert record_of(cut) == record_of(whole)
    told = status(whole, trials=True)
    feasible = [trial for trial in told["all"] if trial["feasible"]]
    assert [t for t in told["all"] if t["violations"] and (t["violations"]["size <= 5"] > 0) is t["feasible"]] == []
    assert told["best"]["loss"] == min(trial["loss"] for trial in feasible)
    assert told["best"]["quantities"]["size"] <= 5
    assert told["constraints"][0]["kept"] == len(feasible)


@pytest.mark.parametrize("sampler", ["mads", "tpe", "batch-gp", "qmc"])
def test_what_is_known_before_is_never_proposed(tmp_path: Path, sampler: str) -> None:
    path = study(tmp_path, "constraints: [k <= 2, x >= 0.5]", "baseline: {x: 0.1, k: 8}", sampler=sampler, trials=10)
    run(path)
    told = status(path, trials=True)
    assert len(told["all"]) == 10
    assert all(t["hyperparameters"]["k"] <= 2 and t["hyperparameters"]["x"] >= 0.5 for t in told["all"])
    assert told["baseline"] is None  # a program's baseline outside is not run, as outside the space


def test_check_says_how_much_of_the_space_is_left(tmp_path: Path) -> None:
    lines, facts = check(study(tmp_path, "constraints: [k <= 2, size <= 5]"), measure=False)
    assert facts["allowed_share"] == pytest.approx(0.25, abs=0.02)
    assert "\nconstraint k <= 2 (known before training)\n           size <= 5 (measured with each trial)\n" in lines
    assert re.search(r"\n           2\d(\.\d)? % of random points of the space keep what is known", lines)
    with pytest.raises(InputError, match="none of 10,000 random points of the space keeps `k <= 0`"):
        check(study(tmp_path, "constraints: [k <= 0]"), measure=False)


@pytest.mark.parametrize("sampler", ["mads", "batch-gp", "grid"])
def test_a_finite_space_is_counted_and_searched_to_its_allowed_end(tmp_path: Path, sampler: str) -> None:
    path = study(tmp_path, "constraints: [k <= 3]", sampler=sampler, trials=30)
    path.write_text(path.read_text().replace("x: {low: 0, high: 1}", "x: [0, 0.5]"))
    assert check(path, measure=False)[1]["allowed_share"] == 6 / 16
    run(path)
    told = status(path, trials=True)
    assert len(told["all"]) == 6
    assert told["state"] == "finished"


def test_a_trials_line_names_what_guides_it(tmp_path: Path) -> None:
    out = io.StringIO()
    path = study(tmp_path, "constraints: [size <= 0.5, k <= 4]", sampler="random", trials=1)
    with Display(Console(file=out, width=200)) as view:
        for event in tune(locate(path)):
            view.show(event)
    assert re.search(r"trial 0 +loss \S+  size \S+  violates size <= 0\.5  x \S+ k \d", out.getvalue())


def test_a_constraint_on_the_baseline_waits_for_it(tmp_path: Path) -> None:
    lines = ("constraints: [size <= baseline * 1.2]", "baseline: {x: 0.5, k: 3}")
    path = study(tmp_path, *lines)
    run(path)
    told = status(path, trials=True)
    assert [t["block"] for t in told["all"][:3]] == [0, 1, 1]
    assert told["constraints"][0]["limit"] == pytest.approx(4.5 * 1.2)
    assert told["best"]["quantities"]["size"] <= 5.4
    diverging = study(tmp_path / "other", lines[0], "baseline: {x: 0.99, k: 3}")
    for _ in range(2):  # and it says so again
        with pytest.raises(MeshtuneError, match="compare with the baseline, and it ended as diverged"):
            run(diverging)


def test_other_objectives_and_constraints_are_another_study(tmp_path: Path) -> None:
    path = study(tmp_path, "objectives: [loss, size]", "constraints: [size <= 9]", trials=3)
    run(path)
    text = path.read_text()
    for old, new in (("size <= 9", "size <= 8"), ("[loss, size]", "[loss]")):
        path.write_text(text.replace(old, new))
        with pytest.raises(StudyMismatch, match=r"objectives|constraints"):
            run(path)


def test_a_program_that_prints_no_such_number_crashes_in_words(tmp_path: Path) -> None:
    path = study(tmp_path, "constraints: [weight <= 9]", "worker: {processes: 2, attempts: 1}", trials=2)
    path.write_text(path.read_text().replace("worker: {processes: 2}\n", ""))
    run(path)
    told = status(path, trials=True)
    assert {trial["ending"] for trial in told["all"]} == {"crashed"}
    assert "has no number `weight` up to 1e+100, which guides the search" in told["all"][0]["message"]


def test_nothing_feasible_is_no_best(tmp_path: Path) -> None:
    path = study(tmp_path, "constraints: [size <= 0.5]", trials=5)
    run(path)
    told = status(path, trials=True)
    assert told["best"] is None
    assert told["trials"]["complete"] > 0
    made = report([path])
    assert made["verdict"] == "No trial keeps the constraints"
    assert json.dumps(told)  # plain values
