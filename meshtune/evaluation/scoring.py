"""Stored answers of one candidate to one benchmark as scores with their standard errors.

Every share is from 0 to 1. The verdict's standard error is that of a share p over groups of n items that count alike,
sqrt(p (1 - p) mean(1 / n) / groups): with p of all groups, so that a group of one item does not pass for certain.
Other scores' are those of a mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.evaluation.benchmarks.items import PROBABILITY, Benchmark, Item
from meshtune.evaluation.store import Key, Line


@dataclass(frozen=True)
class Score:
    """A mean over items, or over groups of items, with its standard error (None: too few items to have one)."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Scores:
    """What a candidate scored on a benchmark.

    Attributes:
        verdict: of answers. chance: what guessing scores. others: further scores by name, such as `F1` or `pass@10`.
        likelihood: of right answers, told as the benchmark says; None where nothing was asked, or where an answer has
            none, as a diverged adapter's: a mean of the others would be one of easier items.
        items: that were scored. too_long: of these, those that did not fit, which count as wrong.
        cut: answers that were ended once every score was decided. groups: the verdict by group.
    """

    verdict: Score
    chance: float
    others: Mapping[str, Score]
    likelihood: Score | None
    items: int
    too_long: int
    cut: int
    groups: Mapping[str, float]

    @property
    def signal(self) -> bool:
        """Whether it is above chance by more than two standard errors."""
        return self.verdict.value - self.chance > 2 * (self.verdict.error or 0.0)


def score(benchmark: Benchmark, lines: Mapping[Key, Line], *, samples: int = 1, ks: Sequence[int] = ()) -> Scores:
    """The scores of a benchmark whose items have all been answered, `samples` times each.

    `ks`: pass@k for each of these, besides the verdict, which is pass@1.
    """
    items = benchmark.items
    answers = {item.id: [lines[item.id, sample] for sample in range(samples)] for item in items}
    shares = {item.id: statistics.fmean(line["correct"] for line in answers[item.id]) for item in items}
    groups = _by_group(items)
    values = {group: statistics.fmean(shares[item.id] for item in members) for group, members in groups.items()}
    first = [answers[item.id][0] for item in items]
    others = {name: _mean([line["scores"].get(name, 0.0) for line in first]) for name in benchmark.others}
    for k in ks:
        right = [sum(line["correct"] for line in answers[item.id]) for item in items]
        others[f"pass@{k}"] = _mean([pass_at(samples, count, k) for count in right])
    likelihoods = [likelihood(benchmark, line) for line in first if line["log_likelihoods"] is not None]
    asked = sum(line["shots"] is not None for line in first)
    if benchmark.average == "micro":
        groups = {"": list(items)}
        verdict = statistics.fmean(shares.values())
    else:
        verdict = statistics.fmean(values.values())
    inverse = statistics.fmean(1 / len(members) for members in groups.values()) / len(groups)
    error = math.sqrt(verdict * (1 - verdict) * inverse)
    if samples > 1:
        error = _mean(list(shares.values())).error or error
    return Scores(
        verdict=Score(verdict, error),
        chance=benchmark.guessed,
        others=others,
        likelihood=_mean(likelihoods) if likelihoods and len(likelihoods) == asked else None,
        items=len(items),
        too_long=len(first) - asked,
        cut=sum(line["cut"] for line in first),
        groups=values,
    )


def shares(lines: Mapping[Key, Line]) -> dict[str, float]:
    """The share of right ones among each item's answers."""
    right: dict[str, list[bool]] = {}
    for (item, _), line in lines.items():
        right.setdefault(item, []).append(line["correct"])
    return {item: statistics.fmean(answers) for item, answers in right.items()}


def pass_at(samples: int, right: int, k: int) -> float:
    """The unbiased estimate that one of k samples is right where `right` of all are (Chen et al. 2021, equation 1)."""
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def _by_group(items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    return groups


def likelihood(benchmark: Benchmark, line: Mapping[str, Any]) -> float:
    """How likely the right answer is, as the benchmark tells it, from a stored answer whose likelihoods are known."""
    values, right = line["log_likelihoods"], line["right"]
    if benchmark.likelihood == PROBABILITY:
        highest = max(values.values())
        return math.exp(values[right] - highest) / sum(math.exp(value - highest) for value in values.values())
    return float(values[right]) / len(right.encode())


def _mean(values: Sequence[float]) -> Score:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(statistics.fmean(values), error)
