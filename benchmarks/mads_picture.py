"""The picture of `docs/mads.md`: where MADS looks on a surface of two variables, block by block, as SVG.

python benchmarks/mads_picture.py docs/mads.svg
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

import optuna

from meshtune.samplers import MadsSampler

SIZE, GAP, TOP = 250, 18, 44
BLOCK, SHOWN = 4, (8, 24, 60)
STEPS = 50
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8)


def loss(rate: float, rank: float) -> float:
    """A bent valley, as of a learning rate (log10) and a rank (log2): large ranks want small rates."""
    valley = rate + 3.1 + 0.18 * (rank - 4)
    return 0.9 * valley**2 + 0.02 * (rank - 6) ** 2


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=MadsSampler(block_size=BLOCK, seed=3))
    study.enqueue_trial({"rate": -4.5, "rank": 2.5})
    found = []
    while len(found) < SHOWN[-1]:
        for trial in [study.ask(_SPACE) for _ in range(BLOCK)]:
            value = loss(**trial.params)
            study.tell(trial, value)
            found.append((trial.params["rate"], trial.params["rank"], value))
    panels = "".join(panel(index, found[:count]) for index, count in enumerate(SHOWN))
    width = len(SHOWN) * (SIZE + GAP) + GAP
    Path(sys.argv[1]).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {SIZE + TOP + 46}" font-family="sans-serif" '
        f'font-size="13"><title>Points of MADS after {", ".join(map(str, SHOWN))} trials</title>'
        f'<rect width="100%" height="100%" fill="white"/>{panels}</svg>\n',
        encoding="utf-8",
    )


_SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "rate": optuna.distributions.FloatDistribution(-5, -2),
    "rank": optuna.distributions.FloatDistribution(2, 8),
}


def panel(index: int, found: list[tuple[float, float, float]]) -> str:
    left = GAP + index * (SIZE + GAP)
    best = min(found, key=lambda point: point[2])
    cells, side = [], SIZE / STEPS
    for row in range(STEPS):
        values = [loss(-5 + 3 * (column + 0.5) / STEPS, 8 - 6 * (row + 0.5) / STEPS) for column in range(STEPS)]
        at = 0
        for shade, same in groupby(255 - 16 * sum(value < level for level in LEVELS) for value in values):
            count = len(list(same))
            cells.append(
                f'<rect x="{left + at * side:g}" y="{TOP + row * side:g}" width="{count * side + 0.3:g}" '
                f'height="{side + 0.3:g}" fill="rgb({shade - 20},{shade - 8},{shade})"/>'
            )
            at += count
    dots = []
    for number, (rate, rank, _) in enumerate(found):
        x, y = left + (rate + 5) / 3 * SIZE, TOP + (8 - rank) / 6 * SIZE
        new = number >= (SHOWN[index - 1] if index else 0)
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 if new else 2.5}" fill="{"#b3261e" if new else "#555"}"/>'
        )
    x, y = left + (best[0] + 5) / 3 * SIZE, TOP + (8 - best[1]) / 6 * SIZE
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="black" stroke-width="2"/>'
    title = f"after {len(found)} trials: best {best[2]:.2g}"
    return (
        "".join(cells)
        + "".join(dots)
        + ring
        + f'<text x="{left}" y="{TOP - 14}">{title}</text>'
        + f'<text x="{left}" y="{TOP + SIZE + 20}">log10 of the rate, -5 to -2</text>'
        + f'<text x="{left}" y="{TOP + SIZE + 36}">upwards: log2 of the rank, 2 to 8</text>'
    )


if __name__ == "__main__":
    main()
