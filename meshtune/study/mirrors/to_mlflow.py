"""MLflow: an experiment for the study, a run for each trial below one of the study.

Where: as MLFLOW_TRACKING_URI says, else a SQLite file in the study's folder. Runs are found by their tags, so that
none is made twice, and none of another study of the same name is touched; one that was cut short is deleted and made
again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from meshtune.study.mirrors.facts import StudyFacts, TrialFacts

TRIAL, STUDY, DIGEST = "meshtune.trial", "meshtune.study", "meshtune.digest"
WHOLE = "study"  # the trial's tag of the run above all
BATCH = 900  # metrics at once; MLflow takes 1,000
_ENDED = {"complete": "FINISHED", "stopped_early": "KILLED"}


class Mlflow:
    """Over one server or file."""

    def __init__(self, study: StudyFacts, place: Path, *, artifacts: bool):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # it is tried again from outside
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place / 'mlflow.db'}"
        self._client, self._artifacts = MlflowClient(tracking_uri=address), artifacts
        self._key = study.key
        found = self._client.get_experiment_by_name(study.name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(study.name)
        above = self._runs(WHOLE)
        if above:
            self._above = above[0].info.run_id
        else:
            tags = {TRIAL: WHOLE, STUDY: self._key, "mlflow.runName": study.name}
            self._above = self._client.create_run(self._experiment, tags=tags).info.run_id

    def trial(self, facts: TrialFacts) -> None:
        """As `Mirror` says."""
        for run in self._runs(str(facts.number)):
            if run.data.tags.get(DIGEST) == facts.digest:
                return
            self._client.delete_run(run.info.run_id)
        tags = {"mlflow.parentRunId": self._above, "mlflow.runName": f"trial {facts.number}"}
        tags |= {TRIAL: str(facts.number), STUDY: self._key}
        run_id = self._client.create_run(self._experiment, tags=tags).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, 0) for name, value in facts.numbers.items()]
        metrics += [
            Metric(name, float(value), now, int(at)) for name, points in facts.series.items() for at, value in points
        ]
        params = [Param(name, str(value)) for name, value in facts.hyperparameters.items()]
        said = {"ending": facts.ending, "origin": facts.origin, "message": facts.message[:500]}
        self._client.log_batch(run_id, params=params, tags=[RunTag(name, value) for name, value in said.items()])
        for at in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[at : at + BATCH])
        if self._artifacts and facts.adapter is not None:
            self._client.log_artifacts(run_id, str(facts.adapter), "adapter")
        self._client.set_terminated(run_id, status=_ENDED.get(facts.ending, "FAILED"))
        self._client.set_tag(run_id, DIGEST, facts.digest)  # last: it is whole

    def close(self) -> None:
        """As `Mirror` says."""

    def _runs(self, label: str) -> list[Any]:
        found = self._client.search_runs([self._experiment], f"tags.`{TRIAL}` = '{label}'")
        return [run for run in found if run.data.tags.get(STUDY, "") == self._key]


def open_mirror(study: StudyFacts, place: Path, *, artifacts: bool) -> Mlflow:
    """Raises MlflowException where the server does not answer."""
    return Mlflow(study, place, artifacts=artifacts)
