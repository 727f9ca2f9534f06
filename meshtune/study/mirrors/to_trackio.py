"""Trackio: a project for the study, a run for each trial. On this machine, or in a private Space (TRACKIO_SPACE_ID).

A run of the study that was there before is deleted, where it is on this machine; in a Space another one is made beside
it. Of two studies with folders of one name, the runs are side by side.
"""

from __future__ import annotations

import os
from pathlib import Path

import trackio

from meshtune.study.mirrors.facts import StudyFacts, TrialFacts

STUDY = "meshtune_study"


class Trackio:
    """Its files lie where TRACKIO_DIR says, else in the user's cache, where `trackio show` looks."""

    def __init__(self, study: StudyFacts):
        self._study = study

    def trial(self, facts: TrialFacts) -> None:
        """As `Mirror` says."""
        name = f"trial {facts.number}"
        for earlier in self._earlier(name):
            earlier.delete()
        told = {
            STUDY: self._study.key,
            "ending": facts.ending,
            "origin": facts.origin,
            "message": facts.message,
            "digest": facts.digest,
        }
        run = trackio.init(
            self._study.name,
            name=name,
            group=self._study.name,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config={**facts.hyperparameters, **told},
            private=True,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for series, points in facts.series.items():
            for at, value in points:
                run.log({series: value, f"{series}_at": at}, step=int(at))
        run.log(dict(facts.numbers))
        trackio.finish()

    def close(self) -> None:
        """As `Mirror` says."""

    def _earlier(self, name: str) -> list[trackio.api.Run]:
        try:
            runs = [run for run in trackio.Api().runs(self._study.name) if run.name == name]
        except ValueError:  # there is no such project yet
            return []
        return [run for run in runs if (run.config or {}).get(STUDY, "") == self._study.key]


def open_mirror(study: StudyFacts, place: Path, *, artifacts: bool) -> Trackio:
    """Trackio is given no artifacts."""
    del place, artifacts
    return Trackio(study)
