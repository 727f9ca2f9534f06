"""The point of a study that a command trains again or takes away, and what is known about it and its study.

What is told is plain values without absolute paths: it goes into files that people pass on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune._version import __version__
from meshtune.config.sections import ModelConfig, StudyConfig, is_command, is_trainer
from meshtune.errors import InputError, nearest
from meshtune.plan.environment import versions
from meshtune.plan.locate import Located, existing
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial, read_outcome
from meshtune.selection.recommended import recommended
from meshtune.study import finals
from meshtune.study.status import of_record
from meshtune.trial import Ending, Outcome

WORDS = ("best", "recommended", "baseline")


@dataclass(frozen=True)
class ChosenPoint:
    """One point of a study.

    Attributes:
        name: `trial 3`, or `baseline` where that lies outside the space. trial: its number, None for such a baseline.
        seed: that it was trained with. outcome: how that ended, or None. best: whether it is the study's best.
    """

    study: Located
    record: Record
    name: str
    trial: int | None
    hyperparameters: Mapping[str, Any]
    seed: int
    outcome: Outcome | None
    best: bool

    @property
    def model(self) -> ModelConfig:
        """The base model of the study."""
        if self.study.config.model is None:  # `choose` has refused such a study
            raise InputError(f"{self.study.folder}: the study has no model")
        return self.study.config.model

    @property
    def test_loss(self) -> float | None:
        """The loss on the test rows, None where it was not measured."""
        name = "baseline" if self.trial is None else f"trial-{self.trial}"
        loss: float | None = finals.read(self.study.folder).get(name, {}).get("loss")
        return loss

    @property
    def training(self) -> Mapping[str, Any]:
        """The study's training section as it was run: `precision` is the one that was used."""
        section: Mapping[str, Any] = self.record.notes["fixed"]["training"]
        return section

    @property
    def as_run(self) -> dict[str, Any]:
        """What the study's machine chose in this section."""
        return as_run(self.training)


def as_run(training: Mapping[str, Any]) -> dict[str, Any]:
    """What a study's machine chose, of the training section that stands in its record."""
    again = training.get("gradient_checkpointing", False)
    return {
        "precision": training["precision"],
        "pass_tokens": training.get("pass_tokens"),
        "gradient_checkpointing": again,
    }


def choose(path: Path, trial: str | int = "best", *, folder: Path | None = None) -> ChosenPoint:
    """The point that `trial` names: `best`, `recommended`, `baseline` or a trial's number.

    Raises InputError: no started study, a study of a command, nothing complete, no such trial.
    """
    study = existing(path, folder=folder).latest
    return pick(path, study, Record(study.url, study.name), trial)


def pick(path: Path, study: Located, record: Record, trial: str | int) -> ChosenPoint:
    """As `choose`, of a study whose record is open; `path` is what the user called it."""
    word = str(trial).strip()
    if is_trainer(study.config.objective):
        kept = None if record.best is None or record.best.final is None else record.best.final.adapter
        where = (
            "it keeps no checkpoints" if kept is None else f"the best adapter is {study.folder / kept}, as it stands"
        )
        raise InputError(f"{path}: another tool trained this study's adapters, and saved them itself: {where}")
    if is_command(study.config.objective):
        raise InputError(
            f"{path}: the objective of this study is a command, which trains by itself: meshtune has no adapter of it."
            f" `meshtune status {path}` shows the best hyperparameters"
        )
    if word == "best":
        if record.best is None:
            if record.complete:
                what = f"none of {len(record.complete)} complete trials keeps all constraints"
                raise InputError(f"{path}: the study has no best: {what}; name one by its number all the same")
            what = "`meshtune status --trials` shows how its trials ended" if record.trials else "no trial has begun"
            raise InputError(f"{path}: the study has no complete trial, so it has no best: {what}")
        return _of_trial(study, record, record.best)
    if word == "recommended":
        found = recommended(record)
        if found is None:
            what = "five complete trials are needed to tell luck from a good point; take `best`"
            raise InputError(f"{path}: nothing can be recommended yet: {what}")
        return _of_trial(study, record, record.trials[found.number])
    if word == "baseline":
        return _baseline(path, study, record)
    if not word.isdecimal():
        raise InputError(
            f"--trial {word}: allowed are best, recommended, baseline or a trial's number.{nearest(word, WORDS)}"
        )
    if int(word) >= len(record.trials):
        held = f"its trials are 0 to {len(record.trials) - 1}" if record.trials else "it has none yet"
        raise InputError(f"trial {word}: the study has no such trial; {held}")
    return _of_trial(study, record, record.trials[int(word)])


