"""The race as Markdown tables, as the decision page has them: regret of one side over each other's, below 1 is better.

A cell: geometric mean ratio (95 % interval by the bootstrap over pairs of the same problem and seed) won-lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Logs = Mapping[str, np.ndarray]  # by side: logarithms of regrets, (seeds, problems, budgets)


def bootstrap(log_ratios: np.ndarray) -> tuple[float, float]:
    """95 % interval of the geometric mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(log_ratios, (4000, len(log_ratios))).mean(axis=1)
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    return float(low), float(high)


def overall(settings: Mapping[str, Logs], ours: str, budgets: Sequence[int]) -> Iterator[str]:
    """One table over all problems; a row a setting and other side, and last what stands over all settings."""
    yield f"| | {' | '.join(map(str, budgets))} |"
    yield f"|---|{'---|' * len(budgets)}"
    together: dict[str, list[np.ndarray]] = {}
    for title, logs in settings.items():
        for side in logs:
            if side != ours:
                ratios = (logs[ours] - logs[side]).reshape(-1, len(budgets))
                together.setdefault(side, []).append(ratios)
                yield f"| {title}: {side} | {' | '.join(cell(column) for column in ratios.T)} |"
    for side, parts in together.items() if len(settings) > 1 else ():
        ratios = np.concatenate(parts)
        yield f"| **all settings: {side}** | {' | '.join(cell(column) for column in ratios.T)} |"


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
    low, high = bootstrap(log_ratios)
    won, lost = (log_ratios < 0).sum(), (log_ratios > 0).sum()
    return f"{shown(math.exp(log_ratios.mean()))} ({shown(low)}-{shown(high)}) {won}-{lost}"


def shown(ratio: float) -> str:
    return f"{ratio:.2f}".removeprefix("0") if ratio < 10 else f"{ratio:.0f}"
