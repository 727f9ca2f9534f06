"""Trials on SLURM's nodes, by submitit (extra `slurm`): each job holds a process, which takes packs from the spool.

Jobs live as long as they are given, not as long as a trial, so that a queue is waited in once. One that ends, by its
time, a preemption, or with its node, is submitted again while it is needed; its trials go on from their checkpoints as
another attempt. The jobs' numbers are kept in the spool, so that a coordinator that is started again, as in a job of
its own that was queued again, finds those that wait or run. Jobs are asked to end with the study, and cancelled where
they still wait.

submitit writes what a job runs with pickle into the study's `logs/slurm`, as it does for all; nothing else is pickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start, whole_file
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.spool import SpoolWorker

LOOK_SECONDS = 15.0  # between questions about jobs, which ask `sacct`
FAILED_JOBS = 3  # that ended before their process said hello, one after the other
END_SECONDS = 20.0
START_MINUTES = 720  # of a job, where the config does not say
GOING = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING", "UNKNOWN", "PREEMPTED")


class SlurmWorker(SpoolWorker):
    """The worker interface over SLURM's jobs.

    Args:
        config: the study's. objective: what is evaluated. processes: what each job's process is started with, as many
            as jobs are wanted. folder: the study's, which all nodes must see.

    Raises:
        InputError: SLURM refuses the jobs, or a node cannot evaluate. WorkerError: jobs end at once.
    """

    def __init__(self, config: WorkerConfig, objective: ObjectiveSpec, processes: Sequence[ProcessSpec], folder: Path):
        # Which GPUs a job sees is SLURM's affair.
        spec = replace(processes[0], environment={}) if processes[0].gpus else processes[0]
        super().__init__(objective, spec, folder)
        self._wanted, self._looked, self._ended = len(processes), -math.inf, 0
        self._here = config.cluster == "local"  # jobs are this process's children, to be waited for
        self._logs = self._folder / "logs" / "slurm"
        self._numbers = self.spool / "jobs.json"
        self._executor = _executor(config, spec, self._logs)
        self._jobs: dict[str, submitit.Job[Any]] = {}
        known = json.loads(self._numbers.read_text(encoding="utf-8")) if self._numbers.exists() else []
        for number in known:
            self._jobs[number] = self._executor._executor.job_class(self._logs, number)
        try:
            while not self._processes:  # however long the queue is
                self.look()
                time.sleep(0.5)
        except BaseException:
            self.close()
            raise

    def look(self) -> None:
        """See the class that it extends; and submit the jobs that are missing. Raises InputError, WorkerError."""
        super().look()
        if self._stopping or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for number, job in list(self._jobs.items()):
            if _state(job) not in GOING:
                del self._jobs[number]
                self._gone(number, job)
        missing = self._wanted - len(self._jobs)
        if missing > 0:
            self._submit(missing)
        whole_file.write(self._numbers, json.dumps(list(self._jobs)))

    def close(self) -> None:
        """Ask all processes to end, and cancel what waits."""
        here = {name.partition(".")[0] for name in self._processes}
        super().close()
        for number, job in self._jobs.items():
            if number not in here:
                with contextlib.suppress(Exception):
                    job.cancel(check=False)
        until = time.monotonic() + END_SECONDS
        while self._here and not all(job.done() for job in self._jobs.values()) and time.monotonic() < until:
            time.sleep(0.1)
        self._jobs = {}
        self._numbers.unlink(missing_ok=True)

    # -- inside

    def _submit(self, count: int) -> None:
        command = child_start.command("meshtune.workers.spool", "--spool", str(self.spool))
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(subprocess.call, command) for _ in range(count)]
        except (FailedSubmissionError, FailedJobError, RuntimeError) as error:
            words = " ".join(str(error).split())
            raise InputError(Fault(f"SLURM does not take the jobs: {words}", key="worker.slurm")) from error
        self._jobs.update({job.job_id: job for job in jobs})

    def _gone(self, number: str, job: submitit.Job[Any]) -> None:
        """A job has ended: its process is given up at once, and where it never was one, that is counted."""
        named = [process for name, process in self._processes.items() if name.startswith(f"{number}.")]
        for process in named:
            self.lose(process, f"ended with its job {number} ({_state(job)})")
        if named or self._processes:
            self._ended = 0
            return
        self._ended += 1
        if self._ended >= FAILED_JOBS:
            words = " | ".join((job.stderr() or "").strip().splitlines()[-3:]) or "they said nothing"
            raise WorkerError(f"{FAILED_JOBS} jobs ended before they could evaluate; the last, {number}: {words}")


def _executor(config: WorkerConfig, spec: ProcessSpec, logs: Path) -> submitit.AutoExecutor:
    asked = {"time": START_MINUTES, **config.slurm}
    cpus = 1 if spec.gpus else spec.devices
    parameters: dict[str, Any] = {"timeout_min": int(asked.pop("time")), "cpus_per_task": (spec.threads or 1) * cpus}
    if spec.gpus and not {"gres", "gpus_per_node", "gpus_per_task"} & asked.keys():
        parameters["gpus_per_node"] = spec.gpus
    logs.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=config.cluster)
        own = {f"slurm_{name}": value for name, value in asked.items()}
        executor.update_parameters(name="meshtune", **parameters, **own)
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        what = f"{words}. It holds what sbatch is asked for, such as partition"
        raise InputError(Fault(what, key="worker.slurm")) from error
    return executor


def _state(job: submitit.Job[Any]) -> str:
    """As SLURM calls it; submitit's local jobs have the same words."""
    return str(job.state).partition(" ")[0].rstrip("+")
