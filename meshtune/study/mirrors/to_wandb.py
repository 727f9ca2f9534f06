"""Weights & Biases: a run for each trial, in a group of the study.

Offline unless WANDB_MODE says otherwise: its files lie in the study's folder, and `wandb sync` takes them to a server.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import wandb

from meshtune.study.mirrors.facts import StudyFacts, TrialFacts


class Wandb:
    """One run after the other; what a crash cut short is written anew."""

    def __init__(self, study: StudyFacts, place: Path, *, artifacts: bool):
        self._study, self._place, self._artifacts = study, place, artifacts

    def trial(self, facts: TrialFacts) -> None:
        """As `Mirror` says."""
        folder = self._place / f"trial-{facts.number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = wandb.init(
            project=self._study.name,
            group=self._study.name,
            name=f"trial {facts.number}",
            id=f"{facts.number}-{facts.digest}",  # a promoted trial is another run
            config=dict(facts.hyperparameters),
            dir=folder,
            mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        for name, points in facts.series.items():
            run.define_metric(name, step_metric=f"{name}_at")
            for at, value in points:
                run.log({name: value, f"{name}_at": at})
        run.summary.update({**facts.numbers, "ending": facts.ending, "origin": facts.origin, "message": facts.message})
        if self._artifacts and facts.adapter is not None:
            run.log_artifact(str(facts.adapter), name=f"adapter-{facts.number}", type="model")
        run.finish(exit_code=0 if facts.succeeded else 1)

    def close(self) -> None:
        """As `Mirror` says."""


def open_mirror(study: StudyFacts, place: Path, *, artifacts: bool) -> Wandb:
    """Its files are below `place`."""
    return Wandb(study, place, artifacts=artifacts)
