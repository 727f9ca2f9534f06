"""How the seconds of a packed step grow with adapters and with tokens: a table, and a plot as SVG.

Two ways to grow: 1 to 32 adapters with the same batches of 4 rows, and 1 to 32 rows of one adapter. Both are measured
on one thread in the precision that this processor is fast in, with a straight line (least squares) through each.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from training_sides import BATCH, folder_of, made_rows, our_order, our_recipe, print_line, processor
from transformers import AutoConfig

from meshtune.config.sections import ModelConfig
from meshtune.training.models import load_model, resolve_precision
from meshtune.training.packed.trainer import train_pack
from meshtune.training.steps import Step

COUNTS = (1, 2, 4, 8, 16, 32)
WARM_UP = 2
Point = tuple[int, float, float]  # adapters or rows; tokens a step; seconds a step


def scaling(model: str, plot: Path, steps: int) -> None:
    """Measure, print the tables, write the plot."""
    torch.set_num_threads(1)
    precision = resolve_precision("auto", "cpu")
    rows = made_rows("short", AutoConfig.from_pretrained(folder_of(model)).vocab_size, max(COUNTS) * (steps + WARM_UP))
    base = load_model(ModelConfig(name=model), "cpu")
    order = our_order(rows)

    def point(adapters: int, batch: int) -> tuple[float, float]:
        """Tokens and seconds of a step, the means."""
        recipes = [dataclasses.replace(our_recipe(precision), batch_size=batch)] * adapters
        stamps: list[tuple[float, int]] = []
        events = train_pack(base, order, rows[:1], recipes, at="last")
        for number, event in events:
            if isinstance(event, Step) and event.training_loss is not None and number == adapters - 1:
                stamps.append((time.perf_counter(), adapters * event.tokens))
                if len(stamps) == WARM_UP + steps:
                    break
        events.close()
        (begun, before), (ended, after) = stamps[WARM_UP - 1], stamps[-1]
        return (after - before) / steps, (ended - begun) / steps

    panels: dict[str, list[Point]] = {"adapters": [], "rows of one adapter": []}
    for count in COUNTS:
        panels["adapters"].append((count, *point(count, BATCH)))
        panels["rows of one adapter"].append((count, *point(1, count)))
    for name, points in panels.items():
        slope, offset = line(points)
        print(f"\n{name} | tokens a step | seconds a step | tokens/s | seconds / line")
        for count, tokens, seconds in points:
            fit = seconds / (slope * tokens + offset)
            print(f"{count:8} | {tokens:8.0f} | {seconds:8.3f} | {tokens / seconds:8.1f} | {fit:8.2f}")
        print(f"line: {1e3 * slope:.2f} ms a token + {offset:.3f} s")
    plot.write_text(svg(panels, f"{processor()}, one thread, {precision}"), encoding="utf-8")
    few, many = panels["adapters"][0], panels["adapters"][-1]
    setting = f"tokens/s, one thread, {precision}: 32 adapters in a pack | one alone (1.00: cost is linear)"
    print_line("packed_training", setting, many[1] / many[2], few[1] / few[2])


def line(points: list[Point]) -> tuple[float, float]:
    """Seconds a token and seconds a step, of the line with the least relative squares."""
    _, tokens, seconds = (np.array(values, dtype=np.float64) for values in zip(*points, strict=True))
    slope, offset = np.polyfit(tokens, seconds, 1, w=1 / seconds)
    return float(slope), float(offset)


def svg(panels: dict[str, list[Point]], title: str) -> str:
    """Each panel: points, its line, axes of tokens a step and seconds a step."""
    width, height, left, top = 360, 260, 56, 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * (width + 80)}" height="{height + 100}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{left}" y="18">{title}</text>',
    ]
    for index, (name, points) in enumerate(panels.items()):
        x0, y0 = left + index * (width + 80), top + height
        most, longest = max(p[1] for p in points) * 1.05, max(p[2] for p in points) * 1.05
        slope, offset = line(points)
        ends = [(x, slope * x + offset) for x in (0.0, most)]
        (x1, y1), (x2, y2) = ((x0 + x / most * width, y0 - y / longest * height) for x, y in ends)
        parts += [
            f'<path d="M{x0} {top}V{y0}H{x0 + width}" fill="none" stroke="black"/>',
            f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#888" stroke-dasharray="4"/>',
            f'<text x="{x0 + width / 2}" y="{y0 + 38}" text-anchor="middle">tokens a step ({name})</text>',
            f'<text x="{x0 + 6}" y="{top + 12}">seconds a step</text>',
        ]
        for share in (0.25, 0.5, 0.75, 1.0):
            x, y = x0 + share * width / 1.05, y0 - share * height / 1.05
            parts.append(f'<text x="{x:.1f}" y="{y0 + 18}" text-anchor="middle">{share * most / 1.05:.0f}</text>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{share * longest / 1.05:.3g}</text>')
        for count, tokens, seconds in points:
            x, y = x0 + tokens / most * width, y0 - seconds / longest * height
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1f6feb"/>')
            parts.append(f'<text x="{x + 6:.1f}" y="{y + 14:.1f}" font-size="10">{count}</text>')
    return "\n".join([*parts, "</svg>", ""])
