"""The card: what the Hub reads at its head, and what it must say for each kind of base."""

import copy
from typing import Any

import pytest

from meshtune.export.card import card, loading_code
from meshtune.system import yaml_file

SIDE = {"rows": 10, "distinct": 10, "by_source": [10], "tokens": 500, "label_tokens": 260}
SOURCE = {
    "name": "chats|new.jsonl",
    "format": "alpaca",
    "side": "mix",
    "read": 31,
    "dropped": {},
    "kept": 30,
    "prompt_tokens": 5.0,
    "response_tokens": 9.0,
}
POINT = {"rank": 8, "alpha": 32.0, "dropout": 0.0, "learning_rate": 1.5415744e-5}
FACTS: dict[str, Any] = {
    "meshtune": "9.8.7",
    "versions": {"meshtune": "9.8.7", "peft": "0.21.2"},
    "model": {"name": "org/base", "revision": None, "dtype": "auto", "trust_remote_code": False},
    "point": {"name": "trial 3", "trial": 3, "best": True, "hyperparameters": POINT, "loss": 1.25, "test_loss": 1.3},
    "study": {
        "name": "chats",
        "versions": {"meshtune": "9.8.6", "peft": "0.20.0"},
        "state": "finished",
        "sampler": "mads",
        "seed": 4,
        "at": "best",
        "trials": {"complete": 29, "diverged": 1, "pending": 0, "proposed": 30},
        "untuned": {"loss": 2.0, "test_loss": 2.1},
        "baseline": {"loss": 1.5, "test_loss": 1.6, "trial": 0},
        "best": {"loss": 1.25, "test_loss": 1.3, "trial": 3},
        "best_against_baseline": {"mean": -0.3, "low": -0.4, "high": -0.2, "rows": 10},
        "best_against_untuned": None,
    },
    "data": {
        "fingerprint": "f" * 64,
        "train_on": "all",
        "summary": {
            "sources": [SOURCE],
            "train": SIDE,
            "validation": SIDE,
            "test": SIDE,
            "mixture": "union",
            "prompt": "chat",
            "max_length": 87,
        },
    },
    "made": "export",
    "training": {**POINT, "epochs": 2, "target_modules": ["q_proj", "v_proj"], "use_dora": False},
    "run": {
        "epochs": [{"epoch": 1, "training_loss": 1.75, "validation_loss": 1.25}],
        "at": "best",
        "epoch": 1,
        "loss": 1.25,
        "all_data": False,
        "rows": 1234,
        "tokens": 56789,
        "seconds": 61.2,
        "seed": 4,
    },
}


def facts(**changes: Any) -> dict[str, Any]:
    """The facts above, with `section__key` changed."""
    changed = copy.deepcopy(FACTS)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            changed[section][key] = value
        else:
            changed[section] = value
    return changed


def head(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return yaml_file.parse(text.split("---\n")[1], "README.md").values


def test_the_head_is_what_the_hub_reads() -> None:
    assert head(card(FACTS, "out")) == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "meshtune"],
    }
    merged = {"loss": 1.25, "adapter_loss": 1.25, "difference": 0.0}
    assert head(card(facts(merged=merged), "out"))["library_name"] == "transformers"
    assert "base_model" not in head(card(facts(model__name="/models/own"), "out"))


def test_what_it_says() -> None:
    text = card(FACTS, "out")
    for words in (
        "It is trial 3, the best of 29 complete trials (study `chats`, meshtune 9.8.7)",
        "| best (trial 3) | 1.2500 | 1.3000 |",
        "the gain of the best over the baseline is +0.3000 (95 % interval +0.2000 to +0.4000, paired by row)",
        "| learning_rate | `1.54157e-05` |",
        "| target_modules | `q_proj, v_proj` |",
        "1,234 rows, 56,789 tokens in 61 s, seed 4",
        "| `chats\\|new.jsonl` | alpaca | 30 of 31 | 10 | 10 | 10 |",
        "f" * 64,
        "sampler `mads`, seed 4; trials: 29 complete, 1 diverged.",
        "Versions: meshtune 9.8.6, peft 0.20.0.",
    ):
        assert words in text, words
    assert text.count("| rank |") == 1  # the study's own settings are told once
    assert "was not finished" not in text
    assert "was not finished" in card(facts(study__state="stopped"), "out")


def test_one_test_row_has_no_interval() -> None:
    one = {"mean": -0.3, "low": None, "high": None, "rows": 1}
    text = card(facts(study__best_against_baseline=one), "out")
    assert (
        "On 1 test row, which the search never saw, the gain of the best over the baseline is +0.3000 (one row" in text
    )


def test_trained_again_on_everything() -> None:
    note = "The validation loss of trial 3 was lowest after epoch 1 of 2"
    changed = facts(made="train", run__all_data=True, run__loss=None, run__note=note, training__learning_rate=1e-3)
    text = card(changed, "out")
    assert "trained once more" in text
    assert "nothing was held out" in text
    assert "Trained with meshtune 9.8.7, peft 0.21.2, not with the study's versions." in text
    assert "| **this adapter** | not measured |  |" in text
    assert note in text
    assert text.count("| learning_rate |") == 2  # the trial's, and the one that was used


def test_the_embedded_model_says_what_its_weights_are() -> None:
    text = card(facts(model__name="embedded"), "out")
    assert head(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert head(text)["license"] == "apache-2.0"
    assert "weights of 4 bits, written out in float32" in text
    assert "embedded_folder()" in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, 'AutoPeftModelForCausalLM.from_pretrained("out", dtype="float32")'),
        ({"model__dtype": "bfloat16"}, 'AutoPeftModelForCausalLM.from_pretrained("out", dtype="bfloat16")'),
        ({"model__trust_remote_code": True}, 'from_pretrained("out", dtype="float32", trust_remote_code=True)'),
        ({"model__name": "/m/x.gguf"}, 'AutoModelForCausalLM.from_pretrained("/m", gguf_file="x.gguf"'),
        ({"merged": {"loss": 1.0, "adapter_loss": 1.0}}, 'AutoModelForCausalLM.from_pretrained("out")'),
    ],
)
def test_the_lines_that_load_it(changes: dict[str, Any], line: str) -> None:
    lines = loading_code(facts(**changes), "out")
    assert line in lines
    compile(lines, "card", "exec")


def test_a_trial_that_is_not_the_best_and_a_baseline_outside_the_space() -> None:
    point = {**FACTS["point"], "name": "trial 5", "trial": 5, "best": False, "loss": 1.4, "test_loss": None}
    text = card(facts(point=point), "out")
    assert "It is trial 5, one of 30 trials" in text
    assert "| trial 5 | 1.4000 | - |" in text
    baseline = {**point, "name": "baseline", "trial": None}
    study = {**FACTS["study"], "baseline": {"loss": 1.5, "test_loss": 1.6}}
    text = card(facts(point=baseline, study=study), "out")
    assert "It is the baseline, which the study was to beat" in text
    assert text.count("| baseline |") == 1
