"""The example with TRL: its real `SFTTrainer` on the embedded model, a few steps a trial."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from meshtune.config import file
from meshtune.objectives.trainer import TrainerObjective, TrainerSpec
from meshtune.plan import plan
from meshtune.plan.locate import locate
from meshtune.study.status import status
from meshtune.study.tune import tune
from meshtune.trial import Ending, Outcome, Request

EXAMPLE = Path(__file__).parents[1] / "examples" / "trl_script"


def test_the_examples_study_is_valid() -> None:
    config = file.read(EXAMPLE / "study.yaml")
    built = plan.build(locate(EXAMPLE / "study.yaml"))
    assert config.objective.model_dump()["trainer"] == "trl-script"
    assert built.baseline == {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 2e-4}
    assert built.start is not None


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example with the embedded model, and few rows."""
    from meshtune.training.models import embedded_folder

    shutil.copytree(EXAMPLE, tmp_path / "example")
    settings = yaml.safe_load((EXAMPLE / "sft.yml").read_text())
    settings |= {"model_name_or_path": str(embedded_folder()), "num_train_epochs": 1, "max_length": 64}
    settings |= {"eval_strategy": "steps", "eval_steps": 0.5, "seed": 5}
    (tmp_path / "example" / "sft.yml").write_text(yaml.safe_dump(settings))
    rows = (EXAMPLE / "rows.jsonl").read_text().splitlines()[:10]
    (tmp_path / "example" / "rows.jsonl").write_text("\n".join(rows))
    command = [sys.executable, "train.py", "--config", "{config}"]
    study = yaml.safe_load((EXAMPLE / "study.yaml").read_text())
    study["objective"]["command"] = command
    (tmp_path / "example" / "study.yaml").write_text(yaml.safe_dump({**study, "budget": {"trials": 2}}))
    return tmp_path / "example"


@pytest.mark.slow
def test_trl_trains_and_meshtune_reads_its_losses(example: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    list(tune(locate(example / "study.yaml")))
    found = status(example / "study.yaml", trials=True)
    assert [trial["ending"] for trial in found["all"]] == ["complete", "complete"]
    for trial in found["all"]:
        folder = example / "study" / "trainer" / f"trial-{trial['trial']}"
        settings = yaml.safe_load((folder / "config.yml").read_text())
        assert settings["lora_r"] == trial["hyperparameters"]["rank"]
        assert json.loads((folder / "output" / "adapter_config.json").read_text())["r"] == settings["lora_r"]
        printed = (example / "study" / "logs" / f"trial-{trial['trial']}.out").read_text()
        assert len(trial["losses"]) == printed.count("'eval_loss'") == 2
        assert all(f"'eval_loss': '{loss:.4g}'" in printed for loss in trial["losses"])
        assert trial["loss"] == min(trial["losses"])
        assert trial["loss"] != float(f"{trial['loss']:.4g}")  # exactly, and not as it was printed
        assert trial["tokens"] > 0
    base = AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"], dtype=torch.float32)
    PeftModel.from_pretrained(base, str(example / "study" / found["best"]["adapter"]))


@pytest.mark.slow
def test_trl_is_ended_at_a_rung(example: Path) -> None:
    values = yaml.safe_load((example / "sft.yml").read_text())
    command = [sys.executable, "train.py", "--config", "{config}"]
    spec = TrainerSpec("trl-script", values, command, str(example / "study"), str(example), "best", True, True)
    point = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 1e-4}
    request = Request(0, point, seed=0, thresholds=((400, 1e-6),))
    (found,) = [event for event in TrainerObjective(spec).evaluate([request]) if isinstance(event, Outcome)]
    assert (found.ending, len(found.rungs)) == (Ending.STOPPED_EARLY, 1)
    assert found.loss == found.rungs[0][1]
