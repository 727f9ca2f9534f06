"""Objectives and constraints on trainings of the tiny model: searched, resumed, scored and selected."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from meshtune.errors import InputError
from meshtune.finalists.evaluate import evaluate
from meshtune.finalists.select import select
from meshtune.plan.locate import locate
from meshtune.report.write import report
from meshtune.selection.decide import Settings
from meshtune.selection.rules import DEFAULT
from meshtune.study.check import check
from meshtune.study.loop import TrialFinished
from meshtune.study.status import status
from meshtune.study.tune import tune
from tests.evaluation.made import make_mmlu
from tests.finalists.made import finished_study, rewritten

SETTINGS = (
    "data: {sources: [{path: rows.jsonl}], validation: 8, test: 4}\n"
    "training: {epochs: 1, batch_size: 8, precision: float32, keep_adapters: 8}\n"
    "space: {rank: {low: 1, high: 32, power_of: 2}, scale: 2, dropout: 0, step: {low: 1e-3, high: 1, log: true}}\n"
    "baseline: {rank: 8, alpha: 16, dropout: 0, learning_rate: 2e-3}\n"
    "generation: {rows: 0}\n"
)
TWO = "objectives: [validation_loss, adapter_parameters]\nconstraints: [rank <= 16, predicted_memory <= 8 GiB]\n"
ROWS = 28


def parameters(adapter: Path) -> int:
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (it is no mapping)


@pytest.mark.slow  # tests/study/test_goals.py has it with a program
def test_loss_and_size_by_mads_and_a_resume_that_goes_on_exactly(tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = SETTINGS + TWO + "sampler: {name: mads, block_size: 2}\nbudget: {trials: 6}\n"
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = finished_study(tmp_path / "whole", tiny_model_folder, settings, rows=ROWS)
    for name in ("rows.jsonl", "study.yaml"):
        (tmp_path / "cut" / name).write_text((tmp_path / "whole" / name).read_text())
    cut = tmp_path / "cut" / "study.yaml"
    events = tune(locate(cut))
    told = 0
    for event in events:
        told += isinstance(event, TrialFinished)
        if told == 3:
            events.close()
    for _ in tune(locate(cut)):
        pass
    found = status(whole, trials=True)
    keys = ("trial", "block", "ending", "loss", "hyperparameters", "quantities")
    for one, other in zip(status(cut, trials=True)["all"], found["all"], strict=True):
        assert {key: one[key] for key in keys} == {key: other[key] for key in keys}
    assert all(trial["hyperparameters"]["rank"] <= 16 for trial in found["all"])
    complete = [trial for trial in found["all"] if trial["ending"] == "complete"]
    assert len(complete) > 2
    for trial in complete:
        assert trial["quantities"]["adapter_parameters"] == parameters(whole / trial["adapter"])
    by_size = {t["quantities"]["adapter_parameters"]: t["loss"] for t in found["all"] if t["trial"] in found["pareto"]}
    assert sorted(by_size.values(), reverse=True) == [loss for _, loss in sorted(by_size.items())]
    assert found["best"]["trial"] in found["pareto"]
    assert "Complete trials by two objectives" in Path(report([whole])["page"]).read_text()


def test_check_refuses_what_cannot_be(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    rows = [{"instruction": f"say {n}", "input": "", "output": f"{n} it is"} for n in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    constraint = "constraints: [adapter_parameters <= 100]\nworker: {processes: 1, threads: 1}\n"
    path.write_text(f"model: {tiny_model_folder}\n{SETTINGS}{constraint}")
    with pytest.raises(InputError, match="keeps `adapter_parameters <= 100`: loosen them, or change `space`"):
        check(path, measure=False)
    path.write_text(path.read_text().replace("[adapter_parameters <= 100]", "[mmlu >= untuned, bbh.gld >= 0]"))
    with pytest.raises(InputError, match=r"Did you mean `bbh\.gold`"):
        check(path, measure=False)
    path.write_text(path.read_text().replace(", bbh.gld >= 0", ""))
    with pytest.raises(InputError, match="mmlu cannot be measured: name the folder that holds the data"):
        check(path, measure=False)
    path.write_text(path.read_text().replace("[mmlu >= untuned]", "[rank <= 4]"))
    lines, facts = check(path, measure=False)
    assert facts["baseline_in_space"] is False
    assert "outside the constraints: trained beside the trials" in lines
    assert 0.4 < facts["allowed_share"] < 0.6


@pytest.mark.slow
def test_what_violates_a_measured_constraint_is_neither_best_nor_selected(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    make_mmlu(tmp_path / "benchmarks" / "mmlu", items=20)
    settings = (
        f"{SETTINGS}constraints: [perplexity <= baseline * 0.999, mmlu >= untuned - 0.9]\n"
        f"guide: {{benchmarks: {tmp_path / 'benchmarks'}, limit: 8, measure: [mmlu.gold]}}\n"
        "sampler: {name: tpe, block_size: 3}\nbudget: {trials: 7}\n"
    )
    study = finished_study(tmp_path, tiny_model_folder, settings, rows=ROWS)
    found = status(study, trials=True)
    limit = 0.999 * found["baseline"]["quantities"]["perplexity"]
    assert [t["block"] for t in found["all"][:2]] == [0, 1]  # the baseline is waited for
    assert set(found["untuned"]["quantities"]) == {"perplexity", "mmlu", "mmlu.gold"}
    for trial in (trial for trial in found["all"] if trial["ending"] == "complete"):
        assert trial["feasible"] is (trial["quantities"]["perplexity"] <= limit)
    feasible = {trial["trial"]: trial["loss"] for trial in found["all"] if trial["feasible"]}
    assert 0 < len(feasible) < 7, "the test needs trials of both kinds"
    assert found["best"]["loss"] == min(feasible.values())
    given = {"data": str(tmp_path / "benchmarks"), "benchmarks": ("mmlu",), "best": 7}
    evaluate([study], given=given)
    rewritten(study, defaultdict(lambda: 0.6))  # so that there is a signal
    evaluate([study], given=given)
    chosen = select(study, Settings(draws=200))
    assert chosen.decision.standing is not None
    assert chosen.evidence.facts[chosen.decision.chosen or ""].trial in feasible
    told = {each["constraint"]: each for each in chosen.values["constraints"][chosen.decision.chosen]}
    assert told["perplexity <= baseline * 0.999"]["chance"] is None
    assert told["mmlu >= untuned - 0.9"]["fresh"]
    assert told["mmlu >= untuned - 0.9"]["items"] == 32
    assert told["mmlu >= untuned - 0.9"]["chance"] > 0.99
    assert any("violates `perplexity <= baseline * 0.999` and cannot be chosen" in note for note in chosen.notes)
    assert json.loads((study / "selection" / "selection.json").read_text())["constraints"]
    who_violates_a_constraint_cannot_win_a_race(study, given, found["all"])


def who_violates_a_constraint_cannot_win_a_race(
    study: Path, given: dict[str, Any], trials: list[dict[str, Any]]
) -> None:
    """The baseline among them, which is asked as what the others are compared with."""
    kept = [f"trial {trial['trial']}" for trial in trials if trial["feasible"]]
    broken = [f"trial {trial['trial']}" for trial in trials if trial["feasible"] is False]
    right = {"untuned": 0.3} | dict.fromkeys(kept, 0.5) | {kept[-1]: 0.6} | dict.fromkeys(broken, 0.9)
    rewritten(study, {name.replace(" ", "-"): share for name, share in right.items()} | {"trial-0": 0.5})
    said: list[Any] = []
    done = evaluate([study], given=given, race=DEFAULT, report=said.append)
    assert done.race is not None
    assert done.race.barred == dict.fromkeys(broken, ("perplexity <= baseline * 0.999",))
    assert "trial 0" in broken
    assert {row.name for row in done.tables[0].rows} == {*kept, "trial 0", "untuned"}
    assert {*done.race.first, *done.race.left} == set(kept)
    assert "trial 0 violates `perplexity <= baseline * 0.999`: it cannot win, and is asked as what" in " ".join(said)
    assert "cannot win, by the study's constraints: trial " in done.race.sentence
    chosen = select(study, Settings(draws=200))
    assert chosen.decision.chosen == kept[-1]
    assert f"{broken[-1]} could not win the race, since it violates" in " ".join(chosen.notes)
    out = [int(name.split()[1]) for name in broken]
    with pytest.raises(InputError, match="two ranked candidates that keep the constraints"):
        evaluate([study], given=given, trials=out, race=DEFAULT)
    evaluate([study], given=given, trials=out)
    with pytest.raises(InputError, match=r"every candidate \(trial .*\) violates a constraint"):
        select(study, Settings(draws=200))
