"""When a training saves its state: by the clock, and when it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from meshtune.training import saved_state
from meshtune.training.steps import Checkpoint, Suspended


class Saves:
    """When to save, by the clock and by being asked, and how long the training has taken in all."""

    def __init__(self, checkpoint: Checkpoint | None, made_by: str):
        self.checkpoint, self.made_by = checkpoint, made_by
        self.earlier = 0.0  # seconds, in processes before this one
        self.begun = self.saved_at = time.monotonic()

    @property
    def asked(self) -> bool:
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
        asked = self.asked
        if asked or self.due:
            save()
        if asked:
            raise Suspended

    def save(self, values: dict[str, Any]) -> None:
        """Write a state; nothing without a checkpoint."""
        if self.checkpoint is not None:
            saved_state.write(self.checkpoint.folder, self.made_by, values)
            self.saved_at = time.monotonic()
