"""`meshtune status`: where a study stands, from its record alone, at any time and from any shell."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.plan.environment import versions
from meshtune.plan.locate import Located, existing
from meshtune.plan.sampler import REASON
from meshtune.record.distributions import described
from meshtune.record.log import WARM_START, Record
from meshtune.record.scoring import worse_than_untuned
from meshtune.record.trials import RecordedTrial
from meshtune.selection.recommended import recommended
from meshtune.space.goals import Quantities
from meshtune.space.space import Dimension
from meshtune.study import finals, float32_check
from meshtune.study.goals_status import guided_facts, of_trial, shown
from meshtune.study.usage import spent
from meshtune.system.lease import holder


def status(path: Path, *, folder: Path | None = None, trials: bool = False) -> dict[str, Any]:
    """The status of a study as plain values, as the design's `status --json` prints them.

    Raises InputError where there is no started study.
    """
    return status_of(existing(path, folder=folder), trials=trials)


def status_of(study: Located, *, trials: bool = False) -> dict[str, Any]:
    """The status of a started study, in rounds or not."""
    if study.config.rounds:
        from meshtune.study.rounds_agreement import status_of_rounds

        return status_of_rounds(study, trials=trials)
    return of_record(study, Record(study.url, study.name), trials=trials)


def of_record(study: Located, record: Record, *, trials: bool = False) -> dict[str, Any]:
    """The status of an open record: plain JSON values, which reports, figures and the Python interface are made from.

    Beside what `status --json` promises: `space` (what is searched, as `{name, low, high, log, choices, power_of,
    integer}` in decoded values) and `space_fixed`, `sampler`, `why_sampler` (where
    `auto` chose it), `seed`, `model`, `objective` (lora or command),
    `recommended`: the trial with the lowest expected loss, `best` or another one (`selection.recommended`), with its
    `expected` loss, the `deviation` of that, and the `noise` of one training; None while little is known.
    `versions` and `ran_on` (as recorded by `tune`; the versions of this installation where nothing is recorded).
    `warm_start`: what was known from the start (`WarmStart.facts`), None for nothing; those points are no trials.
    `energy`, `tokens_saved`, `share_saved`, `promoted`, `seed_noise`: see `meshtune.study.usage`.
    `order_checked`: whether the finalists' order holds in float32 (`order.checked`), None where that was not asked.
    `objectives`, `constraints`, `quantities` and `pareto`: see `meshtune.study.goals_status`; best, recommended,
    baseline, untuned and trials have their `quantities` too.
    `worse_than_untuned`: numbers of the complete trials whose loss is above the untuned model's; trials have it too.
    `metrics`: means of the user's metrics by model (`untuned`, `trial-3`). `trials` adds `all`: every trial, in trial
    order.
    """
    measured = finals.read(study.folder)

    def test_loss(name: str) -> float | None:
        return measured[name]["loss"] if name in measured else None

    best, baseline, outside = record.best, record.baseline, record.notes.get("baseline")
    running = holder(study.folder)
    result: dict[str, Any] = {
        "state": "running" if running else ("finished" if record.notes.get("finished") else "stopped"),
        "reason": record.notes.get("finished"),
        "folder": str(study.folder),
        "coordinator": {"host": running.host, "pid": running.pid, "since": running.since} if running else None,
        "trials": _counts(record),
        "budget": study.config.budget.model_dump(),
        "elapsed_seconds": record.elapsed,
        "tokens": record.tokens,
        "best": None,
        "recommended": None,
        "baseline": None,
        "untuned": None,
        "best_against_baseline": None,
        "best_against_untuned": None,
        "best_against_recommended": None,
        **guided_facts(record),
        **_made_with(record),
    }
    if best is not None and best.final is not None:
        result["best"] = {
            **_entry(best.final.loss, test_loss(finals.name_of(best)), best.hyperparameters),
            "trial": best.number,
            "adapter": best.final.adapter,
        }
    if found := recommended(record):
        trial = record.trials[found.number]
        if difference := finals.best_against(record, study.folder, finals.name_of(trial)):
            result["best_against_recommended"] = dataclasses.asdict(difference)
        result["recommended"] = {
            **_entry(trial.loss, test_loss(finals.name_of(trial)), trial.hyperparameters),
            "trial": trial.number,
            "adapter": trial.final.adapter if trial.final is not None else None,
            "expected": found.mean,
            "deviation": found.deviation,
            "noise": found.noise,
        }
    if baseline is not None:
        loss = baseline.final.loss if baseline.final is not None else None
        result["baseline"] = {
            **_entry(loss, test_loss(finals.name_of(baseline)), baseline.hyperparameters),
            "trial": baseline.number,
        }
    elif outside:
        result["baseline"] = _entry(outside["loss"], test_loss("baseline"), outside["hyperparameters"])
    if untuned := record.notes.get("untuned"):
        result["untuned"] = {"loss": untuned["loss"], "test_loss": test_loss("untuned")}
    if difference := finals.best_against(record, study.folder, finals.baseline_name(record)):
        result["best_against_baseline"] = dataclasses.asdict(difference)
    if difference := finals.best_against(record, study.folder, "untuned"):
        result["best_against_untuned"] = dataclasses.asdict(difference)
    result["worse_than_untuned"] = [t.number for t in record.complete if worse_than_untuned(record.notes, t)]
    result |= spent(record, (result["baseline"] or {}).get("loss"))
    for name, quantities in [*record.references.items(), *_chosen(record, result)]:
        if result.get(name) is not None:
            result[name]["quantities"] = shown(record, quantities)
    result["order_checked"] = float32_check.checked(record, study.folder)
    result["metrics"] = {
        name: {metric: {"mean": mean.mean, "items": mean.count} for metric, mean in scored.items()}
        for name, scored in finals.scores(study.folder).items()
    }
    if trials:
        result["all"] = [
            {**_trial(t), **of_trial(record, t), "worse_than_untuned": worse_than_untuned(record.notes, t)}
            for t in record.trials
        ]
    return result


def _chosen(record: Record, result: Mapping[str, Any]) -> list[tuple[str, Quantities]]:
    """The quantities of the trials that a status names."""
    named = [(name, result[name]) for name in ("best", "recommended") if result[name] is not None]
    return [(name, record.trials[entry["trial"]].quantities) for name, entry in named]


def _made_with(record: Record) -> dict[str, Any]:
    """What the study's fixed keys and notes say about how it is run."""
    fixed = record.notes.get("fixed", {})
    space = fixed.get("space", {})
    model = fixed.get("model")
    ran_on = record.notes.get("ran_on") or []
    return {
        "sampler": fixed.get("sampler", {}).get("import") or fixed.get("sampler", {}).get("name"),
        "why_sampler": record.notes.get(REASON),
        "seed": fixed.get("seed"),
        "warm_start": record.notes.get(WARM_START),
        "model": model.get("name") if model else None,
        "objective": "command" if "command" in fixed.get("objective", {}) else "lora",
        "space": [_searched(one) for one in described({"searched": {}, "fixed": {}, **space}, lora=True).dimensions],
        "space_fixed": dict(space.get("fixed", {})),
        "largest_rank": record.notes.get("largest_rank"),
        "versions": ran_on[-1]["versions"] if ran_on else versions(),
        "ran_on": ran_on,
    }


