"""`meshtune init`: every recipe is valid as written and explains every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from meshtune.config import file, presets
from meshtune.config.sections import Interval, LoraObjectiveConfig, StudyConfig
from meshtune.config.template import RECIPES, text
from meshtune.errors import InputError, StorageError
from meshtune.plan.init import init
from meshtune.space.hyperparameters import LORA
from meshtune.space.space import Parameter


@pytest.mark.parametrize("recipe", [*RECIPES, None])
def test_a_recipe_is_valid_as_written(tmp_path: Path, recipe: str | None) -> None:
    path = init(tmp_path / "new" / "folder", recipe, None, None)
    assert path == tmp_path / "new" / "folder" / "study.yaml"
    config = file.read(path)
    space = presets.build(config.space, lora=True)
    start = presets.baseline(config.space, config.baseline, lora=True, training=config.training)
    assert start is not None
    assert space.contains(start)
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_is_shown(recipe: str) -> None:
    words = set(re.findall(r"\w+", text(RECIPES[recipe])))
    assert {f.alias or name for section in _sections(StudyConfig) for name, f in section.model_fields.items()} <= words
    assert set(LORA) <= words
    assert max(map(len, text(RECIPES[recipe]).splitlines())) <= 120


def test_the_commented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Uncommenting a default changes nothing."""
    path = init(tmp_path, None, None, None)
    before = file.read(path)
    written = path.read_text()
    lines = written.splitlines()
    defaults = [i for i, line in enumerate(lines) if re.match(r"(  )?# [a-z_]+: +[^\s#][^#]*( #|$)", line)]
    defaults = [
        i for i in defaults if not lines[i].startswith(("# objective", "# space", "# baseline", "# warm_start"))
    ]
    assert len(defaults) > 20
    for index in defaults:
        lines[index] = lines[index].replace("# ", "", 1)
    path.write_text("\n".join(lines))
    assert file.read(path) == before


def test_tribes2024_is_the_authors_setting(tmp_path: Path) -> None:
    config = file.read(init(tmp_path, "tribes2024", None, None))
    assert config.data is not None
    assert [(s.dataset, s.share) for s in config.data.sources] == [
        ("tatsu-lab/alpaca", 0.7),
        ("databricks/databricks-dolly-15k", 0.3),
    ]
    assert (config.data.mixture, config.data.prompt, config.data.max_length) == ("repeat", "alpaca", 512)
    training = config.training
    assert training.batch_size * training.gradient_accumulation == 128
    assert (training.epochs, training.lr_scheduler, training.warmup_ratio) == (3, "cosine", 0.03)
    assert (training.weight_decay, training.target_modules) == (0.0, ("q_proj", "v_proj"))
    assert config.objective == LoraObjectiveConfig(at="last")
    assert (config.space, config.budget.trials) == ("tribes2024-128", 50)
    evaluation = config.evaluation
    assert (evaluation.best, evaluation.worst, evaluation.protocol) == (10, 10, "instruct-eval")
    assert evaluation.benchmarks == ("mmlu", "bbh", "drop", "humaneval")


def test_quickstart_has_12_trials_or_more(tmp_path: Path) -> None:
    config = file.read(init(tmp_path, "quickstart", None, None))
    assert config.sampler.name == "auto"
    assert config.budget.trials is not None
    assert config.budget.trials >= 12
    space = presets.build(config.space, lora=True)
    assert [d.name for d in space.dimensions] == [d.name for d in presets.recommended().dimensions]
    assert space.dimensions[0].parameter == Parameter("rank_log2", "int", 2, 5)
    assert space.dimensions[1:] == presets.recommended().dimensions[1:]
    assert not space.fixed


def test_model_and_data_are_taken_over(tmp_path: Path) -> None:
    data = tmp_path / 'my "rows": ü.jsonl'
    data.write_text("{}")
    (tmp_path / "model").mkdir()
    config = file.read(init(tmp_path / "s", None, str(tmp_path / "model"), data))
    assert config.model is not None
    assert config.data is not None
    assert config.model.name == str(tmp_path / "model")
    assert [source.path for source in config.data.sources] == [str(data)]
    assert config.data.mixture == "union"
    config = file.read(init(tmp_path / "t", None, "org/name", None))
    assert config.model is not None
    assert config.model.name == "org/name"


def test_what_is_refused(tmp_path: Path) -> None:
    path = init(tmp_path, None, None, None)
    before = path.read_text()
    with pytest.raises(InputError, match=r"study\.yaml is there already"):
        init(tmp_path, "quickstart", None, None)
    assert path.read_text() == before
    with pytest.raises(InputError, match=r"unknown recipe `tribes`.*Did you mean `tribes2024`\?"):
        init(tmp_path / "a", "tribes", None, None)
    with pytest.raises(InputError, match=r"no such file"):
        init(tmp_path / "a", None, None, tmp_path / "none.json")
    with pytest.raises(StorageError, match="cannot be written"):
        init(path / "inside-a-file", None, None, None)
    assert not (tmp_path / "a").exists()


def _sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        for found in _classes((field.annotation, *field.metadata)):
            yield from _sections(found)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in annotation if isinstance(annotation, tuple) else get_args(annotation):
        yield from _classes(inner)


def test_the_test_sees_all_sections() -> None:
    assert Interval in set(_sections(StudyConfig))
    assert len(set(_sections(StudyConfig))) == 22
