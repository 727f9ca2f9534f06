"""What is chosen for the machine of the first run and stays: tokens of a pass, gradient checkpointing."""

from pathlib import Path

import pytest

from meshtune.errors import StudyMismatch
from meshtune.plan.locate import existing, locate
from meshtune.plan.plan import build
from meshtune.record.log import Record
from meshtune.study.check import check
from meshtune.study.loop import Opened
from meshtune.study.tune import tune
from tests.test_kill_lora import lora_study


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return lora_study(tmp_path / "study", tiny_model_folder)


def test_with_room_for_the_usual_nothing_is_fixed(study: Path) -> None:
    plan = build(locate(study))
    assert plan.objective.spec["training"]["pass_tokens"] is None
    assert "pass_tokens" not in plan.fixed["training"]


def test_what_the_config_says_is_used_and_said(study: Path) -> None:
    lines, facts = check(study, overrides=("training.pass_tokens=300",), measure=False)
    assert "passes of 300 tokens, where 1,024 would be faster; `training.gradient_checkpointing: true`" in lines
    assert facts["fixed"]["training"]["pass_tokens"] == facts["memory"]["pass_tokens"] == 300


def test_what_was_recorded_stays(study: Path) -> None:
    """Although there is room for more now; a config that says otherwise is refused."""
    located = locate(study)
    plan = build(located)
    fixed = {**plan.fixed, "block_size": 6, "training": {**plan.fixed["training"], "pass_tokens": 512}}
    Record(located.url, located.folder.name, plan.space, fixed=fixed)
    again = build(located)
    assert again.fixed["training"]["pass_tokens"] == 512
    assert again.objective.spec["training"]["pass_tokens"] == 512
    assert again.fixed["model"]["dtype"] == "auto"
    with pytest.raises(StudyMismatch, match="pass_tokens"):
        list(tune(locate(study, overrides=("training.pass_tokens=256",))))


def test_the_type_that_a_large_base_had_on_a_gpu_stays(study: Path) -> None:
    """Also where there is none now; and in the config that later commands read."""
    located = locate(study, overrides=("budget.trials=1", "training.epochs=1", "data.test=0", "generation.rows=0"))
    plan = build(located)
    fixed = {**plan.fixed, "model": {**plan.fixed["model"], "dtype": "bfloat16"}, "validation_precision": "bfloat16"}
    Record(located.url, located.folder.name, plan.space, fixed=fixed)
    again = build(located)
    assert again.fixed == fixed
    assert again.objective.spec["model"]["dtype"] == "bfloat16"
    events = tune(located)
    assert any(isinstance(event, Opened) for event in events)
    events.close()
    begun = existing(located.folder).config.model
    assert begun is not None
    assert begun.dtype == "bfloat16"


def test_checkpoints_that_were_recorded_stay(study: Path) -> None:
    """Whatever there is room for now."""
    located = locate(study)
    plan = build(located)
    fixed = {**plan.fixed, "training": {**plan.fixed["training"], "gradient_checkpointing": True}}
    Record(located.url, located.folder.name, plan.space, fixed=fixed)
    again = build(located)
    assert again.fixed["training"]["gradient_checkpointing"] is True
    assert again.objective.spec["training"]["gradient_checkpointing"] is True
