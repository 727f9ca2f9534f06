"""Merging: the written model has the adapter's loss, whatever kind of adapter it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import ModelConfig
from meshtune.errors import StorageError
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.chosen_trainer import retrain
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.merge import merge
from meshtune.training.models import load_model
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint
from meshtune.training.trainer import train

MakeRecipe = Callable[..., Recipe]


def adapter(base: Any, rows: list[Row], recipe: Recipe, folder: Path) -> Path:
    """A trained adapter on disk."""
    done = retrain(
        base,
        rows,
        None,
        recipe,
        at="last",
        trainer=train,
        saves=False,
        checkpoint=Checkpoint(folder / "checkpoint", None, lambda: False),
        report=lambda event: None,
    )
    save_adapter(folder / "adapter", done.trained.weights, done.trained.config, base.name_or_path)
    return folder / "adapter"


@pytest.mark.parametrize("kind", [{}, {"use_dora": True, "use_rslora": True}])
def test_the_written_model_has_the_adapters_loss(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    kind: dict[str, bool],
) -> None:
    made = adapter(base, train_rows, make_recipe({**kind, "epochs": 1}, dropout=0.1), tmp_path)
    with attached(base, made):
        on_base = mean_loss(row_losses(base, validation_rows))
    (tmp_path / "merged").mkdir()
    told: list[str] = []
    merged = merge(
        ModelConfig(name=base.name_or_path),
        made,
        tmp_path / "merged",
        device="cpu",
        rows=validation_rows,
        adapter_loss=None,
        report=told.append,
    )
    assert merged.adapter_loss == on_base
    assert merged.loss == pytest.approx(on_base, abs=1e-5)
    assert merged.loss != pytest.approx(mean_loss(row_losses(base, validation_rows)), abs=1e-2)  # the base's is another
    assert told == ["loading the base model", "measuring the adapter", "merging", "measuring the merged model"]
    config = (tmp_path / "merged" / "config.json").read_text()
    assert json.loads(config)["dtype"] == "float32"
    assert base.name_or_path not in config


def test_a_generation_config_that_transformers_would_not_write(
    base: Any, train_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Some models sample at a temperature and forget to say that they sample."""
    folder = tmp_path / "model"
    shutil.copytree(base.name_or_path, folder)
    values = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**values, "temperature": 0.6, "do_sample": False}))
    model = ModelConfig(name=str(folder))
    made = adapter(load_model(model, "cpu"), train_rows, make_recipe({"epochs": 1}), tmp_path)
    (tmp_path / "merged").mkdir()
    merge(model, made, tmp_path / "merged", device="cpu", rows=None, adapter_loss=None, report=lambda text: None)
    written = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (written["temperature"], written["do_sample"]) == (0.6, True)


def test_a_folder_that_cannot_be_written(
    base: Any, train_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    made = adapter(base, train_rows, make_recipe({"epochs": 1}), tmp_path)
    (tmp_path / "merged" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written"):
        merge(
            ModelConfig(name=base.name_or_path),
            made,
            tmp_path / "merged",
            device="cpu",
            rows=None,
            adapter_loss=None,
            report=lambda text: None,
        )
