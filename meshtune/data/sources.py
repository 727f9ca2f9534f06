"""Each source of the config as rows: a file, a Hugging Face data set, or one of the embedded sources.

Guarantees: either rows, or all faults of the source (the first ten and how many more). Does not mix, drop or
tokenize. A data set of the hub needs network or the local cache; files and embedded sources need neither.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meshtune.config.sections import SourceConfig
from meshtune.data import embedded, files
from meshtune.data.formats import parse
from meshtune.data.hub import explain, hushed
from meshtune.data.rows import Conversation, Place, Row, capped
from meshtune.errors import Fault, InputError, MissingExtra, extra, nearest, together


@dataclass(frozen=True)
class Loaded:
    """A source's rows, all that it holds. `place` is for faults, `format` a name of `config.Format`."""

    name: str
    place: Place
    format: str
    rows: Sequence[Row | Conversation]


def identity(source: SourceConfig) -> str:
    """What the source holds now: a file's sha256, else its name and version. Raises InputError on a missing file.

    A data set of the hub is taken as unchanged under the same id, subset and split.
    """
    if source.path is not None:
        return f"sha256:{files.digest(Path(source.path))}"
    if source.dataset is not None:
        subset = f"{source.subset}:" if source.subset else ""
        return f"dataset:{source.dataset}:{subset}{source.split}"
    return f"{source.embedded}:{platform.python_implementation()} {platform.python_version()}"


def load(source: SourceConfig) -> Loaded:
    """Read one source. Raises InputError with its faults."""
    faults = list[Fault]()
    if source.path is not None:
        path = Path(source.path)
        name, place = path.name, files.place_of(path)
        items, faults = files.read(path)
    elif source.dataset is not None:
        name, place = source.dataset, Place(source.dataset, "row")
        items = hub_rows(source.dataset, source.subset, source.split)
    else:
        name = source.embedded or ""
        place = Place(name, "row")
        return Loaded(name, place, "alpaca", _some(embedded.rows(name), place))
    kind, rows, others = parse(items, source.format, place)
    faults = sorted([*faults, *others], key=lambda fault: fault.line or 0)
    if faults:
        raise InputError(capped(faults, place))
    return Loaded(name, place, kind, _some(rows, place))


def load_all(sources: Iterable[SourceConfig]) -> list[Loaded]:
    """Read every source; raises InputError with the faults of all of them."""
    return together(partial(load, source) for source in sources)


def _some(rows: Sequence[Row | Conversation], place: Place) -> Sequence[Row | Conversation]:
    if not rows:
        raise InputError(place.fault(None, "holds no row"))
    return rows


def hub_rows(name: str, subset: str | None, split: str) -> list[tuple[int, object]]:
    """Rows of a data set of the hub, or of the local cache, numbered from 1."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("a data set of the hub", "datasets", extra("train")) from error
    try:
        with hushed():
            loaded = datasets.load_dataset(name, subset, split=split)
    # datasets raises errors of many unrelated families for one cause; all become the same kind of message.
    except Exception as error:
        if isinstance(error, ValueError) and ("Config name is missing" in str(error) or "BuilderConfig" in str(error)):
            raise InputError(_subset_fault(name, subset, str(error))) from error
        if "split" in str(error).lower() and isinstance(error, ValueError):
            raise InputError(_split_fault(name, split, str(error))) from error
        raise InputError(explain(error, name, "data set")) from error
    rows: Iterator[object] = iter(loaded)
    return list(enumerate(rows, 1))


def _known(message: str) -> list[str]:
    """The names that a message of the library lists in brackets."""
    return [word.strip("'\" ") for word in message.partition("[")[2].partition("]")[0].split(",") if word.strip()]


def _subset_fault(name: str, subset: str | None, message: str) -> Fault:
    known = _known(message)
    what = f"has no subset `{subset}`" if subset else "has several subsets: name one with `subset:`"
    allowed = f"; it has {', '.join(known)}" if known else f" ({message})"
    return Fault(f"the data set `{name}` {what}{allowed}.{nearest(subset or '', known)}")


def _split_fault(name: str, split: str, message: str) -> Fault:
    known = _known(message)
    allowed = f"; it has {', '.join(known)}" if known else f": {message}"
    return Fault(f"the data set `{name}` has no split `{split}`{allowed}.{nearest(split, known)}")
