"""What `select` chooses from: stored answers of `evaluate` item by item, or a file of scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshtune.config.sections import is_command
from meshtune.errors import Fault, InputError, nearest, noting, refuse
from meshtune.evaluation.benchmarks import registry
from meshtune.finalists import score_tables
from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.report import score_files
from meshtune.selection.candidates import Column, Scored, ScoreTable, no_signal
from meshtune.selection.decide import CandidateInfo
from meshtune.selection.measured import POINTS, Measure, Measured, of_answers, of_scores
from meshtune.selection.resampling import Seeds

ANSWERS = Path("evaluation") / "benchmarks"
_TABLE, _RESULTS = "candidates.csv", "scores.json"


@dataclass(frozen=True)
class Evidence:
    """Scores, what else is known of each candidate, benchmarks without signal, titles, and whom to be no worse than.

    Attributes:
        race: how the candidates were raced, None where all answered everything.
        settings: of the evaluation, as plain values. digests: by benchmark, of the items that were asked.
        seeds: what these do to scores, where candidates were trained with several.
        guided: the items that were left out since they guided a search, by benchmark; None where it is not stored.
        notes: what is to be known of the scores besides.
    """

    measured: Measured
    facts: dict[str, CandidateInfo]
    silent: tuple[str, ...]
    titles: dict[str, str]
    references: tuple[str, ...]
    race: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    seeds: Seeds | None = None
    guided: Mapping[str, Sequence[str]] | None = None
    notes: tuple[str, ...] = ()

    def only(self, benchmarks: Sequence[str]) -> Evidence:
        """The same of these benchmarks alone, but for what is told of those that were left out already."""
        return replace(self, measured=self.measured.only(benchmarks))


def of_study(study: Located, protocol: str | None, benchmarks: Sequence[str], *, common: bool = False) -> Evidence:
    """The answers that the last `evaluate` of the study made its tables from.

    Args:
        protocol: where there are several. benchmarks: these alone; none: all. common: only items that all answered.

    Raises InputError: nothing evaluated, several protocols, unknown names, missing items, answers of other tables.
    """
    folder = study.folder / ANSWERS
    made = sorted(path.parent.name for path in folder.glob(f"*/{_TABLE}"))
    if not made:
        if is_command(study.config.objective):
            raise InputError(
                f"{study.folder}: its trials were trained by a program of yours, and `meshtune evaluate` scores only"
                " adapters that meshtune trained; score them yourself, and give the table: `--scores FILE.csv`"
            )
        raise InputError(
            f"{study.folder}: its candidates have not been scored; `meshtune evaluate {study.folder}` does"
        )
    if protocol is None and len(made) > 1:
        raise InputError(
            f"scores of different protocols are never mixed: name one with `--protocol`: {', '.join(made)}"
        )
    if protocol is not None and protocol not in made:
        raise InputError(f"nothing is scored by `{protocol}`; there is {', '.join(made)}.{nearest(protocol, made)}")
    place = folder / (protocol or made[0])
    table = _only(score_files.read(place / _TABLE), benchmarks)
    stored = _stored(place / _RESULTS)
    race = stored.get("race")
    measures, faults, asked = list[Measure](), list[Fault](), dict[str, Mapping[str, Any]]()
    for column in table.verdicts:
        with noting(faults):
            asked[column.name] = _answers_of(place, stored, column)
            measures.append(_measure(place, table, column, asked[column.name], race, common))
    refuse(faults)
    record = Record(study.url, study.name)
    outside = (record.notes.get("baseline") or {}).get("hyperparameters", {})
    costs = {
        row.name: (record.trials[row.trial].hyperparameters if row.trial is not None else outside).get("rank")
        for row in table.rows
        if row.trial is not None or row.baseline
    }
    return _evidence(
        table,
        measures,
        costs,
        _ranks_of_study(table, record),
        race=None if race is None else {key: value for key, value in race.items() if key != "ids"},
        settings=stored.get("settings"),
        digests={name: how["digest"] for name, how in asked.items() if how},
        guided=stored.get("guided"),
    )


def of_file(path: Path, benchmarks: Sequence[str], items: Mapping[str, int]) -> Evidence:
    """The scores of a file, with the numbers of `items` where the file does not say them.

    Who left a race is left out: the scores are of fewer items, and what they foretell is in the answers alone.

    Raises InputError: faults of the file, unknown names, scores whose noise is not known, nobody with a rank.
    """
    whole = _only(score_files.read(path), benchmarks)
    table = replace(whole, rows=tuple(row for row in whole.rows if row.left is None))
    notes = tuple(
        f"{row.name} left a race after {row.left:,} items and is left out: scores of fewer items are not comparable."
        for row in whole.rows
        if row.left is not None
    )
    names = [column.name for column in table.verdicts]
    faults = [
        Fault(f"--items {name}={count}: {path.name} has no scores of it.{nearest(name, names)}")
        for name, count in items.items()
        if name not in names
    ]
    measures = []
    for column in table.verdicts:
        count = items.get(column.name, column.items)
        errors = [row.errors.get(column.name) for row in table.rows]
        if count is None and None in errors:
            what = f"of how many items {column.name} is is not known, so its noise is not: add a row `items`"
            faults.append(Fault(f"{what}, or `--items {column.name}=N`", path))
        scores = [row.scores[column.name] for row in table.rows]
        known = [_error(score, error, count) for score, error in zip(scores, errors, strict=True)]
        by_errors = table.protocol == "harness"  # as `_measure`
        measures.append(of_scores(column.name, column.title, scores, known, count, by_errors=by_errors))
    if all(row.rank is None for row in whole.rows):
        what = "needs a column `rank`, from 1, of the candidates that can be chosen: none has one"
        faults.append(Fault(what, path))
    refuse(faults)
    return _evidence(table, measures, {}, _ranks_of_file(table), notes=notes)


def _ranks_of_study(table: ScoreTable, record: Record) -> dict[str, int | None]:
    """By validation loss among all complete trials; those of the table may be by another objective, or constraints."""
    by_loss = sorted(record.complete, key=lambda trial: (trial.loss, trial.number))
    ranks = {trial.number: rank for rank, trial in enumerate(by_loss, start=1)}
    return {row.name: row.rank if row.trial is None else ranks.get(row.trial, row.rank) for row in table.rows}


def _ranks_of_file(table: ScoreTable) -> dict[str, int | None]:
    """Those of the file, but where its losses say another order: then by these, among its candidates."""
    found = {row.name: row.rank for row in table.rows}
    losses = {row.name: row.loss for row in table.ranked if row.loss is not None}
    by_loss = sorted(losses, key=losses.__getitem__)  # equal ones stay by rank
    if len(losses) == len(table.ranked) and by_loss != list(losses):
        found |= {name: rank for rank, name in enumerate(by_loss, start=1)}
    return found


def _evidence(
    table: ScoreTable,
    measures: Sequence[Measure],
    costs: Mapping[str, float | None],
    ranks: Mapping[str, int | None],
    **known: Any,
) -> Evidence:
    names = tuple(row.name for row in table.rows)
    facts = {
        row.name: CandidateInfo(ranks[row.name], row.loss, costs.get(row.name), row.trial, row.baseline, row.left)
        for row in table.rows
    }
    references = tuple(row.name for row in table.rows if row.baseline or row.rank is None)
    titles = {column.name: column.title for column in table.columns}
    silent = tuple(column.name for column in table.verdicts if no_signal(table, column))
    return Evidence(Measured(names, tuple(measures)), facts, silent, titles, references, **known)


def _only(table: ScoreTable, benchmarks: Sequence[str]) -> ScoreTable:
    known = [column.name for column in table.verdicts]
    unknown = [name for name in benchmarks if name not in known]
    if unknown:
        there = ", ".join(known)
        raise InputError(
            [Fault(f"there are no scores of `{name}`, but of {there}.{nearest(name, known)}") for name in unknown]
        )
    columns = tuple(column for column in table.columns if not benchmarks or column.name in benchmarks)
    return ScoreTable(table.label, columns, table.rows, table.protocol)


def _stored(path: Path) -> Mapping[str, Any]:
    """What `evaluate` left beside its table."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(Fault(f"cannot be read ({error}): run `meshtune evaluate` again", path)) from error


