"""What the commands `meshtune prefer ..` share: where a preference study lies, and what it needs installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from meshtune.errors import InputError, MissingExtra, extra

FOLDER = "preference"  # in a study's folder
DATABASE = "preference.db"


def need_preference(*packages: str) -> None:
    """Raise MissingExtra where a package of the extra `preference` is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the preference study", package, extra("preference"))


def find(path: Path) -> Path:
    """The folder of the preference study that `path` names: its own, its study's, or that study's YAML.

    Raises InputError where there is none.
    """
    for folder in (path, path / FOLDER):
        if (folder / DATABASE).is_file():
            return folder
    if path.is_file() or any(path.glob("*/study.yaml")):
        from meshtune.plan.locate import locate  # reads the study's config, which takes a while

        folder = locate(path).folder / FOLDER
        if (folder / DATABASE).is_file():
            return folder
    raise InputError(f"{path}: there is no preference study here. `meshtune prefer create` makes one")
