"""Studies that are killed: a study's folder with its YAML, how to run it as a user would, and what its record says."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from meshtune.cli import commands
from meshtune.study.status import status
from meshtune.testing.processes import descendants, gone

PROGRAM = """
import json, math, os, sys, time
trial, x, y, k = int(sys.argv[1]), *map(float, sys.argv[2:])
time.sleep(float(os.environ.get("PROGRAM_SECONDS", "0.05")))
with open("finished.log", "a") as log:
    log.write(f"{trial}\\n")
loss = (x - 0.3) ** 2 + (math.log10(y) + 1) ** 2 + (k - 2) ** 2 / 9
told = {"loss": loss, "losses": [loss + 1, loss], "size": k + abs(x)}
print(json.dumps(told if k != 6 else {"ending": "out_of_memory"}))
sys.exit(3 if x > 4.5 else 0)
"""


def command_study(
    folder: Path, *lines: str, sampler: str = "mads", trials: int = 40, block: int = 4, processes: int = 2
) -> Path:
    """A study.yaml whose objective is a small program, with further lines; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(PROGRAM)
    path = folder / "study.yaml"
    path.write_text(
        f"objective:\n"
        f"  command: [{sys.executable}, program.py, '{{trial}}', '{{x}}', '{{y}}', '{{k}}']\n"
        "space: {x: {low: -5, high: 5}, y: {low: 1e-3, high: 10, log: true}, k: {low: 0, high: 6, integer: true}}\n"
        "baseline: {x: 1.0, y: 0.5, k: 3}\n"
        f"sampler: {{name: {sampler}, block_size: {block}}}\n"
        f"budget: {{trials: {trials}}}\n"
        f"worker: {{name: local, processes: {processes}, attempts: 10}}\n" + "".join(f"{line}\n" for line in lines)
    )
    return path


def meshtune(*arguments: object) -> list[str]:
    """The command line, in this interpreter."""
    return [sys.executable, "-m", "meshtune.cli", *map(str, arguments)]


def run(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `tune` to its end, in this process."""
    return command("tune", path, *arguments)


def run_apart(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `tune` to its end in a process of its own, which knows nothing but what is in the study's folder."""
    return subprocess.run(meshtune("tune", path, *arguments), capture_output=True, text=True, timeout=900, check=False)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What the command line does, prints and ends with; in this process, which saves two seconds of imports."""
    words, before, code = ["meshtune", *map(str, arguments)], sys.argv, cast(Any, 0)
    out, err = io.StringIO(), io.StringIO()
    try:
        sys.argv = words
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            commands.run(None)
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def record_of(path: Path) -> list[dict[str, Any]]:
    """What must be equal in a killed and an uninterrupted study: points, losses, endings, blocks, packs, quantities."""
    keys = (
        "trial",
        "origin",
        "block",
        "pack",
        "ending",
        "loss",
        "losses",
        "training_losses",
        "hyperparameters",
        "tokens",
        "quantities",
        "violations",
    )
    read = json.loads(json.dumps(status(path, trials=True)["all"]))  # as `status --json` prints it
    return [{key: trial[key] for key in keys} for trial in read]


VICTIMS = ("coordinator", "worker", "nomad")
_PROGRAMS = {"worker": "meshtune.workers.child", "nomad": "nomad_process.py"}


def kill_at_random(
    path: Path, kills: int, seed: int, wait: Callable[[random.Random], float], victims: Sequence[str] = VICTIMS
) -> Iterator[tuple[str, set[int]]]:
    """Run the study again and again, each time killing the coordinator, the worker or the NOMAD child at a moment.

    `wait`: until that moment, in seconds from when it is called. Yields what was killed, and the processes that were
    there.
    """
    chance = random.Random(seed)
    for number in range(kills):
        coordinator = subprocess.Popen(meshtune("tune", path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        victim = victims[number % len(victims)]
        time.sleep(wait(chance))
        chosen = list[int]()
        while not chosen:  # a child may not be there yet
            assert coordinator.poll() is None, f"the study ended before its {victim} could be killed"
            family = {coordinator.pid} | descendants(coordinator.pid)
            chosen = [coordinator.pid] if victim == "coordinator" else _running(family, _PROGRAMS[victim])
            time.sleep(0 if chosen else 0.01)
        _kill(chosen[0])
        if victim != "coordinator":
            time.sleep(wait(chance) / 2)  # it is replaced, and the study goes on; then it is killed as a whole
            family |= {coordinator.pid} | descendants(coordinator.pid)
            _kill(coordinator.pid)
        coordinator.wait(timeout=120)
        yield victim, family


def _running(pids: set[int], program: str) -> list[int]:
    found = []
    for pid in sorted(pids):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.endswith(program) for word in words):
            found.append(pid)
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
        os.kill(pid, signal.SIGKILL)


def killed_and_whole(tmp_path: Path, sampler: str, *lines: str, kills: int = 10) -> tuple[Path, Path]:
    """A study that was killed so often at random moments, which runs no trial needlessly, and one that was not."""
    whole = command_study(tmp_path / "whole", *lines, sampler=sampler)
    assert run(whole).returncode == 0
    killed = command_study(tmp_path / "killed", *lines, sampler=sampler)
    victims, which = Counter[str](), VICTIMS if sampler == "mads" else VICTIMS[:2]

    def wait(chance: random.Random) -> float:
        return chance.uniform(0.4, 1.4)

    for victim, family in kill_at_random(killed, kills, seed=7, wait=wait, victims=which):
        victims[victim] += 1
        assert gone(family), f"processes outlived the kill of the {victim}"
    ended = run_apart(killed)
    assert ended.returncode == 0, ended.stderr
    assert victims == Counter(which[number % len(which)] for number in range(kills))
    assert not list((tmp_path / "killed" / "study").glob("*lease*"))
    runs = Counter((tmp_path / "killed" / "finished.log").read_text().split())
    again = {trial: count for trial, count in runs.items() if count > 1}
    crashed = {str(t["trial"]) for t in record_of(killed) if t["ending"] == "crashed"}
    # A trial runs again only where a kill fell between its end and its tell (or as its own attempts do).
    assert sum(again[trial] - 1 for trial in again if trial not in crashed) <= kills * 2
    assert run(killed).returncode == 0
    assert Counter((tmp_path / "killed" / "finished.log").read_text().split()) == runs
    return killed, whole
