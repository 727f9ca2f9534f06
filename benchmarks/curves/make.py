"""Makes the long tables of learning curves, `TASK-252.jsonl`: one training a line, trained as the packed trainer does.

It may be killed at any time and started again, in another clone too: what stands in a table is not made again. The
tasks advance together, one pack each in turn. `tasks.py` says what is trained, and where a curve is measured.

    python benchmarks/curves/make.py [--workers 1] [--tasks embedded,alpaca-libre,dolly-hh] [--minutes 30] [--pack 4]
        [--data ../shared/data] [--tables benchmarks/curves]

The first line of a table says how it was made: `task`, `model`, `data` (fingerprint of the prepared rows), `rows`,
`training` (but for the schedule), `tokens` and `steps` of a training, `shares` of the steps at which a curve is
measured, `decay_from` (share of the steps from which `wsd` decays), `cool_at` and `cooling`, `spread` and `spreads` of
running averages, `measured_in`, versions. Every further line is one training:

    schedule        "wsd" or "cosine"
    point, seed     the point's number is that of `setting.py` and `embedded.jsonl`; -1 is the recommended baseline
    params, hyperparameters   the point as the sampler sees it, and decoded
    ending          "complete", or "diverged": then the lists below are shorter
    steps, tokens   optimizer steps and tokens at each share, in the order of the head's `shares`
    losses          of the validation rows at each share, with the weights as they are; the last one is the final loss
    averaged        the same with the running average of the weights; null where there is none: in the warm-up, in the
                    decay, and all along with cosine
    cooled          null where no cooling branches off; else one of each of the head's `cool_at`: `step`, `tokens` where
                    it branches off, `end_step`, `end_tokens`, `loss` after a linear decay over `cooling` times `step`
                    further steps, and `averages`: the loss of the running average where it branches off, by spread.
                    (From the end of the plateau the training itself cools: its last loss.)
    seconds         processor time, its share of the pack's

A running average of spread s is, after n steps, the old one moved towards the weights by (s + 1) / (n + s): its memory
is about n / (s + 1) steps, so that it does not depend on how long a training shall be. n counts from the warm-up's end.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import setting
import tasks

from meshtune.config import presets
from meshtune.data.build import PreparedData
from meshtune.data.embedded import cache_folder
from meshtune.data.store import Rows
from meshtune.training.recipe import DECAY, Recipe, recipe, warmup_steps

HERE = Path(__file__).parent
FOLDER = cache_folder() / "benchmark-curves-252"
DATA = HERE.parents[2] / "shared" / "data"
_TOLD = ("torch", "transformers", "numpy")


def header(task: tasks.Task, data: PreparedData) -> dict[str, Any]:
    """How a table is made."""
    train, validation = Rows.open(data.ref, "train"), Rows.open(data.ref, "validation")
    made = tasks.training("wsd")
    return {
        "task": task.name,
        "model": "embedded (SmolLM2-135M-Instruct)",
        "data": data.ref.fingerprint,
        "rows": {
            "train": len(train),
            "train_tokens": train.tokens,
            "validation": len(validation),
            "validation_labels": validation.label_tokens,
        },
        "training": made.model_dump(mode="json", include=setting.DESCRIBED - {"lr_scheduler"}),
        "space": "recommended",
        "baseline": presets.RECOMMENDED_BASELINE,
        "sobol_seed": setting.SOBOL_SEED,
        "tokens": made.epochs * train.tokens,
        "steps": made.epochs * math.ceil(len(train) / made.batch_size),
        "shares": list(tasks.SHARES),
        "decay_from": 1 - DECAY,
        "cool_at": list(tasks.COOL_AT),
        "cooling": tasks.COOLING,
        "spread": tasks.SPREAD,
        "spreads": list(tasks.SPREADS),
        "measured_in": "bfloat16",
        "versions": {name: importlib.metadata.version(name) for name in _TOLD},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def read(table: Path, said: dict[str, Any]) -> set[tasks.Training]:
    """What a table holds. Begins it where there is none."""
    lines = setting.lines(table, said, "give another folder with --tables")
    return {(line["schedule"], line["point"], line["seed"]) for line in lines}


class Curve:
    """One training: an adapter of a pack, its running averages and what was measured.

    Args:
        spreads: of the averages that are kept.
    """

    def __init__(self, training: tasks.Training, made: Recipe, member: Any, spreads: Sequence[int]):
        self.training, self.recipe, self.member = training, made, member
        self.ending, self.seconds = "complete", 0.0
        self.warmup = warmup_steps(made, member.steps)
        self.averages = {spread: member.adapter.weights.detach().clone() for spread in spreads}
        self.steps: list[int] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.averaged: list[float | None] = []
        self.cooled: list[dict[str, Any]] | None = [] if tasks.cooled(training) else None

    @property
    def plateau(self) -> bool:
        """Whether its rate stands still."""
        return self.training[0] == "wsd" and self.warmup < self.member.step <= round((1 - DECAY) * self.member.steps)

    def average(self) -> None:
        """After a step: move the averages."""
        count = self.member.step - self.warmup
        for spread, average in self.averages.items():
            average.lerp_(self.member.adapter.weights.detach(), min(1.0, (spread + 1) / (max(count, 1) + spread)))

    def line(self) -> dict[str, Any]:
        """Of the table."""
        schedule, point, seed = self.training
        params = setting.parameters(point)
        return {
            "schedule": schedule,
            "point": point,
            "seed": seed,
            "params": params,
            "hyperparameters": presets.recommended().decode(params),
            "ending": self.ending,
            "steps": self.steps,
            "tokens": self.tokens,
            "losses": self.losses,
            "averaged": self.averaged,
            "cooled": self.cooled,
            "seconds": round(self.seconds, 1),
        }


class Bench:
    """Trains packs over the rows of one task."""

    def __init__(self, base: Any, train: Rows, validation: Rows):
        self.base, self.train, self.validation = base, train, validation

    def member(self, made: Recipe) -> Any:
        """An adapter at its start."""
        import torch

        from meshtune.training.packed.limits import CPU_TOKENS
        from meshtune.training.packed.member import Member

        return Member(self.base, made, self.train, "last", torch.bfloat16, CPU_TOKENS)

    def run(self, trainings: Sequence[tasks.Training]) -> list[Curve]:
        """Train a pack of one schedule."""
        import torch

        from meshtune.training.packed.base import packed

        curves = []
        for training in trainings:
            schedule, point, seed = training
            made = recipe(tasks.training(schedule), presets.recommended().decode(setting.parameters(point)), seed)
            spreads = () if schedule != "wsd" else tasks.SPREADS if tasks.cooled(training) else (tasks.SPREAD,)
            curves.append(Curve(training, made, self.member(made), spreads))
        total = curves[0].member.steps
        places = {math.ceil(share * total): share for share in tasks.SHARES}
        with packed(self.base, torch.bfloat16) as pack:
            for step in range(1, total + 1):
                going = self.step(pack, curves)
                for curve in going:
                    if curve.plateau:
                        curve.average()
                if step in places:
                    self.measure(pack, going)
                if places.get(step) in tasks.COOL_AT:
                    self.cool(pack, [curve for curve in going if curve.cooled is not None])
        return curves

    def step(self, pack: Any, curves: Sequence[Curve]) -> list[Curve]:
        """One optimizer step of those that have not diverged; gives those that have not."""
        from meshtune.training.packed.limits import LOW_MULTIPLE
        from meshtune.training.packed.member import read
        from meshtune.training.packed.rows import lay_out
        from meshtune.training.steps import Diverged

        going = [curve for curve in curves if curve.ending == "complete"]
        members = [curve.member for curve in going]
        if not members:
            return []
        batch = lay_out([member.portion() for member in members], self.base.device, LOW_MULTIPLE)
        losses, total = pack.losses(batch, train=True)
        total.backward()
        for member, own in zip(members, losses.split(list(batch.shared)), strict=True):
            member.took(own)
            member.update()
        read(members)
        for curve in going:
            try:
                curve.member.advance()
            except Diverged:
                curve.ending = "diverged"
        return [curve for curve in going if curve.ending == "complete"]

    def measure(self, pack: Any, going: Sequence[Curve]) -> None:
        """The losses of the validation rows, with the weights as they are and with the average."""
        for curve in going:
            loss = self.loss(pack, curve.member)
            if not math.isfinite(loss):
                curve.ending = "diverged"
                continue
            curve.steps.append(curve.member.step)
            curve.tokens.append(curve.member.tokens)
            curve.losses.append(loss)
            average = curve.averages[tasks.SPREAD] if curve.plateau else None
            curve.averaged.append(None if average is None else self.loss(pack, curve.member, average))

    def loss(self, pack: Any, member: Any, weights: Any = None) -> float:
        """Of a member, or of other weights in its place."""
        import torch
        from torch.nn.functional import cross_entropy, linear

        from meshtune.training.packed.limits import LOW_MULTIPLE
        from meshtune.training.packed.rows import Portion, lay_out

        if weights is not None:
            member.adapter.low.copy_(weights)
        rows = [self.validation[index] for index in range(len(self.validation))]
        batch = lay_out([Portion(member.adapter, rows)], self.base.device, LOW_MULTIPLE)
        with torch.no_grad():  # as training's, in bfloat16: three times as fast as in float32 on one thread
            hidden = pack._hidden(batch, pack.low)[batch.before]
            found = cross_entropy(linear(hidden.float(), pack.head.weight), batch.labels).item()
        member.adapter.refresh()
        return round(found, 5)

    def cool(self, pack: Any, curves: Sequence[Curve]) -> None:
        """Branches that decay from here; the trainings themselves stay as they are."""
        from torch.optim.lr_scheduler import LambdaLR

        branches = []
        for curve in curves:
            member = self.member(curve.recipe)
            member.restore(curve.member.snapshot(), 0.0)
            steps = math.ceil(tasks.COOLING * member.step)
            for group in member.optimizer.param_groups:
                group["initial_lr"] = curve.recipe.learning_rate
            member.schedule = LambdaLR(member.optimizer, lambda done, steps=steps: max(0.0, 1 - done / steps))
            branches.append(Curve(curve.training, curve.recipe, member, ()))
        for _ in range(steps if branches else 0):
            self.step(pack, branches)
        for curve, branch in zip(curves, branches, strict=True):
            assert curve.cooled is not None
            averages = {str(spread): self.loss(pack, curve.member, x) for spread, x in curve.averages.items()}
            ended = branch.ending == "complete"
            curve.cooled.append(
                {
                    "step": curve.member.step,
                    "tokens": curve.member.tokens,
                    "end_step": branch.member.step,
                    "end_tokens": branch.member.tokens,
                    "loss": self.loss(pack, branch.member) if ended else None,
                    "averages": averages,
                }
            )


def work() -> None:
    """A worker: reads (folder, fingerprint, pack of trainings) from standard input, answers with lines of a table."""
    import torch

    from meshtune.training.models import load_model
    from meshtune.trial import DataRef

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    base = load_model(setting.MODEL, "cpu")
    for line in sys.stdin:
        folder, fingerprint, trainings = json.loads(line)
        ref = DataRef(folder, fingerprint)
        begun = time.process_time()
        bench = Bench(base, Rows.open(ref, "train"), Rows.open(ref, "validation"))
        curves = bench.run([(schedule, point, seed) for schedule, point, seed in trainings])
        for curve in curves:
            curve.seconds = (time.process_time() - begun) / len(curves)
            print(json.dumps(curve.line()), file=answers)
        print(file=answers, flush=True)
        del bench, curves, curve  # the next pack needs their memory


Job = tuple[Path, PreparedData, list[tasks.Training]]


def drive(jobs: Iterator[Job], lock: threading.Lock, end: float) -> None:
    """Feed one worker until there is nothing more to do, or the time is over."""
    one = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **one}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parents[1]), environment.get("PYTHONPATH"))))
    command = [sys.executable, __file__, "--work"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        while True:
            with lock:
                job = next(jobs, None) if time.monotonic() < end else None
            if job is None:
                worker.stdin.close()
                return
            table, data, pack = job
            print(json.dumps([data.ref.folder, data.ref.fingerprint, pack]), file=worker.stdin, flush=True)
            lines = [worker.stdout.readline() for _ in range(len(pack) + 1)]
            if not lines[-1]:
                raise SystemExit(f"a worker ended early, with {worker.wait()}; its message is above")
            with lock, table.open("a", encoding="utf-8") as file:
                file.write("".join(lines[:-1]))
            print(f"{time.strftime('%H:%M:%S')} {table.stem} {pack}", file=sys.stderr, flush=True)


def jobs(names: Sequence[str], tables: Path, data: Path, pack: int) -> Iterator[Job]:
    """What is left to do: a pack of each task in turn."""
    each = []
    for name in names:
        made = tasks.rows(tasks.TASKS[name], FOLDER, data)
        table = tables / f"{name}-252.jsonl"
        each.append((table, made, read(table, header(tasks.TASKS[name], made))))
    for together in tasks.packs(pack):
        for table, made, done in each:
            left = [training for training in together if training not in done]
            if left:
                yield table, made, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread")
    parser.add_argument("--tasks", default=",".join(tasks.TASKS), help="names with commas between")
    parser.add_argument("--tables", type=Path, default=HERE, help="folder of the tables")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the two tasks' instruction files")
    parser.add_argument("--pack", type=int, default=4, help="trainings at once over one base")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no pack after so many")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        with contextlib.suppress(BrokenPipeError):
            work()
        return
    left = jobs(arguments.tasks.split(","), arguments.tables, arguments.data, arguments.pack)
    lock, end = threading.Lock(), time.monotonic() + 60 * arguments.minutes
    threads = [threading.Thread(target=drive, args=(left, lock, end)) for _ in range(arguments.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
