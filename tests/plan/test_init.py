"""`meshtune init` begins with what is advised, and with the usual start where nothing is; the file says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.config import file, presets
from meshtune.config.sections import StudyConfig
from meshtune.plan.advice import no_advice
from meshtune.plan.init import init


def config(folder: Path, values: dict[str, Any]) -> StudyConfig:
    base = {"model": "embedded", "data": {"sources": [{"embedded": "python-stdlib-describe"}]}, "budget": {"trials": 1}}
    return file.parse({**base, **values}, folder)


def why(found: StudyConfig, *, fetched: bool = True) -> str | None:
    return no_advice(found, presets.build(found.space, lora=True), fetched=fetched)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, None),
        ({"training": {"target_modules": ["q_proj", "v_proj"]}}, "adapters on all linear layers"),
        ({"space": {"target_modules": [["q_proj", "v_proj"]], "step": [0.01, 0.02]}}, "adapters on all linear layers"),
        ({"training": {"use_rslora": True}}, "rsLoRA does not"),
        ({"space": {"use_rslora": True, "step": [0.01, 0.02]}}, "rsLoRA does not"),
        ({"training": {"use_dora": True}}, "none of the known runs is of DoRA"),
        ({"model": "model.gguf"}, "a .gguf file has no config.json"),
        ({"model": "nobody/has-this"}, "the hub's cache on this machine has no such model"),
    ],
)
def test_why_nothing_can_be_advised(values: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    found = why(config(tmp_path, values))
    assert found is None if said is None else found is not None and said in found


def test_a_model_that_is_still_to_be_fetched_may_have_a_config(tmp_path: Path) -> None:
    assert why(config(tmp_path, {"model": "nobody/has-this"}), fetched=False) is None


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"hidden_size": 64, "model_type": "nobody-knows-it"}, "advised"),  # of an unknown family the constant is
        ({"model_type": "nobody-knows-it"}, "common"),
    ],
)
def test_a_folder_is_advised_by_its_config(facts: dict[str, Any], word: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(facts))
    path = init(tmp_path / "study", None, str(tmp_path / "model"), None)
    assert file.read(path).baseline == word
    assert ("the model's config has no hidden size" in path.read_text()) == (word == "common")


@pytest.mark.parametrize(
    ("recipe", "model", "word", "said"),
    [
        (None, None, "advised", "# what `meshtune advise` says for this model and data"),
        (None, "org/name", "advised", "# what `meshtune advise` says for this model and data"),
        ("quickstart", None, "advised", "# what `meshtune advise` says for this model and data"),
        ("tribes2024", None, "common", "# the known runs have adapters on all linear layers"),
        (None, "org/name.gguf", "common", "# a .gguf file has no config.json that tells the model's size\n"),
    ],
)
def test_the_file_says_which_and_why(
    recipe: str | None, model: str | None, word: str, said: str, tmp_path: Path
) -> None:
    path = init(tmp_path, recipe, model, None)
    assert file.read(path).baseline == word
    assert said in path.read_text()
    assert max(map(len, path.read_text().splitlines())) <= 120 + len(str(tmp_path))
