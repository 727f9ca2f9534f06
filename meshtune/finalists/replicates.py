"""`meshtune select --replicates R`: the leading candidates and the baseline trained with R other seeds, and scored.

The seeds are the same for all, trainings go in packs where the study's do, and each is asked the items that its
original was. What was trained and answered stands in `<study>/evaluation/`, so that a run which was killed goes on, and
a later one with more seeds adds these. The adapters that are chosen between stay the original ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshtune.config.evaluation import EvaluationConfig, changed
from meshtune.errors import InputError, Interrupted
from meshtune.evaluation.benchmarks import registry
from meshtune.export.chosen import ChosenPoint, as_run, pick
from meshtune.finalists.ask import BenchmarkScorer, Report, searched_items
from meshtune.finalists.evaluate import FOLDER, alone, stored_on_interrupt
from meshtune.finalists.stored_scores import Evidence
from meshtune.objectives import checkpoints
from meshtune.objectives.build import ObjectiveSpec
from meshtune.plan.locate import Located
from meshtune.plan.plan import Plan, build
from meshtune.record.log import Record
from meshtune.selection.decide import Decision
from meshtune.selection.measured import POINTS, Array, Measure
from meshtune.selection.resampling import with_trainings
from meshtune.study import finals
from meshtune.study.loop import Running
from meshtune.study.signals import Interrupts
from meshtune.system import whole_file
from meshtune.trial import Ending, Outcome, Request
from meshtune.workers.build import build as build_worker
from meshtune.workers.planner import Packing

if TYPE_CHECKING:
    from meshtune.evaluation.adapters import Candidate

MOST = 4  # leading candidates that are trained again, beside the baseline
FEWEST = 2  # other seeds: one shows no spread
PLACE = Path("evaluation") / "replicates"  # in the study's folder: adapters, checkpoints, logs, and how all ended
_OUTCOMES = "outcomes.json"


def leading(decision: Decision, evidence: Evidence) -> list[str]:
    """Those that may be the best, four at most, and the baseline."""
    able = [one.name for one in decision.candidates if one.may_be_best and evidence.facts[one.name].left is None]
    base = [name for name, facts in evidence.facts.items() if facts.baseline]
    return list(dict.fromkeys([*able[:MOST], *base]))


def replicated(
    study: Located, evidence: Evidence, decision: Decision, count: int, *, unsafe: bool, report: Report
) -> tuple[Evidence, dict[str, str]]:
    """Train the leading candidates with so many other seeds, score them, and put the means in place of their scores.

    Args:
        evidence: of the study, item by item, with the settings that it was scored with. decision: by these scores.

    Returns the evidence on the decision's benchmarks; and by candidate, why it is not among those with several
    trainings.

    Raises InputError where the study was not scored in a way that can be repeated, or no candidate completes with all
    seeds; Interrupted; StudyBusy; WorkerError; StorageError.
    """
    if count < FEWEST:
        raise InputError(f"--replicates {count}: {FEWEST} other seeds at least are needed to show a spread")
    evidence = evidence.only(decision.benchmarks)
    settings, names = _settings(evidence), leading(decision, evidence)
    record = Record(study.url, study.name)
    chosen = {name: _point(study, record, evidence, name) for name in names}
    requests = {name: _requests(one, study.config.seed, count) for name, one in chosen.items()}
    with alone(study.folder / "evaluation"), stored_on_interrupt():
        outcomes = _trained(study, record, requests, report)
        failed = {name: why for name, asked in requests.items() if (why := _failure(asked, outcomes))}
        whole = {name: asked for name, asked in requests.items() if name not in failed}
        if not whole:
            raise InputError(f"no candidate completed with all seeds: {'; '.join(failed.values())}")
        answers = _scored(study, evidence, settings, whole, unsafe, report)
    once = [name for name in evidence.measured.names if name not in whole and _is_trained(evidence, name)]
    measured, seeds = with_trainings(evidence.measured, answers, once)
    return replace(evidence, measured=measured, seeds=seeds), failed


def _settings(evidence: Evidence) -> EvaluationConfig:
    if evidence.settings is None:
        raise InputError(
            "how the study was scored is not stored: run `meshtune evaluate` again (it asks nothing twice)"
        )
    settings = EvaluationConfig.model_validate(evidence.settings)
    if settings.protocol != "instruct-eval" or not evidence.measured.paired:
        raise InputError("`--replicates` compares answers item by item, as the protocol instruct-eval stores them")
    names = tuple(one.name for one in evidence.measured.measures)
    sampled = any(one.name in names for one in registry.ALL if one.runs_code)
    several = {} if sampled else {"samples": 1, "pass_at": ()}
    return changed(settings, {"benchmarks": names, **several})


def _point(study: Located, record: Record, evidence: Evidence, name: str) -> ChosenPoint:
    trial = evidence.facts[name].trial
    return pick(study.source, study, record, "baseline" if trial is None else trial)


def _is_trained(evidence: Evidence, name: str) -> bool:
    facts = evidence.facts[name]
    return facts.trial is not None or facts.baseline


def _requests(chosen: ChosenPoint, seed: int, count: int) -> list[Request]:
    """By the same seeds for every candidate; none is that of the study."""
    return [
        Request(checkpoints.replicate(chosen.trial, index), chosen.hyperparameters, (seed + index) % 2**31)
        for index in range(1, count + 1)
    ]


def _trained(
    study: Located, record: Record, requests: Mapping[str, Sequence[Request]], report: Report
) -> dict[str, dict[str, Any]]:
    """How each training ended, by its name; what has ended before is not trained again."""
    place = study.folder / PLACE
    path = place / _OUTCOMES
    done: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Seed by seed over all candidates: what is there after an interruption is paired.
    missing = [
        request
        for of_seed in zip(*requests.values(), strict=True)
        for request in of_seed
        if not _holds(done.get(checkpoints.beside(request.trial)), request, place)
    ]
    if not missing:
        return done
    report(f"training {', '.join(requests)} with other seeds: {len(missing)} trainings")
    plan = build(study)
    if plan.fixed["data"] != record.notes["fixed"]["data"]:
        raise InputError(f"{study.folder}: its data have changed since the search; give the old ones back")
    place.mkdir(parents=True, exist_ok=True)
    packing = Packing(plan.packing.processes) if record.why_not_packed else plan.packing
    hours = study.config.budget.trial_hours
    threads = plan.processes[0].threads
    timeout = None if hours is None else hours * 3600
    signals = Interrupts()
    worker = build_worker(study.config.worker, _objective(plan, record, place), plan.processes, place)
    try:
        with signals.taken():
            signals.cooperative = True
            how = finals.Runner(worker, study.config.seed, threads, study.config.worker.attempts, signals.stop)
            packs = packing.packs([request.hyperparameters for request in missing])
            sizes = [len(pack) for pack in packs]
            own = [replace(missing[at], threads=threads, timeout=timeout) for pack in packs for at in pack]
            for event in how.gather(_in_time(own, sizes), any_ending=True, sizes=sizes):
                if isinstance(event, Running):
                    continue
                if isinstance(event, Outcome):
                    name = checkpoints.beside(event.trial)
                    (request,) = (one for one in own if one.trial == event.trial)
                    if event.ending is Ending.CRASHED and not event.retry:
                        raise InputError(f"{name}: {event.message}")
                    done[name] = _as_stored(request, event)
                    whole_file.write(path, json.dumps(done, indent=2))
                    loss = "" if event.loss is None else f", validation loss {event.loss:.4f}"
                    report(f"{name} (seed {request.seed}): {event.ending}{loss}")
    finally:
        worker.close()
    if signals.stop() is not None:
        raise Interrupted("interrupted: what has ended is stored; run the same command again to go on")
    return done


def _in_time(requests: Sequence[Request], sizes: Sequence[int]) -> list[Request]:
    """The time of a training alone becomes that of its whole pack."""
    counts = [size for size in sizes for _ in range(size)]
    return [
        one if one.timeout is None else replace(one, timeout=one.timeout * size)
        for one, size in zip(requests, counts, strict=True)
    ]


def _objective(plan: Plan, record: Record, place: Path) -> ObjectiveSpec:
    """The study's, with what its machine chose, and adapters in another folder; nothing is measured beside the loss."""
    spec, fixed = plan.objective.spec, record.notes["fixed"]["training"]
    return ObjectiveSpec(
        "lora", {**spec, "folder": str(place), "measurements": None, "training": {**spec["training"], **as_run(fixed)}}
    )


