"""Spaces: Table 3 code by code, encodings and their inverses, presets, baselines."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.config import file, presets
from meshtune.config.sections import Interval, TrainingConfig
from meshtune.errors import InputError
from meshtune.space.space import Parameter, Space

SPACES = {
    "recommended": presets.recommended(),
    "tribes2024": presets.tribes2024(),
    "tribes2024-128": presets.tribes2024(128),
    "own": presets.build(
        {
            "rank": (4, 8, 48),
            "scale": Interval(low=0.25, high=32, log=True),
            "learning_rate": Interval(low=1e-6, high=1e-2, log=True),
            "weight_decay": Interval(low=0, high=0.1),
            "use_rslora": (True, False),
            "lr_scheduler": ("cosine", "linear"),
            "epochs": Interval(low=1, high=3),
            "warmup_ratio": 0.1,
        },
        lora=True,
    ),
    "command": presets.build(
        {"x": Interval(low=-1, high=1), "n": Interval(low=1, high=9, integer=True), "kind": ("a", "b"), "scale": 3},
        lora=False,
    ),
}


@st.composite
def points(draw: st.DrawFn, space: Space) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for parameter in space.parameters:
        match parameter.kind:
            case "int":
                point[parameter.name] = draw(st.integers(int(parameter.low), int(parameter.high)))
            case "float":
                point[parameter.name] = draw(st.floats(parameter.low, parameter.high))
            case "categorical":
                point[parameter.name] = draw(st.sampled_from(parameter.choices))
    return point


@given(st.data(), st.sampled_from(sorted(SPACES)))
def test_encoding_is_the_inverse_of_decoding(data: st.DataObject, name: str) -> None:
    space = SPACES[name]
    point = data.draw(points(space))
    hyperparameters = space.decode(point)
    assert space.contains(hyperparameters)
    again = space.encode(hyperparameters)
    assert again.keys() == point.keys()
    for key, value in point.items():
        if key == "scale_log2":  # the nearest whole alpha has this one
            assert again[key] == pytest.approx(value, abs=0.59)
        elif isinstance(value, float):
            assert again[key] == pytest.approx(value, rel=1e-9, abs=1e-12)
        else:
            assert again[key] == value
            assert type(again[key]) is type(value)
    assert json.loads(json.dumps(hyperparameters)) == hyperparameters
    for key, value in space.decode(again).items():
        assert hyperparameters[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_alpha_is_what_other_tools_take_and_step_what_was_asked_for() -> None:
    """Every trained point can be exported as it is; an earlier study's points still have their place."""
    space = presets.recommended()
    point = {"rank_log2": 2, "scale_log2": math.log2(0.67), "dropout_index": 2, "step": 0.0251}
    decoded = space.decode(point)
    assert (decoded["rank"], decoded["alpha"]) == (4, 3)
    assert type(decoded["alpha"]) is int
    assert decoded["learning_rate"] * decoded["alpha"] == pytest.approx(0.0251)
    old = {"rank": 4, "alpha": 2.68, "dropout": 0.1, "learning_rate": 0.0251 / 2.68}
    assert space.encode(old) == pytest.approx(point)


@pytest.mark.parametrize(
    ("scale", "rank"),
    [(Interval(low=0.3, high=0.8, log=True), 5), (Interval(low=0.3, high=0.8), 5), ((0.3, 0.7), 5), (0.3, 5), (2, 3)],
)
def test_rounding_alpha_takes_no_point_out_of_its_space(scale: Any, rank: int) -> None:
    space = presets.build({"scale": scale, "rank": rank, "step": Interval(low=0.01, high=1)}, lora=True)
    for share in (0.0, 1.0):
        ends = {p.name: p.low + share * (p.high - p.low) for p in space.parameters}
        point = {p.name: int(ends[p.name]) if p.kind == "int" else ends[p.name] for p in space.parameters}
        decoded = space.decode(point)
        assert space.decode(space.encode(decoded)) == pytest.approx(decoded)
    assert presets.baseline({"scale": 0.3, "rank": 5}, None, lora=True) == {
        "rank": 5,
        "alpha": 2,
        "dropout": 0.0,
        "learning_rate": 2e-4,
    }


