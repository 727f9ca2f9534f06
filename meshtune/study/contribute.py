"""`meshtune contribute`: a study's trials as one line of the table of runs, to share or to keep as a team's own.

What is written is known points, their losses, and sizes: no row of the data, no path, and no name of a local model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshtune._version import __version__
from meshtune.config.sections import StudyConfig, is_command
from meshtune.data.build import load
from meshtune.errors import Fault, InputError, refuse
from meshtune.plan.locate import existing
from meshtune.priors.model_facts import EMBEDDED_NAME, model_facts
from meshtune.priors.runs import FEWEST_RUNS, RUN, Facts, Run, Task
from meshtune.record.log import Record
from meshtune.training.recipe import other_steps

POINT = tuple(key for key in RUN if key != "loss")


def contribute(
    path: Path, *, folder: Path | None = None, data: str = "not named", licence: str = "CC0-1.0"
) -> tuple[Task, int]:
    """The task of a study, and how many complete trials are not in it, since their other hyperparameters differ.

    Raises InputError where the study has no such runs.
    """
    study = existing(path, folder=folder)
    refuse(_faults(study.config))
    assert study.config.model is not None
    complete = [trial for trial in Record(study.url, study.name).trials if math.isfinite(trial.loss)]
    others_of = [_other_than_the_table(study.config, trial.hyperparameters) for trial in complete]
    if complete and all(others_of):
        what = "is not the default: the runs of the table have adapters on all linear layers, trained by AdamW"
        refuse([Fault(what, key=key) for key in dict.fromkeys(key for keys in others_of for key in keys)])
    groups = dict[str, list[Any]]()
    for trial, other in zip(complete, others_of, strict=True):
        if other:
            continue
        rest = {key: value for key, value in trial.hyperparameters.items() if key not in POINT}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(trial)
    others, trials = max(groups.items(), key=lambda item: len(item[1]), default=("{}", []))
    if len(trials) < FEWEST_RUNS:
        what = f"{study.folder} has {len(trials)} complete trials that can be compared, and at least {FEWEST_RUNS}"
        raise InputError(f"{what} are needed: let it run on")
    runs = [Run(**{key: trial.hyperparameters[key] for key in POINT}, loss=trial.loss) for trial in trials]
    summary = load(study.folder / "data").summary
    name = study.config.model.name
    try:
        size, family = model_facts(name)
    except InputError as error:
        instead = "a line has the model's hidden size and family, so bring its config.json to where it was"
        raise InputError([replace(fault, message=f"{fault.message}; {instead}") for fault in error.faults]) from error
    local = name != "embedded" and Path(name).exists()
    public = EMBEDDED_NAME if name == "embedded" else name
    task = Task(
        _facts(size, family, summary.train.rows, study.config, json.loads(others)),
        f"a model of the family {family}" if local else public,
        data,
        f"a study with meshtune {__version__}",
        licence,
        tuple(runs),
        {"tokens": summary.train.tokens},
    )
    return task, len(complete) - len(runs)


def _facts(size: int, family: str, rows: int, config: StudyConfig, others: Mapping[str, Any]) -> Facts:
    training = config.training
    batch = min(rows, others.get("batch_size", training.batch_size) * training.gradient_accumulation)
    steps = math.ceil(rows / batch) * others.get("epochs", training.epochs)
    return Facts(family, size, rows, steps, batch)


def _faults(config: StudyConfig) -> list[Fault]:
    if config.rounds:
        return [Fault("has rounds, whose losses differ: name the folder of one of them", key="study")]
    if is_command(config.objective):
        return [Fault("searches a program, and the table is of LoRA fine-tunings", key="study")]
    return []


def _other_than_the_table(config: StudyConfig, point: Mapping[str, Any]) -> list[str]:
    """The keys, of the point or else of the section, by which a trial is none of the table's kind."""
    given = {key: point.get(key, getattr(config.training, key)) for key in ("target_modules", "use_rslora", "use_dora")}
    found = [] if given.pop("target_modules") == "all-linear" else ["target_modules"]
    return [*found, *(key for key, value in given.items() if value), *other_steps(config.training, point)]
