"""A plotly figure as SVG of our own: what a page shows, and what a paper is given.

plotly.js would add 4.8 MB to a page and needs a browser for a picture in a file. The figures here need little of it:
lines, points, bars, a band, parallel coordinates, and a contour. Colours are variables of the page's style by the role
of each trace (`meta: {"role": ..}`), so that one drawing serves light and dark; `standalone` puts in those of light
paper. What a mark says under the pointer is in its `data-says`. Nothing else of a figure is drawn.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshtune.report import contours, traces
from meshtune.report.scales import ACROSS, UP, Axis, axis, shortened, text_width

SIZE = 13  # of text, in pixels
EDGE = 12  # white around a figure in a file
LINE = 20  # from line to line
FAMILY = "Helvetica, Arial, Liberation Sans, DejaVu Sans, Noto Sans, Roboto, Ubuntu, sans-serif"  # in a file
BETWEEN = 88  # pixels from one axis of parallel coordinates to the next, at least
BELOW = 76  # the same where they lie one below the other
SHADES = 8  # colours from the lowest to the highest: --scale0 to --scale7
DASHES = {"dash": "8 5", "dot": "2 4"}
TALL = 0.27  # of its size lies half of a capital letter above the line
Trace = Mapping[str, Any]


def drawn(figure: Mapping[str, Any], width: int, label: str) -> str:
    """The SVG of a figure, given as plain values (`to_plotly_json`), so many pixels wide. `label`: for who hears it."""
    data, layout = figure["data"], figure["layout"]
    height = int(layout["height"])
    parallel = next((trace for trace in data if trace["type"] == "parcoords"), None)
    if parallel is not None:
        height, inside = _parallel(parallel, width, height)
    else:
        parts = list[str]()
        height += _axes_and_marks(data, layout, width, height, parts)
        inside = "".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} role="img" aria-label="{_attribute(label)}" font-size="{SIZE}" fill="var(--ink)">{inside}</svg>'


def standalone(svg: str) -> str:
    """The drawing as a file of its own: colours of light paper, white behind it, a font that is everywhere."""
    colours = traces.light()
    text = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], svg)
    text = re.sub(r' (data-says|class|data-\w+)="[^"]*"', "", text)
    head, _, inside = text.partition(">")
    width, height = map(int, re.findall(r' (?:width|height)="(\d+)"', head))
    wide, tall = width + 2 * EDGE, height + 2 * EDGE
    box = f'viewBox="{-EDGE} {-EDGE} {wide} {tall}" width="{wide}" height="{tall}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}'
    paper = f'<rect x="{-EDGE}" y="{-EDGE}" width="{wide}" height="{tall}" fill="#ffffff"/>'
    return f'{head} font-size="{SIZE}" fill="{colours["ink"]}" font-family="{FAMILY}">{paper}{inside}\n'


# -- axes


def _axes_and_marks(data: Sequence[Trace], layout: Mapping[str, Any], width: int, height: int, parts: list[str]) -> int:
    """Writes the parts; returns by how much the figure is higher than it was meant to be: a legend of many lines."""
    x_given, y_given = layout["xaxis"], layout["yaxis"]
    keys = list(_legend(data, width)) if layout.get("showlegend", True) else []
    lines = max((line for line, _, _ in keys), default=-1) + 1
    titled = bool(_title(y_given))
    top = LINE * lines + (LINE if titled else 0) + 10
    more = LINE * max(0, lines - 1)
    bottom = height + more - (44 if _title(x_given) else 24)
    wide = [trace for trace in data if trace["type"] == "contour"]
    y = axis(y_given, _values(data, "y"), bottom, top, UP)
    shown = y_given.get("showticklabels", True)
    left = 10 + max((text_width(text) for _, text in y.ticks), default=0) if shown else 4
    left = min(left, 0.45 * width)
    x = axis(x_given, _values(data, "x"), left, width - (86 if wide else 16), ACROSS)
    parts.extend(_key(trace, at, LINE * line + 14, width) for line, at, trace in keys)
    if titled:
        parts.append(_text(0, top - 14, _title(y_given), colour="soft"))
    parts.extend(_frame(x, y, x_given, y_given, width, shown=shown))
    for trace in data:
        parts.extend(_marks(trace, x, y, data))
    return more


def _clipped(inside: str, x: Axis, y: Axis) -> str:
    """Lines and areas that end where the picture does: a drawing inside the drawing needs no name to refer to."""
    box = (x.start, y.end - 2, x.end - x.start, y.start - y.end + 4)
    left, top, wide, tall = (_n(value) for value in box)
    return (
        f'<svg x="{left}" y="{top}" width="{wide}" height="{tall}" viewBox="{left} {top} {wide} {tall}">{inside}</svg>'
    )


def _title(given: Mapping[str, Any]) -> str:
    return str((given.get("title") or {}).get("text") or "")


def _frame(
    x: Axis, y: Axis, x_given: Mapping[str, Any], y_given: Mapping[str, Any], width: int, *, shown: bool
) -> Iterator[str]:
    if y_given.get("showgrid", True):
        grid = "".join(f"M{_n(x.start)},{_n(at)}H{_n(x.end)}" for at, _ in y.ticks)
        yield f'<path d="{grid}" stroke="var(--grid)" fill="none"/>'
    yield f'<path d="M{_n(x.start)},{_n(y.start)}H{_n(x.end)}" stroke="var(--line)" fill="none"/>'
    if shown:
        room = x.start - 8
        for at, text in y.ticks:
            yield _text(x.start - 8, at + TALL * SIZE + 1, shortened(text, room), "end", "soft")
    for at, text in _apart(x.ticks):
        half = text_width(text) / 2
        yield _text(min(max(at, half), width - half), y.start + 18, text, "middle", "soft")
    if title := _title(x_given):
        half = text_width(title) / 2
        yield _text(max(half, min((x.start + x.end) / 2, width - half)), y.start + 38, title, "middle", "soft")


def _apart(ticks: Sequence[tuple[float, str]], size: float = SIZE) -> Iterator[tuple[float, str]]:
    """Those whose words do not run into the ones before."""
    end = float("-inf")
    for at, text in ticks:
        half = text_width(text, size) / 2
        if at - half > end + 6:
            end = at + half
            yield at, text


def _values(data: Sequence[Trace], name: str) -> list[Any]:
    """All values along an axis; of bars also where they begin and, where they are stacked, where the last one ends."""
    found = [value for trace in data if trace["type"] != "bar" or name == "y" for value in trace[name]]
    bars = [trace for trace in data if trace["type"] == "bar"]
    if bars and name == "x":
        totals = dict[Any, float]()
        for trace in bars:
            for length, place in zip(trace["x"], trace["y"], strict=True):
                totals[place] = totals.get(place, 0) + length
        whole = all(isinstance(length, int) for trace in bars for length in trace["x"])
        found += [0 if whole else 0.0, *totals.values()]
    return found


# -- the legend


def _legend(data: Sequence[Trace], width: int) -> Iterator[tuple[int, float, Trace]]:
    """Line, place and trace of each entry, as many on a line as there is room for."""
    line, at = 0, 0.0
    for trace in data:
        if trace["type"] == "contour" or not trace.get("name") or trace.get("showlegend") is False:
            continue
        needs = 26 + text_width(trace["name"])
        if at and at + needs > width:
            line, at = line + 1, 0.0
        yield line, at, trace
        at += needs + 16


def _key(trace: Trace, at: float, base: float, width: int) -> str:
    colour, y = _colour(trace), base - 4.5
    mode = trace.get("mode", "")
    sign = ""
    if trace["type"] == "bar":
        sign = f'<rect x="{_n(at)}" y="{_n(y - 5)}" width="11" height="11" rx="2" fill="{colour}"/>'
    if "lines" in mode:
        sign += f'<path d="M{_n(at)},{_n(y)}h18" stroke="{colour}" fill="none"{_stroke(trace)}/>'
    if "markers" in mode:
        sign += f'<g fill="{colour}">{_symbol(trace, at + 9, y, "")}</g>'
    gap = 17 if trace["type"] == "bar" else 24
    return sign + _text(at + gap, base, shortened(trace["name"], width - at - gap))


# -- marks


def _marks(trace: Trace, x: Axis, y: Axis, data: Sequence[Trace]) -> Iterator[str]:
    match trace["type"]:
        case "bar":
            yield from _bars(trace, x, y, data)
        case "contour":
            yield from _contour(trace, x, y)
        case _:
            yield from _scatter(trace, x, y)


def _scatter(trace: Trace, x: Axis, y: Axis) -> Iterator[str]:
    colour, mode, opacity = _colour(trace), trace["mode"], trace.get("opacity")
    faint = f' opacity="{opacity:.2g}"' if opacity is not None and opacity < 1 else ""
    says, name = _says(trace), trace.get("name") or ""
    texts = trace.get("text")
    runs = list(_runs(trace["x"], trace["y"]))
    if trace.get("fill") == "toself":
        shape = "M" + "L".join(f"{_n(x.at(a))},{_n(_within(y, b))}" for run in runs for _, a, b in run) + "Z"
        yield _clipped(f'<path d="{shape}" fill="{colour}"{faint}/>', x, y)
        return
    if "lines" in mode:
        stepped = (trace.get("line") or {}).get("shape") == "hv"
        silent = trace.get("hoverinfo") == "skip"
        lines = ""
        for run in runs:
            words = "" if silent else str(texts[run[0][0]]) if texts is not None else name
            lines += _polyline([(x.at(a), _within(y, b)) for _, a, b in run], words, stepped=stepped)
        style = f'stroke="{colour}" stroke-linejoin="round"{_stroke(trace)}{faint}'
        yield _clipped(f'<g fill="none" {style}>{lines}</g>', x, y)
    if "markers" in mode:
        outline = (
            ' stroke="var(--paper)" stroke-width="1.2"' if (trace["marker"].get("line") or {}).get("width") else ""
        )
        yield f'<g fill="{colour}"{outline}{faint if "lines" not in mode else ""}>'
        for run in runs:
            for index, a, b in run:
                across, up = x.at(a), y.at(b)
                if y.end - 1 <= up <= y.start + 1 and x.start - 1 <= across <= x.end + 1:
                    yield _symbol(trace, across, up, _attribute(says(index, a, b)))
        yield "</g>"


def _within(y: Axis, value: float) -> float:
    """The pixel of a value, no further outside the picture than its own height."""
    tall = y.start - y.end
    return min(max(y.at(value), y.end - tall), y.start + tall)


def _runs(x: Sequence[Any], y: Sequence[Any]) -> Iterator[list[tuple[int, Any, Any]]]:
    """Points that belong together: between the gaps. Each with its place among all."""
    run = list[tuple[int, Any, Any]]()
    for index, (a, b) in enumerate(zip(x, y, strict=True)):
        if a is None or b is None:
            if run:
                yield run
            run = []
        else:
            run.append((index, a, b))
    if run:
        yield run


def _polyline(points: Sequence[tuple[float, float]], says: str, *, stepped: bool) -> str:
    words = f' data-says="{_attribute(says)}"' if says else ""
    if len(points) == 1:
        return ""
    if stepped:
        corners = [points[0]]
        for before, after in itertools.pairwise(points):
            if after[1] != before[1] or after is points[-1]:
                corners += [(after[0], before[1]), after]
        points = corners
    return f'<polyline points="{" ".join(f"{_n(a)},{_n(b)}" for a, b in points)}"{words}/>'


def _symbol(trace: Trace, x: float, y: float, says: str) -> str:
    marker = trace["marker"]
    radius = float(marker.get("size", 6)) / 2
    words = f' data-says="{says}"' if says else ""
    match marker.get("symbol", "circle"):
        case "x":
            r = radius * 0.85
            shape = (
                f"M{_n(x)},{_n(y)}m{_n(-r)},{_n(-r)}l{_n(2 * r)},{_n(2 * r)}m0,{_n(-2 * r)}l{_n(-2 * r)},{_n(2 * r)}"
            )
            return f'<path d="{shape}" fill="none" stroke="{_colour(trace)}" stroke-width="2"{words}/>'
        case "diamond":
            r = radius * 1.25
            shape = f"M{_n(x)},{_n(y)}m0,{_n(-r)}l{_n(r)},{_n(r)}l{_n(-r)},{_n(r)}l{_n(-r)},{_n(-r)}z"
        case "triangle-up":
            r = radius * 1.15
            shape = f"M{_n(x)},{_n(y)}m0,{_n(-r)}l{_n(r)},{_n(1.8 * r)}h{_n(-2 * r)}z"
        case "star":
            corners = [(0, -1), (0.24, -0.33), (0.95, -0.31), (0.38, 0.12), (0.59, 0.81), (0, 0.4)]
            corners += [(-a, b) for a, b in reversed(corners[1:-1])]
            r = radius * 1.3
            shape = f"M{_n(x)},{_n(y)}" + "".join(
                f"{'m' if not place else 'l'}{_n(r * (a - c))},{_n(r * (b - d))}"
                for place, ((a, b), (c, d)) in enumerate(zip(corners, [(0, 0), *corners], strict=False))
            )
            shape += "z"
        case _:
            return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"{words}/>'
    return f'<path d="{shape}"{words}/>'


def _bars(trace: Trace, x: Axis, y: Axis, data: Sequence[Trace]) -> Iterator[str]:
    """Bars from left to right; those of traces before this one stand before it."""
    before = dict[Any, float]()
    for other in data:
        if other is trace:
            break
        if other["type"] == "bar":
            for length, place in zip(other["x"], other["y"], strict=True):
                before[place] = before.get(place, 0.0) + length
    thick = min(26.0, 0.72 * abs(y.end - y.start) / max(len(y.places), 1))
    says = _says(trace)
    yield f'<g fill="{_colour(trace)}">'
    for index, (length, place) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        start = x.at(before.get(place, 0.0))
        span = max(x.at(before.get(place, 0.0) + length) - start, 0.5)
        size = f'width="{_n(span)}" height="{_n(thick)}"'
        words = _attribute(says(index, length, place))
        yield f'<rect x="{_n(start)}" y="{_n(y.at(place) - thick / 2)}" {size} data-says="{words}"/>'
    yield "</g>"
    if spread := trace.get("error_x"):
        ends = ""
        for place, at, less, more in zip(trace["y"], trace["x"], spread["arrayminus"], spread["array"], strict=True):
            low, high, middle = x.at(max(at - less, x.low)), x.at(at + more), y.at(place)
            ends += f"M{_n(low)},{_n(middle)}H{_n(high)}"
            ends += "".join(f"M{_n(end)},{_n(middle - 4)}v8" for end in (low, high))
        yield f'<path d="{ends}" stroke="var(--ink)" stroke-width="1.4" fill="none"/>'


def _contour(trace: Trace, x: Axis, y: Axis) -> Iterator[str]:
    """Areas between round values, the lowest in the strongest colour, and a bar of the colours beside them."""
    levels = contours.levels(trace["z"], SHADES - 1)
    across, up = [x.at(value) for value in trace["x"]], [y.at(value) for value in trace["y"]]
    size = f'x="{_n(x.start)}" y="{_n(y.end)}" width="{_n(x.end - x.start)}" height="{_n(y.start - y.end)}"'
    count = len(levels)
    shades = [f"var(--scale{SHADES - 1 - round((SHADES - 1) * k / max(count, 1))})" for k in range(count + 1)]
    yield f'<rect {size} fill="{shades[0]}"/>'
    for shade, (level, _) in zip(shades[1:], reversed(levels), strict=True):
        area = contours.below(across, up, trace["z"], level)
        yield f'<path d="{area}" fill="{shade}" stroke="{shade}" stroke-width=".6"/>'
    tall = (y.start - y.end) / len(shades)
    for place, shade in enumerate(shades):
        top = y.end + place * tall
        yield f'<rect x="{_n(x.end + 12)}" y="{_n(top)}" width="14" height="{_n(tall + 0.3)}" fill="{shade}"/>'
    for place, (_, text) in enumerate(reversed(levels), start=1):
        yield _text(x.end + 32, y.end + place * tall + 5, text, colour="soft")


def _parallel(trace: Trace, width: int, height: int) -> tuple[int, str]:
    """Parallel coordinates, and how high they are: axes side by side; one below the other where they have no room."""
    dimensions = trace["dimensions"]
    if width < BETWEEN * len(dimensions):
        axes = [axis({**one, "log": False}, one["values"], 8, width - 8, 60) for one in dimensions]
        places = [44.0 + BELOW * place for place in range(len(axes))]
        parts = _trial_lines(trace, [(one, at, True) for one, at in zip(axes, places, strict=True)])
        lying = (
            _lying(one, at, given["label"], width) for one, at, given in zip(axes, places, dimensions, strict=True)
        )
        return int(places[-1]) + 34, "".join([*parts, *lying])
    top, bottom, first, last = 44.0, height - 14.0, 46.0, width - 58.0  # the last has its numbers at its right
    step = (last - first) / max(len(dimensions) - 1, 1)
    axes = [axis({**one, "log": False}, one["values"], bottom, top, 40) for one in dimensions]
    places = [first + step * place if len(axes) > 1 else width / 2 for place in range(len(axes))]
    parts = _trial_lines(trace, [(one, at, False) for one, at in zip(axes, places, strict=True)])
    standing = (
        _standing(one, at, given["label"], step, outer=at in (places[0], places[-1]), last=at == places[-1])
        for one, at, given in zip(axes, places, dimensions, strict=True)
    )
    return height, "".join([*parts, *standing])


def _trial_lines(trace: Trace, axes: Sequence[tuple[Axis, float, bool]]) -> Iterator[str]:
    """A line a trial through the axes, each with its place and whether it lies; those of the lowest loss last."""
    dimensions = trace["dimensions"]
    low, high = trace["line"]["cmin"], trace["line"]["cmax"]
    names = trace.get("ids") or [""] * len(dimensions[0]["values"])
    yield f'<g fill="none" stroke-width="1.4" stroke-opacity="{0.9 if len(names) < 60 else 0.6}">'
    for index, loss in enumerate(dimensions[-1]["values"]):
        share = (loss - low) / (high - low) if high > low else 0.0
        shade = min(SHADES - 1, max(0, int(share * SHADES)))
        along = [one.at(given["values"][index]) for (one, _, _), given in zip(axes, dimensions, strict=True)]
        points = [(spot, at) if lies else (at, spot) for spot, (_, at, lies) in zip(along, axes, strict=True)]
        line = _polyline(points, names[index], stepped=False)
        yield line.replace("<polyline", f'<polyline class="line" stroke="var(--scale{shade})"', 1)
    yield "</g>"


def _standing(one: Axis, at: float, label: str, step: float, *, outer: bool, last: bool) -> str:
    """An axis from bottom to top with its name over it, its numbers beside it; `outer`: beside it the drawing ends."""
    stroke = f'd="M{_n(at)},{_n(one.end)}V{_n(one.start)}" stroke="var(--soft)"'
    parts = [f'<g class="axis" data-at="{_n(at)}"><path {stroke}/>']
    for place, text in one.ticks:
        parts.append(f'<path d="M{_n(at if last else at - 4)},{_n(place)}h4" stroke="var(--soft)"/>')
        room, anchor = (50, "start") if last else (min(step - 10, at - 8), "end")
        words = shortened(text, room, 12)
        parts.append(_text(at + 7 if last else at - 7, place + TALL * SIZE + 1, words, anchor, halo=True, size=12))
    parts.append(_text(at, 22, shortened(label, min(step - 6, 88) if outer else step - 6), "middle"))
    box = f'x="{_n(at - 14)}" y="{_n(one.end)}" width="28" height="{_n(one.start - one.end)}"'
    return "".join([*parts, f'<rect {box} fill="transparent"/></g>'])


def _lying(one: Axis, at: float, label: str, width: int) -> str:
    """An axis from left to right with its name over it and its numbers below."""
    stroke = f'd="M{_n(one.start)},{_n(at)}H{_n(one.end)}" stroke="var(--soft)"'
    parts = [f'<g class="axis lying" data-at="{_n(at)}"><path {stroke}/>']
    for place, text in _apart(one.ticks, 12):
        half = text_width(text, 12) / 2
        parts.append(f'<path d="M{_n(place)},{_n(at)}v4" stroke="var(--soft)"/>')
        where = min(max(place, half), width - half)
        parts.append(_text(where, at + 17, text, "middle", halo=True, size=12))
    parts.append(_text(0, at - 12, shortened(label, width), halo=True))
    box = f'x="{_n(one.start)}" y="{_n(at - 14)}" width="{_n(one.end - one.start)}" height="28"'
    return "".join([*parts, f'<rect {box} fill="transparent"/></g>'])


# -- small parts


def _colour(trace: Trace) -> str:
    return f"var(--{trace['meta']['role']})"


def _stroke(trace: Trace) -> str:
    line = trace.get("line") or {}
    dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
    return f' stroke-width="{line.get("width", 2)}"{dash}'


def _says(trace: Trace) -> Any:
    """What a point says, by its place and values: plotly's template filled in, without its tags."""
    template = trace.get("hovertemplate") or ""
    template = re.sub(r"<extra>(.*?)</extra>", lambda found: f" {found[1]}" if found[1] else "", template)
    texts, name = trace.get("text"), trace.get("name") or ""

    def say(index: int, x: Any, y: Any) -> str:
        held = {"x": x, "y": y, "text": texts[index] if texts is not None else "", "fullData.name": name}

        def value(found: re.Match[str]) -> str:
            given = held[found[1]]
            return format(given, found[2][1:]) if found[2] and isinstance(given, int | float) else str(given)

        said = re.sub(r"%\{([\w.]+)(:[^}]*)?\}", value, template)
        return re.sub(r"</?b>", "", said.replace("<br>", "\n")).strip()

    return say


def _text(
    x: float, y: float, text: str, anchor: str = "", colour: str = "", *, halo: bool = False, size: float | None = None
) -> str:
    more = f' text-anchor="{anchor}"' if anchor else ""
    more += f' fill="var(--{colour})"' if colour else ""
    more += ' stroke="var(--paper)" stroke-width="3" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    more += f' font-size="{size}"' if size else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{more}>{html.escape(text)}</text>'


def _attribute(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