def test_an_own_interval_of_alpha_is_whole_unless_it_says_otherwise() -> None:
    def alpha(**entry: Any) -> Parameter:
        return presets.build({"alpha": Interval(**entry)}, lora=True).parameters[0]

    assert alpha(low=1, high=64, log=True) == Parameter("alpha", "int", 1, 64, log=True)
    assert alpha(low=1, high=64, integer=False) == Parameter("alpha", "float", 1, 64)
    assert alpha(low=0.5, high=64) == Parameter("alpha", "float", 0.5, 64)
    assert presets.build({"alpha": Interval(low=1, high=64)}, lora=False).parameters[0].kind == "float"


@pytest.mark.parametrize(
    "section", ["recommended", {"scale": Interval(low=0.25, high=32), "rank": 8}, {"scale": 2.0, "rank": (4, 8)}]
)
def test_a_study_of_an_earlier_version_keeps_its_real_alphas(section: presets.Section) -> None:
    """Its fixed keys say so, and are what they were."""
    old = presets.build(section, lora=True, whole_alpha=False)
    assert set(old.describe()) == {"searched", "fixed"}
    assert not presets.alpha_is_whole({"space": old.describe()})
    assert presets.alpha_is_whole({"space": presets.build(section, lora=True).describe()})
    assert presets.alpha_is_whole(None)


def test_what_an_earlier_version_had_whole_is_as_it_was() -> None:
    for section in ("tribes2024", {"rank": (4, 8)}, {"alpha": Interval(low=1, high=64, integer=True)}):
        space = presets.build(section, lora=True)
        assert set(space.describe()) == {"searched", "fixed"}
        assert presets.alpha_is_whole({"space": space.describe()})
    real = presets.build({"alpha": Interval(low=1, high=64)}, lora=True, whole_alpha=False)
    assert real.parameters[0].kind == "float"
    assert not presets.alpha_is_whole({"space": real.describe()})
    assert presets.recommended(whole_alpha=False).decode(
        {"rank_log2": 2, "scale_log2": -0.5, "dropout_index": 0, "step": 0.1}
    )["alpha"] == pytest.approx(2.828427)


def test_table_3_code_by_code() -> None:
    """NOMAD's r is 1..8 for ranks 4..512, d is 1..6, alpha is taken as it is, the rate is 10^lr."""
    space = presets.build("tribes2024", lora=True)
    assert space.parameters == (
        Parameter("rank_log2", "int", 2, 9),
        Parameter("dropout_index", "int", 0, 5),
        Parameter("alpha", "int", 1, 64),
        Parameter("learning_rate", "float", 1e-6, 1e-3, log=True),
    )
    ranks = {1: 4, 2: 8, 3: 16, 4: 32, 5: 64, 6: 128, 7: 256, 8: 512}
    dropouts = {1: 0.0, 2: 1e-4, 3: 1e-3, 4: 1e-2, 5: 1e-1, 6: 1.0}
    for r, rank in ranks.items():
        for d, dropout in dropouts.items():
            point = {"rank_log2": r + 1, "dropout_index": d - 1, "alpha": 32, "learning_rate": 1e-5}
            decoded = {"rank": rank, "alpha": 32, "dropout": dropout, "learning_rate": 1e-5}
            assert space.decode(point) == decoded
            assert dropout == (0 if d == 1 else pytest.approx(10 ** (d - 6)))
    assert presets.tribes2024(128).parameters[0] == Parameter("rank_log2", "int", 2, 7)


def test_the_papers_start_is_in_its_space() -> None:
    for preset in ("tribes2024", "tribes2024-128"):
        start = presets.baseline(preset, None, lora=True)
        assert start == {"rank": 8, "alpha": 32, "dropout": 0.1, "learning_rate": 1e-5}
        code = presets.build(preset, lora=True).encode(start)
        assert code == {"rank_log2": 3, "dropout_index": 4, "alpha": 32, "learning_rate": 1e-5}


