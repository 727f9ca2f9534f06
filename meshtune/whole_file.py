"""Files that are there whole or not at all: written beside their place, then renamed into it. Standard library only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a text file in place of what stands there. Raises OSError; then nothing is left beside it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):  # the fault that is reported is the first one
            aside.unlink()
        raise
