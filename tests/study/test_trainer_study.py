"""Whole studies whose trials another tool trains: the program of `tests/objectives/test_trainer.py` stands for it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtune.errors import InputError, StudyMismatch
from meshtune.export.export import export
from meshtune.plan import plan
from meshtune.plan.locate import locate
from meshtune.report.sentences import load_lines
from meshtune.study.status import status
from meshtune.study.tune import tune
from meshtune.workers.planner import program_specs
from tests.objectives.test_trainer import TOOL, VALUES

SPACE = {"rank": {"low": 4, "high": 64, "power_of": 2}, "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}


def written(folder: Path, own: dict[str, Any] | None = None, **study: Any) -> Path:
    (folder / "tool.py").write_text(TOOL)
    (folder / "own.yml").write_text(yaml.safe_dump({**VALUES["axolotl"], **(own or {})}))
    command = [sys.executable, "tool.py", "{config}", "axolotl"]
    objective = {"trainer": "axolotl", "config": "own.yml", "command": command, **study.pop("objective", {})}
    values = {"space": SPACE, "budget": {"trials": 5}, "sampler": "random", "worker": {"processes": 2}, **study}
    (folder / "study.yaml").write_text(json.dumps({"objective": objective, **values}))
    return folder / "study.yaml"


def test_a_study(tmp_path: Path) -> None:
    """The file's own values are trained too, outside the space; the best few keep what the tool saved."""
    space = {**SPACE, "extra": [1, 2]}
    path = written(tmp_path, {"lora_r": 12, "extra": 3}, space=space, training={"keep_adapters": 2})
    list(tune(locate(path)))
    found = status(path, trials=True)
    assert (found["trials"]["complete"], found["objective"]) == (5, "command")
    assert found["baseline"]["hyperparameters"] == {
        **{"rank": 12, "alpha": 16, "dropout": 0.0, "learning_rate": 0.01, "extra": 3}
    }
    assert found["baseline"]["loss"] == 1 + 1 / 28
    kept = {trial["trial"] for trial in sorted(found["all"], key=lambda trial: trial["loss"])[:2]}
    folder = tmp_path / "study" / "trainer"
    assert {n for n in range(5) if (folder / f"trial-{n}" / "output" / "adapter_config.json").exists()} == kept
    assert (folder / "baseline" / "output").exists()
    for trial in found["all"]:
        made = yaml.safe_load((folder / f"trial-{trial['trial']}" / "config.yml").read_text())
        assert (made["lora_r"], made["extra"]) == tuple(trial["hyperparameters"][n] for n in ("rank", "extra"))
    with pytest.raises(InputError, match=r"saved them itself: the best adapter is .*trial-\d/output"):
        export(path, tmp_path / "out")


def test_what_is_no_adapter_is_not_said_to_be_one(tmp_path: Path) -> None:
    for what, adapter in (("nothing", True), ("whole", False)):
        (tmp_path / what).mkdir()
        path = written(tmp_path / what, {"do": what}, budget={"trials": 2})
        list(tune(locate(path)))
        found = status(path, trials=True)
        assert (found["best"]["adapter"] is not None) == adapter
        assert all((path.parent / "study" / trial["adapter"]).is_dir() for trial in found["all"])  # they stay there
        assert (load_lines(found) is not None) == adapter


def test_its_file_must_not_change(tmp_path: Path) -> None:
    path = written(tmp_path, budget={"trials": 1})
    list(tune(locate(path)))
    written(tmp_path, {"weight_decay": 0.1}, budget={"trials": 2})
    with pytest.raises(StudyMismatch, match="objective"):
        list(tune(locate(path)))


def test_trials_end_early(tmp_path: Path) -> None:
    """What has no chance is stopped; where the program was faster than the decision, all the same."""
    path = written(
        tmp_path,
        early_stopping={"rule": "asha", "rungs": [0.25], "startup": 3},
        space={**SPACE, "learning_rate": [0.02, 0.021, 0.019, 0.5, 0.6]},
        sampler={"name": "grid", "block_size": 1},
        worker={"processes": 1},
        budget={"trials": 12},
    )
    list(tune(locate(path)))
    found = status(path, trials=True)
    stopped = [trial for trial in found["all"] if trial["ending"] == "stopped_early"]
    assert stopped
    assert all(len(trial["rungs"]) == 1 for trial in found["all"])
    assert not any((tmp_path / "study" / "trainer" / f"trial-{one['trial']}" / "output").exists() for one in stopped)
    assert found["best"]["trial"] not in [one["trial"] for one in stopped]


@pytest.mark.parametrize(
    ("own", "study", "words"),
    [
        (
            {"val_set_size": 0},
            {},
            r"own.yml: has no validation data, so there is no eval_loss to minimise: add `val_set",
        ),
        ({}, {"space": {"lerning_rate": [1, 2]}}, "no key of this file: add it there .* Did you mean `learning_rate`"),
        ({"max_steps": 9}, {"early_stopping": "asha"}, "counts `max_steps`: rungs are shares of epochs"),
        ({"num_epochs": 1, "evals_per_epoch": 1}, {"early_stopping": "asha"}, "evaluates at the end alone: add"),
        ({}, {"objective": {"command": ["none-such", "{config}"]}}, "there is no program `none-such`"),
        (
            {},
            {"objective": {"command": [sys.executable, "{config}", "--seed=3"]}},
            "`--seed` on the command line stands above",
        ),
        ({}, {"objective": {"command": [sys.executable, "tool.py"]}}, r"`command` must hold \{config\}"),
        ({}, {"objective": {"trainer": "axolotol"}}, "Did you mean `axolotl`"),
        ({}, {"space": {"rank": [8, 16.5]}}, "a whole number"),
        ({}, {"space": {"lr_scheduler": ["cosine", "wsd"]}}, "`wsd` needs a number of steps there"),
        ({}, {"baseline": {"extra": 3}}, "baseline.extra: unknown"),
        ({"adapter": None}, {}, "trains no LoRA adapter, so `rank` of the space would change nothing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, own: Any, study: Any, words: str) -> None:
    path = written(tmp_path, own, **study)
    with pytest.raises(InputError, match=words) as error:
        plan.build(locate(path))
    assert len(error.value.faults) == 1


def test_each_program_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run on one: what a process sees is in its environment."""
    from meshtune.config.sections import WorkerConfig

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")

    def seen(**values: Any) -> list[str]:
        return [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in program_specs(WorkerConfig(**values))]

    assert seen() == ["4", "5", "6"]
    assert seen(devices_per_trial=2) == ["4,5"]
    assert seen(processes=2) == ["4", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert seen() == [""]
