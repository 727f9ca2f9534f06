"""What a tracker is told: the study, and each trial that has ended, as plain values out of the record.

`Mirror` is what a tracker's file implements. Nothing here knows a tracker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.trial import Ending

Series = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TrialFacts:
    """One trial that has ended.

    Attributes:
        hyperparameters: its point. ending: how it ended.
        ended: seconds of the search until then.
        series: by name, values with where they were measured: `validation_loss` and `training_loss` by epoch (0: the
            first step), `rung_loss` by tokens. numbers: single ones: the objective as `loss`, seconds, tokens, ..
        message: last words where something went wrong. adapter: its folder, where it is kept.
    """

    number: int
    hyperparameters: Mapping[str, Any]
    origin: str
    ending: str
    ended: float
    series: Mapping[str, Series]
    numbers: Mapping[str, float]
    message: str = ""
    adapter: Path | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """Of all that is sent; it changes where a trial that was stopped has been promoted."""
        values = {name: value for name, value in asdict(self).items() if name != "adapter"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def succeeded(self) -> bool:
        """Whether its loss counts."""
        return self.ending == Ending.COMPLETE


@dataclass(frozen=True)
class StudyFacts:
    """The study whose trials these are.

    Attributes:
        name: of its folder. folder: where mirrors keep their files.
        key: tells it from other studies of that name on the same tracker; "": an earlier version showed it first.
    """

    name: str
    folder: Path
    key: str = ""


class Mirror(Protocol):
    """A tracker while it is told of one study; any method raises what the tracker raises, and is called again later."""

    def trial(self, facts: TrialFacts) -> None:
        """Show a trial, in place of what was shown of it before; the same twice does no harm."""

    def close(self) -> None:
        """Nothing more comes."""


def parts(study: Located) -> list[Located]:
    """What is mirrored each by itself: the rounds that have begun, or the study."""
    return [each for each in study.rounds if each.started] if study.config.rounds else [study]


def facts_of(study: Located) -> StudyFacts:
    """Of a study, or of one round."""
    folder = study.folder if study.whole is None else study.whole.folder
    name = folder.name if folder.name != "study" else folder.parent.name
    return StudyFacts(name if study.whole is None else f"{name}-{study.folder.name}", study.folder)


def trials_of(study: Located) -> Iterator[TrialFacts]:
    """All trials that have ended, in the order in which that was recorded."""
    for trial in Record(study.url, study.name).finished:
        yield _trial(trial, study.folder)


def _trial(trial: RecordedTrial, folder: Path) -> TrialFacts:
    outcome = trial.final
    assert outcome is not None
    series = {
        "validation_loss": tuple((epoch, loss) for epoch, loss in enumerate(outcome.losses, 1)),
        "training_loss": tuple(enumerate(outcome.training_losses)),
        "rung_loss": outcome.rungs,
    }
    numbers = {"loss": outcome.loss, "seconds": outcome.seconds, "tokens": outcome.tokens, **outcome.extra}
    numbers["peak_memory"] = outcome.peak_memory
    adapter = None if outcome.adapter is None else folder / outcome.adapter
    return TrialFacts(
        number=trial.number,
        hyperparameters=dict(trial.hyperparameters),
        origin=trial.origin,
        ending=str(outcome.ending),
        ended=trial.elapsed,
        series={name: points for name, points in series.items() if points},
        numbers={name: value for name, value in numbers.items() if value is not None},
        message=outcome.message,
        adapter=adapter if adapter is not None and adapter.is_dir() else None,
    )
