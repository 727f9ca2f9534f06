"""The figures say what the status says, and hold for one trial, for many, and for none that completed."""

import math
from itertools import pairwise
from typing import Any

import pytest

from meshtune.report import figures
from meshtune.report.groups import Compared, grouped
from meshtune.report.trials import complete, upper_edge


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name and trace.name.startswith(name))


def test_history_ends_at_the_best_and_never_rises(status: dict[str, Any]) -> None:
    best = trace(figures.history(status), "best so far")
    assert all(later <= earlier for earlier, later in pairwise(best.y))
    assert best.y[-1] == status["best"]["loss"]
    assert len(best.x) == len(status["all"])


def test_history_has_every_trial_once(status: dict[str, Any]) -> None:
    figure = figures.history(status)
    marks = [number for one in figure.data if one.mode == "markers" for number in one.x]
    assert sorted(marks) == [trial["trial"] for trial in status["all"]]
    failures = [t["trial"] for t in status["all"] if t["ending"] != "complete"]
    assert failures
    assert list(trace(figure, "no loss").x) == failures
    for name in ("baseline", "untuned"):
        assert set(trace(figure, name).y) == {status[name]["loss"]}


def test_very_high_losses_stand_at_the_edge(status: dict[str, Any]) -> None:
    worst = max(complete(status), key=lambda trial: trial["loss"])["trial"]
    high = {**status, "all": [{**t, "loss": 90.0} if t["trial"] == worst else t for t in status["all"]]}
    figure = figures.history(high)
    assert list(trace(figure, "above").x) == [worst]
    assert figure.layout.meta["above"] == 1
    assert figure.layout.yaxis.range[1] < 5
    assert figures.parallel_coordinates(high).layout.meta["left_out"] == 1


@pytest.mark.parametrize(
    ("losses", "references", "edge"),
    [
        ([1.0, 2.0], [], None),  # too few to call any of them far
        ([1.0, 1.1, 1.2, 1.3, 1.4], [], None),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 90.0], [], 2.05),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 90.0], [3.0], 3.1),
    ],
)
def test_where_the_picture_ends(losses: list[float], references: list[float], edge: float | None) -> None:
    assert upper_edge(losses, references) == (None if edge is None else pytest.approx(edge))


def test_parallel_coordinates_have_every_searched_hyperparameter_decoded(status: dict[str, Any]) -> None:
    (lines,) = figures.parallel_coordinates(status).data
    axes = {axis.label: axis for axis in lines.dimensions}
    assert list(axes) == ["rank", "alpha", "dropout", "learning rate", "loss"]
    assert list(axes["dropout"].ticktext) == ["0", "0.05", "0.1"]
    by_loss = {trial["loss"]: trial["hyperparameters"] for trial in complete(status)}
    for index, loss in enumerate(axes["loss"].values):
        assert 10 ** axes["learning rate"]["values"][index] == pytest.approx(by_loss[loss]["learning_rate"])
        assert 2 ** (axes["rank"]["values"][index] / math.log10(2)) == pytest.approx(by_loss[loss]["rank"])


def test_choices_stand_in_their_order(status: dict[str, Any]) -> None:
    words, numbers = ["linear", "cosine"], [0.0, 0.1, 0.3]
    plain = {"low": None, "high": None, "log": False}
    space = [{"name": "lr_scheduler", "choices": words, **plain}, {"name": "dropout", "choices": numbers, **plain}]
    points = [{"lr_scheduler": "cosine", "dropout": 0.1}, {"lr_scheduler": "linear", "dropout": 0.1 + 0.2}]
    trials = [
        {"trial": n, "ending": "complete", "loss": 1.0 - n, "hyperparameters": point} for n, point in enumerate(points)
    ]
    (lines,) = figures.parallel_coordinates({**status, "space": space, "all": trials}).data
    assert [list(axis["values"]) for axis in lines.dimensions[:2]] == [[1, 0], [1, 2]]
    assert list(lines.dimensions[0].ticktext) == words


def test_darker_is_lower(status: dict[str, Any]) -> None:
    (lines,) = figures.parallel_coordinates(status).data
    light = [sum(int(shade[i : i + 2], 16) for i in (1, 3, 5)) for _, shade in lines.line.colorscale]
    assert light == sorted(light)
    assert list(lines.line.color) == list(lines.dimensions[-1]["values"])
    assert lines.line.cmin == status["best"]["loss"]


def test_curves_mark_the_best_and_the_baseline(status: dict[str, Any]) -> None:
    figure = figures.learning_curves(status)
    by_number = {trial["trial"]: trial for trial in status["all"]}
    for name in ("best", "baseline"):
        assert list(trace(figure, name).y)[:-1] == by_number[status[name]["trial"]]["losses"]
    others = trace(figure, "other")
    assert list(others.y).count(None) == len(complete(status)) - 2


def test_endings_count_every_trial(status: dict[str, Any]) -> None:
    assert sum(one.x[0] for one in figures.endings(status).data) == len(status["all"])


def test_five_hundred_trials_need_no_more_traces(status: dict[str, Any], many: dict[str, Any]) -> None:
    for make in (figures.history, figures.parallel_coordinates, figures.learning_curves, figures.endings):
        assert len(make(many).data) == len(make(status).data) <= 8
        assert len(make(many).to_json()) < 200_000