def test_recommended_moves_step_scale_rank_and_dropout() -> None:
    space = presets.build("recommended", lora=True)
    assert [p.name for p in space.parameters] == ["rank_log2", "scale_log2", "dropout_index", "step"]
    decoded = space.decode({"rank_log2": 5, "scale_log2": 1.0, "dropout_index": 1, "step": 0.032})
    assert decoded == {"rank": 32, "alpha": 64.0, "dropout": 0.05, "learning_rate": 0.0005}
    assert list(decoded) == ["rank", "alpha", "dropout", "learning_rate"]
    start = presets.baseline("recommended", None, lora=True)
    assert start == {"rank": 16, "alpha": 32.0, "dropout": 0.0, "learning_rate": 2e-4}
    assert space.encode(start) == {
        "rank_log2": 4,
        "scale_log2": 1.0,
        "dropout_index": 0,
        "step": pytest.approx(0.0064),
    }
    best_of_the_paper = {"rank": 512, "alpha": 64, "dropout": 0.0, "learning_rate": 10**-3.32}
    assert not space.contains(best_of_the_paper)
    assert 1e-3 < 64 * 10**-3.32 < 1
    assert space.contains({"rank": 64, "alpha": 1280, "dropout": 0.0, "learning_rate": 10**-3.5})


def test_all_that_lies_outside_is_named() -> None:
    space = presets.build("recommended", lora=True)
    with pytest.raises(InputError) as raised:
        space.encode({"rank": 12, "alpha": 6000.0, "dropout": 0.2, "learning_rate": 1.0, "weight_decay": 0.1})
    assert [fault.key for fault in raised.value.faults] == ["weight_decay", "rank", "scale", "dropout", "step"]
    assert "12 is not a power of 2" in str(raised.value)
    assert "500 is outside 0.25 to 32" in str(raised.value)


def test_what_a_mapping_does_not_name_is_fixed_at_the_default() -> None:
    space = presets.build({"learning_rate": Interval(low=1e-5, high=1e-3, log=True)}, lora=True)
    assert dict(space.fixed) == {"rank": 16, "alpha": 32.0, "dropout": 0.0}
    assert space.decode({"learning_rate": 1e-4}) == {"rank": 16, "alpha": 32.0, "dropout": 0.0, "learning_rate": 1e-4}
    with pytest.raises(InputError, match=r"rank: 8 is not 16, at which the space fixes it"):
        space.encode({"rank": 8, "alpha": 32.0, "dropout": 0.0, "learning_rate": 1e-4})
    stepped = presets.build({"step": Interval(low=0.01, high=1, log=True), "scale": 2, "rank": (8,)}, lora=True)
    assert dict(stepped.fixed) == {"scale": 2, "rank": 8, "dropout": 0.0}
    decoded = stepped.decode({"step": 0.32})
    assert decoded == {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 0.02}
    assert stepped.encode(decoded) == {"step": pytest.approx(0.32)}


def test_numbers_of_a_list_are_ordered_and_words_are_not() -> None:
    dimensions = presets.build({"dropout": (0.1, 0, 0.05), "lr_scheduler": ("linear", "cosine")}, lora=True).dimensions
    assert dimensions[0].values == (0, 0.05, 0.1)
    assert dimensions[0].parameter == Parameter("dropout_index", "int", 0, 2)
    assert dimensions[1].parameter == Parameter("lr_scheduler", "categorical", choices=("linear", "cosine"))


