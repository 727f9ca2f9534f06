"""Quantities, objectives and constraints: what is read, what is refused, and how far a constraint is violated."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.config.goals import faults, goals, wanted
from meshtune.space.goals import Goals, Names, Objective, allows, constraint, goal_values, of_fixed

NAMES = Names(
    ("adapter_parameters", "predicted_memory", "rank"), ("validation_loss", "perplexity", "mmlu", "mmlu.gold")
)


@pytest.mark.parametrize(
    ("text", "value", "untuned", "kept"),
    [
        ("adapter_parameters <= 5e6", 5e6, {}, True),
        ("adapter_parameters <= 5_000_000", 5e6 + 1, {}, False),
        ("predicted_memory<=24 GiB", 24 * 2**30, {}, True),
        ("predicted_memory <= 24GB", 24 * 2**30, {}, False),
        ("mmlu >= untuned - 0.01", 0.25, {"mmlu": 0.26}, True),  # 0.26 - 0.01 is not 0.25 to the last digit
        ("mmlu >= untuned - 0.01", 0.2475, {"mmlu": 0.26}, False),
        ("mmlu.gold >= untuned", 0.3, {"mmlu.gold": 0.3}, True),
        ("perplexity <= untuned * 1.02", 10.2, {"perplexity": 10.0}, True),
        ("perplexity <= 1.02 * untuned", 10.3, {"perplexity": 10.0}, False),
        ("validation_loss <= untuned + 0.1", 2.0, {"validation_loss": 2.0}, True),
        ("mmlu >= .5", 0.5, {}, True),
    ],
)
def test_constraints_as_people_write_them(text: str, value: float, untuned: dict[str, float], kept: bool) -> None:
    found = constraint(text, NAMES)
    limit = found.limit({"untuned": untuned})
    assert limit is not None
    assert (found.violation(value, limit) <= 0) is kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adapter_parameter <= 5", "Did you mean `adapter_parameters`?"),
        ("mmlu > 0.5", "`>` in `mmlu > 0.5` is not allowed; <= and >= are"),
        ("mmlu == 0.5", "<= and >= are"),
        ("mmlu", "is no constraint: write a quantity"),
        ("mmlu >= tuned", "is nothing to compare with; a number is, untuned and baseline. Did you mean `untuned`?"),
        ("mmlu >= untuned / 2", "is no limit: write a number"),
        ("adapter_parameters <= untuned", "is known before training and is compared with a number"),
        ("predicted_memory <= 24 gb", "is no unit; there are B, kB"),
        ("mmlu >= 3 GB", "only predicted_memory has a unit"),
    ],
)
def test_what_is_no_constraint_is_said_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        constraint(text, NAMES)


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9), st.sampled_from(["<=", ">="]))
def test_a_violation_is_above_zero_exactly_where_the_limit_is_passed(value: float, limit: float, relation: str) -> None:
    found = constraint(f"mmlu {relation} {limit!r}", NAMES)
    beyond = value > limit * (1 + 1e-9) if relation == "<=" else value < limit * (1 - 1e-9)
    assert (found.violation(value, limit) > 0) is beyond


def test_a_violation_is_counted_in_parts_of_its_limit() -> None:
    memory, score = constraint("predicted_memory <= 10 GiB", NAMES), constraint("mmlu >= 0.5", NAMES)
    assert memory.violation(11 * 2**30, 10 * 2**30) == pytest.approx(0.1)
    assert score.violation(0.45, 0.5) == pytest.approx(0.1)
    assert constraint("mmlu <= 0", NAMES).violation(0.2, 0.0) == 0.2


def test_the_fixed_keys_hold_all_of_it() -> None:
    texts = ("mmlu >= untuned - 0.01", "rank <= 64", "validation_loss <= 2")
    whole = Goals((Objective("mmlu", True), Objective("rank")), tuple(constraint(text, NAMES) for text in texts))
    assert of_fixed(whole.described()) == whole
    assert of_fixed({}) == Goals()
    assert Goals().described() == {}


def test_a_trial_is_judged_by_what_is_measured_and_a_point_by_what_is_known() -> None:
    names = ("mmlu >= untuned - 0.01", "rank <= 64")
    both = Goals((Objective("validation_loss"),), tuple(constraint(text, NAMES) for text in names))
    judged = goal_values(both, {"validation_loss": 2.0, "mmlu": 0.2}, {"untuned": {"mmlu": 0.26}})
    assert judged.values == (2.0,)
    assert judged.violations == {"mmlu >= untuned - 0.01": pytest.approx(0.05 / 0.25)}
    assert allows(both, {"rank": 64.0})
    assert not allows(both, {"rank": 65.0})
    with pytest.raises(KeyError, match="mmlu"):
        goal_values(both, {"validation_loss": 2.0}, {"untuned": {"mmlu": 0.26}})


def test_directions_follow_from_what_a_quantity_is() -> None:
    lora = {
        "objectives": ["validation_loss", "mmlu.gold", "errors", "perplexity", "rank"],
        "metrics": {"errors": {"file": "m.py", "direction": "minimize"}, "exact": {"file": "m.py"}},
        "constraints": ["exact >= untuned", "adapter_parameters <= 1e6"],
        "guide": {"measure": ["bbh"]},
    }
    assert [one.maximize for one in goals(lora).objectives] == [False, True, False, False, False]
    assert wanted(lora) == ("mmlu.gold", "errors", "perplexity", "exact", "bbh")
    assert [one.known for one in goals(lora).constraints] == [False, True]
    program = {
        "objective": {"command": ["x"], "result": "cost"},
        "objectives": ["cost", "size"],
        "space": {"k": [1, 2]},
    }
    assert goals(program).objectives == (Objective("validation_loss"), Objective("size"))
    assert wanted(program) == ("size",)


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"objectives": ["validation_los"]}, ("objectives", 0), "Did you mean `validation_loss`?"),
        ({"objectives": ["mmlu", "mmlu"]}, ("objectives", 1), "stands twice"),
        ({"constraints": ["perplexty <= 3"]}, ("constraints", 0), "Did you mean `perplexity`?"),
        ({"objectives": ["validation_loss", "rank"], "sampler": "batch-gp"}, ("objectives",), "has one objective"),
        ({"objectives": ["validation_loss", "rank"], "early_stopping": "median"}, ("early_stopping",), "several"),
        ({"constraints": ["mmlu >= untuned"], "early_stopping": {}}, ("early_stopping",), "`mmlu >= untuned`"),
        ({"objectives": ["validation_loss", "rank"], "warm_start": "../a"}, ("warm_start",), "no other quantity"),
        ({"objectives": ["mmlu"], "stop_when": {"target": 1.0}}, ("stop_when",), "goes by the loss alone"),
        (
            {"constraints": ["mmlu >= 0.5"], "stop_when": {"expected_gain": 0.01}},
            ("stop_when", "expected_gain"),
            "is of the loss alone",
        ),
        ({"guide": {"measure": ["rank"]}}, ("guide", "measure", 0), "nothing that is measured"),
    ],
)
def test_faults_have_their_place(values: dict[str, object], place: tuple[str | int, ...], words: str) -> None:
    found = dict(faults(values))
    assert words in found[place]


def test_what_is_known_before_training_goes_with_everything() -> None:
    values = {"constraints": ["adapter_parameters <= 1e6"], "early_stopping": "median", "warm_start": "../a"}
    assert faults({**values, "sampler": "batch-gp"}) == []


def test_a_program_has_no_untuned_model() -> None:
    program = {"objective": {"command": ["x"]}, "space": {"k": [1, 2]}}
    assert "has no untuned model" in dict(faults({**program, "constraints": ["size <= untuned"]}))[("constraints",)]
    assert "must be given" in dict(faults({**program, "constraints": ["size <= baseline"]}))[("baseline",)]
    assert "leave `guide` out" in dict(faults({**program, "guide": {"limit": 3}}))[("guide",)]
