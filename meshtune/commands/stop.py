"""`meshtune stop`: ask a running study to finish its running trials and then stop."""

from __future__ import annotations

from pathlib import Path

from meshtune.commands.locate import existing
from meshtune.lease import Holder, holder

REQUEST = "stop.request"


def stop(path: Path, *, folder: Path | None = None) -> Holder | None:
    """Leave the request where the coordinator looks; returns who it is, or None where the study does not run."""
    study = existing(path, folder=folder)
    running = holder(study.folder)
    if running is not None:
        (study.folder / REQUEST).touch()
    return running
