"""What each round of a study found, and whether the rounds agree: from the records alone.

Rounds agree where points that two of them evaluated come out in the same order: the cheaper one is then a good proxy.
The points are those that the later round evaluated again, the best of the earlier one, and the baseline.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.selection.ranks import rank_correlation
from meshtune.study.status import of_record
from meshtune.system.lease import holder

Key = tuple[tuple[str, Any], ...]


def status_of_rounds(whole: Located, *, trials: bool = False) -> dict[str, Any]:
    """The status of a study with rounds: that of its latest round, whose best is the study's, and in addition

    `rounds`: `round` (from 1), `name`, `state` (waiting: it has not begun), `reason`, `changes` (its own keys),
    `trials`, `elapsed_seconds`, `tokens`, `best` of each; `agreement`: `rounds` (two numbers), `rho`, `low`, `high` and
    `points` (`selection.ranks`) of each round and the next; `all_rounds`: `trials`, `elapsed_seconds` and `tokens`
    together. State and reason are those of the whole; adapters are relative to its folder.

    Raises InputError where no round has begun.
    """
    rounds = whole.rounds
    begun = [(each, Record(each.url, each.name)) for each in rounds if each.started]
    latest, record = begun[-1] if begun else (rounds[0], Record(rounds[0].url, rounds[0].name))
    result = _seen_from_outside(of_record(latest, record, trials=trials), latest.folder.name)
    running = holder(whole.folder)
    records = {each.number: record for each, record in begun}
    listed = [_listed(whole, each, records.get(each.number)) for each in rounds]
    ended = listed[-1]["reason"] or spent(whole, [record for _, record in begun])
    result |= {
        "state": "running" if running else ("finished" if ended and result["reason"] else "stopped"),
        "reason": ended if result["reason"] else None,
        "folder": str(whole.folder),
        "coordinator": {"host": running.host, "pid": running.pid, "since": running.since} if running else None,
        "rounds": listed,
        "agreement": agreement([record for _, record in begun]),
        "all_rounds": {
            "trials": sum(len(record.trials) for _, record in begun),
            "elapsed_seconds": sum(record.elapsed for _, record in begun),
            "tokens": sum(record.tokens for _, record in begun),
        },
    }
    return result


def agreement(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The rank correlation of each round with the next, over the points that are complete in both."""
    found = []
    for number, (one, other) in enumerate(itertools.pairwise(records), start=1):
        first, second = _losses(one), _losses(other)
        both = [key for key in first if key in second]
        correlation = rank_correlation([first[key] for key in both], [second[key] for key in both])
        found.append({"rounds": [number, number + 1], **dataclasses.asdict(correlation)})
    return found


def spent(whole: Located, records: Sequence[Record]) -> str | None:
    """The limit of all rounds together that is reached, in words, or None."""
    hours, tokens = whole.config.budget.hours, whole.config.budget.tokens
    if hours is not None and hours * 3600 - sum(record.elapsed for record in records) < 1e-6:
        return f"{hours:g} hours are spent"
    if tokens is not None and sum(record.tokens for record in records) >= tokens:
        return f"{tokens:,} tokens are spent"
    return None


def _losses(record: Record) -> dict[Key, float]:
    """The loss of each point that is complete, of its first trial."""
    found: dict[Key, float] = {}
    for trial in record.complete:
        found.setdefault(_key(trial.hyperparameters), trial.loss)
    return found


def _key(hyperparameters: Mapping[str, Any]) -> Key:
    """The same for the same point, though one space may have computed it from its encoding and the other not."""
    rounded = {k: float(f"{v:.12g}") if isinstance(v, int | float) else v for k, v in hyperparameters.items()}
    return tuple(sorted(rounded.items()))


def _listed(whole: Located, each: Located, record: Record | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "round": each.number,
        "name": each.folder.name,
        "state": "waiting",
        "reason": None,
        "changes": whole.config.rounds[each.number - 1],
        "trials": None,
        "elapsed_seconds": 0.0,
        "tokens": 0,
        "best": None,
    }
    if record is None:
        return entry
    status = _seen_from_outside(of_record(each, record), each.folder.name)
    return {key: status.get(key, value) for key, value in entry.items()}


def _seen_from_outside(status: dict[str, Any], folder: str) -> dict[str, Any]:
    """Adapters relative to the folder around the round's."""

    def moved(entry: Any) -> Any:
        return {**entry, "adapter": f"{Path(folder) / entry['adapter']}"} if entry and entry.get("adapter") else entry

    shown = status | {name: moved(status[name]) for name in ("best", "recommended") if name in status}
    return {**shown, "all": [moved(trial) for trial in status["all"]]} if "all" in status else shown
