"""What was measured of each trial beside its loss: `<study>/guides/<name>.json`, small files.

`name` is the trial's number, `untuned` or `baseline`. A file holds the quantities and, where one is a mean over items,
each item's value with its weight in that mean, so that two trials can be compared item by item. Perplexity is that of a
fixed text as a whole. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from meshtune.errors import Fault, InputError
from meshtune.system import whole_file

FOLDER = "guides"  # in the study's folder; the name is that of earlier versions, whose studies go on
UNTUNED = "untuned"


@dataclass(frozen=True)
class Items:
    """A quantity item by item. `weights` add up to 1: the quantity is the sum of values times weights."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The quantity."""
        return math.fsum(value * weight for value, weight in zip(self.values, self.weights, strict=True))


@dataclass(frozen=True)
class Measured:
    """What was measured of a trial.

    Attributes:
        made: changes with all that decides how. adapter: a hash of the adapter's weights, None for the untuned model.
        quantities: by name. items: of those that are means over items.
    """

    made: str
    adapter: str | None
    quantities: Mapping[str, float]
    items: Mapping[str, Items] = field(default_factory=dict)


def path_of(folder: Path, name: str | int) -> Path:
    """The file of a trial, `untuned` or `baseline` in the study's folder."""
    return folder / FOLDER / f"{name}.json"


def read(folder: Path, name: str | int) -> Measured | None:
    """What was measured of a trial, `untuned` or `baseline`; None where nothing was. Raises InputError."""
    path = path_of(folder, name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        items = {
            quantity: Items(tuple(one["names"]), tuple(one["values"]), tuple(one["weights"]))
            for quantity, one in values.pop("items").items()
        }
        return Measured(**values, items=items)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(Fault(f"cannot be read ({error}): remove it", path)) from error


def write(folder: Path, name: str | int, measured: Measured) -> None:
    """Keep what was measured of a trial. Raises StorageError."""
    path = path_of(folder, name)
    with whole_file.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, json.dumps(asdict(measured)))
