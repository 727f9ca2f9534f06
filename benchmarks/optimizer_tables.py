"""The race as Markdown tables, as the decision page has them: regret of one side over each other's, below 1 is better.

A cell: geometric mean ratio (95 % interval) won-lost. Pairs of the same problem are alike, so the interval is
Student's t over the problems' mean log ratios: it says what to expect on another problem of this kind. Of one problem
alone it is over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

Logs = Mapping[str, np.ndarray]  # by side: logarithms of regrets, (seeds, problems, budgets)


def over_problems(log_ratios: np.ndarray) -> tuple[float, float, float]:
    """The geometric mean of ratios (seeds, problems), and its 95 % interval."""
    means = log_ratios.mean(axis=0) if log_ratios.shape[1] > 1 else log_ratios[:, 0]
    count, mean = len(means), float(means.mean())
    if count < 2:
        return math.exp(mean), math.nan, math.nan
    half = float(stats.t.ppf(0.975, count - 1) * means.std(ddof=1)) / math.sqrt(count)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def overall(
    settings: Mapping[str, Logs], ours: str, budgets: Sequence[int], noise: np.ndarray | None = None
) -> Iterator[str]:
    """One table over all problems; a row a setting and other side, and last what stands over all settings.

    With the `noise` of each problem near its minimum (nan where its loss is not in nats) two more columns, each with a
    figure a budget: the median of how many nats ours is ahead by, and the ratio where no regret counts for less than
    half the noise.
    """
    more = ("ahead by, nats", "ratio, floor at half the noise") if noise is not None else ()
    yield f"| | {' | '.join([*map(str, budgets), *more])} |"
    yield f"|---|{'---|' * (len(budgets) + len(more))}"
    together: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for title, logs in settings.items():
        for side in logs:
            if side != ours:
                together.setdefault(side, []).append((logs[ours], logs[side]))
                yield f"| {title}: {side} | {' | '.join(_row(logs[ours], logs[side], noise))} |"
    for side, pairs in together.items() if len(settings) > 1 else ():
        mine, other = (np.concatenate(part) for part in zip(*pairs, strict=True))
        yield f"| **all settings: {side}** | {' | '.join(_row(mine, other, noise))} |"


def _row(mine: np.ndarray, other: np.ndarray, noise: np.ndarray | None) -> list[str]:
    """Cells, from logarithms of regrets (seeds, problems, budgets)."""
    cells = [cell(column) for column in np.moveaxis(mine - other, 2, 0)]
    if noise is None:
        return cells
    ahead = (np.exp(other) - np.exp(mine))[:, ~np.isnan(noise)].reshape(-1, mine.shape[2])
    least = np.log(np.where(np.isnan(noise), 1e-300, noise / 2))[:, None]
    floored = np.exp((np.maximum(mine, least) - np.maximum(other, least)).mean(axis=(0, 1)))
    cells.append(" / ".join(f"{nats:.4f}".replace("0.", ".", 1) for nats in np.median(ahead, axis=0)))
    return [*cells, " / ".join(shown(ratio) for ratio in floored)]


def by_problem(settings: Mapping[str, Logs], ours: str, other: str, names: Sequence[str]) -> Iterator[str]:
    """One table against one side: a row a problem, a column a setting, ratios after each budget."""
    yield f"| {ours} over {other} | {' | '.join(settings)} |"
    yield f"|---|{'---|' * len(settings)}"
    for index, name in enumerate(names):
        cells = []
        for logs in settings.values():
            ratios = np.exp((logs[ours] - logs[other])[:, index].mean(axis=0))
            cells.append(" / ".join(shown(ratio) for ratio in ratios))
        yield f"| `{name}` | {' | '.join(cells)} |"


def cell(log_ratios: np.ndarray) -> str:
    """Of (seeds, problems)."""
    mean, low, high = over_problems(log_ratios)
    won, lost = (log_ratios < 0).sum(), (log_ratios > 0).sum()
    return f"{shown(mean)} ({shown(low)}-{shown(high)}) {won}-{lost}"


def shown(ratio: float) -> str:
    return f"{ratio:.2f}".removeprefix("0") if ratio < 10 else f"{ratio:.0f}"
