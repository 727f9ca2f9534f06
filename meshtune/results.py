"""What a study shows in Python: results, frames and the table of a notebook, made from a status and result files.

Plain functions of what was read; nothing here opens the record. Frames need pandas.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.data import answers
from meshtune.errors import need
from meshtune.report.sentences import result_table, verdict
from meshtune.system.text import counted, number, point

if TYPE_CHECKING:
    import pandas

Values = Mapping[str, Any]

# Columns that stand in a frame also where there is no row; those of hyperparameters and scores come between.
BEFORE = ("number", "ending", "origin", "block", "pack", "loss")
AFTER = ("losses", "training_losses", "seconds", "tokens", "peak_memory", "message")
ANSWER = ("name", "row", "prompt", "reference", "answer")
SCORED = ("name", "rank", "trial", "loss", "baseline", "pareto")
# Whole numbers also where some are missing.
WHOLE = ("number", "block", "pack", "tokens", "peak_memory", "order", "row", "rank", "trial")


@dataclass(frozen=True)
class Result:
    """What one model of a study reached: the best or recommended trial's, the baseline's, or the untuned one.

    Attributes:
        name: best, recommended, baseline or untuned.
        trial: number of its trial; None where it is no trial of the search (untuned; a baseline outside the space).
        loss: the objective, on the validation rows. test_loss: on rows that the search never saw; None until the
            study is finished, or where there are none.
        hyperparameters: decoded values by name; empty for untuned.
        adapter: folder of its PEFT adapter, or None where none is kept.
        expected, deviation: of `recommended`, the loss by the evidence of all trials, and its standard deviation.
    """

    name: str
    trial: int | None
    loss: float | None
    test_loss: float | None
    hyperparameters: Values
    adapter: Path | None
    expected: float | None = None
    deviation: float | None = None


def result(folder: Path, name: str, status: Values) -> Result | None:
    """The result called `name` in a status, or None where there is none."""
    entry = status[name]
    if entry is None:
        return None
    adapter = folder / entry["adapter"] if entry.get("adapter") else None
    return Result(
        name=name,
        trial=entry.get("trial"),
        loss=entry["loss"],
        test_loss=entry["test_loss"],
        hyperparameters=entry.get("hyperparameters", {}),
        adapter=adapter if adapter is not None and adapter.is_dir() else None,
        expected=entry.get("expected"),
        deviation=entry.get("deviation"),
    )


def trial_frame(status: Values) -> pandas.DataFrame:
    """One row a trial of a status with trials; hyperparameters are columns called `params_NAME`.

    What guides the search stands in `quantities_NAME` and `violations_CONSTRAINT`.
    """
    rows = []
    for trial in status["all"]:
        rest = dict(trial)
        head = {"number": rest.pop("trial"), **{name: rest.pop(name) for name in BEFORE[1:]}}
        guiding = _prefixed("quantities_", rest.pop("quantities", {})) | _prefixed(
            "violations_", rest.pop("violations", {})
        )
        rows.append({**head, **_prefixed("params_", rest.pop("hyperparameters")), **guiding, **rest})
    return _frame(rows, (*BEFORE, *AFTER))


def answer_frame(folder: Path) -> pandas.DataFrame:
    """One row an answer of a study's folder: untuned, baseline, then trials; scores are columns `scores_METRIC`.

    Raises InputError where a file of answers holds something else.
    """
    rows = []
    for name, lines in sorted(answers.read_all(folder).items(), key=lambda item: _by_name(item[0])):
        for line in lines:
            shown = {key: line[key] for key in answers.KEYS}
            rows.append({"name": name, **shown, **_prefixed("scores_", line["scores"])})
    return _frame(rows, ANSWER)


def score_frame(folder: Path) -> pandas.DataFrame:
    """One row a candidate of the tables that `meshtune evaluate` wrote last into a study's folder.

    Raises InputError where the file holds something else.
    """
    from meshtune.report import score_files
    from meshtune.selection.candidates import pareto

    if (table := score_files.newest(folder)) is None:
        return _frame([], SCORED)
    optimal = pareto(table.ranked, table.verdicts)
    rows = []
    for row in table.rows:
        head = {"name": row.name, "rank": row.rank, "trial": row.trial, "loss": row.loss}
        values = {
            name: value
            for column in table.columns
            for name, value in (
                (column.name, row.scores.get(column.name)),
                (f"{column.name}:se", row.errors.get(column.name)),
            )
        }
        rows.append({**head, "baseline": row.baseline, "pareto": row.name in optimal, **values})
    frame = _frame(rows, SCORED)
    frame.attrs = {"protocol": table.protocol, "sets": {column.name: column.measured for column in table.verdicts}}
    return frame


def in_words(folder: Path, status: Values) -> str:
    """A study in a line: where it lives, where it stands, and what it found."""
    ended = status["trials"]["proposed"] - status["trials"]["pending"]
    parts = [str(status["state"]), counted(ended, "trial")]
    if best := status["best"]:
        parts.append(f"best {number(best['loss'])} (trial {best['trial']}: {point(best['hyperparameters'])})")
    if status["baseline"] is not None:
        parts.append(f"baseline {number(status['baseline']['loss'])}")
    return f"<Study {str(folder)!r}: {', '.join(parts)}>"


def in_html(folder: Path, status: Values) -> str:
    """A study as a small table, for notebooks."""
    titles, rows = result_table(status)
    lines = [_row("th", [*titles[:1], "hyperparameters", *titles[1:3]])]  # without the interval
    lines += [_row("td", [row.cells[0], row.hyperparameters, *row.cells[1:3]]) for row in rows]
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in status["trials"].items() if count)
    head = f"<b>{html.escape(str(folder))}</b>: {status['state']}; trials: {html.escape(counts) or 'none'}"
    end = f"<p>{html.escape(verdict(status))}</p>" if status["state"] == "finished" else ""
    return f"<div><p>{head}</p><table>{''.join(lines)}</table>{end}</div>"


def _frame(rows: Sequence[Values], columns: Sequence[str]) -> pandas.DataFrame:
    need("a frame", "pandas")
    import pandas

    found = list(dict.fromkeys(name for row in rows for name in row))
    frame = pandas.DataFrame(list(rows), columns=found or list(columns))
    return frame.astype({name: "Int64" for name in WHOLE if name in frame.columns})


def _prefixed(prefix: str, values: Values) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _by_name(name: str) -> tuple[int, int]:
    """Untuned, baseline, then trials by number."""
    _, _, trial = name.partition("trial-")
    return (2, int(trial)) if trial.isdigit() else (0 if name == "untuned" else 1, 0)


def _row(tag: str, cells: Sequence[str]) -> str:
    aligned = ("left", "left", "right", "right")
    inside = "".join(
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for cell, side in zip(cells, aligned, strict=False)
    )
    return f"<tr>{inside}</tr>"
