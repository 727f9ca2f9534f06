"""`meshtune status`: where a study stands, from its record alone, at any time and from any shell.

`of_record` gives plain JSON values, which reports, figures and the Python interface are made from. Nothing is measured
or written here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshtune.plan import energy
from meshtune.plan.budget import KILOWATT_HOUR
from meshtune.plan.environment import versions
from meshtune.plan.locate import Located, existing
from meshtune.plan.sampler import REASON
from meshtune.record import decisions
from meshtune.record.distributions import described
from meshtune.record.log import WARM_START, Record
from meshtune.record.scoring import worse_than_untuned
from meshtune.record.trials import RecordedTrial
from meshtune.selection.recommended import recommended
from meshtune.selection.statistics import against_replicates
from meshtune.space.goals import LOSS, Quantities
from meshtune.space.space import Dimension
from meshtune.study import finals, float32_check, gains, requests
from meshtune.study.replicates import DONE as REPLICATES
from meshtune.study.replicates import NOISE
from meshtune.study.rounds import agreement, limit_reached
from meshtune.system.lease import Holder, holder
from meshtune.trial import Ending


def status(path: Path, *, folder: Path | None = None, trials: bool = False) -> dict[str, Any]:
    """The status of a study as plain values, as the design's `status --json` prints them.

    Raises InputError where there is no started study.
    """
    return status_of(existing(path, folder=folder), trials=trials)


def status_of(study: Located, *, trials: bool = False) -> dict[str, Any]:
    """The status of a started study, in rounds or not."""
    if study.config.rounds:
        return _of_rounds(study, trials=trials)
    return of_record(study, Record(study.url, study.name), trials=trials)


def _of_rounds(whole: Located, *, trials: bool = False) -> dict[str, Any]:
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
    ended = listed[-1]["reason"] or limit_reached(whole, [record for _, record in begun])
    result |= {
        "state": "running" if running else ("finished" if ended and result["reason"] else "stopped"),
        "reason": ended if result["reason"] else None,
        "folder": str(whole.folder),
        "coordinator": _coordinator(running),
        "rounds": listed,
        "agreement": agreement([record for _, record in begun]),
        "all_rounds": {
            "trials": sum(len(record.trials) for _, record in begun),
            "elapsed_seconds": sum(record.elapsed for _, record in begun),
            "tokens": sum(record.tokens for _, record in begun),
        },
    }
    return result


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

    shown = status | {name: moved(status[name]) for name in ("best", "recommended", "baseline") if name in status}
    return {**shown, "all": [moved(trial) for trial in status["all"]]} if "all" in status else shown


def of_record(study: Located, record: Record, *, trials: bool = False) -> dict[str, Any]:
    """The status of an open record, as plain JSON values.

    Beside what `status --json` promises: `space` (what is searched, as `{name, low, high, log, choices, power_of,
    integer}` in decoded values) and `space_fixed`, `sampler`, `why_sampler` (where
    `auto` chose it), `seed`, `model`, `objective` (lora or command),
    `recommended`: the trial with the lowest expected loss, `best` or another one (`selection.recommended`), with its
    `expected` loss, the `deviation` of that, and the `noise` of one training; None while little is known.
    `versions` and `ran_on` (as recorded by `tune`; the versions of this installation where nothing is recorded).
    `warm_start`: the earlier trials that it starts from (`WarmStart.facts`), None for none; they are none of its own.
    `advised`: whether the baseline is the start that `meshtune advise` gives.
    `expected_gain`: at the end of a search, what another 20 `trials` are expected to lower the loss by, as shares of it
    (`mean`, `low`, `high`: `selection.expected_gain`), and after how many it was asked (`told`); None: not known.
    `energy`, `tokens_saved`, `share_saved`, `promoted`, `seed_noise`: see `usage`.
    `order_checked`: whether the finalists' order holds in float32 (`float32_check.checked`); None: that is not asked.
    `objectives`, `constraints`, `quantities` and `pareto`: see `_goals`; best, recommended, baseline, untuned and
    trials have their `quantities` too. The `adapter` of best, recommended and baseline is None where none is kept.
    `noted`: what was asked of trials and has no answer yet (`requests.noted`); None: nothing.
    `crashed`: of each trial that was given up its number, `attempts` and `message`.
    `worse_than_untuned`: numbers of the complete trials whose loss is above the untuned model's; trials have it too.
    `metrics`: means of the user's metrics by model (`untuned`, `trial-3`). `trials` adds `all`: every trial, in trial
    order.
    """
    measured = finals.read(study.folder)

    def entry(name: str, loss: float | None, quantities: Quantities, **more: Any) -> dict[str, Any]:
        tested = measured[name]["loss"] if name in measured else None
        return {"loss": loss, "test_loss": tested, **more, "quantities": _shown(record, quantities)}

    def of_trial(trial: RecordedTrial, **more: Any) -> dict[str, Any]:
        loss = trial.final.loss if trial.final is not None else None
        adapter = finals.adapters_of(record, study.folder, [trial]).get(finals.name_of(trial))
        of_it = {"hyperparameters": dict(trial.hyperparameters), "trial": trial.number, "adapter": adapter, **more}
        return entry(finals.name_of(trial), loss, trial.quantities, **of_it)

    def against(name: str) -> dict[str, Any] | None:
        difference = finals.best_against(record, study.folder, name)
        return dataclasses.asdict(difference) if difference else None

    best, found, references = record.best, recommended(record), record.references
    baseline, outside, untuned = record.baseline, record.notes.get("baseline"), record.notes.get("untuned")
    running = holder(study.folder)
    result: dict[str, Any] = {
        "state": "running" if running else ("finished" if record.notes.get("finished") else "stopped"),
        "reason": record.notes.get("finished"),
        "folder": str(study.folder),
        "coordinator": _coordinator(running),
        "trials": _counts(record),
        "budget": study.config.budget.model_dump(),
        "elapsed_seconds": record.elapsed,
        "tokens": record.tokens,
        "best": of_trial(best) if best is not None and best.final is not None else None,
        "recommended": None,
        "baseline": None,
        "untuned": entry("untuned", untuned["loss"], references["untuned"]) if untuned else None,
        "best_against_baseline": against(finals.baseline_name(record)),
        "best_against_untuned": against("untuned"),
        "best_against_recommended": None,
        "advised": study.config.baseline == "advised",
        "expected_gain": record.notes.get(gains.NOTE),
        **_goals(record),
        **_made_with(record),
        "worse_than_untuned": [t.number for t in record.complete if worse_than_untuned(record.notes, t)],
        "order_checked": float32_check.checked(record, study.folder),
        "noted": requests.noted(study, record),
        "crashed": [_crash(trial) for trial in record.trials if trial.final and trial.final.ending is Ending.CRASHED],
    }
    if found:
        trial = record.trials[found.number]
        result["best_against_recommended"] = against(finals.name_of(trial))
        expected = {"expected": found.mean, "deviation": found.deviation, "noise": found.noise}
        result["recommended"] = of_trial(trial, **expected)
    if baseline is not None:
        result["baseline"] = of_trial(baseline)
    elif outside:
        of_it = {"hyperparameters": dict(outside["hyperparameters"])}
        result["baseline"] = entry("baseline", outside["loss"], references["baseline"], **of_it)
    result |= usage(record, (result["baseline"] or {}).get("loss"))
    result["metrics"] = {
        name: {metric: {"mean": mean.mean, "items": mean.count} for metric, mean in scored.items()}
        for name, scored in finals.scores(study.folder).items()
    }
    if trials:
        saved = _saved(record)
        result["all"] = [
            {
                **_trial(t),
                **_course(record, t, saved),
                **_goals_of_trial(record, t),
                "worse_than_untuned": worse_than_untuned(record.notes, t),
            }
            for t in record.trials
        ]
    return result


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
        "objective": "command" if {"command", "trainer"} & fixed.get("objective", {}).keys() else "lora",
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


def _coordinator(running: Holder | None) -> dict[str, Any] | None:
    return {"host": running.host, "pid": running.pid, "since": running.since} if running else None


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


def _crash(trial: RecordedTrial) -> dict[str, Any]:
    assert trial.final is not None
    again = {"would_again": True} if not trial.final.retry else {}
    return {"trial": trial.number, "attempts": trial.final.attempt, "message": trial.final.message, **again}


def _goals(record: Record) -> dict[str, Any]:
    """Fields of a status.

    objectives: `{quantity, maximize}` each. constraints: `{text, quantity, known, limit, kept}` each: whether it is
        known before training, its limit as a number (None: the reference is not measured yet), and how many complete
        trials keep it. quantities: names of what is shown beside the loss. pareto: numbers of the trials on the Pareto
        set; none with one objective.
    """
    guidance, references, complete = record.guidance, record.references, record.complete
    return {
        "objectives": [{"quantity": one.quantity, "maximize": one.maximize} for one in guidance.objectives],
        "constraints": [
            {
                "text": one.text,
                "quantity": one.quantity,
                "known": one.known,
                "limit": one.limit(references),
                "kept": sum(trial.violations.get(one.text, 0.0) <= 0 for trial in complete),
            }
            for one in guidance.constraints
        ],
        "quantities": list(_quantity_names(record)),
        "pareto": [trial.number for trial in record.pareto] if guidance.several else [],
    }


def _quantity_names(record: Record) -> tuple[str, ...]:
    """The quantities that are shown: those that guide the search, and what is measured beside them."""
    measured = (record.notes.get("fixed", {}).get("guides") or {}).get("quantities", ())
    return tuple(dict.fromkeys([*record.guidance.quantities, *measured]))


def _shown(record: Record, quantities: Quantities) -> dict[str, float]:
    """Those of some model."""
    return {name: quantities[name] for name in _quantity_names(record) if name in quantities and name != LOSS}


def _goals_of_trial(record: Record, trial: RecordedTrial) -> dict[str, Any]:
    """Fields of a trial: `quantities`, `violations` by constraint, and whether it is `feasible` (None: no value)."""
    complete = trial.final is not None and trial.final.ending is Ending.COMPLETE
    return {
        "quantities": _shown(record, trial.quantities),
        "violations": dict(trial.violations),
        "feasible": not trial.violation if complete else None,
    }


def usage(record: Record, baseline: float | None) -> dict[str, Any]:
    """Fields of a status.

    energy: kilowatt-hours, and the seconds in which they were taken: less than the study's where it was not metered
        from its start. None: it was not metered at all.
    tokens_saved: that the trials which stopped early would have been trained on further. share_saved: of all that
        would have been without that. promoted: numbers of stopped trials that were trained to the end. not_ended: how
        many were not, of which one might have been the best. dropped: those of them that cannot go on.
    seed_noise: of replicates of the best, with their `losses`; `above`: how far the baseline's loss lies above their
        mean, with its 95 % interval. None: none were made, or another trial is the best by now.
    """
    taken = record.notes.get(energy.NOTE)
    saved = sum(_saved(record).values())
    stopped = {t.number for t in record.trials if t.final is not None and t.final.ending is Ending.STOPPED_EARLY}
    return {
        "energy": taken and {"kilowatt_hours": taken["joules"] / KILOWATT_HOUR, "seconds": taken["seconds"]},
        "tokens_saved": saved,
        "share_saved": saved / (saved + record.tokens) if saved else 0.0,
        "promoted": [trial.number for trial in record.trials if trial.promoted is not None],
        "not_ended": len(stopped),
        "dropped": sorted(record.dropped & stopped),
        "seed_noise": _noise(record, baseline),
    }


def _saved(record: Record) -> dict[int, int]:
    """Tokens by stopped trial: one that ended complete shows what one of as many epochs takes."""
    whole = {_epochs(trial): trial.final.tokens for trial in record.complete if trial.final is not None}
    ended = [(trial, trial.final) for trial in record.trials if trial.final is not None]
    stopped = [(trial, final) for trial, final in ended if final.ending is Ending.STOPPED_EARLY]
    return {trial.number: max(0, whole.get(_epochs(trial), 0) - final.tokens) for trial, final in stopped}


def _course(record: Record, trial: RecordedTrial, saved: Mapping[int, int]) -> dict[str, Any]:
    """Fields of a trial: which pack it joined, and after which rung of which of its trials, None: it began with it;
    at which rung it was stopped, of how many, whatever was promoted since, None: it was not; what came `after_stop`;
    and the tokens saved.
    """
    stopped = trial.outcome is not None and trial.outcome.ending is Ending.STOPPED_EARLY
    at = {"rung": len(trial.outcome.rungs), "of": len(trial.thresholds)} if stopped and trial.outcome else None
    after = None if trial.joins is None else {"pack": trial.pack, "trial": trial.joins[0], "tokens": trial.joins[1]}
    later = list(_after_stop(record, trial)) if stopped else []
    return {"stopped_at": at, "joined": after, "after_stop": later, "tokens_saved": saved.get(trial.number, 0)}


def _after_stop(record: Record, trial: RecordedTrial) -> Iterator[dict[str, Any]]:
    """What became of a trial that had been stopped, in order: it `went_on` or was `dropped` after so many trials had
    ended (`trials`), the former in another `pack` (None: alone), `froze` again at a `rung`, or `ended`, in which way
    and with which loss.
    """
    rungs = [tokens for tokens, _ in trial.thresholds]
    packs = {each.thaw: each.pack for each in record.joined}
    for number, thaw in enumerate(record.thaws):
        if thaw.trial != trial.number:
            continue
        yield {"event": "went_on", "trials": thaw.seen, "pack": packs.get(number)}
        if (stood := record.notes.get(f"{decisions.FROZEN}:{number}")) is not None:
            yield {"event": "froze", "rung": rungs.index(stood["rungs"][-1][0]) + 1}
    yield from ({"event": "dropped", "trials": each.seen} for each in record.drops if each.trial == trial.number)
    if trial.promoted is not None:
        yield {"event": "ended", "ending": trial.promoted.ending.value, "loss": trial.promoted.loss}


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
    losses = ((record.notes.get(REPLICATES) or {}).get(str(best.number)) or {}).values()
    shown = {name: value for name, value in noise.items() if name != "told"}
    return {**shown, "losses": [loss for loss in losses if loss is not None], "above": above}
