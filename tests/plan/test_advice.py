"""The advice for a study, by its model, data and training."""

import json
from pathlib import Path

import pytest

from meshtune.config import file
from meshtune.errors import InputError
from meshtune.plan.advice import FIRST, advice_for, ranks_of
from meshtune.plan.locate import locate
from meshtune.plan.plan import build
from meshtune.record.log import Record
from meshtune.study.check import check
from tests.priors.test_runs import TASK
from tests.test_kill_lora import lora_study


def advised_study(folder: Path, model: Path) -> Path:
    path = lora_study(folder, model)
    text = path.read_text()
    assert "baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}" in text
    path.write_text(text.replace("baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}", "baseline: advised"))
    return path


def test_check_prints_it_with_ranks_of_the_space(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    lines, facts = check(path, measure=False)
    advice = facts["advice"]
    assert advice["start"]["rank"] == 16
    assert "hidden size 32, known 576 to 7,168" in advice["rests_on"]
    assert f"rests on: {advice['rests_on']}" in " ".join(lines.split())
    assert max(len(line) for line in lines.splitlines() if line.startswith(" ")) < 130
    assert lines.index("\nbaseline ") < lines.index("\nadvice ") < lines.index("\nsampler ")


@pytest.mark.parametrize(
    ("rank", "ranks"),
    [
        *[("[8, 24]", {8, 24}), ("12", {12}), ("{low: 20, high: 30}", {30}), ("{low: 200, high: 300}", {200})],
        *[("{low: 8, high: 100}", {8, 16, 64}), ("[300, 400]", {300}), ("[2, 4]", {2, 4})],
    ],
)
def test_ranks_outside_the_space_are_not_advised(
    rank: str, ranks: set[int], tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = advised_study(tmp_path / "lora", tiny_model_folder)
    path.write_text(path.read_text().replace("rank: {low: 2, high: 16, power_of: 2}", f"rank: {rank}"))
    plan = build(study := locate(path))
    found = advice_for(study.config, plan.space, plan.training)
    assert found is not None
    assert {found.start["rank"]} <= {point["rank"] for point in (found.start, *found.portfolio)} <= ranks
    assert found.start["rank"] == max(ranks)
    assert plan.baseline is not None
    assert plan.baseline["rank"] == max(ranks)
    assert plan.start is not None, "the baseline is a trial of the search"


def test_files_of_ones_own_lie_beside_the_study_and_their_faults_are_said(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    path.write_text(path.read_text() + "priors: [ours.jsonl]\n")
    ours = path.with_name("ours.jsonl")
    assert file.read(path).priors == (str(ours),)
    ours.write_text(json.dumps({**TASK, "family": "llama"}) + "\n")
    plan = build(study := locate(path))
    found = advice_for(study.config, plan.space, plan.training)
    assert found is not None
    assert "1 of llama" in found.rests_on
    ours.write_text("{}\n[]\n")
    with pytest.raises(InputError) as raised:
        check(path, measure=False)
    assert {fault.line for fault in raised.value.faults} == {1, 2}


@pytest.mark.parametrize(
    "override", ["training.use_rslora=true", "training.target_modules=[q_proj]", "training.lora_plus_ratio=2"]
)
def test_there_is_none_for_adapters_of_another_kind(override: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    study = locate(lora_study(tmp_path / "lora", tiny_model_folder), overrides=(override,))
    plan = build(study)
    assert advice_for(study.config, plan.space, plan.training) is None
    assert ranks_of(plan.space) == (4, 8, 16)


def test_the_advised_baseline_is_its_start_and_stays_on_a_resume(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = advised_study(tmp_path / "lora", tiny_model_folder)
    study = locate(path)
    plan = build(study)
    found = advice_for(study.config, plan.space, plan.training)
    assert found is not None
    assert plan.baseline == found.start == plan.fixed["baseline"]
    assert plan.start is not None
    assert plan.known is not None
    assert len(plan.known.points) == FIRST
    assert plan.fixed["known"] == plan.known.to_json()
    lines, _ = check(path, measure=False)
    assert lines.count("\n           next: rank ") == FIRST
    fewer = {**plan.known.to_json(), "points": list(plan.known.points[:1])}
    other = {**plan.fixed, "baseline": {**found.start, "learning_rate": 5e-4}, "known": fewer}
    study.folder.mkdir(exist_ok=True)
    Record(study.url, study.name, plan.space, fixed=other)
    resumed = build(locate(path))
    assert resumed.baseline == other["baseline"]
    assert resumed.known is not None
    assert resumed.known.to_json() == fewer


def test_a_study_that_began_when_the_search_knew_nothing_goes_on_so(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = advised_study(tmp_path / "lora", tiny_model_folder)
    study = locate(path)
    plan = build(study)
    study.folder.mkdir(exist_ok=True)
    Record(study.url, study.name, plan.space, fixed={name: key for name, key in plan.fixed.items() if name != "known"})
    resumed = build(locate(path))
    assert resumed.known is None
    assert resumed.baseline == plan.baseline


def test_what_the_space_fixes_stays_and_the_rate_moves_with_alpha(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    text = path.read_text().replace("baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}", "baseline: advised")
    path.write_text(text.replace("space: {rank", "space: {alpha: 16, rank"))
    study = locate(path)
    plan = build(study)
    found = advice_for(study.config, plan.space, plan.training)
    assert found is not None
    assert plan.baseline is not None
    assert plan.baseline["alpha"] == 16
    assert plan.baseline["learning_rate"] == pytest.approx(2 * found.start["learning_rate"])


@pytest.mark.parametrize(
    ("word", "override", "said"),
    [
        ("adviced", "seed=0", "Did you mean `advised`"),
        ("advised", "training.use_rslora=true", "nothing can be advised: .*rsLoRA does not; write common"),
    ],
)
def test_another_word_or_nothing_known_is_a_fault(
    word: str, override: str, said: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    path.write_text(
        path.read_text().replace("baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}", f"baseline: {word}")
    )
    with pytest.raises(InputError, match=said):
        build(locate(path, overrides=(override,)))
