"""Settings for other tools: known names, the values, and what is said to be different."""

import ast
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler

from meshtune.errors import InputError
from meshtune.export import foreign
from meshtune.system import yaml_file
from tests.data.made import make_tokenizer
from tests.export.foreign.inputs import FACTS, config, known, study

EVERY_FORMAT = [
    {"dataset": "some-org/rows", "subset": "en", "format": "alpaca", "share": 0.25},
    {"path": "/rows/dolly.jsonl", "format": "dolly", "share": 0.25},
    {"path": "/rows/asked.csv", "format": "prompt-completion", "share": 0.2},
    {"path": "/rows/chat.parquet", "format": "messages", "share": 0.2},
    {"path": "/rows/chat.jsonl.gz", "format": "sharegpt", "share": 0.1},
]
RICH: dict[str, Any] = {
    "sources": EVERY_FORMAT,
    "model": {"name": "some-org/base-7b", "revision": "abc", "trust_remote_code": True},
    "data": {
        "mixture": "cap",
        "rows": 500,
        "split_by": "user",
        "train_on": "last",
        "template_arguments": {"enable_thinking": False, "other": 1},
    },
    "training": {
        "use_rslora": True,
        "use_dora": True,
        "init_lora_weights": "pissa",
        "target_modules": ["q_proj", "v_proj"],
        "lr_scheduler": "constant",
        "gradient_checkpointing": True,
    },
}

FEW_BITS = [{"model": {"name": "some-org/base-7b", "quantization": kind}} for kind in ("int8", "nf4")]


def written(tool: str, **given: Any) -> dict[str, Any]:
    return yaml_file.parse(foreign.settings(tool, study(**given))).values


def keys_of(entries: list[dict[str, Any]]) -> set[str]:
    return {key for entry in entries for key in entry}


@pytest.mark.parametrize("given", [{}, RICH, *FEW_BITS], ids=["plain", "rich", "int8", "nf4"])
def test_every_key_is_one_of_axolotl(given: dict[str, Any]) -> None:
    values = written("axolotl", **given)
    assert set(values) <= known("axolotl")
    assert keys_of(values["datasets"]) <= known("axolotl datasets")
    types = [entry["type"] for entry in values["datasets"] if isinstance(entry["type"], dict)]
    assert keys_of(types) <= known("axolotl datasets type")


