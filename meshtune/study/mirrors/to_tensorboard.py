"""TensorBoard: a folder of events for each trial, with its hyperparameters for the HParams tab.

Its events hold float32. A trial's folder is written anew each time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from meshtune.study.mirrors.facts import StudyFacts, TrialFacts


class TensorBoard:
    """Writes below `place`; `tensorboard --logdir` shows it."""

    def __init__(self, study: StudyFacts, place: Path):
        self._study, self._place = study, place

    def trial(self, facts: TrialFacts) -> None:
        """As `Mirror` says."""
        folder = self._place / f"trial-{facts.number}"
        shutil.rmtree(folder, ignore_errors=True)
        writer = EventFileWriter(str(folder))
        point = {name: _scalar(value) for name, value in facts.hyperparameters.items()}
        writer.add_event(_event(hparams.hparams_pb(point, trial_id=str(facts.number)), 0, facts.ended))
        for name, points in facts.series.items():
            for at, value in points:
                writer.add_event(_event(_value(name, value), int(at), facts.ended))
        for name, value in facts.numbers.items():
            writer.add_event(_event(_value(name, value), 0, facts.ended))
        writer.close()

    def close(self) -> None:
        """As `Mirror` says."""


def _scalar(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _value(name: str, value: float) -> Summary:
    return Summary(value=[Summary.Value(tag=name, simple_value=value)])


def _event(summary: Summary, step: int, time: float) -> Event:
    return Event(wall_time=time, step=step, summary=summary)


def open_mirror(study: StudyFacts, place: Path, *, artifacts: bool) -> TensorBoard:
    """TensorBoard keeps no artifacts."""
    del artifacts
    return TensorBoard(study, place)
