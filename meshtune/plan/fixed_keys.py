"""The keys of a study that must not change once it has begun: here they are gathered, and read back from its record.

A key that a later version brought is left out where it has its default, so that studies of earlier versions go on. What
the machine of the first run chose (`auto` samplers, the size of blocks, tokens of a pass) is among them, so that the
study goes on alike on another machine: the parts of a plan look it up in the recorded keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config.sections import SamplerConfig, StudyConfig, TrainerObjectiveConfig
from meshtune.errors import MeshtuneError
from meshtune.plan.goals import PlannedGoals
from meshtune.plan.locate import Located
from meshtune.priors.known import Known
from meshtune.record.log import Record
from meshtune.space.space import Space
from meshtune.stopping.decisions import EarlyStopping
from meshtune.system.imported import portable
from meshtune.training.recipe import LATER, other_steps

if TYPE_CHECKING:
    from meshtune.plan.training import TrainingPlan

_NOT_FIXED = {"keep_adapters", "checkpoint_minutes"}  # of `training`: they change no loss


def recorded_notes(study: Located) -> Mapping[str, Any] | None:
    """The notes of a study's record, its fixed keys (`fixed`) among them; None where nothing was recorded yet."""
    if study.started and study.config.storage is None:
        return Record(study.url, study.name).notes
    if not (study.started or (study.whole is not None and study.whole.started)):
        return None
    with contextlib.suppress(MeshtuneError):  # no study of this name yet
        return Record(study.url, study.name).notes
    return None


def gather(
    config: StudyConfig,
    space: Space,
    baseline: Mapping[str, Any] | None,
    goals: PlannedGoals,
    sampler: SamplerConfig,
    block_size: int,
    early: EarlyStopping | None,
    training: TrainingPlan | None,
    trained: str | None = None,
    known: Known | None = None,
) -> dict[str, Any]:
    """All of them, as the record keeps them. `trained`: the fingerprint of another tool's settings."""
    keys = {
        "objective": _of_objective(config, trained),
        "space": space.describe(),
        "baseline": None if baseline is None else dict(baseline),
        "sampler": portable(sampler.fixed),
        "seed": config.seed,
        "warm_start": config.warm_start.fixed if config.warm_start else None,
    }
    if training is not None:
        keys |= _of_training(config, training)
    if known is not None:
        keys["known"] = known.to_json()
    if early is not None:
        keys["early_stopping"] = early.described()
    return {**keys, **goals.goals.described(), "block_size": block_size}


def _of_objective(config: StudyConfig, trained: str | None) -> dict[str, Any]:
    """Another tool's settings by their content: they may be moved, and how they are run changes no result."""
    dumped = config.objective.model_dump(mode="json", exclude={"directory"})
    if isinstance(config.objective, TrainerObjectiveConfig):
        return {"trainer": config.objective.trainer, "at": config.objective.at, "config": trained}
    return dumped


def _of_training(config: StudyConfig, training: TrainingPlan) -> dict[str, Any]:
    from meshtune.training.models import validation_precision

    spec = training.spec
    model = spec.model.model_dump(mode="json", exclude={"device"})
    if model["quantization"] is None:
        del model["quantization"]
    trained = spec.training.model_dump(mode="json", exclude=_NOT_FIXED)
    if trained["pass_tokens"] is None or training.own_trainer:
        del trained["pass_tokens"]
    for name in set(LATER) - set(other_steps(spec.training)):
        del trained[name]
    trained["trainer"] = portable(trained["trainer"])
    precision = validation_precision(spec.model)
    keys = {"model": model, "data": spec.data.fingerprint, "training": trained, "validation_precision": precision}
    if training.measurements is not None:
        keys["guides"] = _of_measurements(config, training)
    return keys


def _of_measurements(config: StudyConfig, training: TrainingPlan) -> dict[str, Any]:
    assert training.measurements is not None
    spec = training.measurements.spec
    keys = spec.model_dump(mode="json")
    keys["benchmarks"] = spec.benchmarks and Path(spec.benchmarks).name  # folders may be moved
    keys["text"] = Path(spec.text).name
    if spec.metrics:
        keys["answers"] = training.spec.answering.made
    return keys