def test_the_baseline_follows_what_is_given_then_the_space_then_the_preset_then_the_training() -> None:
    training = TrainingConfig(epochs=3, target_modules=("q_proj", "v_proj"))
    section: presets.Section = {
        "rank": 32,
        "scale": Interval(low=0.25, high=32, log=True),
        "epochs": (1, 3),
        "target_modules": ("all-linear", "q_proj,v_proj"),
    }
    start = presets.baseline(section, {"scale": 4, "dropout": 0.05}, lora=True, training=training)
    assert start == {
        "rank": 32,
        "alpha": 128,
        "dropout": 0.05,
        "learning_rate": 2e-4,
        "epochs": 3,
        "target_modules": "q_proj,v_proj",
    }
    assert not presets.build(section, lora=True).contains(start)
    del start["dropout"]
    assert presets.build(section, lora=True).encode({**start, "dropout": 0.0})["epochs_index"] == 1
    assert presets.baseline("recommended", {"step": 0.032}, lora=True) == {
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.0,
        "learning_rate": pytest.approx(0.001),
    }


def test_a_commands_space_decodes_nothing_and_has_a_baseline_only_if_given() -> None:
    section: presets.Section = {"step": Interval(low=0, high=1), "n": 3}
    space = presets.build(section, lora=False)
    assert space.decode({"step": 0.5}) == {"n": 3, "step": 0.5}
    assert presets.baseline(section, None, lora=False) is None
    assert presets.baseline(section, {"step": 0.1}, lora=False) == {"n": 3, "step": 0.1}
    assert space.contains({"n": 3, "step": 0.1})
    assert not space.contains({"n": 3, "step": 1.1})
    assert not space.contains({"n": 3, "step": "low"})


def test_placeholders_that_nothing_fills_and_names_that_nothing_uses() -> None:
    space = presets.build({"rate": Interval(low=0, high=1), "depth": (1, 2)}, lora=False)
    presets.check_placeholders(["run", "{rate}", "--d={depth}", "{seed}{trial}", "{folder}/x", "{}", '{"a": 1}'], space)
    with pytest.raises(InputError) as raised:
        presets.check_placeholders(["run", "{rte}", "{depth}"], space)
    assert len(raised.value.faults) == 2
    assert "Did you mean `rate`?" in str(raised.value)
    assert "`{rate}` of the space is not used" in str(raised.value)


def test_descriptions_are_plain_json_and_tell_spaces_apart() -> None:
    described = [space.describe() for space in SPACES.values()]
    assert json.loads(json.dumps(described)) == described
    assert len({json.dumps(one) for one in described}) == len(SPACES)


def test_log2_of_the_scale_is_a_real_parameter() -> None:
    scale = presets.recommended().dimensions[1]
    assert scale.parameter == Parameter("scale_log2", "float", -2.0, 5.0)
    assert scale.decode(scale.encode(3.0)) == pytest.approx(3.0)
    assert math.isclose(scale.decode(-2.0), 0.25)


def test_modules_that_belong_together(tmp_path: Path) -> None:
    """A list inside the list is one choice; a flat list is either one, and says so."""

    def space(modules: str, baseline: str = "all-linear") -> Space:
        path = tmp_path / "study.yaml"
        lines = f"space: {{target_modules: {modules}, rank: [4, 8]}}\nbaseline: {{target_modules: {baseline}}}\n"
        path.write_text("model: embedded\ndata: {sources: [{path: rows.jsonl}]}\n" + lines)
        config = file.read(path)
        path.write_text(file.dump(config))
        assert file.read(path) == config
        assert config.baseline is not None
        assert config.baseline["target_modules"] in ("all-linear", "q_proj,v_proj")
        return presets.build(config.space, lora=True)

    both = space("[all-linear, [q_proj, v_proj]]", "[q_proj, v_proj]")
    assert both.dimensions[0].parameter.choices == ("all-linear", "q_proj,v_proj")
    assert presets.warnings(both) == []
    assert space('[all-linear, "q_proj,v_proj"]').describe() == both.describe()
    assert space("[[q_proj, v_proj]]").fixed["target_modules"] == "q_proj,v_proj"
    (text,) = presets.warnings(space("[q_proj, v_proj]"))
    assert "q_proj alone or v_proj alone; for all of them together write `[[q_proj, v_proj]]`" in text
    assert presets.warnings(presets.recommended()) == []
    with pytest.raises(InputError, match=r"space\.target_modules"):
        space("[[q_proj, 3]]")
