"""The largest trial of a space: which it is, when it is refused, and what the message offers."""

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

from meshtune.config import presets
from meshtune.config.sections import Interval, StudyConfig, TrainingConfig
from meshtune.errors import InputError
from meshtune.space.space import Space
from meshtune.training.memory.check import (
    Setting,
    gigabytes,
    largest,
    largest_length,
    refuse_too_large,
    unpackable_space,
)
from meshtune.training.memory.formula import Batch, full_batch
from meshtune.training.memory.shape import measure

LLAMA = LlamaConfig(
    vocab_size=1000,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """Room for everything."""
    training = TrainingConfig(precision="float32", batch_size=8)
    shape = measure(AutoModelForCausalLM.from_config(LLAMA))
    return Setting(shape, training, "cpu", "auto", lambda rows: full_batch(rows, 64), None)


def with_room(setting: Setting, hyperparameters: Mapping[str, Any], **changes: Any) -> Setting:
    """The setting, with just the room that this point needs."""
    return replace(setting, available=setting.memory(hyperparameters).total, **changes)


def refused(space: Space, setting: Setting, baseline: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        refuse_too_large(space, setting, baseline)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_largest_point(setting: Setting) -> None:
    """Is at the upper bounds of rank, batch and dropout, with the choice of modules that is largest."""
    space = presets.build(
        {
            "rank": Interval(low=4, high=64, power_of=2),
            "learning_rate": Interval(low=1e-5, high=1e-3, log=True),
            "batch_size": (4, 16, 8),
            "dropout": Interval(low=0, high=0.2),
            "epochs": Interval(low=1, high=3),
            "use_dora": (False, True),
            "target_modules": ("q_proj,v_proj", "all-linear", "up_proj"),
        },
        lora=True,
    )
    found = largest(space, setting)
    names = ("rank", "batch_size", "dropout", "epochs", "use_dora", "target_modules")
    assert [found.hyperparameters[name] for name in names] == [64, 16, 0.2, 3, True, "all-linear"]
    assert found.memory == setting.memory(found.hyperparameters)
    assert not found.close


def test_packs(setting: Setting) -> None:
    """The largest trial alone, in the packed trainer's memory; a pack that was asked for must fit whole."""
    space = presets.recommended()
    packs = replace(setting, trainer="packed")
    found = largest(space, packs)
    recipe = packs.recipe(found.hyperparameters)
    assert found.memory == packs.packs(found.hyperparameters).memory([recipe])
    assert found.memory != largest(space, setting).memory
    four = replace(packs, pack=4)
    tight = with_room(four, found.hyperparameters)
    assert refuse_too_large(space, tight).memory.optimizer == 4 * found.memory.optimizer
    message = refused(space, replace(tight, pack=5))
    assert re.search(r"a pack of 5 of the largest trials needs .* 5 adapters at rank 256 ", message)
    assert "`worker.pack: 4`" in message


@pytest.mark.parametrize(
    ("entries", "training", "reason"),
    [
        ({"use_dora": (False, True)}, {}, "DoRA"),
        ({"init_lora_weights": (True, "olora")}, {}, "`olora` change the base"),
        ({}, {"precision": "float16"}, "float16"),
        ({}, {"init_lora_weights": "pissa"}, "`pissa` change the base"),
        ({"init_lora_weights": (True, "gaussian")}, {}, None),
    ],
)
def test_spaces_that_cannot_be_packed(entries: dict[str, Any], training: dict[str, Any], reason: str | None) -> None:
    """One value that cannot be is enough."""
    space = presets.build({"rank": Interval(low=4, high=8, power_of=2), **entries}, lora=True)
    found = unpackable_space(space, TrainingConfig(**training))
    assert found is None if reason is None else reason in str(found)


def test_what_fits_is_let_through(setting: Setting) -> None:
    """To the last byte; close to it there is a warning."""
    space = presets.recommended()
    point = largest(space, setting).hyperparameters
    exact = with_room(setting, point)
    assert refuse_too_large(space, exact).close
    assert not refuse_too_large(space, replace(exact, available=2 * (exact.available or 0))).close
    assert "the largest rank that fits is 128" in refused(space, replace(exact, available=(exact.available or 0) - 1))


@pytest.mark.parametrize("preset", ["recommended", "tribes2024"])
def test_the_largest_rank_that_fits_is_named_and_can_be_pasted(setting: Setting, preset: str) -> None:
    """What the message offers is the same space with a lower bound, and it fits."""
    space = presets.build(preset, lora=True)
    tight = with_room(setting, {**largest(space, setting).hyperparameters, "rank": 32})
    message = refused(space, tight)
    assert message.startswith("space.rank: the largest trial needs about ")
    assert "the largest rank that fits is 32" in message
    pasted = re.search(r"`(space: \{.*?\}\})`|`(space: \{.*?\})`", message)
    assert pasted is not None
    section = yaml.safe_load(pasted[0].strip("`"))
    config = StudyConfig(model="embedded", data={"sources": [{"path": "x"}]}, **section)  # type: ignore[arg-type]
    lower = presets.build(config.space, lora=True)
    assert [d.name for d in lower.dimensions] == [d.name for d in space.dimensions]
    assert [d for d in lower.dimensions if d.name != "rank"] == [d for d in space.dimensions if d.name != "rank"]
    assert refuse_too_large(lower, tight).hyperparameters["rank"] == 32


def test_a_fixed_rank(setting: Setting) -> None:
    """Any lower one may be written."""
    space = presets.build({"rank": 100, "scale": Interval(low=0.5, high=2)}, lora=True)
    tight = with_room(setting, {**largest(space, setting).hyperparameters, "rank": 77})
    assert "the largest rank that fits is 77: write `rank: 77`" in refused(space, tight)


def test_where_no_rank_fits_the_message_says_what_does(setting: Setting) -> None:
    """Each change that it offers is enough alone."""
    space = presets.build({"rank": Interval(low=4, high=8, power_of=2)}, lora=True)
    long = replace(setting, batch=lambda rows: full_batch(rows, 2048))
    point = largest(space, long).hyperparameters
    tight = replace(long, available=long.memory(point).total // 2, processes=3)
    message = refused(space, tight)
    assert "no rank fits" in message
    assert "each of 3 processes" in message
    assert "`worker.processes: 1`" in message
    assert "`training.gradient_checkpointing: true`" in message
    found = re.search(r"`training.batch_size: (\d+)` or `data.max_length: (\d+)`", message)
    assert found is not None
    rows, length = map(int, found.groups())
    for fits, batch in (
        (True, full_batch(rows, 2048)),
        (False, full_batch(rows + 1, 2048)),
        (True, full_batch(8, length)),
        (False, full_batch(8, length + 1)),
    ):
        assert replace(tight, batch=functools.partial(_always, batch)).fits(point) is fits
    assert "no single change is enough" in refused(space, replace(tight, available=1))


def _always(batch: Batch, rows: int) -> Batch:
    return batch


def test_a_baseline_outside_the_space(setting: Setting) -> None:
    """Is trained too, so it must fit."""
    space = presets.build({"rank": Interval(low=4, high=8, power_of=2)}, lora=True)
    inside = largest(space, setting).hyperparameters
    tight = with_room(setting, inside)
    assert refuse_too_large(space, tight, inside)
    message = refused(space, tight, {**inside, "rank": 512})
    assert re.match(r"baseline: rank 512 needs about .* this CPU has", message)


def test_the_longest_rows(setting: Setting) -> None:
    """One token more does not fit."""
    space = presets.recommended()
    long = replace(setting, batch=lambda rows: full_batch(rows, 100))
    tight = with_room(long, largest(space, long).hyperparameters)
    assert largest_length(space, tight, 2048) == 100
    assert largest_length(space, tight, 50) == 50
    assert largest_length(space, replace(tight, available=1), 2048) == 0
    assert largest_length(space, setting, 2048) == 2048


def test_bytes_as_people_read_them() -> None:
    assert [gigabytes(count) for count in (24_400_000_000, 1_234_000_000, 538_000_000, 5_230_000)] == [
        "24 GB",
        "1.2 GB",
        "0.54 GB",
        "5.2 MB",
    ]
