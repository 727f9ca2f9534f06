"""A training's state as one file, `state.pt` in a folder of its own: there whole or not at all; and when it is saved.

It is read without running any code that it may hold (`weights_only`). A file that is damaged, or that another recipe,
other rows or other library versions made, is left alone with a line in the log: the training then starts over. The
folder belongs to one base model; that is not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from meshtune.training.loss import RowSet
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Suspended

LAYOUT = 2
FILE = "state.pt"
OTHERS = (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error)  # of a damaged file


def identity(recipe: Recipe, at: str, *sides: RowSet) -> str:
    """What must be the same for a state to go on to the same losses: recipe, epoch that counts, rows, versions."""
    versions = torch.__version__, transformers.__version__, peft.__version__
    content = hashlib.sha256(repr((LAYOUT, recipe, at, versions)).encode())
    for rows in sides:
        content.update(f"rows {len(rows)}".encode())
        for index in range(len(rows)):
            tokens, trained = rows[index]
            content.update(len(tokens).to_bytes(8, "little"))
            content.update(tokens.tobytes())
            content.update(trained.tobytes())
    return content.hexdigest()


def write(folder: Path, made_by: str, values: dict[str, Any]) -> bool:
    """Save a state in place of the one before it; False, with a line in the log, where it cannot be written.

    A full disk costs the checkpoint and not the training.
    """
    aside = folder / f".{FILE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            torch.save({"identity": made_by, **values}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, folder / FILE)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        say(f"the checkpoint cannot be written to {folder}, and the training goes on without it: {error}")
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        return False
    return True


def read(folder: Path, made_by: str) -> dict[str, Any] | None:
    """The state on the CPU, or None where there is none that fits."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as parts:  # as torch writes it, which does not compare its sums when it reads
            if (part := parts.testzip()) or any(each.external_attr for each in parts.infolist()):
                raise ValueError(f"{part or 'its list of parts'} was changed")
        values = torch.load(path, map_location="cpu", weights_only=True)
        found = values.pop("identity")
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, *OTHERS) as error:
        say(f"the checkpoint {path} is damaged, and the training starts over ({type(error).__name__}: {error})")
        return None
    if found != made_by:
        say(f"the checkpoint {path} is of another recipe, other rows or other versions: the training starts over")
        return None
    say(f"the training goes on from {path}")
    return dict(values)


def say(text: str) -> None:
    """A line in the log."""
    print(text, file=sys.stderr, flush=True)  # the worker's log


class Saves:
    """When to save, by the clock and by being asked, and how long the training has taken in all."""

    def __init__(self, checkpoint: Checkpoint | None, made_by: str):
        self.checkpoint, self.made_by = checkpoint, made_by
        self.earlier = 0.0  # seconds, in processes before this one
        self.begun = self.saved_at = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the training shall save itself and stop."""
        return self.checkpoint is not None and self.checkpoint.asked()

    @property
    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        if self.checkpoint is None or self.checkpoint.seconds is None:
            return False
        return time.monotonic() - self.saved_at >= self.checkpoint.seconds

    @property
    def seconds(self) -> float:
        """Of the training so far, in all processes."""
        return self.earlier + time.monotonic() - self.begun

    def where_due(self, save: Callable[[], None]) -> None:
        """Call `save` where it is time to. Raises Suspended after it where that was asked for."""
        asked = self.stopping
        if asked or self.due:
            save()
        if asked:
            raise Suspended

    def save(self, values: dict[str, Any]) -> None:
        """Write a state; nothing without a checkpoint."""
        if self.checkpoint is not None:
            write(self.checkpoint.folder, self.made_by, values)
            self.saved_at = time.monotonic()
