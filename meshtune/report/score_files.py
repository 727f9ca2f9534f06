"""Files of scores, `meshtune evaluate --scores table.csv`: ours, or any with a row a candidate and a column a score.

A column `rank` (by the objective, from 1) or `name` names the candidate; `default` marks the baseline with 1, or with
`yes`, `true` or `x`. Scores are in points, 0 to 100; a column with a colon in its name stands beside a benchmark's own
score. A row called `items` says how many items each score is of, from which standard errors follow where the file has
none; a row called `untuned` is the model without an adapter, which is not ranked.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meshtune.errors import Fault, InputError, refuse
from meshtune.evaluation.benchmarks import registry
from meshtune.report.benchmark_tables import META, TextTable, candidates, statistics
from meshtune.selection.candidates import Column, Scored, ScoreTable

MOST_ITEMS = 10**9
TITLES = {one.name: one.title for one in registry.ALL}
_OTHER = ("name", "rank", "trial", "loss", "left", "pareto", "default")
_ERROR = ":se"
_BASELINE, _NO_BASELINE = ("1", "1.0", "yes", "true", "x"), ("", "0", "0.0", "no", "false")  # in the column `default`


def read(path: Path) -> ScoreTable:
    """The table of a file. Raises InputError with all its faults."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Fault(f"cannot be read ({error})", path)) from error
    lines = _lines(text, path)
    head = lines[0][1] if lines else []
    names = [name for name in dict.fromkeys(head) if name not in _OTHER and not name.endswith(_ERROR)]
    if all(":" in name for name in names) or not {"name", "rank"} & set(head):
        what = "needs a first line with `rank` or `name` and a column for each benchmark, such as `rank,mmlu`"
        raise InputError(Fault(what, path, 1))
    known: dict[str, dict[str, str]] = {}
    rows, faults, protocol = list[Scored](), list[Fault](), ""
    if twice := sorted({name for name in head if head.count(name) > 1}):
        faults.append(Fault(f"names the column `{twice[0]}` twice", path, 1))
    seen = dict[str, int]()
    for number, fields in lines[1:]:
        row = dict(zip(head, fields, strict=False))  # may be shorter: what is not there is not known
        name = row.get("name") or row.get("rank", "")
        if any(fields[len(head) :]):
            what = f"has {len(fields)} fields for {len(head)} columns"
            advice = "write 94.46 for 94,46, 1000 for 1,000, and a text with a comma in quotes"
            faults.append(Fault(f"{what}: {advice}", path, number))
        elif name in META:
            known[name] = row
        elif name == "protocol":
            protocol = "".join(fields[1:2])
        elif fields and name in seen:
            faults.append(Fault(f"line {seen[name]} has the scores of `{name}` already", path, number))
        elif fields:
            seen[name] = number
            rows += _row(row, name, names, faults, path, number)
    if not rows and not faults:
        faults.append(Fault("has no candidate", path))
    columns = [_column(name, {key: row.get(name, "") for key, row in known.items()}, faults, path) for name in names]
    refuse(faults)
    return ScoreTable(path.stem, tuple(columns), tuple(_with_errors(row, columns) for row in rows), protocol)


def of_study(folder: Path) -> list[TextTable]:
    """The tables that `meshtune evaluate` left in a study's folder, of each protocol; its files say the same."""
    found = list[TextTable]()
    for path in _files(folder):
        table = replace(read(path), label=folder.name)
        stored = json.loads((path.parent / "scores.json").read_text(encoding="utf-8"))
        found += [candidates(table, stored.get("notes", ())), statistics([table], stored["best"])]
    return found


def newest(folder: Path) -> ScoreTable | None:
    """The table that `meshtune evaluate` wrote last into a study's folder; None before. Raises InputError."""
    path = max(_files(folder), key=lambda path: path.stat().st_mtime, default=None)
    return None if path is None else replace(read(path), label=folder.name)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "evaluation" / "benchmarks").glob("*/candidates.csv"))


def _lines(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """The fields of each row, with the number of the line that it begins in."""
    found, begins = list[tuple[int, list[str]]](), 1
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        for fields in reader:
            found.append((begins, fields))
            begins = reader.line_num + 1
    except csv.Error as error:
        what = f"the row that begins here cannot be read ({error}): a field that begins with a quote must end with one"
        raise InputError(Fault(what, path, begins)) from error
    return found


def _row(
    row: Mapping[str, str], name: str, names: list[str], faults: list[Fault], path: Path, line: int
) -> list[Scored]:
    scores, errors, before = dict[str, float](), dict[str, float | None](), len(faults)
    for column in names:
        text, beside = row.get(column, ""), ":" in column
        if beside and not text:
            continue
        score = _number(text, f"score of {column}", faults, path, line)
        if score is None:
            continue
        scores[column] = score
        if not beside and not 0 <= score <= 100:
            faults.append(Fault(f"{column} is {score:g}: scores are in points, 0 to 100", path, line))
        if error := row.get(column + _ERROR):
            found = errors[column] = _number(error, f"standard error of {column}", faults, path, line)
            if found is not None and found < 0:
                what = f"the standard error of {column} is {found:g}: it is a number of points, 0 or more; leave it"
                faults.append(Fault(f"{what} empty where it is not known", path, line))
    for key in ("rank", "trial", "left"):
        text = row.get(key, "")
        called = text == name and any(map(str.isalpha, text))  # by its rank, as `untuned` is where there are no names
        if text and not text.isdecimal() and not called:
            faults.append(Fault(f"`{text}` is no whole number, and `{key}` is one", path, line))
    default = row.get("default", "").strip().lower()
    if default not in (*_BASELINE, *_NO_BASELINE):
        what = f"`{row['default']}` in the column `default`: 1 marks the baseline, 0 or nothing the others"
        faults.append(Fault(what, path, line))
    loss = _number(row["loss"], "loss", faults, path, line) if row.get("loss") else None
    if len(faults) > before:
        return []
    number, trial, left = (
        int(text) if text.isdecimal() else None for text in (row.get(key, "") for key in ("rank", "trial", "left"))
    )
    return [Scored(name, number, scores, errors, default in _BASELINE, trial, loss, left)]


def _number(text: str, what: str, faults: list[Fault], path: Path, line: int | None = None) -> float | None:
    try:
        number = float(text)
    except ValueError:
        faults.append(Fault(f"`{text}` is no {what}", path, line))
        return None
    if not math.isfinite(number):
        faults.append(Fault(f"`{text}` is no {what}: it is a finite number; leave out what is not known", path, line))
        return None
    return number


def _column(name: str, known: Mapping[str, str], faults: list[Fault], path: Path) -> Column:
    items, digits = known.get("items", ""), known.get("digits", "")
    if items and not (items.isdecimal() and len(items) < 20 and 0 < int(items) <= MOST_ITEMS):
        faults.append(Fault(f"`{items}` is no number of items of {name}: it is from 1 to {MOST_ITEMS:,}", path))
        return Column(name, name)
    return Column(
        name,
        known.get("title") or TITLES.get(name, name),
        int(items) if items else None,
        known.get("measured", ""),
        _number(known["chance"], f"chance of {name}", faults, path) if known.get("chance") else None,
        int(digits) if digits.isdecimal() else 2,
    )


def _with_errors(row: Scored, columns: Sequence[Column]) -> Scored:
    """Standard errors of shares, where the file has none and the number of items is known."""
    errors = dict(row.errors)
    for column in columns:
        if column.verdict and column.name not in errors and column.items is not None:
            value = row.scores[column.name]
            errors[column.name] = math.sqrt(value * (100 - value) / column.items)
    return replace(row, errors=errors)
