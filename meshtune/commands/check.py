"""`meshtune check`: everything that can be known without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshtune.commands.locate import locate
from meshtune.commands.prepared import prepare


def check(path: Path, *, folder: Path | None = None, overrides: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Find every fault; returns what would run, for people and as plain values. Raises InputError."""
    study = locate(path, overrides=overrides, folder=folder)
    prepared = prepare(study)
    raise NotImplementedError(prepared)
