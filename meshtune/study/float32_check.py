"""Whether the finalists of a study that measures in few digits stand in the same order where the base is float32.

A base in bfloat16, float16 or few bits moves losses by up to some hundredths, and unevenly. So once the search is over,
the untuned model, the baseline and the best few kept adapters are measured once more on the validation rows with the
base in float32, where there is memory for that. Nothing is chosen again: what was found is said. Losses by row stand in
`<study>/evaluation/order.json`, so that a continued search measures only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from meshtune.errors import MeshtuneError
from meshtune.record.log import Record
from meshtune.selection.statistics import paired_difference
from meshtune.study.finals import Runner, adapters_of, name_of, rows_of
from meshtune.study.loop import StudyEvent
from meshtune.system import whole_file
from meshtune.trial import Outcome

EXACT = "float32"
MOST = 5  # adapters, beside the baseline


def needed(record: Record) -> bool:
    """Whether the study measures in a lower precision, and has found something."""
    return _precision(record) != EXACT and record.best is not None


def measure(record: Record, folder: Path, runner: Runner, *, no_room: str | None) -> Iterator[StudyEvent]:
    """Measure the finalists with the base in float32, where this has not been done.

    `no_room`: why there is no memory for that; it is noted, as is a measurement that fails.
    """
    measured: dict[str, Any] = _read(folder).get("measured", {})
    missing = {name: adapter for name, (_, adapter) in _finalists(record, folder).items() if name not in measured}
    if missing and no_room is not None:
        return _write(folder, measured, no_room)

    def keep(name: str, outcome: Outcome) -> None:
        measured[name] = {"loss": outcome.loss, "rows": outcome.row_losses}
        _write(folder, measured, None)

    try:
        yield from runner.measure("float32", missing, keep)
    except MeshtuneError as error:
        if type(error) is not MeshtuneError:  # which says that a measurement did not complete
            raise
        _write(folder, measured, str(error))


def checked(record: Record, folder: Path) -> dict[str, Any] | None:
    """What came of it; None where it was not needed or not begun.

    `precision` of the study, and `models` in its order: `name`, `loss`, and `exact`, that in float32. `holds`: whether
    this is their order too; `best`: the first in float32; `difference`: its loss minus that of the study's best, paired
    by row, where they differ. Where it could not be measured, `skipped` says why and the others are None.
    """
    found = _read(folder)
    if not found or not needed(record):
        return None
    result: dict[str, Any] = {
        "precision": _precision(record),
        "models": None,
        "holds": None,
        "best": None,
        "difference": None,
    }
    finalists, measured = _finalists(record, folder), found["measured"]
    if not finalists.keys() <= measured.keys():
        return {**result, "skipped": found["skipped"] or "not all are measured yet"}
    models = [
        {"name": name, "loss": loss, "exact": measured[name]["loss"]}
        for name, (loss, _) in sorted(finalists.items(), key=lambda item: item[1][0])
    ]
    first = min(models, key=lambda model: model["exact"])["name"]
    result |= {"models": models, "best": first, "skipped": None}
    result["holds"] = all(one["exact"] <= other["exact"] for one, other in pairwise(models))
    if first != models[0]["name"]:
        result["difference"] = asdict(paired_difference(rows_of(measured[first]), rows_of(measured[models[0]["name"]])))
    return result


def sentence(found: Mapping[str, Any]) -> str:
    """What `checked` gave, in a sentence."""
    again, low = f"Measured again with the base in {EXACT}", found["precision"]
    if found["skipped"]:
        return f"The order of the finalists, measured in {low}, was not checked in {EXACT}: {found['skipped']}."
    if found["holds"]:
        return f"{again}, the {len(found['models'])} finalists stand in the same order as in {low}."
    names = [_words(model["name"]) for model in found["models"]]
    if found["best"] == found["models"][0]["name"]:
        return f"{again}, {names[0]} stays the best; others stand in another order than in {low}."
    difference = found["difference"]
    low_end, high_end = difference["low"], difference["high"]
    certain = low_end is not None and (high_end < 0 or low_end > 0)
    interval = "" if low_end is None else f" (95 % interval {low_end:+z.4f} to {high_end:+z.4f})"
    what = "" if certain else ", which is within noise"
    return (
        f"{again}, {_words(found['best'])} is better than {names[0]}, the best in {low}, by"
        f" {-difference['mean']:.4f}{interval}{what}."
    )


def _words(name: str) -> str:
    return {"untuned": "the untuned model", "baseline": "the baseline"}.get(name, name.replace("-", " "))


def _precision(record: Record) -> str:
    """That in which the study measures; a study of a program has none, and is taken at its word."""
    found: str = (record.notes.get("fixed") or {}).get("validation_precision", EXACT)
    return found


def _finalists(record: Record, folder: Path) -> dict[str, tuple[float, str | None]]:
    """By name the loss in the study's precision, and the adapter: untuned, baseline, and the best few kept ones."""
    ranked = [trial for trial in record.ranked if not trial.violation][:MOST]
    first = record.baseline
    trials = [*ranked, *([] if first is None or first in ranked else [first])]
    losses = {name_of(trial): trial.loss for trial in trials}
    for name in ("untuned", "baseline"):
        if note := record.notes.get(name):
            losses[name] = float(note["loss"])
    adapters = adapters_of(record, folder, trials)  # a promoted trial has it from then on
    return {name: (losses[name], adapter) for name, adapter in adapters.items() if name in losses}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation" / "order.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _write(folder: Path, measured: Mapping[str, Any], skipped: str | None) -> None:
    path = folder / "evaluation" / "order.json"
    path.parent.mkdir(exist_ok=True)
    whole_file.write(path, json.dumps({"measured": measured, "skipped": skipped}))
