"""Drawings say what the figure says, stay inside their frame, and stand alone in a file."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

from meshtune.report import contours, drawing, figures, traces
from meshtune.report.page import study_pictures
from meshtune.report.scales import axis, round_values, shortened, text_width, written

SVG = "{http://www.w3.org/2000/svg}"


def parsed(figure: Any, width: int = 1016, label: str = "a figure") -> ElementTree.Element:
    return ElementTree.fromstring(drawing.drawn(figure.to_plotly_json(), width, label))


def texts(svg: ElementTree.Element) -> list[str]:
    return [str(text.text) for text in svg.iter(f"{SVG}text")]


def test_every_trial_is_a_mark_at_its_loss(status: dict[str, Any]) -> None:
    svg = parsed(figures.history(status))
    marks = {mark.get("data-says", "").split(":")[0]: mark for mark in svg.iter(f"{SVG}circle")}
    complete = [trial for trial in status["all"] if trial["ending"] == "complete"]
    placed = [(trial["loss"], float(marks[f"trial {trial['trial']}"].get("cy", ""))) for trial in complete]
    assert len(placed) == len(complete)
    (low, bottom), (high, top) = min(placed), max(placed)
    for loss, place in placed:  # one straight scale, the lower the loss the lower the mark
        assert place == pytest.approx(bottom + (loss - low) / (high - low) * (top - bottom), abs=0.2)


@pytest.mark.parametrize("width", [1016, 354])
def test_no_text_leaves_the_drawing(status: dict[str, Any], many: dict[str, Any], width: int) -> None:
    for given in (status, many, {**status, "all": status["all"][:1]}):
        for name, picture in study_pictures(given, None, None).items():
            svg = parsed(picture.figure, width)
            _, _, wide, tall = map(float, svg.get("viewBox", "").split())
            for text in svg.iter(f"{SVG}text"):
                x, length = float(text.get("x", "")), text_width(str(text.text), float(text.get("font-size", 13)))
                start = x - {"end": length, "middle": length / 2}.get(text.get("text-anchor", ""), 0)
                assert start >= -1, (name, text.text)
                assert start + length <= wide + 1, (name, text.text)
                assert 0 < float(text.get("y", "")) <= tall, (name, text.text)


def test_names_and_words_of_data_stay_text() -> None:
    figure = traces.empty_figure(x="<b>x</b>", y='"y"', height=200)
    figure.add_trace(traces.markers("trial", [1, 2], [1, 2], ['<script> & "', "b"], "<i>name</i>", "circle", 6))
    svg = parsed(figure, label='"quoted" <label>')
    assert svg.get("aria-label") == '"quoted" <label>'
    assert {"<b>x</b>", '"y"', "<i>name</i>"} <= set(texts(svg))
    assert [mark.get("data-says") for mark in svg.iter(f"{SVG}circle") if mark.get("data-says")] == [
        '<script> & "',
        "b",
    ]


def test_what_bars_stand_for(status: dict[str, Any]) -> None:
    svg = parsed(figures.endings(status))
    bars = [bar for bar in svg.iter(f"{SVG}rect") if bar.get("data-says")]
    ends = [(float(bar.get("x", "")), float(bar.get("width", ""))) for bar in bars]
    for (start, width), (following, _) in pairwise(ends):
        assert start + width == pytest.approx(following, abs=0.2)  # one after the other
    counts = [int(bar.get("data-says", "").split()[0]) for bar in bars]
    assert sum(counts) == len(status["all"])
    assert ends[0][1] / ends[1][1] == pytest.approx(counts[0] / counts[1], rel=0.01)


def test_a_file_stands_alone(status: dict[str, Any]) -> None:
    for picture in study_pictures(status, None, None).values():
        text = drawing.standalone(drawing.drawn(picture.figure.to_plotly_json(), 1016, picture.label))
        assert "var(" not in text
        assert "data-" not in text
        assert ElementTree.fromstring(text).get("font-family", "").endswith("sans-serif")


def test_every_colour_is_there_for_light_and_dark() -> None:
    style = (Path(figures.__file__).parent / "page.css").read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")[:2]
    names = set(re.findall(r"--([\w-]+):", light))
    assert names == set(re.findall(r"--([\w-]+):", dark.partition("\n}\n")[0]))


# -- axes


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, ["0", "2", "4", "6", "8", "10"]),
        (2.2, 2.31, ["2.20", "2.22", "2.24", "2.26", "2.28", "2.30"]),
        (0.0, 120_000.0, ["0", "20k", "40k", "60k", "80k", "100k", "120k"]),
        (-0.4, 1.2, ["0", "0.5", "1.0"]),
    ],
)
def test_round_values(low: float, high: float, expected: list[str]) -> None:
    assert [text for _, text in round_values(low, high, 6)][: len(expected)] == expected


def test_whole_numbers_have_whole_ticks() -> None:
    assert [text for _, text in round_values(-0.4, 3.4, 8, whole=True)] == ["0", "1", "2", "3"]
    assert [text for _, text in axis({}, [1, 2, 3], 0, 900, 80).ticks] == ["1", "2", "3"]


def test_axes() -> None:
    log = axis({"type": "log"}, [1e-4, 1e-1], 0, 300, 84)
    assert log.at(1e-1) - log.at(1e-2) == pytest.approx(log.at(1e-3) - log.at(1e-4))
    assert [text for _, text in log.ticks] == ["1e-4", "0.001", "0.01", "0.1"]
    names = axis({"type": "category", "categoryarray": ["b", "a"]}, ["a", "b"], 100, 0, 46)
    assert names.at("b") > names.at("a")
    flat = axis({}, [2.0, 2.0], 0, 100, 20)
    assert 0 < flat.at(2.0) < 100
    assert axis({}, [], 0, 100, 20).ticks
    assert (written(1.5e6), written(0), written(0.00001)) == ("1.5M", "0", "1e-5")
    assert shortened("a long name", 40).endswith("…")
    assert shortened("short", 100) == "short"


# -- contours


def test_the_area_below_a_level_is_a_part_of_the_plane() -> None:
    """Of the plane z = x a share of as much as the level lies below; of a hill its circle."""
    places = [n / 40 for n in range(41)]
    tilted = [[x for x in places] for _ in places]
    hill = [[(x - 0.5) ** 2 + (y - 0.5) ** 2 for x in places] for y in places]
    scaled = [100 * place for place in places]  # drawn with one decimal
    assert area(contours.below(scaled, scaled, tilted, 0.333)) / 1e4 == pytest.approx(0.333, abs=0.002)
    found = area(contours.below(scaled, scaled, hill, 0.04)) / 1e4
    assert found == pytest.approx(math.pi * 0.04, rel=0.02)
    assert contours.below(places, places, hill, -1) == ""


def area(path: str) -> float:
    total = 0.0
    for part in path.split("Z")[:-1]:
        points = list[tuple[float, float]]()
        for letter, values in re.findall(r"([MLHV])([^MLHV]+)", part):
            numbers = [float(value) for value in values.split(",")]
            x, y = points[-1] if points else (0.0, 0.0)
            points.append({"H": (numbers[0], y), "V": (x, numbers[0])}.get(letter, tuple(numbers[:2])))  # type: ignore[arg-type]
        turned = [*points[1:], points[0]]
        total += abs(sum(a * d - b * c for (a, b), (c, d) in zip(points, turned, strict=True))) / 2
    return total


def test_levels_are_round_and_leave_out_the_highest() -> None:
    found = contours.levels([[2.21, 2.3, 2.4], [2.5, 2.6, 90.0]], 7)
    assert found
    assert all(2.21 < level <= 2.6 for level, _ in found)
    assert contours.levels([[1.0, 1.0]], 7) == []


def test_a_contour_has_its_bar_of_colours() -> None:
    figure = traces.empty_figure(x="x", y="y", height=300)
    figure.add_trace(go.Contour(x=[1, 2, 3], y=[1, 2], z=[[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], meta={"role": "scale"}))
    figure.update_layout(showlegend=False)
    svg = parsed(figure)
    for _, text in contours.levels([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], 7):
        assert text in texts(svg)
