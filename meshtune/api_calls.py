"""What the Python interface does with what it is called with: find the study, and show the run."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from meshtune.plan.locate import Located


def find(
    study: str | Path | Mapping[str, Any],
    trials: int | None,
    folder: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
) -> Located:
    """The study that `tune` is given, its changes applied."""
    from meshtune.plan.locate import locate, locate_values

    changes = as_set(overrides)
    if trials is not None:
        changes = (*changes, f"budget.trials={trials}")
    at = None if folder is None else Path(folder).expanduser()
    if isinstance(study, Mapping):
        return locate_values(study, overrides=changes, folder=at)
    return locate(Path(study).expanduser(), overrides=changes, folder=at)


def as_set(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides as the command line's `--set` has them."""
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items())
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


def import_optuna() -> None:
    """Import Optuna without the warning that a notebook without ipywidgets gets about bars that nobody shows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import optuna  # noqa: F401


def as_optuna(located: Located) -> optuna.Study:
    """A copy in memory, by decoded names and values; trials that did harm say so in an attribute."""
    import optuna

    from meshtune.record.distributions import as_known, space_of
    from meshtune.record.log import Record
    from meshtune.record.scoring import worse_than_untuned
    from meshtune.record.storage import open_storage, quiet, storage_errors

    record = Record(located.url, located.name)
    space = space_of(record.notes)
    with storage_errors(located.url), quiet():
        source = optuna.load_study(study_name=located.name, storage=open_storage(located.url))
        copied = optuna.create_study(study_name=located.name, directions=source.directions)
        for name, value in record.notes.items():
            copied.set_user_attr(name, value)
        for trial, frozen in zip(record.trials, source.get_trials(), strict=True):
            shown = frozen if space is None else as_known(frozen, space)
            shown.user_attrs = {**shown.user_attrs, "worse_than_untuned": worse_than_untuned(record.notes, trial)}
            copied.add_trial(shown)
    return copied


def console(progress: bool) -> Console:
    """Where the run is shown: standard error; in a notebook below the cell, as plain lines; or nowhere."""
    from rich.console import Console

    from meshtune.cli.watch import console_for

    if not progress:
        return Console(file=io.StringIO(), quiet=True)
    if Console().is_jupyter:  # its streams call themselves terminals, and cannot redraw lines
        return Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=160)
    return console_for(stderr=True)
