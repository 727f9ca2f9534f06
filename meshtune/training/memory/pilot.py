"""A few batches trained for the clock and the memory, before a study: how long a trial takes on this device.

The batches are the study's own: first the largest (it warms up, and its peak is the one that counts), then the first of
an epoch, then a few rows are validated. They are trained as trials are, by the trainer itself; the base is left as it
was and nothing is written. Where trials run in packs, a pack of that many like the measured one is trained. One process
measures alone: where several share a device, each may be slower.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from meshtune.data.store import epoch_order
from meshtune.training import machine
from meshtune.training.loss import Row, RowSet, batch_limit
from meshtune.training.memory.formula import Batch
from meshtune.training.packed.changes import Kept, Measured
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Diverged, NoRoom, Step, Trained

Train = Callable[..., Iterator[Step | Trained]]
STEPS = 2  # timed, after the one that warms up


@dataclass(frozen=True)
class Pilot:
    """What was measured.

    Attributes:
        training, validation: tokens a second, padding left out, of all members of a pack together.
        seconds_per_step: of a micro-batch, in a pack of one of each member. largest: the batch that came first.
        peak: bytes at most, None where it cannot be measured. pack: how many trials were trained together.
    """

    training: float
    validation: float
    seconds_per_step: float
    largest: Batch
    peak: int | None
    pack: int = 1


@dataclass(frozen=True)
class _Rows:
    """Rows of a set, by their numbers there."""

    rows: RowSet
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:
        return self.rows[self.numbers[index]]


def measure(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    threads: int | None = None,
    train: Train | None = None,
    pack: int | None = None,
) -> Pilot:
    """Train one micro-batch to warm up and two for the clock, and validate some rows; a minute on a slow device.

    Args:
        base: the model, on its device. recipe: of the point that is measured; its accumulation is left out, which
            counts an optimizer step for each micro-batch.
        threads: CPU threads, as the trials will have. train: as `training.steps` says; None: by `transformers`.
        pack: how many trials the packed trainer trains together; None: `train` trains one.

    Raises whatever training raises, out of memory included, and `Unpackable` where a pack was asked for.
    """
    machine.use_threads(threads)
    batches = _batches(train_rows, recipe)
    recipe = replace(recipe, epochs=1, gradient_accumulation=1, batch_size=len(batches[0]))
    timed = _timed_rows(validation_rows, batch_limit(base.device))
    device = str(base.device)
    machine.free(device)
    machine.reset_peak(device)
    train = _packs_of(pack) if pack is not None else train or _by_transformers()
    seconds, tokens, validated = _run(train, base, _in_order(train_rows, batches, recipe.seed), timed, recipe)
    peak = machine.peak(device)
    machine.free(device)
    a_step = sum(seconds) / len(seconds)
    lengths = [len(timed[index][0]) for index in range(len(timed))]
    members = 1 if pack is None else pack
    speeds = (members * tokens / sum(seconds), members * sum(lengths) / validated)
    return Pilot(*speeds, a_step, _batch(train_rows, batches[0]), peak, members)


def _by_transformers() -> Train:
    from meshtune.training.trainer import train  # its Trainer loads datasets and pandas

    return train


def _packs_of(members: int) -> Train:
    """The packed trainer, which trains a recipe that many times at once; what the last of them says."""

    def train(
        base: Any, rows: RowSet, validation_rows: RowSet, recipe: Recipe, *, at: Literal["best", "last"]
    ) -> Iterator[Step | Trained]:
        with contextlib.closing(train_pack(base, rows, validation_rows, [recipe] * members, at=at)) as events:
            for number, event in events:
                if isinstance(event, Diverged | NoRoom):
                    raise event
                if number == members - 1 and not isinstance(event, Kept | Measured):
                    yield event

    return train


def _run(
    train: Train, base: Any, rows: RowSet, validation_rows: RowSet, recipe: Recipe
) -> tuple[list[float], int, float]:
    """Seconds of each timed step, their tokens, and seconds of the validation."""
    seconds: list[float] = []
    validated = before = 0.0
    first = tokens = 0
    with contextlib.closing(train(base, rows, validation_rows, recipe, at="last")) as steps:  # type: ignore[type-var]
        for step in steps:
            now = time.monotonic()
            if isinstance(step, Trained):
                break
            if step.validation_loss is not None:
                validated = now - before
            elif step.training_loss is not None:
                if step.step == 1:
                    first = step.tokens
                else:
                    seconds.append(now - before)
                    tokens = step.tokens - first
                before = now
    return seconds, tokens, validated


def _batches(rows: RowSet, recipe: Recipe) -> list[list[int]]:
    """Row numbers of the micro-batches to train, all of one size: the largest of an epoch, then its first ones."""
    size = min(recipe.batch_size, len(rows))
    order = epoch_order(len(rows), recipe.seed, 0)
    full = [order[start : start + size].tolist() for start in range(0, len(rows) - size + 1, size)]
    largest = max(full, key=lambda members: _batch(rows, members).length)
    return [largest, *(full[number % len(full)] for number in range(STEPS))]


def _in_order(rows: RowSet, batches: Sequence[Sequence[int]], seed: int) -> _Rows:
    """A set whose first epoch, which the trainer shuffles by the seed, has these batches in this order."""
    wanted = np.concatenate([np.asarray(members) for members in batches])
    numbers = np.empty_like(wanted)
    numbers[epoch_order(len(wanted), seed, 0)] = wanted
    return _Rows(rows, numbers.tolist())


def _timed_rows(rows: RowSet, tokens: int) -> _Rows:
    """The first rows that make a validation batch; one at least."""
    count = total = 0
    while count < len(rows) and total < tokens:
        total += len(rows[count][0])
        count += 1
    return _Rows(rows, range(count))


def _batch(rows: RowSet, members: Sequence[int]) -> Batch:
    chosen = [rows[number] for number in members]
    labels = sum(int(np.count_nonzero(trained[1:])) for _, trained in chosen)
    lengths = [len(tokens) for tokens, _ in chosen]
    return Batch(len(members), max(lengths), labels, sum(lengths))
