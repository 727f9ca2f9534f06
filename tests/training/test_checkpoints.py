"""Adapters on disk: PEFT's format, complete or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError, StorageError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted, attached, is_whole, name_base, save_adapter, saved, tensors
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


def test_a_flipped_bit_is_found_wherever_it_counts(base: Any, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """In the weights, in their header, and in the configuration: what still loads is what was saved."""
    folder = tmp_path / "3"
    weights = save(base, folder, make_recipe(rank=1))
    scale = {key: json.loads((folder / "adapter_config.json").read_text())[key] for key in ("r", "lora_alpha")}
    refused = 0
    for name, apart in (("adapter_model.safetensors", 397), ("adapter_config.json", 67)):
        path = folder / name
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), apart):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                read = saved(folder)
            except ValueError:
                refused += 1
                continue
            assert read.keys() == weights.keys(), bit
            assert all(torch.equal(read[key], weights[key]) for key in weights), bit
            config = json.loads((folder / "adapter_config.json").read_text())
            assert {key: config[key] for key in scale} == scale, bit
        path.write_bytes(whole)
    assert refused > 50
    assert is_whole(folder)


def test_adapters_without_a_sum_and_those_whose_base_was_renamed_open(
    base: Any, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Of earlier versions, and of PEFT itself; and an exported one, whose base is called by another name."""
    weights = save(base, tmp_path / "3", make_recipe())
    name_base(tmp_path / "3", ModelConfig(name="another/name", revision="abc"))
    assert is_whole(tmp_path / "3")
    with safe_open(tmp_path / "3" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata().keys() == {"format", "sha256"}
    with attached(base, tmp_path / "3") as model:
        model.save_pretrained(str(tmp_path / "by PEFT"), save_embedding_layers=False)
    save_file(dict(weights), tmp_path / "3" / "adapter_model.safetensors", metadata={"format": "pt"})
    for name in ("3", "by PEFT"):
        with attached(base, tmp_path / name):
            pass


def test_a_folder_that_cannot_be_written(base: Any, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Is one error of ours."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save(base, tmp_path / "file" / "3", make_recipe())