def describe(chosen: ChosenPoint) -> dict[str, Any]:
    """What is known of the point and its study: the model, losses, data, how it was chosen, versions."""
    study, record = chosen.study, chosen.record
    status = of_record(study, record)
    difference = finals.best_against(record, study.folder, "untuned")
    kept = ("trials", "best", "baseline", "untuned", "best_against_baseline", "state")
    shown = {name: _without_adapter(status[name]) for name in kept}
    return {
        "meshtune": __version__,
        "versions": versions(),
        "model": chosen.model.model_dump(mode="json"),
        "point": {
            "name": chosen.name,
            "trial": chosen.trial,
            "best": chosen.best,
            "hyperparameters": dict(chosen.hyperparameters),
            "loss": chosen.outcome.loss if chosen.outcome is not None else None,
            "test_loss": chosen.test_loss,
        },
        "study": {
            **shown,
            "name": study.name,
            # As `tune` recorded them; those of this installation where it recorded none.
            "versions": status.get("versions") or versions(),
            "sampler": status["sampler"],
            "seed": study.config.seed,
            "at": record.notes["fixed"]["objective"]["at"],
            "best_against_untuned": None if difference is None else dataclasses.asdict(difference),
        },
        "data": described_data(study.folder, study.config),
    }


def described_data(folder: Path, config: StudyConfig) -> dict[str, Any]:
    """The study's data: fingerprint and summary, sources by their file's name alone."""
    from meshtune.data.build import load

    prepared = load(folder / "data")
    summary = prepared.summary.to_dict()
    sources: Sequence[Mapping[str, Any]] = summary["sources"]
    summary["sources"] = [{**source, "name": _short(source["name"])} for source in sources]
    train_on = config.data.train_on if config.data is not None else None
    return {"fingerprint": prepared.ref.fingerprint, "train_on": train_on, "summary": summary}


def _of_trial(study: Located, record: Record, trial: RecordedTrial) -> ChosenPoint:
    best = record.best is not None and record.best.number == trial.number
    outcome = trial.final
    return ChosenPoint(
        study, record, f"trial {trial.number}", trial.number, trial.hyperparameters, trial.seed, outcome, best
    )


def _baseline(path: Path, study: Located, record: Record) -> ChosenPoint:
    if record.baseline is not None:
        return _of_trial(study, record, record.baseline)
    note = record.notes.get("baseline")
    if not note:
        raise InputError(f"{path}: the baseline of this study has not been trained yet; `meshtune tune` does")
    hyperparameters = note["hyperparameters"]
    outcome = read_outcome({key: value for key, value in note.items() if key != "hyperparameters"})
    return ChosenPoint(study, record, "baseline", None, hyperparameters, study.config.seed, outcome, False)


def kept_adapter(chosen: ChosenPoint) -> Path:
    """The folder of the point's adapter. Raises InputError where there is none, with how to get it."""
    outcome, study = chosen.outcome, chosen.study
    which = chosen.trial if chosen.trial is not None else "baseline"
    again = f"`meshtune train {study.folder} OUT --trial {which}` trains it again"
    if outcome is None:
        raise InputError(f"{chosen.name} of {study.folder} has not ended yet: wait for it, or {again}")
    if outcome.ending is not Ending.COMPLETE or outcome.adapter is None:
        raise InputError(f"{chosen.name} of {study.folder} ended as {outcome.ending}: it has no adapter; {again}")
    folder = study.folder / outcome.adapter
    if not (folder / "adapter_config.json").is_file():
        keep = study.config.training.keep_adapters
        raise InputError(
            f"{chosen.name} of {study.folder}: its adapter was not kept (`training.keep_adapters` is {keep}: those of"
            f" the best {keep} trials and of the baseline are); {again}"
        )
    return folder


def kept_epoch(outcome: Outcome, at: str) -> int:
    """The epoch, from 1, whose adapter was kept; 0 where none ended. `at`: that of the study, `best` or `last`."""
    losses = outcome.losses
    return len(losses) if at == "last" or not losses else losses.index(min(losses)) + 1


def _without_adapter(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if k != "adapter"} if isinstance(entry, Mapping) else entry


def _short(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name
