"""What a study that was begun is fixed to, read before its parts are made: some were chosen by the machine of then."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from meshtune.errors import MeshtuneError
from meshtune.plan.locate import Located
from meshtune.record.log import Record


def recorded_keys(study: Located) -> Mapping[str, Any] | None:
    """The fixed keys of a study; None where nothing was recorded yet."""
    found: Mapping[str, Any] | None = (recorded_notes(study) or {}).get("fixed")
    return found


def recorded_notes(study: Located) -> Mapping[str, Any] | None:
    """The notes of a study's record, its fixed keys among them; None where nothing was recorded yet."""
    if study.started and study.config.storage is None:
        return Record(study.url, study.name).notes
    if not (study.started or (study.whole is not None and study.whole.started)):
        return None
    with contextlib.suppress(MeshtuneError):  # no study of this name yet
        return Record(study.url, study.name).notes
    return None