def _as_stored(request: Request, outcome: Outcome) -> dict[str, Any]:
    return {
        "hyperparameters": dict(request.hyperparameters),
        "seed": request.seed,
        "ending": outcome.ending,
        "loss": outcome.loss,
        "adapter": outcome.adapter,
        "message": outcome.message,
    }


def _holds(ended: Mapping[str, Any] | None, request: Request, place: Path) -> bool:
    """Whether a training has ended as this request would be."""
    if ended is None or ended["ending"] == Ending.CRASHED:
        return False
    point = json.loads(json.dumps(dict(request.hyperparameters)))
    if (ended["seed"], ended["hyperparameters"]) != (request.seed, point):
        return False
    return ended["adapter"] is None or (place / ended["adapter"] / "adapter_config.json").is_file()


def _failure(requests: Sequence[Request], outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a candidate has not all of its trainings; empty where it has."""
    found = [(one, outcomes[checkpoints.beside(one.trial)]) for one in requests]
    return "; ".join(
        f"{checkpoints.beside(one.trial)} (seed {one.seed}) ended as {ended['ending']}"
        for one, ended in found
        if ended["ending"] != Ending.COMPLETE
    )


def _scored(
    study: Located,
    evidence: Evidence,
    settings: EvaluationConfig,
    requests: Mapping[str, Sequence[Request]],
    unsafe: bool,
    report: Report,
) -> dict[str, dict[str, Array]]:
    """Points by candidate and benchmark, (trainings, items), the original's first."""
    from meshtune.evaluation.adapters import Candidate

    if study.config.model is None:
        raise InputError(f"{study.folder}: the study has no model")
    place = study.folder / PLACE / "adapters"
    names = {one.trial: checkpoints.beside(one.trial) for asked in requests.values() for one in asked}
    candidates = {number: Candidate(name, place / name) for number, name in names.items()}
    # Of all studies that it was scored with.
    guided = evidence.guided if evidence.guided is not None else searched_items([study.whole or study])
    asking = BenchmarkScorer(study.config.model, settings, study.folder / FOLDER, guided, unsafe, report)
    measures = {one.name: one for one in evidence.measured.measures}
    only = {}
    for benchmark in asking.benchmarks:
        if benchmark.digest != evidence.digests[benchmark.name]:
            raise InputError(f"{benchmark.title}: its data are not those that the study was scored on; give them back")
        ids = set(measures[benchmark.name].ids)
        only[benchmark.name] = [number for number, item in enumerate(benchmark.items) if item.id in ids]
    asking.ask(list(candidates.values()), only)
    found: dict[str, dict[str, Array]] = {}
    for name, asked in requests.items():
        row = evidence.measured.names.index(name)
        found[name] = {
            key: np.stack([_row(measure, row), *(_of(asking, candidates[one.trial], measure) for one in asked)])
            for key, measure in measures.items()
        }
    return found


def _row(measure: Measure, row: int) -> Array:
    if measure.answers is None:
        raise InputError(f"{measure.title}: its answers are not known item by item")
    return np.asarray(measure.answers[row])


def _of(asking: BenchmarkScorer, candidate: Candidate, measure: Measure) -> Array:
    shares = asking.shares(candidate, measure.name)
    return POINTS * np.array([shares[item] for item in measure.ids])
