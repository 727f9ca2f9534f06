"""Files of scores, `meshtune evaluate --scores table.csv`: ours, or any with a row a candidate and a column a score.

A column `rank` (by the objective, from 1) or `name` names the candidate; `default` marks the baseline with 1. Scores
are in points, 0 to 100. A row called `items` says how many items each score is of, from which standard errors follow
where the file has none; a row called `untuned` is the model without an adapter, which is not ranked.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from meshtune.errors import Fault, InputError
from meshtune.selection.candidates import Column, Scored, ScoreTable

TITLES = {"mmlu": "MMLU", "bbh": "BBH", "drop": "DROP", "humaneval": "HumanEval"}
_OTHER = ("name", "rank", "trial", "loss", "pareto", "default")


def read(path: Path) -> ScoreTable:
    """The table of a file. Raises InputError with all its faults."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Fault(f"cannot be read ({error})", path)) from error
    lines = list(csv.reader(io.StringIO(text)))
    head = lines[0] if lines else []
    names = [name for name in head if name not in _OTHER and ":" not in name]
    if not names or not {"name", "rank"} & set(head):
        what = "needs a first line with `rank` or `name` and a column for each benchmark, such as `rank,mmlu`"
        raise InputError(Fault(what, path, 1))
    named: dict[str, dict[str, str]] = {}
    rows, faults, protocol = list[Scored](), list[Fault](), ""
    for number, fields in enumerate(lines[1:], start=2):
        row = dict(zip(head, fields, strict=False))
        name = row.get("name") or row.get("rank", "")
        if name in ("items", "measured"):
            named[name] = row
        elif name == "protocol":
            protocol = "".join(fields[1:2])
        elif fields:
            rows += _row(row, name, names, faults, path, number)
    if not rows and not faults:
        faults.append(Fault("has no candidate", path))
    items = _items(named.get("items", {}), names, faults, path)
    if faults:
        raise InputError(faults)
    measured = named.get("measured", {})
    columns = tuple(Column(name, TITLES.get(name, name), items[name], measured.get(name, "")) for name in names)
    return ScoreTable(path.stem, columns, tuple(_with_errors(row, items) for row in rows), protocol)


def _row(
    row: Mapping[str, str], name: str, names: list[str], faults: list[Fault], path: Path, line: int
) -> list[Scored]:
    scores, errors, before = dict[str, float](), dict[str, float | None](), len(faults)
    for column in names:
        try:
            scores[column] = float(row.get(column, ""))
        except ValueError:
            faults.append(Fault(f"`{row.get(column, '')}` is no score of {column}", path, line))
            continue
        if not 0 <= scores[column] <= 100:
            faults.append(Fault(f"{column} is {scores[column]:g}: scores are in points, 0 to 100", path, line))
        if error := row.get(f"{column}:se"):
            errors[column] = float(error)
    rank = row.get("rank", "")
    if len(faults) > before:
        return []
    number, trial = (int(text) if text.isdecimal() else None for text in (rank, row.get("trial", "")))
    loss = float(row["loss"]) if row.get("loss") else None
    return [Scored(name, number, scores, errors, row.get("default") == "1", trial, loss)]


def _items(row: Mapping[str, str], names: list[str], faults: list[Fault], path: Path) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name in names:
        text = row.get(name, "")
        found[name] = int(text) if text.isdecimal() and int(text) > 0 else None
        if text and found[name] is None:
            faults.append(Fault(f"`{text}` is no number of items of {name}", path))
    return found


def _with_errors(row: Scored, items: Mapping[str, int | None]) -> Scored:
    """Standard errors of shares, where the file has none and the number of items is known."""
    errors = dict(row.errors)
    for name, value in row.scores.items():
        count = items[name]
        if name not in errors and count is not None:
            errors[name] = math.sqrt(value * (100 - value) / count)
    return Scored(row.name, row.rank, row.scores, errors, row.baseline, row.trial, row.loss)
