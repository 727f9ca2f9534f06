"""Reading the settings of Axolotl and LLaMA-Factory."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtune.errors import InputError
from meshtune.export import foreign
from meshtune.export.foreign import Read
from meshtune.system import yaml_file
from tests.export.foreign.inputs import AXOLOTL, INFO, LLAMAFACTORY, points, rows, study, trainings

# Names that mean something below the keys of a file.
PARTS = [
    "path",
    "type",
    "data_files",
    "field_messages",
    "message_property_mappings",
    "columns",
    "tags",
    "messages",
    "file_name",
    "hf_hub_url",
    "formatting",
    "role",
    "subset",
    "prompt",
]

# Keys that are read and that the usual files do not have.
UNUSED = [
    "test_datasets",
    "chat_template",
    "chat_template_kwargs",
    "excess_length_strategy",
    "warmup_steps",
    "seed",
    "rl",
    "model_revision",
    "peft_init_lora_weights",
    "lora_target_modules",
    "eval_dataset",
    "mix_strategy",
    "interleave_probs",
    "enable_thinking",
    "max_samples",
    "pissa_init",
    "pissa_iter",
    "optim",
    "lora_alpha",
]


def put(folder: Path, text: str) -> Path:
    path = folder / "settings.yml"
    path.write_text(text, encoding="utf-8")
    return path


def why(found: Read) -> dict[str, str]:
    return {left.key: left.why for left in found.left}


def test_a_usual_axolotl_training(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}")
    found = foreign.read(put(tmp_path, AXOLOTL))
    assert found.tool == "axolotl"
    assert found.values == {
        "model": {"name": "some-org/base-7b", "quantization": "nf4"},
        "baseline": {"rank": 32, "alpha": 16, "dropout": 0.05, "learning_rate": 2e-4},
        "training": {
            "epochs": 4,
            "batch_size": 2,
            "gradient_accumulation": 4,
            "lr_scheduler": "cosine",
            "warmup_ratio": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "neftune_alpha": 0.0,
            "lora_plus_ratio": 16.0,
            "target_modules": "all-linear",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "gradient_checkpointing": True,
            "precision": "auto",
            "optimizer": "adamw",
        },
        "data": {
            "sources": [
                {"dataset": "some-org/instructions", "split": "train", "format": "alpaca"},
                {"path": str(tmp_path / "chats.jsonl"), "format": "sharegpt"},
            ],
            "mixture": "union",
            "prompt": "auto",
            "max_length": 4096,
            "train_on": "all",
            "validation": 0.05,
        },
    }
    assert set(why(found)) == {
        "sample_packing",
        "optimizer",
        "flash_attention",
        "warmup_steps",
        "wandb_api_key",
        "datasets",  # of two kinds
    }
    assert not any("abc123" in str(left) for left in found.left)  # a secret is not repeated


def test_a_usual_llamafactory_training(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "dataset_info.json").write_text(INFO)
    found = foreign.read(put(tmp_path, LLAMAFACTORY))
    assert found.tool == "llamafactory"
    assert found.values["baseline"] == {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-4}
    training = found.values["training"]
    assert (training["epochs"], training["batch_size"], training["gradient_accumulation"]) == (3, 1, 8)
    assert (training["target_modules"], training["precision"]) == (["q_proj", "v_proj"], "bfloat16")
    assert training["gradient_checkpointing"] is True  # which is on there unless it is switched off
    assert found.values["data"] == {
        "sources": [
            {"path": str(tmp_path / "rows" / "mine.json"), "format": "dolly"},
            {"dataset": "some-org/chats", "subset": "en", "format": "sharegpt"},
        ],
        "mixture": "union",
        "prompt": "chat",
        "max_length": 1024,
        "train_on": "last",
        "validation": 100,
    }
    assert set(why(found)) == {"trust_remote_code", "template", "num_train_epochs", "output_dir", "logging_steps"}


@pytest.mark.parametrize(
    ("lines", "quantization", "left"),
    [
        ("adapter: qlora", "nf4", ""),
        ("adapter: lora\nload_in_4bit: true", "nf4", ""),
        ("adapter: lora\nload_in_8bit: true", "int8", ""),
        ("adapter: lora\nload_in_8bit: false", None, ""),
        ("adapter: qlora\nbnb_4bit_use_double_quant: true", "nf4", "bnb_4bit_use_double_quant"),
        ("adapter: lora\ngptq: true", None, "gptq"),
    ],
)
def test_how_axolotl_quantizes_the_base(tmp_path: Path, lines: str, quantization: str | None, left: str) -> None:
    few = f"base_model: a/b\n{lines}\nlora_r: 4\nlora_alpha: 8\nlearning_rate: 1e-4\ndatasets: [{{path: c/d}}]\n"
    found = foreign.read(put(tmp_path, few))
    assert found.values["model"].get("quantization") == quantization
    assert {key for key in why(found) if key not in ("datasets", "datasets.0.type")} == ({left} if left else set())


@pytest.mark.parametrize(
    ("lines", "quantization", "left"),
    [
        ("quantization_bit: 4", "nf4", set()),
        ("quantization_bit: 8\nquantization_method: bitsandbytes", "int8", set()),
        ("quantization_bit: 4\nquantization_type: fp4", "nf4", {"quantization_type"}),
        ("quantization_bit: 4\ndouble_quantization: true", "nf4", {"double_quantization"}),
        ("quantization_bit: 4\nquantization_method: hqq", None, {"quantization_bit"}),
        ("quantization_bit: 2", None, {"quantization_bit"}),
    ],
)
def test_how_llamafactory_quantizes_the_base(
    tmp_path: Path, lines: str, quantization: str | None, left: set[str]
) -> None:
    few = f"model_name_or_path: a/b\nstage: sft\ndataset_dir: ONLINE\ndataset: c/d\n{lines}\n"
    found = foreign.read(put(tmp_path, few))
    assert found.values["model"].get("quantization") == quantization
    assert set(why(found)) == left


def test_what_is_not_named_has_the_tools_own_default(tmp_path: Path) -> None:
    few = "model_name_or_path: a/b\nstage: sft\ndataset_dir: ONLINE\ndataset: c/d\n"
    found = foreign.read(put(tmp_path, few)).values
    assert found["baseline"] == {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 5e-5}
    assert (found["training"]["epochs"], found["training"]["batch_size"]) == (3, 8)
    assert (found["training"]["lr_scheduler"], found["training"]["warmup_ratio"]) == ("linear", 0.0)
    few = "base_model: a/b\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlearning_rate: '1e-4'\ndatasets: [{path: c/d}]\n"
    found = foreign.read(put(tmp_path, few)).values
    assert found["baseline"]["learning_rate"] == 1e-4
    assert (found["training"]["epochs"], found["training"]["batch_size"]) == (1, 1)
    assert (found["data"]["max_length"], found["training"]["warmup_ratio"]) == (512, 0.03)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("adapter: qlora", "adapter: ", 3, "adapter: is not given; meshtune tunes LoRA"),
        ("adapter: qlora", "adapter: qlora\nrl: dpo", 4, "rl: is preference optimization"),
        ("lora_r: 32", "lora_r: 0", 18, "lora_r: `0` is not allowed; a whole number at least 1"),
        ("lora_dropout: 0.05", "lora_dropout: 2", 20, "lora_dropout: `2` is not allowed"),
        ("learning_rate: 0.0002", "learning_rate: fast", 27, "learning_rate: `fast` is not allowed"),
        ("num_epochs: 4", "num_epochs: .nan", 24, "num_epochs: `nan` is not allowed"),
        ("  - path: some-org/instructions", "  - paths: some-org/instructions", 5, "datasets.0: must be a mapping"),
        ("base_model: some-org/base-7b", "base_model: [a]", 1, "base_model: `"),
    ],
)
def test_a_fault_has_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in AXOLOTL
    path = put(tmp_path, AXOLOTL.replace(old, new))
    with pytest.raises(InputError) as raised:
        foreign.read(path)
    assert f"{path}:{line}: {message}" in str(raised.value)


def test_a_full_fine_tuning_has_one_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        foreign.read(put(tmp_path, "base_model: a/b\nlearning_rate: 1e-5\ndatasets: [{path: c/d, type: alpaca}]\n"))
    assert [fault.key for fault in raised.value.faults] == ["adapter"]


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = LLAMAFACTORY.replace("stage: sft", "stage: dpo").replace("cutoff_len: 1024", "cutoff_len: -1")
    with pytest.raises(InputError) as raised:
        foreign.read(put(tmp_path, text))
    assert [fault.key for fault in raised.value.faults] == ["stage", "dataset", "cutoff_len"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: embedded\n", "is neither Axolotl's"),
        ("model_name_or_path: a/b\nlora_r: 4\n", "is neither Axolotl's"),
        (
            "program: train.py\nmethod: bayes\nparameters: {lr: {min: 0, max: 1}}\n",
            "a sweep of Weights & Biases, .*command",
        ),
        ("base_model: [\n", "is not YAML"),
        ("", "is empty"),
        ("base_model: a\nbase_model: b\n", "the key stands twice"),
    ],
)
def test_what_is_no_settings_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        foreign.read(put(tmp_path, text))
    with pytest.raises(InputError, match="no such file"):
        foreign.read(tmp_path / "none.yml")


def test_a_script_is_told_to_be_tuned_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("from unsloth import FastLanguageModel\n")
    with pytest.raises(InputError, match=r"is a program, no file of settings: write .*command"):
        foreign.read(tmp_path / "train.py")


def test_rows_that_are_not_found_are_needed_unless_others_are_given(tmp_path: Path) -> None:
    path = put(tmp_path, LLAMAFACTORY)
    with pytest.raises(InputError, match=r"settings\.yml:11: dataset: names no rows that can be found.*--data FILE"):
        foreign.read(path)
    found = foreign.read(path, data=False)
    assert "sources" not in found.values["data"]
    assert {left.key for left in found.left} >= {"dataset"}


def test_every_part_of_a_llamafactory_data_set_is_used_or_left(tmp_path: Path) -> None:
    entries = json.loads(INFO)
    entries["mine"] |= {"num_samples": 50, "split": "train"}
    entries["mine"]["columns"] |= {"system": "system", "history": "before"}
    entries["theirs"] |= {"folder": "v2", "tags": {"user_tag": "human", "assistant_tag": "bot"}}
    entries["theirs"]["columns"] = {"messages": "conversations", "system": "system", "tools": "functions"}
    (tmp_path / "rows").mkdir()
    info = tmp_path / "rows" / "dataset_info.json"
    info.write_text(json.dumps(entries))
    found = foreign.read(put(tmp_path, LLAMAFACTORY))
    assert [source["format"] for source in found.values["data"]["sources"]] == ["dolly", "sharegpt"]
    assert {str(left) for left in found.left if left.key.startswith("dataset_info.json")} == {
        f"dataset_info.json: {part} (no counterpart in study.yaml)"
        for part in (
            "mine.num_samples: 50",
            "mine.columns.system: system",
            "mine.columns.history: before",
            "theirs.folder: v2",
            "theirs.columns.tools: functions",
            "theirs.tags.assistant_tag: bot",
        )
    }
    info.write_text(json.dumps({**entries, "theirs": {**entries["theirs"], "ranking": True}}))
    with pytest.raises(InputError, match=r"settings\.yml:11: dataset: `theirs` is preference data"):
        foreign.read(put(tmp_path, LLAMAFACTORY))


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_validation_rows_of_their_own_file_go_there_and_back(tmp_path: Path, tool: str) -> None:
    own = {"path": "/rows/held.jsonl", "format": "messages"}
    found = study(sources=[{"path": "/rows/all.jsonl", "format": "messages"}], data={"validation": own})
    for name, text in foreign.files(tool, found).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    read = foreign.read(tmp_path / f"{tool}.yaml").values["data"]
    assert read["validation"] == own
    assert read["sources"] == [{"path": "/rows/all.jsonl", "format": "messages"}]


def test_the_places_of_axolotls_rows(tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text("{}")
    entries = """datasets:
  - {path: here.jsonl, type: alpaca}
  - {path: json, data_files: [there/rows.jsonl], type: {field_instruction: q, field_output: a, format: "{instruction}"}}
  - {path: org/hub, name: en, type: sharegpt, shards: 4}
