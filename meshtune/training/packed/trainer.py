"""Trainer `packed`: several adapters over one base trained at once, each as if it were alone.

What an adapter is trained to does not depend on its pack, but for the rounding of products of other sizes: its rows,
their order, its masks, its steps and its loss follow from its own recipe. With the same members in the same places and
the same threads, losses repeat bitwise. An adapter that has ended, left or diverged takes its cost with it.
Losses are those of the `transformers` trainer (`trainer.py`): the mean over the label tokens of a step, and over those
of the whole validation set, in the model's own type. Rows are not padded, the head is computed at labels only.

What cannot be packed raises `Unpackable`; then nothing was trained. Not run on a GPU yet. `pack_run.py` is the pack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Literal

from meshtune.training.loss import RowSet
from meshtune.training.packed.run import Changes, Events, Kept, Run
from meshtune.training.packed.unpackable import check_packable
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Trained
from meshtune.training.trainer import lora_config


def train(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
) -> Generator[Step | Trained, None, None]:
    """Train one adapter, a pack of one; see `steps.py` for what comes, and `train_pack` for what is raised.

    Raises:
        Diverged: a loss was not finite.
    """
    return _alone(train_pack(base, train_rows, validation_rows, [recipe], at=at, checkpoint=checkpoint, rungs=rungs))


def train_pack(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipes: Sequence[Recipe],
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
    changes: Changes | None = None,
    width: int | None = None,
    pass_tokens: int | None = None,
) -> Events:
    """Train adapters over the base together: pairs of an adapter's number and what it says.

    Each says what a trainer of `steps.py` says: steps, then `Trained`; or `Diverged`, given and not raised, so that the
    others go on; or `Kept`, where it was asked to leave so. One checkpoint holds the whole pack. A pack that goes on
    from one tells everything once more that was told before: each adapter's history, and the ends of those that had
    ended, but for those that just left. There the recipes are all that the pack has had, in the order of their
    numbers; what the checkpoint does not know begins as soon as there is room.

    Args:
        recipes: one an adapter, of one precision. at: the epoch that counts. rungs: of all. changes: what may be
            changed meanwhile. width: adapters trained at once; as one ends or leaves, the next begins. None: all.
        pass_tokens: of a pass at most, where memory is short (one adapter's portion may have more). Results depend on
            neither of these two, but for rounding. None: what suits the device.

    Raises:
        InputError: the model lacks a target module.
        Unpackable: the model or a recipe cannot be packed.
        Suspended: the checkpoint asked for it.
    """
    for recipe in recipes:
        lora_config(base, recipe)
    check_packable(base, recipes)
    run = Run(base, train_rows, validation_rows, at, rungs, changes or Changes(), width, pass_tokens)
    return run.events(list(recipes), checkpoint)


def _alone(events: Events) -> Generator[Step | Trained, None, None]:
    with contextlib.closing(events):
        for _, event in events:
            match event:
                case Diverged():
                    raise event
                case Step() | Trained():
                    yield event
                case Kept():  # only with changes
                    return