def _searched(dimension: Dimension) -> dict[str, Any]:
    """One searched hyperparameter, in decoded values."""
    parameter = dimension.parameter
    choices = list(dimension.values or parameter.choices)
    exponent = dimension.encoding == "log2"
    return {
        "name": dimension.name,
        "low": None if choices else dimension.decode(parameter.low),
        "high": None if choices else dimension.decode(parameter.high),
        "log": not choices and (parameter.log or exponent),
        "choices": choices or None,
        "power_of": 2 if exponent and parameter.kind == "int" else None,
        "integer": not choices and parameter.kind == "int",
    }


def _entry(loss: float | None, test_loss: float | None, hyperparameters: Any) -> dict[str, Any]:
    return {"loss": loss, "test_loss": test_loss, "hyperparameters": dict(hyperparameters)}


def _counts(record: Record) -> dict[str, int]:
    endings = Counter(t.final.ending.value for t in record.trials if t.final is not None)
    return {"complete": 0, **endings, "pending": len(record.pending), "proposed": len(record.trials)}


def _trial(trial: RecordedTrial) -> dict[str, Any]:
    outcome = trial.final
    return {
        "trial": trial.number,
        "origin": trial.origin,
        "block": trial.block,
        "pack": trial.pack,
        "ending": outcome.ending.value if outcome else None,
        "loss": outcome.loss if outcome else None,
        "losses": list(outcome.losses) if outcome else [],
        "training_losses": list(outcome.training_losses) if outcome else [],
        "rungs": [list(rung) for rung in outcome.rungs] if outcome else [],
        "promoted": trial.promoted is not None,
        "hyperparameters": dict(trial.hyperparameters),
        "seconds": outcome.seconds if outcome else None,
        "tokens": outcome.tokens if outcome else None,
        "peak_memory": outcome.peak_memory if outcome else None,
        "message": outcome.message if outcome else "",
        "adapter": outcome.adapter if outcome else None,
        "order": trial.order,
        "elapsed": trial.elapsed if outcome else None,
    }