test_datasets:
  - {path: org/hub, split: test, type: alpaca}
"""
    text = "base_model: a/b\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlearning_rate: 1e-4\nmax_steps: 9\n" + entries
    found = foreign.read(put(tmp_path, text))
    assert found.values["data"]["sources"] == [
        {"path": str(tmp_path / "here.jsonl"), "format": "alpaca"},
        {"path": str(tmp_path / "there" / "rows.jsonl"), "format": "auto"},
        {"dataset": "org/hub", "subset": "en", "format": "sharegpt"},
    ]
    assert set(why(found)) == {"datasets", "datasets.1.type", "datasets.2.shards", "test_datasets", "max_steps"}
    remote = text.replace("path: org/hub, name", "path: s3://bucket/rows.jsonl, name")
    with pytest.raises(InputError, match=r"settings\.yml:10: datasets.2.path: `s3://bucket/rows.jsonl`: give a file"):
        foreign.read(put(tmp_path, remote))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["json", "lora", "/"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(PARTS), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from([AXOLOTL, LLAMAFACTORY]), changes=st.lists(st.tuples(st.integers(0, 60), anything), max_size=3)
)
def test_whatever_stands_in_the_file_is_a_value_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, text: str, changes: list[tuple[int, Any]]
) -> None:
    values = {**dict.fromkeys(UNUSED), **yaml_file.parse(text).values}
    entry: dict[str, Any] = {"mine": {"file_name": "x.json"}}
    for number, value in changes:
        places = [*((values, key) for key in values), (entry, "mine"), *((entry["mine"], part) for part in PARTS)]
        inside, key = places[number % len(places)]
        if isinstance(inside, dict):
            inside[key] = value
    folder = tmp_path_factory.mktemp("settings")
    (folder / "rows").mkdir()
    (folder / "rows" / "dataset_info.json").write_text(json.dumps(entry))
    with contextlib.suppress(InputError):
        found = foreign.read(put(folder, yaml_file.dump(values)))
        assert {"rank", "alpha", "dropout", "learning_rate"} == set(found.values["baseline"])
        assert all(str(left) for left in found.left)


@settings(max_examples=40, deadline=None)
@given(point=points, training=trainings, sources=rows, train_on=st.sampled_from(["all", "everything"]), data=st.data())
@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    tool: str,
    point: dict[str, Any],
    training: dict[str, Any],
    sources: list[dict[str, Any]],
    train_on: str,
    data: st.DataObject,
) -> None:
    validation = data.draw(st.integers(2, 500) | st.floats(0.01, 0.5))
    folder = tmp_path_factory.mktemp("settings")
    section = {"train_on": train_on, "validation": validation}
    facts = {"prompt": "alpaca" if "dolly" in str(sources) else "chat"}
    found = study(point, facts, sources=sources, data=section, training=training, seed=data.draw(st.integers(0, 99)))
    for name, text in foreign.files(tool, found).items():
        (folder / name).write_text(text, encoding="utf-8")
    back = foreign.read(folder / next(iter(foreign.files(tool, found))))
    assert back.tool == tool
    assert back.values["baseline"] == point
    assert back.values["training"] == training
    assert back.values["seed"] == found.recipe.seed
    assert back.values["model"] == {"name": "some-org/base-7b"}
    read = back.values["data"]
    assert (read["max_length"], read["train_on"], read["validation"]) == (1024, train_on, validation)
    plain = [{"split": "train", **source} if "dataset" in source else source for source in sources]
    assert read["sources"] == plain
    if facts["prompt"] == "alpaca":
        assert read["prompt"] == "alpaca"