@pytest.mark.parametrize("given", [{}, RICH, *FEW_BITS], ids=["plain", "rich", "int8", "nf4"])
def test_every_key_is_one_of_llamafactory(given: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    values = written("llamafactory", **given)
    assert set(values) <= known("llamafactory") | arguments | known("transformers removed")
    info = json.loads(foreign.files("llamafactory", study(**given))["dataset_info.json"])
    assert ",".join(info) == values["dataset"]
    assert keys_of(list(info.values())) <= known("llamafactory dataset_info")
    assert keys_of([entry["columns"] for entry in info.values()]) <= known("llamafactory columns")
    assert keys_of([entry.get("tags", {}) for entry in info.values()]) <= known("llamafactory tags")


@pytest.mark.parametrize("given", [{}, RICH, *FEW_BITS], ids=["plain", "rich", "int8", "nf4"])
def test_every_key_is_one_of_trl(given: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    values = written("trl", **given)
    assert set(values) <= known("trl") | arguments
    assert keys_of(values["datasets"]) <= known("trl datasets")


@pytest.mark.parametrize("given", [{}, RICH, *FEW_BITS], ids=["plain", "rich", "int8", "nf4"])
def test_every_key_is_one_of_unsloth(given: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    constants = script(foreign.settings("unsloth", study(**given)))
    assert set(constants["MODEL"]) <= known("unsloth from_pretrained")
    assert set(constants["LORA"]) <= known("unsloth get_peft_model")
    assert set(constants["TRAINING"]) <= arguments
    assert {"max_length"} <= known("trl")  # which the script gives to SFTConfig itself


@pytest.mark.parametrize("given", FEW_BITS, ids=["int8", "nf4"])
def test_a_base_in_few_bits(given: dict[str, Any]) -> None:
    """By each tool's own keys, with a note."""
    nf4 = given["model"]["quantization"] == "nf4"
    axolotl = written("axolotl", **given)
    assert (axolotl["load_in_8bit"], axolotl["load_in_4bit"]) == (not nf4, nf4)
    assert axolotl["adapter"] == ("qlora" if nf4 else "lora")
    assert written("llamafactory", **given)["quantization_bit"] == (4 if nf4 else 8)
    assert written("trl", **given)["load_in_4bit" if nf4 else "load_in_8bit"] is True
    assert ("load_in_8bit" in foreign.settings("unsloth", study(**given))) is not nf4
    for tool in ("axolotl", "llamafactory", "trl", "unsloth"):
        assert "weights in" in foreign.settings(tool, study(**given))


@pytest.mark.parametrize("given", [{}, {**RICH, "model": "some-org/base-7b"}], ids=["plain", "rich"])
def test_peft_takes_its_configuration(given: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    values = json.loads(foreign.settings("peft", study({"alpha": 22.5}, **given)))
    made = peft.LoraConfig(**values)
    assert (made.r, made.lora_alpha, made.lora_dropout) == (16, 22.5, 0.05)
    rich = bool(given)
    assert (made.use_rslora, made.use_dora, made.init_lora_weights) == (rich, rich, "pissa" if rich else True)
    assert made.target_modules == ({"q_proj", "v_proj"} if rich else "all-linear")


def test_axolotl_in_full() -> None:
    text = foreign.settings("axolotl", study())
    assert text.startswith("# Written by meshtune ")
    assert " from the study support, trial 12.\n# Validation loss 1.25, validation loss of the baseline 1.5" in text
    assert yaml_file.parse(text).values == {
        "base_model": "some-org/base-7b",
        "load_in_8bit": False,
        "load_in_4bit": False,
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_linear": True,
        "datasets": [{"path": "some-org/rows", "split": "train", "type": "alpaca"}],
        "chat_template": "tokenizer_default",
        "val_set_size": 0.1,
        "sequence_len": 1024,
        "excess_length_strategy": "drop",
        "sample_packing": False,
        "train_on_inputs": False,
        "micro_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "num_epochs": 2,
        "optimizer": "adamw_torch",
        "learning_rate": 2e-4,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "fp16": False,
        "gradient_checkpointing": False,
        "seed": 0,
        "evals_per_epoch": 1,
        "saves_per_epoch": 1,
        "output_dir": "./outputs",
    }


def test_what_the_study_moves_takes_the_place_of_its_training_section() -> None:
    point = {"epochs": 3, "batch_size": 4, "weight_decay": 0.01, "target_modules": "q_proj,v_proj"}
    values = written("trl", point=point, training={"epochs": 1, "lr_scheduler": "constant", "warmup_ratio": 0.0})
    assert (values["num_train_epochs"], values["per_device_train_batch_size"]) == (3, 4)
    assert (values["weight_decay"], values["lora_target_modules"]) == (0.01, ["q_proj", "v_proj"])
    assert values["lr_scheduler_type"] == "constant"
    assert written("trl", training={"lr_scheduler": "constant"})["lr_scheduler_type"] == "constant_with_warmup"


@pytest.mark.parametrize(("tool", "key"), [("axolotl", "optimizer"), ("llamafactory", "optim"), ("trl", "optim")])
def test_optimizers(tool: str, key: str) -> None:
    """By the tool's names; what has none is said."""
    given = {"training": {"lora_plus_ratio": 4, "optimizer": "adamw_8bit"}}
    values = written(tool, **given)
    assert (values[key], values.get("loraplus_lr_ratio")) == ("adamw_bnb_8bit", None if tool == "trl" else 4)
    assert ("lora_plus_ratio: B was trained" in foreign.settings(tool, study(**given))) == (tool == "trl")
    assert "optimizer: muon has no counterpart" in foreign.settings(tool, study(training={"optimizer": "muon"}))
    assert not {"loraplus_lr_ratio", "neftune_noise_alpha"} & {*written(tool)}
    assert written(tool, training={"neftune_alpha": 5})["neftune_noise_alpha"] == 5
    others = {"optimizer": "muon", "lora_plus_ratio": 4, "neftune_alpha": 5}
    assert "schedule, lora_plus_ratio 4, muon, neftune_alpha 5." in foreign.notes("peft", study(training=others))[-1]


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "trl"])
def test_warmup_stable_decay_in_steps(tool: str) -> None:
    """1,000 rows, two epochs, batches of 16: 126 steps, of which 4 warm up and 26 decay."""
    given = {"training": {"lr_scheduler": "wsd"}, "facts": {**FACTS, "train_rows": 1000}}
    values = written(tool, **given)
    name = "lr_scheduler" if tool == "axolotl" else "lr_scheduler_type"
    assert values[name] == "warmup_stable_decay"
    stable = {"num_stable_steps": 96} if tool == "llamafactory" else {}
    assert values["lr_scheduler_kwargs"] == {"num_decay_steps": 26, "decay_type": "linear", **stable}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    with warnings.catch_warnings(action="ignore"):  # Transformers says which of two numbers it takes
        made = get_scheduler(values[name], optimizer, 4, 126, values["lr_scheduler_kwargs"])
    rates = []
    for _ in range(126):
        rates.append(made.get_last_lr()[0])
        optimizer.step()
        made.step()
    assert (rates[99], rates[100], rates[125]) == (1.0, 1.0, pytest.approx(1 / 26))
    assert "1,000 training rows" in " ".join(foreign.notes(tool, study(**given)))
    unknown = foreign.notes(tool, study(training={"lr_scheduler": "wsd"}))
    assert "an example, for the number of rows is not known" in " ".join(unknown)


def test_the_unsloth_script_counts_the_steps_of_the_decay() -> None:
    for scheduler, decay in (("wsd", 0.2), ("cosine", None)):
        found = study(training={"lr_scheduler": scheduler})
        constants = script(foreign.settings("unsloth", found))
        assert constants["DECAY"] == decay
        assert "lr_scheduler_kwargs" not in constants["TRAINING"]
        assert "lr_scheduler_kwargs" not in " ".join(foreign.notes("unsloth", found))


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "trl"])
@pytest.mark.parametrize(
    ("alpha", "whole", "change"), [(22.4, 22, "-1.79 %"), (1.5, 2, "+33.3 %"), (0.25, 1, "+300 %"), (32.0, 32, "")]
)
def test_alpha_is_rounded_with_a_word(tool: str, alpha: float, whole: int, change: str) -> None:
    found = study({"alpha": alpha})
    assert yaml_file.parse(foreign.settings(tool, found)).values["lora_alpha"] == whole
    said = [note for note in foreign.notes(tool, found) if note.startswith("alpha:")]
    assert len(said) == bool(change)
    assert all(change in note for note in said)


