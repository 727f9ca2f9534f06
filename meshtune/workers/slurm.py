"""Trials on SLURM's nodes, by submitit (extra `slurm`): each job holds a process, which takes packs from the spool.

Jobs live as long as they are given, not as long as a trial, so that a queue is waited in once. One that ends, by its
time, a preemption, or with its node, is submitted again while it is needed; its trials go on from their checkpoints as
another attempt. The jobs' numbers are recorded in the spool, so that a coordinator that was started again, as it is
when it runs in a job of its own that is queued again, finds those that wait or run.

submitit writes a job's function with pickle into the study's `logs/slurm`, as it does for all; nothing else is pickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start, whole_file
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.spool import SpoolWorker

LOOK_SECONDS = 15.0  # between questions about jobs, which ask `sacct`
FAILED_JOBS = 3  # jobs that ended before their process said hello, one after the other
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "DONE")


class SlurmWorker(SpoolWorker):
    """The worker interface over SLURM's jobs.

    Args:
        config: the study's. objective: what is evaluated. processes: what each job's process is started with, as many
            as jobs are wanted. folder: the study's, which all nodes must see.

    Raises:
        InputError: SLURM refuses the jobs, or a node cannot evaluate. WorkerError: jobs end at once.
    """

    def __init__(
        self, config: WorkerConfig, objective: ObjectiveSpec, processes: Sequence[ProcessSpec], folder: Path
    ):
        super().__init__(objective, processes[0], folder)
        self._wanted, self._looked, self._failed = len(processes), -math.inf, 0
        logs = self._folder / "logs" / "slurm"
        self._executor = submitit.AutoExecutor(folder=logs, cluster=config.cluster)
        self._executor.update_parameters(**_parameters(config, processes[0]))
        self._jobs: dict[str, Any] = {}
        for number in self._recorded():
            with contextlib.suppress(Exception):  # a job that SLURM has forgotten
                self._jobs[number] = submitit.SlurmJob(logs, number)
        try:
            self.look()
            while not self._processes:
                time.sleep(1.0)
                self.look()
        except BaseException:
            self.close()
            raise
