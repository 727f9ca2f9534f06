"""The race as a picture: regret against trials, one panel a setting, one line a side; an SVG for light and dark pages.

A run's regret is divided by what there is to gain on its problem (the loss where nothing is learned, less the minimum),
so that problems can stand in one picture; the line is the median over problems and seeds of the point with the best
noisy value. Bars at 20, 50 and 100 trials are 95 % intervals of the median, by the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 472, 340, 52, 130, 40, 44
FIRST = 5  # trials from which the lines are drawn
TICKS = (5, 20, 50, 100)
COLOURS = {"batch-gp": "one", "mads": "two", "Optuna TPE": "three"}  # the others are grey, and named at their ends
DASHES = ("", "5 3", "1.5 3", "8 3 2 3", "3 2", "10 4", "2 5", "6 2 1 2")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2330 } .title { font-weight: 600; font-size: 13px }
.faint, .faint text { fill: #5b6470 } .axis { stroke: #c9cdd6 } .mesh { stroke: #e7e9ee }
.side { fill: none } .side, .bar { stroke-width: 1.4; stroke: #7d8694 } .name { fill: #5b6470 }
.one { stroke: #1f5fbf; stroke-width: 3 } .two { stroke: #b4560a; stroke-width: 2.2 }
.three { stroke: #137a5b; stroke-width: 2.2 } .one.name { fill: #1f5fbf; font-weight: 600 } .two.name { fill: #b4560a }
.three.name { fill: #137a5b } .name { stroke: none !important }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ef } .faint, .faint text { fill: #a3acba } .axis { stroke: #4a5261 } .mesh { stroke: #2b313c }
.side, .bar { stroke: #8b95a5 } .name { fill: #a3acba } .one { stroke: #6ea8ff } .two { stroke: #f0a35e }
.three { stroke: #4cc9a0 } .one.name { fill: #6ea8ff } .two.name { fill: #f0a35e } .three.name { fill: #4cc9a0 } }
"""
Courses = Mapping[str, np.ndarray]  # by side: (runs, trials), regrets over what there is to gain


def svg(panels: Mapping[str, Courses], note: str) -> str:
    """The picture; `note` stands below it."""
    lows, highs = [], []
    for courses in panels.values():
        medians = np.concatenate([np.median(course, axis=0)[FIRST - 1 :] for course in courses.values()])
        lows.append(medians.min())
        highs.append(medians.max())
    ends = math.log10(min(lows) * 0.8), math.log10(max(highs) * 1.15)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = columns * WIDTH, rows * HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="Regret against trials of each optimizer">',
        f"<style>{STYLE}</style>",
    ]
    for index, (title, courses) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({index % columns * WIDTH} {index // columns * HEIGHT})">')
        parts += panel(title, courses, ends)
        parts.append("</g>")
    parts += [f'<text class="faint" x="12" y="{size[1] - 8}">{escape(note)}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def panel(title: str, courses: Courses, ends: tuple[float, float]) -> list[str]:
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    trials = next(iter(courses.values())).shape[1]

    def x(trial: float) -> float:
        return LEFT + width * math.log(trial / FIRST) / math.log(trials / FIRST)

    def y(share: float) -> float:
        return TOP + height * (ends[1] - math.log10(share)) / (ends[1] - ends[0])

    parts = [f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>', '<g class="faint">']
    for tick in (tick for tick in TICKS if tick <= trials):
        parts += [
            f'<line class="mesh" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{TOP + height}"/>',
            f'<text x="{x(tick):.1f}" y="{TOP + height + 16}" text-anchor="middle">{tick}</text>',
        ]
    for share in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        if ends[0] <= math.log10(share) <= ends[1]:
            parts += [
                f'<line class="mesh" x1="{LEFT}" x2="{LEFT + width}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>',
                f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:g} %</text>',
            ]
    parts += [
        f'<text x="{LEFT + width / 2}" y="{TOP + height + 34}" text-anchor="middle">trials</text>',
        f'<text x="{LEFT - 44}" y="{TOP - 8}">regret, in percent of what there is to gain</text>',
        "</g>",
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{TOP + height}H{LEFT + width}"/>',
    ]
    greys, labels = 0, []
    for place, (side, course) in enumerate(reversed(list(courses.items()))):  # ours last, on top
        medians = np.median(course, axis=0)
        kind, dash = COLOURS.get(side, ""), ""
        if not kind:
            dash, greys = DASHES[greys % len(DASHES)], greys + 1
        points = " ".join(f"{x(n):.1f},{y(medians[n - 1]):.1f}" for n in range(FIRST, trials + 1))
        parts.append(f'<polyline class="side {kind}" stroke-dasharray="{dash}" points="{points}"/>')
        for tick in (tick for tick in TICKS[1:] if tick <= trials):
            low, high = interval(course[:, tick - 1])
            at = x(tick) + 2.4 * (place + 1 - len(courses) / (1 if tick == trials else 2))
            low, high = max(low, 10 ** ends[0]), min(high, 10 ** ends[1])
            parts.append(f'<line class="bar {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>')
        labels.append((y(medians[-1]), side, kind, dash))
    for at, to, (_, side, kind, dash) in zip(
        [label[0] for label in sorted(labels)], spread([label[0] for label in labels]), sorted(labels), strict=True
    ):
        start, middle = LEFT + width + 2, LEFT + width + 16
        parts += [
            f'<path class="side {kind}" style="stroke-width:1" stroke-dasharray="{dash}" d="M{start} {at:.1f}'
            f'L{middle} {to:.1f}"/>',
            f'<text class="name {kind}" x="{middle + 4}" y="{to + 4:.1f}">{escape(side)}</text>',
        ]
    return parts


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the median."""
    medians = np.median(np.random.default_rng(0).choice(values, (1000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def spread(places: Sequence[float], gap: float = 14.0) -> list[float]:
    """Heights in order, moved apart as little as need be."""
    found = sorted(places)
    for _ in range(200):
        for i in range(1, len(found)):
            if (short := gap - (found[i] - found[i - 1])) > 1e-6:
                found[i - 1] -= short / 2
                found[i] += short / 2
    return found