@pytest.mark.parametrize("tool", foreign.TOOLS)
def test_what_differs_is_said(tool: str) -> None:
    said = " ".join(foreign.notes(tool, study(model="embedded", training={"epochs": 3})))
    assert "dequantizes" in said
    if tool != "peft":  # whose file holds no training
        assert "lowest after epoch 2 of 3" in said
        rich = " ".join(foreign.notes(tool, study(**RICH)))
        assert all(word in rich for word in ("500 rows", "`user`", "test rows"))
    text = foreign.settings(tool, study(**RICH))
    assert max(map(len, text.splitlines())) <= 120
    assert foreign.files(tool, study(**RICH))[next(iter(foreign.files(tool, study(**RICH))))] == text


def test_the_data_of_each_tool() -> None:
    trl = written("trl", sources=EVERY_FORMAT, data={"mixture": "cap"})
    assert trl["datasets"][0] == {"path": "some-org/rows", "name": "en", "split": "train", "fraction": 0.25}
    assert [entry["path"] for entry in trl["datasets"][1:]] == ["json", "csv", "parquet", "json"]
    factory = written("llamafactory", sources=EVERY_FORMAT, data={"mixture": "repeat"})
    assert factory["dataset"] == "rows,dolly,asked,chat,chat_2"
    assert (factory["mix_strategy"], factory["interleave_probs"]) == ("interleave_over", "0.25,0.25,0.2,0.2,0.1")
    every = study(sources=EVERY_FORMAT, data={"mixture": "cap"})
    info = json.loads(foreign.files("llamafactory", every)["dataset_info.json"])
    assert info["chat"]["columns"] == {"messages": "messages", "system": "system", "tools": "tools"}
    assert any("`system` or `tools`" in note for note in foreign.notes("llamafactory", every))
    embedded = study(sources=[{"embedded": "python-stdlib-describe"}])
    assert [source.path for source in embedded.sources] == ["python-stdlib-describe.jsonl"]
    chats = [{"path": "/c.jsonl", "format": "messages"}]
    assert written("trl", sources=chats)["assistant_only_loss"] is True
    assert written("trl", sources=chats, data={"train_on": "everything"})["assistant_only_loss"] is False
    sharegpt = study(sources=[{"path": "/c.jsonl", "format": "sharegpt"}])
    assert any("rewrite them as `messages`" in note for note in foreign.notes("trl", sharegpt))
    mixed = study(sources=[{"path": "/c.jsonl", "format": "messages"}, {"path": "/a.jsonl", "format": "alpaca"}])
    assert any("rows of one kind" in note for note in foreign.notes("trl", mixed))
    assert written("llamafactory", sources=chats, data={"train_on": "last"})["mask_history"] is True
    assert written("axolotl", sources=chats, data={"train_on": "everything"})["train_on_inputs"] is True


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown tool `axolot`; .* Did you mean `axolotl`"):
        foreign.settings("axolot", study())
    with pytest.raises(InputError, match="rank: is missing"):
        foreign.settings_of(config(), {"alpha": 1, "dropout": 0, "learning_rate": 1e-4}, 512, {})
    command = {"objective": {"command": ["true"]}, "model": None, "space": {"x": {"low": 0, "high": 1}}}
    with pytest.raises(InputError, match="tunes a command"):
        foreign.settings_of(config().model_copy(update={"data": None, **command}), {}, 512, {})


