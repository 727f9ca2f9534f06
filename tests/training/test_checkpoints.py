"""Adapters on disk: PEFT's format, complete or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meshtune.errors import InputError, StorageError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted, attached, save_adapter, tensors
from meshtune.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def save(base: Any, folder: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    """A fresh adapter, saved."""
    with adapted(base, lora_config(base, recipe), recipe.seed) as model:
        weights = tensors(model)
        save_adapter(folder, weights, model.peft_config["default"], "some/model")
    return weights


def test_files(base: Any, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Two files, that say what the adapter is and which base it belongs to; the same adapter gives the same files."""
    weights = save(base, tmp_path / "adapters" / "3", make_recipe(rank=8, alpha=12.5, dropout=0.05))
    files = sorted(path.name for path in (tmp_path / "adapters" / "3").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "adapters" / "3" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 12.5, 0.05)
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("some/model", True)
    stored = load_file(tmp_path / "adapters" / "3" / "adapter_model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)
    assert len(weights) == 2 * 7 * 2  # A and B, of 7 linear layers, in 2 blocks: not of the head
    save(base, tmp_path / "again", make_recipe(rank=8, alpha=12.5, dropout=0.05))
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapters" / "3" / name).read_bytes()


def test_replaces_what_stands_there_and_clears_what_a_killed_process_left(
    base: Any, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Only the new adapter remains."""
    save(base, tmp_path / "3", make_recipe())
    for stale in (".3.part", ".3.old"):
        (tmp_path / stale).mkdir()
        (tmp_path / stale / "adapter_model.safetensors").write_bytes(b"half")
    weights = save(base, tmp_path / "3", make_recipe(rank=2))
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert load_file(tmp_path / "3" / "adapter_model.safetensors").keys() == weights.keys()
    with attached(base, tmp_path / "3") as model:
        assert model.peft_config["default"].r == 2


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_damaged_adapter_is_not_put_on_the_base(
    base: Any, make_recipe: MakeRecipe, tmp_path: Path, kept: int
) -> None:
    """So that nothing is measured, answered or merged with it; one message says what to do."""
    save(base, tmp_path / "3", make_recipe())
    weights = tmp_path / "3" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"adapter is damaged .*train it again"), attached(base, tmp_path / "3"):
        pass
    assert not hasattr(base, "peft_config")


def test_a_folder_that_cannot_be_written(base: Any, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Is one error of ours."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save(base, tmp_path / "file" / "3", make_recipe())
