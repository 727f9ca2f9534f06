"""A stand-in for SLURM: runs a job's script again and again, ends it as a cluster does, and queues it again when asked.

`scontrol requeue` is a program on the job's PATH that leaves a note here. Each start of the job has an end of its own:

- `usr1`: SIGUSR1 to the script alone, as `--signal=B:USR1` has it; everything is killed some seconds later.
- `end_time`: SLURM_JOB_END_TIME is near from the start; everything is killed then.
- `kill`: everything is killed without a word, as by a failing node; SLURM queues such a job again by itself.
- `whole`: nothing happens.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshtune.testing.processes import descendants, gone

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "slurm" / "study.sbatch"


@dataclass(frozen=True)
class Start:
    """One start of the job: how it was ended, the script's exit code, and whether it was queued again."""

    end: str
    code: int
    requeued: bool


def run_job(
    folder: Path, study: Path, ends: Sequence[str], inside: Callable[[], bool], *, grace: float = 60.0
) -> list[Start]:
    """Run the script of the example on a study, ended in these ways in turn, until it is not queued again.

    `inside()` says when it may be ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _program(folder / "bin" / "meshtune", f'exec "{sys.executable}" -m meshtune.cli "$@"')
    _program(folder / "bin" / "scontrol", f'echo "$@" >> "{folder / "scontrol.log"}"')
    starts: list[Start] = []
    for number, end in enumerate(ends):
        asked = _lines(folder / "scontrol.log")
        job = _start(folder, study, number, end)
        if end != "whole":
            _end(job, end, inside, grace)
        code = job.wait(timeout=300)
        requeued = _lines(folder / "scontrol.log") > asked
        starts.append(Start(end, code, requeued))
        if not requeued and end != "kill":
            break
    return starts


def _start(folder: Path, study: Path, number: int, end: str) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": str(number),
    }
    if end == "end_time":
        environment["SLURM_JOB_END_TIME"] = str(int(time.time()) + 8)
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", SCRIPT, study], stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _end(job: "subprocess.Popen[bytes]", end: str, inside: Callable[[], bool], grace: float) -> None:
    if end != "end_time":
        deadline = time.monotonic() + 120
        while not inside() and job.poll() is None:
            assert time.monotonic() < deadline, "the job did not come to its trials"
            time.sleep(0.05)
    if end == "usr1":
        job.send_signal(signal.SIGUSR1)
    if end != "kill":
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(grace)
    if job.poll() is None:
        family = {*descendants(job.pid)}
        for pid in {job.pid, *family}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert gone(family), "a job that was killed lives on"  # else the next one finds the study held


def _program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
