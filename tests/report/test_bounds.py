"""Bounds that the best crowd at, and a wider space that study.yaml takes."""

from pathlib import Path
from typing import Any

import pytest

from meshtune.config import file, presets
from meshtune.report.bounds import on_bounds, wider_space
from meshtune.space.space import Space


def status_of_points(space: list[dict[str, Any]], points: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """Trials with these hyperparameters; the earlier, the better."""
    trials = [
        {"trial": n, "ending": "complete", "loss": 1.0 + n, "hyperparameters": point} for n, point in enumerate(points)
    ]
    return {"space": space, "space_fixed": {}, "objective": "lora", "all": trials, **changed}


def entry(name: str, low: Any = None, high: Any = None, **changed: Any) -> dict[str, Any]:
    plain = {"log": False, "choices": None, "power_of": None, "integer": False}
    return {"name": name, "low": low, "high": high, **plain, **changed}


RANK = entry("rank", 4, 256, log=True, power_of=2, integer=True)
RATE = entry("learning_rate", 1e-5, 1e-3, log=True)


def test_the_example_of_the_issue() -> None:
    ranks = (256, 256, 64, 256, 256, 8)
    status = status_of_points([RANK], [{"rank": rank} for rank in ranks])
    (bound,) = on_bounds(status)
    assert bound.sentence == "4 of the best 5 sit on the upper bound of rank, 256 (trials 0, 1, 3, 4)."
    assert bound.wider == "rank: {low: 4, high: 1024, power_of: 2}"


@pytest.mark.parametrize(
    ("space", "values", "wider"),
    [
        (RATE, [1e-3, 1e-4, 9.9e-4, 1e-3], "learning_rate: {low: 1e-05, high: 0.01, log: true}"),
        (RATE, [1e-5, 1e-4, 1.01e-5, 1e-4], "learning_rate: {low: 1e-06, high: 0.001, log: true}"),
        (RATE, [1e-4] * 4, None),
        (entry("dropout", choices=[0.0, 0.05, 0.1]), [0.1] * 4, "dropout: [0, 0.05, 0.1, 0.2]"),
        (entry("dropout", choices=[0.0, 0.05, 0.1]), [0.0] * 4, None),  # nothing lies below
        (entry("dropout", choices=[0.0, 0.05, 0.1]), [0.1, 0.0, 0.05, 0.05], None),  # the very best alone: luck
        (entry("dropout", choices=[0.1, 1.0]), [1.0] * 4, None),  # nothing lies above
        (entry("lr_scheduler", choices=["cosine", "linear"]), ["linear"] * 4, None),  # has no order
        (entry("dropout", choices=[0.1, 0.05, 0.02]), [0.02] * 4, "dropout: [0.01, 0.1, 0.05, 0.02]"),
        (entry("rank", 1, 8, integer=True), [1] * 4, None),
        (entry("rank", 2, 8, log=True, power_of=2, integer=True), [2] * 4, "rank: {low: 1, high: 8, power_of: 2}"),
        (entry("weight_decay", 0.0, 0.1), [0.1] * 4, "weight_decay: {low: 0, high: 0.15}"),
        (entry("weight_decay", 0.0, 0.1), [0.0] * 4, None),
        (entry("batch_size", 8, 16, integer=True), [16] * 4, "batch_size: {low: 8, high: 20, integer: true}"),
        (entry("alpha", 1, 64, log=True), [64] * 4, "alpha: {low: 1, high: 640, log: true, integer: false}"),
    ],
)
def test_what_is_wider(space: dict[str, Any], values: list[Any], wider: str | None) -> None:
    status = status_of_points([space], [{space["name"]: value} for value in values])
    assert [bound.wider for bound in on_bounds(status)] == ([wider] if wider else [])


def test_one_trial_says_nothing_about_the_space() -> None:
    assert on_bounds(status_of_points([RANK], [{"rank": 256}])) == []
    for count in (2, 3, 5):
        points = [{"rank": 256}, *[{"rank": 16}] * (count - 1)]
        assert on_bounds(status_of_points([RANK], points)) == []


@pytest.mark.parametrize(
    ("space", "most", "wider"),
    [
        (RANK, 576, "rank: {low: 4, high: 512, power_of: 2}"),
        (RANK, 400, None),
        (RANK, 4096, "rank: {low: 4, high: 1024, power_of: 2}"),
        (entry("rank", 4, 256, integer=True), 300, "rank: {low: 4, high: 300, integer: true}"),
        (entry("rank", choices=[8, 256]), 576, "rank: [8, 256, 512]"),
        (entry("rank", choices=[8, 256]), 400, None),
    ],
)
def test_no_rank_beyond_what_the_model_can_use(space: dict[str, Any], most: int, wider: str | None) -> None:
    status = {**status_of_points([space], [{"rank": 256}] * 4), "largest_rank": most}
    assert [bound.wider for bound in on_bounds(status)] == ([wider] if wider else [])
    if wider:
        assert f"  {wider}" in wider_space(status, on_bounds(status)).splitlines()


def test_scale_and_step_are_read_from_what_they_follow() -> None:
    space = [entry("scale", 0.25, 32.0, log=True), entry("step", 1e-3, 1.0, log=True)]
    points = [{"rank": 4, "alpha": 128.0, "learning_rate": 1.0 / 128}] * 3
    assert [bound.name for bound in on_bounds(status_of_points(space, points))] == ["scale", "step"]


def test_a_commands_space_has_no_natural_bounds() -> None:
    space = [entry("dropout", 0.0, 1.0)]
    status = status_of_points(space, [{"dropout": 1.0}] * 3, objective="command")
    assert [bound.wider for bound in on_bounds(status)] == ["dropout: {low: 0, high: 1.5}"]


@pytest.mark.parametrize(
    ("space", "values", "wider"),
    [
        (entry("x", 1, 64, log=True, integer=True), [1] * 3, None),
        (entry("x", 4, 64, log=True, integer=True), [4] * 3, "{low: 1, high: 64, log: true, integer: true}"),
        (entry("x", 1, 64, log=True, power_of=2, integer=True), [1] * 3, None),
        (entry("x", choices=[64, 8, 16]), [64] * 3, "[64, 8, 16, 128]"),
        (entry("x", choices=[64, 8, 16]), [16] * 3, None),
        (entry("x", choices=[-4, 2]), [-4] * 3, None),
        (entry("x", choices=[-4, -2]), [-2] * 3, None),
        (entry("x", choices=[1, 2, 4]), [1] * 3, None),
    ],
)
def test_a_wider_space_of_a_command_is_one_that_study_yaml_takes(
    space: dict[str, Any], values: list[Any], wider: str | None, tmp_path: Path
) -> None:
    status = status_of_points([space], [{"x": value} for value in values], objective="command")
    assert [bound.wider for bound in on_bounds(status)] == ([f"x: {wider}"] if wider else [])
    if wider:
        text = f"objective: {{command: [run, '{{x}}']}}\n{wider_space(status, on_bounds(status))}\n"
        (tmp_path / "study.yaml").write_text(text)
        assert file.read(tmp_path / "study.yaml").space


def test_the_wider_space_is_taken_and_moves_nothing_else(status: dict[str, Any], tmp_path: Path) -> None:
    trials = [{**t, "hyperparameters": {**t["hyperparameters"], "rank": 256, "dropout": 0.1}} for t in status["all"]]
    given = {**status, "all": trials, "space_fixed": {"weight_decay": 0.01}}
    bounds = [bound for bound in on_bounds(given) if bound.name in ("rank", "dropout")]
    text = wider_space(given, bounds)
    (tmp_path / "study.yaml").write_text(f"model: embedded\ndata: {{sources: [{{path: rows.json}}]}}\n{text}\n")
    made = presets.build(file.read(tmp_path / "study.yaml").space, lora=True)
    old = {dimension.name: dimension for dimension in presets.recommended().dimensions}
    new = {dimension.name: dimension for dimension in made.dimensions}
    assert set(new) == set(old)
    assert (new["scale"], new["step"]) == (old["scale"], old["step"])
    assert new["rank"].decode(new["rank"].parameter.high) == 1024
    assert new["dropout"].values == (0, 0.05, 0.1, 0.2)
    assert made.fixed["weight_decay"] == 0.01
    assert isinstance(made, Space)
