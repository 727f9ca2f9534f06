"""Answers of untuned, baseline and best to validation rows, side by side, and the means of the user's metrics.

Where a model has no file of answers, it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.data.answers import FOLDER
from meshtune.data.answers import read as read_file
from meshtune.report.trials import Status, number_of
from meshtune.selection import comparisons
from meshtune.selection.statistics import Mean, mean_interval, share_interval
from meshtune.system.text import number

SHOWN = 4  # rows side by side


@dataclass(frozen=True)
class SideBySide:
    """One row: its prompt, the reference answer, and the models' answers by name, in the order of the models."""

    row: int
    prompt: str
    reference: str
    answers: Mapping[str, str]


def read(folder: Path, status: Status) -> dict[str, list[dict[str, Any]]]:
    """Answers by model: `untuned`, `baseline`, `best`, as far as there are files; the best alone where it is both.

    Raises InputError where a file holds something else.
    """
    names = {"untuned": ["untuned"], "baseline": ["baseline"], "best": []}
    for name in ("baseline", "best"):
        if (trial := number_of(status, name)) is not None:
            names[name].insert(0, f"trial-{trial}")
    if number_of(status, "best") is not None and number_of(status, "best") == number_of(status, "baseline"):
        del names["baseline"]
    found = dict[str, list[dict[str, Any]]]()
    for name, files in names.items():
        paths = [folder / FOLDER / f"{file}.jsonl" for file in files]
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            found[name] = read_file(path)
    return found


def side_by_side(answers: Mapping[str, Sequence[Mapping[str, Any]]], shown: int = SHOWN) -> list[SideBySide]:
    """The first rows that every model answered."""
    by_row = {name: {line["row"]: line for line in lines} for name, lines in answers.items()}
    if not by_row:
        return []
    common = sorted(set.intersection(*(set(lines) for lines in by_row.values())))[:shown]
    first = next(iter(by_row.values()))
    return [
        SideBySide(
            row,
            first[row]["prompt"],
            first[row]["reference"],
            {name: lines[row]["answer"] for name, lines in by_row.items()},
        )
        for row in common
    ]


def metrics(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row a metric: the mean with its standard error of each model, and best minus baseline with its interval.

    A metric that is 0 or 1 is a share of answers. Where all of them are alike it has Wilson's interval in place of an
    error of zero, and the difference of two shares has the bounds of a paired one, however few answers differ.
    """
    names = list(dict.fromkeys(name for lines in answers.values() for line in lines for name in line["scores"]))
    rows = []
    for metric in names:
        scores = {
            model: {line["row"]: float(line["scores"][metric]) for line in lines if metric in line["scores"]}
            for model, lines in answers.items()
        }
        share = all(value in (0, 1) for values in scores.values() for value in values.values())
        means = {model: mean_interval(list(values.values())) for model, values in scores.items() if values}
        best, baseline = scores.get("best", {}), scores.get("baseline", {})
        pairs = [best[row] - baseline[row] for row in sorted(set(best) & set(baseline))]
        cells = {model: _with_error(mean, share=share) for model, mean in means.items()}
        rows.append({"metric": metric, "cells": cells, "difference": _difference(pairs, share=share)})
    return rows


def _with_error(mean: Mean, *, share: bool) -> str:
    if share and mean.mean in (0, 1):
        low, high = share_interval(mean.mean, mean.count)
        return f"{mean.mean:.2f} [{low:.2f}, {high:.2f}]"
    if mean.count < 2 or mean.error == 0:
        return number(mean.mean, 4)
    digits = _decimals(mean.error)
    return f"{mean.mean:z.{digits}f} ± {mean.error:.{digits}f}"


def _difference(pairs: Sequence[float], *, share: bool) -> str:
    if not pairs:
        return ""
    mean = mean_interval(pairs)
    if share:
        mended, broken = (sum(pair == side for pair in pairs) for side in (1, -1))
        low, high = comparisons.interval(mended, broken, len(pairs))
        return f"{mean.mean:+z.2f} [{low:+z.2f}, {high:+z.2f}]"
    if mean.count < 2 or mean.error == 0:
        return f"{mean.mean:+z.4g}"
    digits = _decimals(mean.error)
    return f"{mean.mean:+z.{digits}f} [{mean.low:+z.{digits}f}, {mean.high:+z.{digits}f}]"


def _decimals(error: float) -> int:
    """So many that the error has two digits that are not zero."""
    return max(0, min(8, 1 - math.floor(math.log10(error))))
