"""Makes the short table of real learning curves, `embedded.jsonl`: one training a line, by the packed trainer.

Its first line says how it was made. It may be killed at any time and started again: what stands in the file is not
made again. `setting.py` says what is trained, and where it is measured.

    python benchmarks/curves/make_short.py [--workers 2] [--table benchmarks/curves/embedded.jsonl] [--first N]
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

from meshtune.config import presets
from meshtune.data.build import PreparedData
from meshtune.data.embedded import cache_folder
from meshtune.data.store import Rows

TABLE = Path(__file__).with_name("embedded.jsonl")
DATA = cache_folder() / "benchmark-curves"
PACK = 4  # trainings over one base at once: its copy in bfloat16 is made once for all of them
_TOLD = ("torch", "transformers", "numpy")


def header(data: PreparedData) -> dict[str, Any]:
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
        "training": setting.described(),
        "space": "recommended",
        "baseline": presets.RECOMMENDED_BASELINE,
        "sobol_seed": setting.SOBOL_SEED,
        "tokens": setting.TRAINING.epochs * train.tokens,
        "rungs": list(setting.FRACTIONS),
        "measured_in": "bfloat16",
        "versions": {name: importlib.metadata.version(name) for name in _TOLD},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def read(table: Path, said: dict[str, Any]) -> set[tuple[int, int]]:
    """What the table holds. Begins it where there is none."""
    lines = setting.lines(table, said, "name another with --table")
    return {(line["point"], line["seed"]) for line in lines}


def work(folder: str, fingerprint: str) -> None:
    """A worker: reads packs of (point, seed) from standard input, and answers each with lines of the table."""
    import torch

    from meshtune.training.models import load_model
    from meshtune.training.packed.base import PackedBase
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.recipe import recipe
    from meshtune.training.steps import Diverged, Rungs, Step
    from meshtune.trial import DataRef

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    PackedBase.row_losses = rounded  # type: ignore[method-assign]
    ref = DataRef(folder, fingerprint)
    train, validation = Rows.open(ref, "train"), Rows.open(ref, "validation")
    base = load_model(setting.MODEL, "cpu")
    rungs = Rungs(setting.rungs(setting.TRAINING.epochs * train.tokens), validation)
    for line in sys.stdin:
        begun = time.process_time()
        members = [Curve(*job) for job in json.loads(line)]
        recipes = [recipe(setting.TRAINING, member.hyperparameters, member.seed) for member in members]
        for number, event in train_pack(base, train, validation, recipes, at="last", rungs=rungs):
            if isinstance(event, Diverged):
                members[number].ending = "diverged"
            elif isinstance(event, Step):
                members[number].note(event)
        seconds = round((time.process_time() - begun) / len(members), 1)
        for member in members:
            print(json.dumps(member.line() | {"seconds": seconds}), file=answers)
        print(file=answers, flush=True)


def rounded(pack: Any, batch: Any) -> list[tuple[float, int]]:
    """Losses of rows computed as training's are, in bfloat16: three times as fast as in float32 on one thread."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    with torch.no_grad():
        hidden = pack._hidden(batch, pack.low)[batch.before]
        losses = cross_entropy(linear(hidden.float(), pack.head.weight), batch.labels, reduction="none")
    parts = torch.split(losses, list(batch.counts))
    return [(part.sum().item(), count) for part, count in zip(parts, batch.counts, strict=True)]


class Curve:
    """One training as it goes."""

    def __init__(self, point: int, seed: int):
        self.point, self.seed, self.ending, self.tokens = point, seed, "complete", 0
        self.params = setting.parameters(point)
        self.hyperparameters = presets.recommended().decode(self.params)
        self.rungs: list[tuple[int, float]] = []
        self.losses: list[float] = []
        self.training: list[float] = []

    def note(self, step: Any) -> None:
        self.tokens = step.tokens
        if step.rung_loss is not None:
            self.rungs.append((step.tokens, step.rung_loss))
        if step.validation_loss is not None:
            self.losses.append(step.validation_loss)
        if step.training_loss is not None and (step.step == 1 or step.validation_loss is not None):
            self.training.append(step.training_loss)

    def line(self) -> dict[str, Any]:
        return {
            "point": self.point,
            "seed": self.seed,
            "params": self.params,
            "hyperparameters": self.hyperparameters,
            "ending": self.ending,
            "rungs": self.rungs,
            "losses": self.losses,
            "training_losses": self.training,
            "tokens": self.tokens,
        }


def drive(data: PreparedData, packs: Iterator[list[tuple[int, int]]], table: Path, lock: threading.Lock) -> None:
    """Feed one worker until there are no more packs."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
    }
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    command = [sys.executable, __file__, "--work", data.ref.folder, data.ref.fingerprint]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        while True:
            with lock:
                pack = next(packs, None)
            if pack is None:
                worker.stdin.close()
                return
            print(json.dumps(pack), file=worker.stdin, flush=True)
            lines = [worker.stdout.readline() for _ in range(len(pack) + 1)]
            if not lines[-1]:
                raise SystemExit(f"a worker ended early, with {worker.wait()}; its message is above")
            with lock, table.open("a", encoding="utf-8") as file:
                file.write("".join(lines[:-1]))
            print(f"{time.strftime('%H:%M:%S')} {pack}", file=sys.stderr, flush=True)


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
    left = [training for training in setting.trainings()[: arguments.first] if training not in done]
    packs = iter([left[at : at + PACK] for at in range(0, len(left), PACK)])
    lock = threading.Lock()
    threads = [
        threading.Thread(target=drive, args=(data, packs, arguments.table, lock)) for _ in range(arguments.workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
