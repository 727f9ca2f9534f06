"""`meshtune init --from`: a study.yaml out of another tool's settings."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import BaseModel

from meshtune.config import file, presets
from meshtune.config.sections import DataConfig, StudyConfig, TrainerObjectiveConfig, TrainingConfig
from meshtune.config.template import DEFAULT, text
from meshtune.errors import InputError
from meshtune.export import foreign
from meshtune.export.foreign.init_from import init_from, put
from meshtune.export.foreign.init_tool import init_tool
from meshtune.study.check import check
from meshtune.system import yaml_file
from tests.export.foreign.inputs import AXOLOTL, INFO, LLAMAFACTORY, points, rows, study, trainings


def made(folder: Path, text_: str, **own: Any) -> tuple[StudyConfig, str]:
    (folder / "settings.yml").write_text(text_, encoding="utf-8")
    path, _ = init_from(folder / "settings.yml", folder / "new", own.get("model"), own.get("data"))
    return file.read(path), path.read_text(encoding="utf-8")


def test_from_axolotl(tmp_path: Path) -> None:
    config, written = made(tmp_path, AXOLOTL)
    assert config.model is not None
    assert config.data is not None
    assert config.model.name == "some-org/base-7b"
    assert config.baseline == {"rank": 32, "alpha": 16, "dropout": 0.05, "learning_rate": 2e-4}
    assert (config.training.epochs, config.training.batch_size, config.training.gradient_checkpointing) == (4, 2, True)
    assert (config.data.validation, config.data.test, config.data.max_length) == (0.05, 0.1, 4096)
    assert [source.format for source in config.data.sources] == ["alpaca", "sharegpt"]
    assert config.model.quantization == "nf4"
    assert "load_in_4bit" not in written
    assert "abc123" not in written
    start = presets.baseline(config.space, config.baseline, lora=True, training=config.training)
    assert start is not None
    assert start["rank"] == 32


def test_from_llamafactory(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "dataset_info.json").write_text(INFO)
    config, written = made(tmp_path, LLAMAFACTORY)
    assert config.data is not None
    assert config.baseline == {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-4}
    assert (config.data.train_on, config.data.validation, config.data.prompt) == ("last", 100, "chat")
    assert config.training.target_modules == ("q_proj", "v_proj")
    assert "# - num_train_epochs: 2.5 (epochs are whole here: 3 is taken)" in written
    assert not config.model or not config.model.trust_remote_code  # that is for the user to write


def test_model_and_data_of_ones_own(tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text('{"instruction": "a", "output": "b"}\n')
    config, _ = made(tmp_path, LLAMAFACTORY, model="embedded", data=data)
    assert config.model is not None
    assert config.data is not None
    assert config.model.name == "embedded"
    assert [source.path for source in config.data.sources] == [str(data)]
    assert (config.data.mixture, config.data.rows, config.data.prompt) == ("union", None, "auto")


def test_round_trip_of_a_whole_study(tmp_path: Path) -> None:
    found = study({"rank": 24, "alpha": 9.0}, training={"weight_decay": 0.5, "use_dora": True}, seed=7)
    config, _ = made(tmp_path, foreign.settings("axolotl", found))
    assert config.baseline == {"rank": 24, "alpha": 9, "dropout": 0.05, "learning_rate": 2e-4}
    assert (config.training.weight_decay, config.training.use_dora, config.seed) == (0.5, True, 7)


@settings(max_examples=25, deadline=None)
@given(point=points, training=trainings, sources=rows)
@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_any_settings_make_a_valid_study(
    tmp_path_factory: pytest.TempPathFactory,
    tool: str,
    point: dict[str, Any],
    training: dict[str, Any],
    sources: list[dict[str, Any]],
) -> None:
    folder = tmp_path_factory.mktemp("settings")
    for name, written in foreign.files(tool, study(point, {}, sources=sources, training=training)).items():
        (folder / name).write_text(written, encoding="utf-8")
    path, _ = init_from(folder / f"{tool}.yaml", folder, None, None)
    config = file.read(path)
    assert config.baseline == point
    assert config.training == TrainingConfig.model_validate(training)
    assert config.data is not None
    assert [source.format for source in config.data.sources] == [source["format"] for source in sources]


def test_check_accepts_it(tmp_path: Path, tiny_model_folder: Path) -> None:
    rows = "".join(f'{{"instruction": "say {n}", "output": "the number {n}"}}\n' for n in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    found = study(
        sources=[{"path": str(tmp_path / "rows.jsonl"), "format": "alpaca"}],
        model=str(tiny_model_folder),
        training={"precision": "float32"},
        facts={"prompt": "alpaca"},
    )
    (tmp_path / "settings.yml").write_text(
        foreign.settings("axolotl", found).replace("sequence_len: 1024", "sequence_len: 500")
    )
    path, _ = init_from(tmp_path / "settings.yml", tmp_path / "new", None, None)
    lines, facts = check(path)
    assert "no faults" in lines
    assert facts["baseline"]["rank"] == 16


def test_a_fault_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_text(AXOLOTL.replace("lora_r: 32", "lora_r: 0"))
    with pytest.raises(InputError, match="lora_r"):
        init_from(tmp_path / "settings.yml", tmp_path / "new", None, None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("section", "model"), [("data", DataConfig), ("training", TrainingConfig)])
def test_every_key_of_a_section_can_be_put(section: str, model: type[BaseModel]) -> None:
    """The text shows each key at its place, so that a value never lands in another section."""
    plain = text(replace(DEFAULT, advised=False)).splitlines()
    for key in set(model.model_fields) - {"sources", "trainer"}:
        lines = list(plain)
        put(lines, section, key, "value")
        (changed,) = [line for line, before in zip(lines, plain, strict=True) if line != before]
        assert changed.partition("#")[0].rstrip() == f"  {key}: value"
        inside = yaml_file.parse("\n".join(lines)).values[section]
        assert inside[key] == "value"
    with pytest.raises(ValueError, match="no line"):
        put(list(plain), section, "no_such_key", 1)


def test_a_section_that_is_commented_out_is_opened() -> None:
    lines = text(replace(DEFAULT, advised=False)).splitlines()
    for key, value in (("rank", 4), ("alpha", 0.5), ("dropout", 0.1), ("learning_rate", 1e-5)):
        put(lines, "baseline", key, value)
    put(lines, "", "seed", 3)
    values = yaml_file.parse("\n".join(lines)).values
    assert values["baseline"] == {"rank": 4, "alpha": 0.5, "dropout": 0.1, "learning_rate": 1e-5}
    assert values["seed"] == 3


def test_the_command_says_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_text(AXOLOTL)
    command = [sys.executable, "-m", "meshtune.cli", "init", str(tmp_path / "new"), "--from", "settings.yml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "not carried over:\n- " in done.stderr
    assert "- flash_attention: true (" in done.stderr
    assert "wrote " in done.stderr
    done = subprocess.run([*command, "--recipe", "default"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "`--recipe` and `--from`" in done.stderr


@pytest.mark.parametrize(
    ("trainer", "own"),
    [
        (
            "axolotl",
            "base_model: m\nadapter: lora\nlora_r: 12\nlora_alpha: 24\nlearning_rate: 1e-4\nval_set_size: 0.1\n",
        ),
        ("llamafactory", "model_name_or_path: m\nstage: sft\nlora_rank: 12\nlearning_rate: 1e-4\nval_size: 0.1\n"),
        (
            "trl-script",
            "model_name_or_path: m\nuse_peft: true\nlora_r: 12\nlearning_rate: 1e-4\neval_strategy: epoch\n",
        ),
        ("axolotl", "base_model: m\nrl: dpo\nlearning_rate: 1e-6\nval_set_size: 0.1\nseed: 7\n"),
    ],
)
def test_a_tool_may_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str, own: str) -> None:
    """In one step to a study that `check` accepts, but for the tool itself, which is not installed here."""
    (tmp_path / "own.yml").write_text(own)
    monkeypatch.chdir(tmp_path)
    path = init_tool(Path("own.yml"), Path("new"))
    config = file.read(path)
    assert isinstance(config.objective, TrainerObjectiveConfig)
    assert (config.objective.trainer, config.objective.config) == (trainer, str(tmp_path / "own.yml"))
    assert (config.objective.directory, config.seed) == (str(tmp_path), 7 if "seed" in own else 0)
    assert config.space == "recommended" or "dpo" in own
    command = 'command: [python3, "{config}"]' + " " * 5
    path.write_text(re.sub(r"(# )?command: \[.*", command, path.read_text()))
    lines, _ = check(path)
    its_own = {"trl-script": "rank 12 alpha 32 dropout 0.05 lr 1e-4"}.get(trainer, "rank 12 alpha 24 dropout 0 lr 1e-4")
    assert f"baseline   {its_own}" in lines or "lr 1e-6" in lines
    assert max(map(len, path.read_text().splitlines())) <= 120 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            "base_model: m\nadapter: lora\n",
            "own.yml: has no validation data, so there is no eval_loss to minimise: add",
        ),
        ("some: key\n", "own.yml: are no settings of Axolotl, LLaMA-Factory or TRL"),
    ],
)
def test_what_cannot_be_kept_has_one_message(tmp_path: Path, own: str, words: str) -> None:
    (tmp_path / "own.yml").write_text(own)
    with pytest.raises(InputError) as error:
        init_tool(tmp_path / "own.yml", tmp_path / "new")
    assert words in str(error.value)
    assert len(error.value.faults) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_file_says_which_one_is_wanted(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "own").mkdir()
    wrong = "is a folder" if there else "there is no such file"
    with pytest.raises(InputError, match=f"own: {wrong}; give the YAML of an Axolotl or LLaMA-Factory training"):
        init_from(tmp_path / "own", tmp_path / "new", None, None)
    with pytest.raises(InputError, match=f"own: {wrong}; give the YAML file of a training's settings"):
        init_tool(tmp_path / "own", tmp_path / "new")
