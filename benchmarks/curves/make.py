"""Makes the table of real learning curves, `embedded.jsonl`: one training a line, by the packed trainer.

Its first line says how it was made. It may be killed at any time and started again: what stands in the file is not
made again. `setting.py` says what is trained, and where it is measured.

    python benchmarks/curves/make.py [--workers 2] [--table benchmarks/curves/embedded.jsonl] [--first N]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import setting

from meshtune import presets
from meshtune.data.batches import Rows
from meshtune.data.build import Prepared
from meshtune.data.embedded import cache_folder

TABLE = Path(__file__).with_name("embedded.jsonl")
DATA = cache_folder() / "benchmark-curves"
_TOLD = ("torch", "transformers", "numpy")
_MAY_DIFFER = ("versions", "processor", "python")


def header(data: Prepared) -> dict[str, Any]:
    """How the table is made."""
    train, validation = Rows.open(data.ref, "train"), Rows.open(data.ref, "validation")
    return {
        "model": "embedded (SmolLM2-135M-Instruct)",
        "data": data.ref.fingerprint,
        "rows": {
            "train": len(train),
            "train_tokens": train.tokens,
            "validation": len(validation),
            "validation_labels": validation.label_tokens,
        },
        "training": setting.TRAINING.model_dump(mode="json", exclude={"keep_adapters", "checkpoint_minutes"}),
        "space": "recommended",
        "baseline": presets.RECOMMENDED_BASELINE,
        "sobol_seed": setting.SOBOL_SEED,
        "tokens": setting.TRAINING.epochs * train.tokens,
        "rungs": list(setting.FRACTIONS),
        "versions": {name: importlib.metadata.version(name) for name in _TOLD},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def read(table: Path, said: dict[str, Any]) -> set[tuple[int, int]]:
    """What the table holds, after cutting off a line that was not finished. Begins it where there is none."""
    lines = table.read_bytes().split(b"\n") if table.exists() else [b""]
    if lines[-1]:
        with table.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines[:-1]))
    if len(lines) == 1:
        with table.open("w", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        return set()
    there = json.loads(lines[0])
    differing = [key for key in said if key not in _MAY_DIFFER and there.get(key) != said[key]]
    if differing:
        raise SystemExit(f"{table} was made with another {', '.join(differing)}: name another with --table")
    return {(line["point"], line["seed"]) for line in map(json.loads, lines[1:-1])}


def work(folder: str, fingerprint: str) -> None:
    """A worker: reads jobs from standard input, a line each, and answers each with the line of the table."""
    import torch

    from meshtune.training.models import load_model
    from meshtune.training.packed_trainer import train_pack
    from meshtune.training.recipe import recipe
    from meshtune.training.steps import Diverged, Rungs, Step
    from meshtune.trial import DataRef

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    ref = DataRef(folder, fingerprint)
    train, validation = Rows.open(ref, "train"), Rows.open(ref, "validation")
    base = load_model(setting.MODEL, "cpu")
    total = setting.TRAINING.epochs * train.tokens
    rungs = Rungs(tuple(round(share * total) for share in setting.FRACTIONS), validation)
    for line in sys.stdin:
        point, seed = json.loads(line)
        params = setting.parameters(point)
        hyperparameters = presets.recommended().decode(params)
        made = recipe(setting.TRAINING, hyperparameters, seed)
        begun, ending, tokens = time.perf_counter(), "complete", 0
        reached: list[tuple[int, float]] = []
        losses: list[float] = []
        training: list[float] = []
        for _, event in train_pack(base, train, validation, [made], at="last", rungs=rungs):
            if isinstance(event, Diverged):
                ending = "diverged"
            if not isinstance(event, Step):
                continue
            tokens = event.tokens
            if event.rung_loss is not None and event.rung is not None:
                reached.append((event.rung, event.rung_loss))
            if event.validation_loss is not None:
                losses.append(event.validation_loss)
            if event.training_loss is not None and (event.step == 1 or event.validation_loss is not None):
                training.append(event.training_loss)
        said = {
            "point": point,
            "seed": seed,
            "params": params,
            "hyperparameters": hyperparameters,
            "ending": ending,
            "rungs": reached,
            "losses": losses,
            "training_losses": training,
            "tokens": tokens,
            "seconds": round(time.perf_counter() - begun, 1),
        }
        print(json.dumps(said), file=answers, flush=True)


def drive(data: Prepared, jobs: Iterator[tuple[int, int]], table: Path, lock: threading.Lock) -> None:
    """Feed one worker until there are no more jobs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    command = [sys.executable, __file__, "--work", data.ref.folder, data.ref.fingerprint]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                worker.stdin.close()
                return
            print(json.dumps(job), file=worker.stdin, flush=True)
            line = worker.stdout.readline()
            if not line:
                raise SystemExit(f"a worker ended early, with {worker.wait()}; its message is above")
            with lock, table.open("a", encoding="utf-8") as file:
                file.write(line)
            print(f"point {job[0]}, seed {job[1]}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the prepared rows")
    parser.add_argument("--first", type=int, help="end when the table has so many trainings")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        with contextlib.suppress(BrokenPipeError):
            work(*arguments.work)
        return
    data = setting.rows(arguments.data)
    done = read(arguments.table, header(data))
    jobs = iter([job for job in setting.jobs()[: arguments.first] if job not in done])
    lock = threading.Lock()
    threads = [
        threading.Thread(target=drive, args=(data, jobs, arguments.table, lock)) for _ in range(arguments.workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