@settings(max_examples=30, deadline=None)
@given(name=st.text(min_size=1), path=st.text(min_size=1))
@pytest.mark.parametrize("tool", foreign.TOOLS)
def test_no_name_breaks_out_of_a_comment_or_a_value(tool: str, name: str, path: str) -> None:
    found = study(sources=[{"dataset": path, "format": "alpaca"}], facts={**FACTS, "study": name})
    text = foreign.settings(tool, found)
    if tool == "unsloth":
        assert script(text)["SOURCES"] == [{"load": (path, None, "train"), "format": "alpaca"}]
    elif tool in ("axolotl", "trl"):
        assert yaml_file.parse(text).values["datasets"][0]["path"] == path


def script(text: str) -> dict[str, Any]:
    """The constants at the top of a script, which is parsed and not run."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def run(text: str) -> dict[str, Any]:
    """The names that a script defines: it imports nothing before its main function."""
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(text, "unsloth_train.py", "exec"), names)
    return names


def test_the_unsloth_script_learns_the_answers(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    turns = [("user", "the quick"), ("assistant", "brown fox"), ("user", "jumps"), ("assistant", "over")]
    messages = [{"role": role, "content": content} for role, content in turns]
    sharegpt = [{"from": "human" if r == "user" else "gpt", "value": c} for r, c in turns]
    alpaca = {"instruction": "the quick", "input": "brown", "output": "fox"}
    chat, template = study(), study(facts={**FACTS, "prompt": "alpaca"})
    for found, row, kind, learned in (
        (chat, {"messages": messages}, "messages", "brown fox[end]over[end]"),
        (chat, {"conversations": sharegpt}, "sharegpt", "brown fox[end]over[end]"),
        (study(data={"train_on": "last"}), {"messages": messages}, "messages", "over[end]"),
        (chat, alpaca, "alpaca", "fox[end]"),
        (template, alpaca, "alpaca", "fox</s>"),
        (template, {"prompt": "the quick", "completion": "brown"}, "prompt-completion", "brown</s>"),
    ):
        row_ = run(foreign.settings("unsloth", found))["encode"](row, kind, tokenizer)
        counted = [t for t, label in zip(row_["input_ids"], row_["labels"], strict=True) if label != -100]
        assert tokenizer.decode(counted) == learned
        assert tokenizer.decode(row_["input_ids"]).count("<s>") == 1
        assert row_["attention_mask"] == [1] * len(row_["labels"])
    everything = run(foreign.settings("unsloth", study(data={"train_on": "everything"})))
    row_ = everything["encode"]({"messages": messages}, "messages", tokenizer)
    assert row_["labels"] == row_["input_ids"]


def test_the_unsloth_script_reads_tools_and_other_speakers(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = "{% if tools %}{{ tools[0].name }}{% endif %}" + tokenizer.chat_template
    turns = [("human", "the quick"), ("function_call", "look"), ("observation", "brown"), ("gpt", "fox")]
    sharegpt = {
        "system": "over",
        "tools": '[{"name": "look"}]',
        "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
    }
    asked = {"role": "user", "content": "the quick", "weight": None}
    calls = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}], "weight": 0}
    messages = {"tools": None, "messages": [asked, calls, {**asked, "role": "assistant", "content": "fox"}]}
    encode = run(foreign.settings("unsloth", study()))["encode"]
    for row, kind, text, learned in (
        (
            sharegpt,
            "sharegpt",
            "look<s>[system]\nover[end]\n[user]\nthe quick[end]\n[assistant]\nlook[end]\n[tool]\nbrown[end]\n"
            "[assistant]\nfox[end]",
            "look[end]fox[end]",
        ),
        (
            messages,
            "messages",
            "<s>[user]\nthe quick[end]\n[assistant]\n[end]\n[assistant]\nfox[end]",
            "fox[end]",
        ),
    ):
        row_ = encode(row, kind, tokenizer)
        assert tokenizer.decode(row_["input_ids"]) == text
        assert tokenizer.decode([label for label in row_["labels"] if label != -100]) == learned


def test_axolotl_learns_what_every_speaker_of_an_answer_says() -> None:
    found = study(sources=[{"path": path, "format": "sharegpt"} for path in ("/c.jsonl", "/d.jsonl")])
    text = foreign.settings("axolotl", found)
    roles = yaml_file.parse(text).values["datasets"][1]["roles"]
    assert "&" not in text
    assert {"gpt", "function_call"} <= set(roles["assistant"])
    assert "observation" in roles["tool"]
    for tool in ("axolotl", "unsloth"):
        assert any("`function_call`" in note for note in foreign.notes(tool, found))
