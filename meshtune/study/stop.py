"""`meshtune stop`: ask a running study to stop, after its running trials or, with `--now`, with these suspended.

The request is a file in the study's folder, so that it reaches a coordinator on another host as well.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from meshtune.plan.budget import Stop
from meshtune.plan.locate import existing, locate
from meshtune.system import whole_file
from meshtune.system.lease import Holder, holder

REQUEST = "stop.request"
NOW = "now"
GRACE_SECONDS = 60.0  # nobody's end is near: what runs has time to save itself


def stop(path: Path, *, folder: Path | None = None, now: bool = False) -> Holder | None:
    """Leave the request where the coordinator looks; returns who it is, or None where the study does not run."""
    # A study that has just begun has no record yet, and its folder no study.yaml.
    begun = path.is_dir() and holder(path) is not None
    place = path if begun else locate(path, folder=folder).folder
    running = holder(place)
    if running is None:
        existing(path, folder=folder)  # says so where it was never started
        return None
    whole_file.write(place / REQUEST, NOW if now else "")
    return running


def requested(folder: Path) -> Stop | None:
    """The request that lies in a study's folder, if any."""
    with contextlib.suppress(FileNotFoundError):
        now = (folder / REQUEST).read_text(encoding="utf-8") == NOW
        return Stop("asked to stop", GRACE_SECONDS if now else None)
    return None


def forget(folder: Path) -> None:
    """Take a request away: it was followed, or was meant for a run that has ended."""
    (folder / REQUEST).unlink(missing_ok=True)
