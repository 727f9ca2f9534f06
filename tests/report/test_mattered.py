"""The figures of what mattered say what the model said, and where the seed moves the result."""

from typing import Any

import pytest

from meshtune.report import mattered
from meshtune.report.page import study_pictures
from meshtune.report.trials import complete


def trace(figure: Any, name: str) -> Any:
    return next(one for one in figure.data if one.name == name)


@pytest.fixture
def found(status: dict[str, Any]) -> dict[str, Any]:
    """Of a model that was not fitted."""
    line = {"mean": [2.6, 2.4, 2.5], "low": [2.5, 2.3, 2.4], "high": [2.7, 2.5, 2.6]}
    slices = [
        {"name": "step", "log": True, "ordered": True, "values": [1e-3, 1e-2, 1e-1], **line},
        {"name": "rank", "log": True, "ordered": True, "values": [4, 32, 256], **line},
        {"name": "kind", "log": False, "ordered": False, "values": ["a", "b", "c"], **line},
    ]
    shares = [{"name": one["name"], "share": 0.5, "low": 0.25, "high": 0.75} for one in slices]
    plane = {"x": "step", "y": "rank", "log_x": True, "log_y": True, "xs": [1e-3, 1e-1], "ys": [4, 256]}
    plane["mean"] = [[2.6, 2.5], [2.4, 2.7]]
    at = status["best"]["trial"]
    return {"trials": 9, "explained": 0.6, "at": at, "importances": shares, "slices": slices, "plane": plane}


def test_a_bar_a_hyperparameter_with_its_interval(found: dict[str, Any]) -> None:
    (bars,) = mattered.importances(found).data
    assert list(zip(bars.y, bars.x, strict=True)) == [("step", 50), ("rank", 50), ("kind", 50)]
    assert set(bars.error_x.array) == set(bars.error_x.arrayminus) == {25}
    assert mattered.formulas(found) == "Step is learning rate x alpha."


def test_a_slice_has_the_band_the_line_and_the_trials(status: dict[str, Any], found: dict[str, Any]) -> None:
    figure = mattered.one_slice(status, found, 0)
    assert list(trace(figure, "the model").y) == found["slices"][0]["mean"]
    assert list(trace(figure, "95 % band").y) == [2.7, 2.5, 2.6, 2.4, 2.3, 2.5]
    shown = trace(figure, "trials")
    low, high = figure.layout.yaxis.range
    inside = [trial for trial in complete(status) if low <= trial["loss"] <= high]
    products = [t["hyperparameters"]["learning_rate"] * t["hyperparameters"]["alpha"] for t in inside]
    assert inside
    assert sorted(shown.x) == pytest.approx(sorted(products))
    assert figure.layout.xaxis.type == "log"
    assert list(trace(figure, "best").y) == [status["best"]["loss"]]
    kinds = mattered.one_slice(status, found, 2)
    assert list(kinds.layout.xaxis.ticktext) == ["a", "b", "c"]
    assert list(trace(kinds, "the model").x) == [0, 1, 2]


def test_the_plane_has_every_trial_once(status: dict[str, Any], found: dict[str, Any]) -> None:
    surface, dots, star = mattered.plane(status, found).data
    assert [list(row) for row in surface.z] == found["plane"]["mean"]
    assert len(dots.x) + len(star.x) == len(complete(status))
    assert star.y == (status["best"]["hyperparameters"]["rank"],)


def test_replicates_stand_beside_what_the_search_saw(status: dict[str, Any]) -> None:
    noise = {"trial": status["best"]["trial"], "deviation": 0.02, "mean": 2.33, "count": 3, "above": None}
    noisy = {**status, "seed_noise": {**noise, "losses": [2.31, 2.33, 2.35]}}
    figure = study_pictures(noisy, None, None)["seeds"].figure
    assert list(trace(figure, "other seeds").x) == [2.31, 2.33, 2.35]
    assert list(trace(figure, "baseline").x) == [status["baseline"]["loss"]]
    assert "seeds" not in study_pictures(status, None, None)


def test_without_a_model_nothing_is_said_of_what_mattered(status: dict[str, Any], found: dict[str, Any]) -> None:
    assert not [name for name in study_pictures(status, None, None) if name.startswith(("slice", "importance"))]
    assert {"importance", "slice-step", "slice-rank", "plane"} <= set(study_pictures(status, None, found))
    alone = study_pictures(status, None, {**found, "plane": None})
    assert "plane" not in alone
