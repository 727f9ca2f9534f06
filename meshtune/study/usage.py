"""What a study may spend, what it has spent and saved, and how far its losses move by the seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune.config.sections import StudyConfig
from meshtune.plan import energy
from meshtune.plan.budget import KILOWATT_HOUR, Budget, StopWhen
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.selection.statistics import against_replicates
from meshtune.study.replicates import NOISE
from meshtune.trial import Ending
from meshtune.workers.local import Place


def budget_of(config: StudyConfig, record: Record) -> Budget:
    """The limits of a study. What its replicates measured takes the place of the config's noise for further trials."""
    limits, when = config.budget, config.stop_when
    stop_when = StopWhen()
    if when is not None:
        note = record.notes.get(NOISE)
        measured = None if note is None else (note["deviation"], note.get("told", 0))
        stop_when = StopWhen(when.no_improvement, when.noise, when.target, measured)
    return Budget(limits.trials, limits.hours, limits.tokens, limits.kilowatt_hours, stop_when)


def meter_of(config: StudyConfig, places: Sequence[Place]) -> energy.Meter | None:
    """A meter of what the study runs on; None where it cannot be read.

    Raises InputError where the budget needs it.
    """
    gpus = [place.environment["CUDA_VISIBLE_DEVICES"] for place in places if place.device.startswith("cuda")]
    return energy.meter(gpus, needed=config.budget.kilowatt_hours is not None)


def spent(record: Record, baseline: float | None) -> dict[str, Any]:
    """Fields of a status.

    energy: kilowatt-hours, and the seconds in which they were taken: less than the study's where it was not metered
        from its start. None: it was not metered at all.
    tokens_saved: that the trials which stopped early would have been trained on further. share_saved: of all that
        would have been without that. promoted: numbers of stopped trials that were trained to the end.
    seed_noise: of replicates of the best; `above`: how far the baseline's loss lies above their mean, with its
        95 % interval. None: none were made, or another trial is the best by now.
    """
    taken = record.notes.get(energy.NOTE)
    saved = _saved(record)
    return {
        "energy": taken and {"kilowatt_hours": taken["joules"] / KILOWATT_HOUR, "seconds": taken["seconds"]},
        "tokens_saved": saved,
        "share_saved": saved / (saved + record.tokens) if saved else 0.0,
        "promoted": [trial.number for trial in record.trials if trial.promoted is not None],
        "seed_noise": _noise(record, baseline),
    }


def _saved(record: Record) -> int:
    """A trial that ended complete shows what one of as many epochs takes."""
    whole = {_epochs(trial): trial.final.tokens for trial in record.complete if trial.final is not None}
    stopped = [t for t in record.trials if t.final is not None and t.final.ending is Ending.STOPPED_EARLY]
    return sum(max(0, whole.get(_epochs(t), 0) - t.final.tokens) for t in stopped if t.final is not None)


def _epochs(trial: RecordedTrial) -> Any:
    return trial.hyperparameters.get("epochs")


def _noise(record: Record, baseline: float | None) -> Mapping[str, Any] | None:
    noise, best = record.notes.get(NOISE), record.best
    if noise is None or best is None or noise["trial"] != best.number:
        return None
    is_baseline = record.baseline is not None and record.baseline.number == best.number
    above = None
    if baseline is not None and not is_baseline:
        found = against_replicates(baseline, noise["mean"], noise["deviation"], noise["count"])
        above = {name: value for name, value in dataclasses.asdict(found).items() if name in ("mean", "low", "high")}
    return {**{name: value for name, value in noise.items() if name != "told"}, "above": above}