def _answers_of(place: Path, stored: Mapping[str, Any], column: Column) -> Mapping[str, Any]:
    """What was asked and how, as files of answers say; empty where answers are not known item by item.

    Earlier versions did not store it: theirs is that of the file which the column's line on how it was measured is of.
    """
    if "answers" in stored:
        return dict(stored["answers"].get(column.name, {}))
    for path in sorted(place.glob(f"{column.name}-*/*.jsonl")):
        asked = _head(path).get("asked", {})
        if "digest" in asked and column.measured.endswith(score_tables.measured(asked)):
            return dict(asked)
    return {}


def _head(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        return dict(json.loads(file.readline() or "{}"))


def _measure(
    place: Path,
    table: ScoreTable,
    column: Column,
    asked: Mapping[str, Any],
    race: Mapping[str, Any] | None,
    common: bool,
) -> Measure:
    answers = {
        row.name: _raced(found, race, row.name, column.name)
        for row in table.rows
        if (found := _answers(place, row, column, asked)) is not None
    }
    if not answers:  # the harness's own tasks: their scores alone are known, which may be no shares of right answers
        scores = [row.scores[column.name] for row in table.rows]
        errors = [_error(row.scores[column.name], row.errors.get(column.name), column.items) for row in table.rows]
        return of_scores(column.name, column.title, scores, errors, column.items, by_errors=True)
    missing = [row.name for row in table.rows if row.name not in answers]
    if missing:
        what = f"{column.title}: the answers of {', '.join(missing)} are gone: run `meshtune evaluate` again"
        raise InputError(what)
    partial = [row.name for row in table.rows if row.left is not None]
    groups = {item: item.rpartition("/")[0] for each in answers.values() for item in each}
    macro = [one.name for one in registry.ALL if one.average == "macro"]
    of = groups if column.name in macro else None
    measure = of_answers(column.name, column.title, answers, groups=of, common=common, partial=partial)
    shown = {row.name: row.scores[column.name] for row in table.rows if row.left is None}
    away = max(abs(measure.scores[place] - shown[name]) for place, name in enumerate(answers) if name in shown)
    if away > 1e-6 and not common:
        raise InputError(
            f"{column.title}: the stored answers are not those that its scores are of: run `meshtune evaluate` again"
        )
    return measure


def _answers(place: Path, row: Scored, column: Column, asked: Mapping[str, Any]) -> dict[str, float] | None:
    """The share of right answers by item, from the file that the scores are of; None where there is none."""
    from meshtune.evaluation import scoring, store

    at = store.AnswerFile(place.parent, place.name, column.name, asked, row.name.replace(" ", "-"), {})
    if not asked or not at.path.exists():
        return None
    return scoring.shares(store.read(replace(at, by=_head(at.path).get("by", {}))))


def _raced(answers: dict[str, float], race: Mapping[str, Any] | None, name: str, benchmark: str) -> dict[str, float]:
    """Those that a race asked for; an earlier evaluation may have asked more."""
    if race is None:
        return answers
    ids, gone = race["ids"][benchmark], race["left"].get(name)
    return {item: answers[item] for item in ids[: gone["items"][benchmark] if gone else None] if item in answers}


def _error(score: float, error: float | None, items: int | None) -> float:
    if error is not None:
        return error
    return math.nan if items is None else math.sqrt(score * (POINTS - score) / items)