def test_one_trial_has_one_place_and_no_course(status: dict[str, Any]) -> None:
    alone = {**status, "all": [trial for trial in status["all"] if trial["ending"] == "complete"][:1]}
    figure = figures.history(alone)
    assert "best so far" not in [trace.name for trace in figure.data]
    low, high = figure.layout.xaxis.range
    assert -1 < low < 0 < high < 1
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert lines
    assert all(low < min(trace.x) < max(trace.x) < high for trace in lines)


def test_one_trial_and_none_that_completed(status: dict[str, Any], failed: dict[str, Any]) -> None:
    for given in (failed, {**status, "all": status["all"][:1]}, {**status, "all": [], "best": None, "baseline": None}):
        for make in (figures.history, figures.parallel_coordinates, figures.learning_curves, figures.endings):
            assert make(given).to_json()


def test_without_a_space_what_varies_is_shown(status: dict[str, Any]) -> None:
    (lines,) = figures.parallel_coordinates({**status, "space": []}).data
    assert [axis.label for axis in lines.dimensions] == ["rank", "alpha", "dropout", "learning rate", "loss"]


def test_the_band_is_there_where_seeds_are(status: dict[str, Any]) -> None:
    """From five on; of fewer each study is a line of its own, and the figure is as high as they are."""
    shifted = [
        {**status, "all": [{**t, "loss": t["loss"] and t["loss"] + 0.1 * by} for t in status["all"]]} for by in range(5)
    ]
    studies = [Compared(f"s{seed}", each, {"seed": seed}, None) for seed, each in enumerate(shifted)]
    band, line = figures.comparison(grouped(studies)).data
    assert band.fill == "toself"
    assert line.name.endswith("5 seeds")
    assert line.y[-1] == pytest.approx(status["best"]["loss"] + 0.2)
    lines = figures.comparison(grouped(studies[:4])).data
    assert [line.y[-1] for line in lines] == pytest.approx([status["best"]["loss"] + 0.1 * by for by in range(4)])
    assert [line.showlegend for line in lines] == [True, False, False, False]
    assert all(line.name.endswith("4 seeds") and line.fill is None for line in lines)
    assert len(figures.comparison(grouped(studies[:1])).data) == 1


def test_curves_at_rungs_are_in_the_group_of_their_ending(status: dict[str, Any]) -> None:
    best = status["best"]["trial"]
    trials = [
        {**trial, "rungs": [[100, 3.0], [200, 2.5]][: 1 if trial["trial"] % 2 else 2]} for trial in complete(status)
    ]
    stopped = [t["trial"] for t in trials if t["trial"] % 2 and t["trial"] != best]
    changed = [{**t, "ending": "stopped_early"} if t["trial"] in stopped else t for t in trials]
    figure = figures.rungs({**status, "all": changed})
    names = ("stopped", "trained", "baseline", "best")
    named = {name: {text for text in trace(figure, name).text if text} for name in names}
    assert named["stopped"] == {f"trial {number}" for number in stopped}
    assert named["best"] == {f"trial {best}"}
    assert sum(map(len, named.values())) == len(trials)
    assert max(x for x in trace(figure, "stopped").x if x) == 100
    ends = trace(figure, "where it was stopped")
    assert (set(ends.x), len(ends.x)) == ({100}, len(stopped))


def test_learning_curves_go_by_tokens_and_mark_where_a_trial_was_stopped(status: dict[str, Any]) -> None:
    """Each ends at the tokens that its trial was trained on; by epoch where these are not known."""
    first = next(trial["trial"] for trial in complete(status) if trial["trial"] not in (0, status["best"]["trial"]))
    early = {"ending": "stopped_early", "losses": [3.0], "tokens": 40_000}
    changed = {**status, "all": [{**t, **early} if t["trial"] == first else t for t in status["all"]]}
    figure = figures.learning_curves(changed)
    assert figure.layout.xaxis.title.text == "tokens trained on"
    assert list(trace(figure, "best").x)[:-1] == [40_000, 80_000, 120_000]
    assert list(trace(figure, "stopped early").x) == [40_000, None]
    crosses = trace(figure, "where it was stopped")
    assert (list(crosses.x), list(crosses.y)) == ([40_000], [3.0])
    unknown = {**status, "all": [{**t, "tokens": None} for t in status["all"]]}
    assert list(trace(figures.learning_curves(unknown), "best").x)[:-1] == [1, 2, 3]


def test_the_same_by_time_of_search(status: dict[str, Any]) -> None:
    other = {**status, "all": [{**trial, "elapsed": trial["elapsed"] * 2} for trial in status["all"]]}
    groups = grouped([Compared(f"s{n}", each, {"seed": n}, None) for n, each in enumerate((status, other))])
    one, two = figures.comparison_by_time(groups).data
    assert two.x[-1] == pytest.approx(2 * one.x[-1])
    assert one.y[-1] == two.y[-1] == status["best"]["loss"]
    silent = {**status, "all": [{**trial, "elapsed": None} for trial in status["all"]]}
    assert figures.comparison_by_time(grouped([Compared("s", silent, {}, None)])) is None
