"""How far losses move by the seed alone: the best point is trained again with other seeds once the search is done.

A replicate differs from its trial in the seed of everything random in a training: start weights, order of rows,
dropout. It is no trial of the search, counts towards no budget, and its adapter is not kept. The standard deviation is
that of the replicates alone: the best trial itself was chosen because its loss is low.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from meshtune.objectives import checkpoints
from meshtune.record.log import Record
from meshtune.study.finals import Runner
from meshtune.study.loop import Stage, StudyEvent
from meshtune.trial import Outcome, Request

DONE = "replicates"  # the note: by trial and seed, the loss of each (null where it did not complete)
NOISE = "seed_noise"  # the note: of the best trial, once all of its replicates are done


def replicate(record: Record, folder: Path, runner: Runner, count: int) -> Iterator[StudyEvent]:
    """Train the best point with so many other seeds, and note the noise; done ones stay done.

    Ends early, without it, where `runner.stop()` says so. Fewer than two that complete show no noise.
    """
    best = record.best
    if best is None or not count:
        return
    done: dict[str, float | None] = dict((record.notes.get(DONE) or {}).get(str(best.number), {}))
    seeds = {checkpoints.replicate(best.number, index): (best.seed + index) % 2**31 for index in range(1, count + 1)}
    requests = [
        Request(number, best.hyperparameters, seed, threads=runner.threads, timeout=runner.timeout)
        for number, seed in seeds.items()
        if str(seed) not in done
    ]
    if requests:
        yield Stage(f"training trial {best.number}, the best, with {len(requests)} other seeds")
    for event in runner.gather(requests, any_ending=True):
        if not isinstance(event, Outcome):
            yield event
            continue
        done[str(seeds[event.trial])] = event.loss
        record.note(DONE, {**(record.notes.get(DONE) or {}), str(best.number): done})
        if event.adapter is not None:
            shutil.rmtree(folder / event.adapter, ignore_errors=True)
    losses = [loss for seed in seeds.values() if (loss := done.get(str(seed))) is not None]
    if len(losses) > 1 and all(str(seed) in done for seed in seeds.values()):
        mean, deviation = statistics.mean(losses), statistics.stdev(losses)
        found = {"trial": best.number, "deviation": deviation, "mean": mean, "count": len(losses)}
        record.note(NOISE, {**found, "told": len(record.finished)})
