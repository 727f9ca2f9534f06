"""Loads, mixes, splits and tokenizes the data once, into a folder of arrays with a manifest and a fingerprint.

Written aside and renamed into place. A second call with the same settings and unchanged sources reads the manifest and
nothing else; with others it raises StudyMismatch, or starts anew where `replace` allows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meshtune.config import DataConfig, ModelConfig, RowsFile, SourceConfig
from meshtune.data import mixture, prompts, sources, split
from meshtune.data.batches import SIDES
from meshtune.data.rows import Row
from meshtune.data.summary import Prepared, Summary, summarise
from meshtune.data.tokenizer import load_tokenizer
from meshtune.errors import Fault, InputError, StorageError, StudyMismatch
from meshtune.trial import DataRef

VERSION = 1  # of the folder's layout
LONGEST_AUTO = 2048
COVERED = 0.99  # of the rows, by `max_length: auto`


def prepare(
    data: DataConfig,
    model: ModelConfig,
    seed: int,
    folder: Path,
    report: Callable[[str], None] | None = None,
    *,
    replace: bool = True,
) -> Prepared:
    """The prepared data in `folder`, made where they are not there.

    Raises InputError with what is wrong with the sources, StudyMismatch where `folder` holds other data and `replace`
    is False, StorageError where it cannot be written.
    """
    settings = _settings(data, model, seed)
    manifest = folder / "manifest.json"
    if manifest.exists():
        stored = json.loads(manifest.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return load(folder)
        if not replace:
            raise StudyMismatch(
                f"{folder}: the data are not those that the study was made with: {_changes(stored['settings'], settings)}."
                " Restore them, or start another study with `--folder`"
            )
    if report is not None:
        report("reading and tokenizing the data")
    arrays, summary = _make(data, model, seed)
    return _write(folder, settings, arrays, summary)


def load(folder: Path) -> Prepared:
    """What is prepared in a folder."""
    stored = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return Prepared(DataRef(str(folder), stored["fingerprint"]), Summary.of(stored["summary"]))


def _settings(data: DataConfig, model: ModelConfig, seed: int) -> dict[str, Any]:
    """All that the arrays depend on, as plain values."""
    faults: list[Fault] = []
    identities = []
    for source in (*data.sources, *_files(data).values()):
        try:
            identities.append(sources.identity(source))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    named = model.model_dump(mode="json", include={"name", "revision"})
    settings = {
        "version": VERSION,
        "data": data.model_dump(mode="json"),
        "model": named,
        "seed": seed,
        "sources": identities,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _files(data: DataConfig) -> dict[str, SourceConfig]:
    """The sides that have a file of their own."""
    sides = {"validation": data.validation, "test": data.test}
    return {side: SourceConfig(path=f.path, format=f.format) for side, f in sides.items() if isinstance(f, RowsFile)}


def _make(data: DataConfig, model: ModelConfig, seed: int) -> tuple[dict[str, np.ndarray[Any, Any]], Summary]:
    """Read all sources, tokenize, drop, mix, split."""
    files = _files(data)
    read, faults = [], []
    for source in (*data.sources, *files.values()):
        try:
            read.append(sources.read(source))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    tokenizer = load_tokenizer(model)
    template = prompts.resolve(data.prompt, tokenizer)
    rows = list(itertools.chain.from_iterable(read))
    source_of = [index for index, some in enumerate(read) for _ in some]
    encoded = list(prompts.encode(rows, tokenizer, template))
    window = getattr(tokenizer, "model_max_length", LONGEST_AUTO)
    max_length = data.max_length if isinstance(data.max_length, int) else _auto_length(encoded, rows, window)
    reasons = [_reason(row, tokens, labels, max_length) for row, (tokens, labels) in zip(rows, encoded, strict=True)]
    names = [source.name for source in (*data.sources, *files.values())]
    _refuse_dropped(data, reasons, source_of, names)
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    chosen = _split(data, [rows[i].key for i in kept], [source_of[i] for i in kept], list(files), seed)
    arrays = _arrays([encoded[i] for i in kept], chosen)
    dropped = [Counter(r for r, of in zip(reasons, source_of, strict=True) if of == i and r) for i in range(len(read))]
    kept_sources = [source_of[i] for i in kept]
    summary = summarise(names, [len(r) for r in read], dropped, arrays, kept_sources, max_length, template)
    return arrays, summary


def _auto_length(encoded: Sequence[prompts.Encoded], rows: Sequence[Row], window: int) -> int:
    lengths = [len(tokens) for (tokens, _), row in zip(encoded, rows, strict=True) if row.response.strip()]
    if not lengths:
        return LONGEST_AUTO
    covering = int(np.quantile(lengths, COVERED, method="higher"))
    return min(covering, LONGEST_AUTO, window)


def _reason(row: Row, tokens: Sequence[int], prompt_tokens: int, max_length: int) -> str | None:
    """Why a row is dropped, or None."""
    if not row.response.strip():
        return "empty response"
    if not row.prompt.strip():
        return "empty prompt"
    if len(tokens) > max_length:
        return f"over {max_length} tokens"
    return None


def _refuse_dropped(
    data: DataConfig, reasons: Sequence[str | None], source_of: Sequence[int], names: Sequence[str]
) -> None:
    faults = []
    for index, name in enumerate(names):
        of_source = [reason for reason, of in zip(reasons, source_of, strict=True) if of == index]
        counts = Counter(reason for reason in of_source if reason)
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        if counts and data.strict:
            faults.append(Fault(f"`strict: true` and {told}", name))
        elif sum(counts.values()) == len(of_source):
            faults.append(Fault(f"none of its {len(of_source)} rows is kept: {told}", name))
    if faults:
        raise InputError(faults)


def _split(
    data: DataConfig, groups: Sequence[str], source_of: Sequence[int], file_sides: Sequence[str], seed: int
) -> split.Split:
    """Rows of each side; a side with a file of its own takes that file whole, and its prompts leave the sources."""
    count = len(data.sources)
    own = {
        side: [row for row, of in enumerate(source_of) if of == count + index] for index, side in enumerate(file_sides)
    }
    held = {groups[row] for rows in own.values() for row in rows}
    if set(file_sides) == {"validation", "test"}:
        both = {groups[row] for row in own["validation"]} & {groups[row] for row in own["test"]}
        if both:
            raise InputError(
                Fault(f"{len(both)} prompts of the test file stand in the validation file too", key="data")
            )
    usable = [row for row, of in enumerate(source_of) if of < count and groups[row] not in held]
    available = [sum(source_of[row] == source for row in usable) for source in range(count)]
    if not all(available):
        raise InputError(Fault("a source has no row that is not in the validation or test file", key="data.sources"))
    given = [source.share for source in data.sources]
    shares = None if None in given else [float(share) for share in given if share is not None]
    wanted = mixture.counts(data.mixture, available, shares, data.rows)
    validation = None if isinstance(data.validation, RowsFile) else data.validation
    test = None if isinstance(data.test, RowsFile) else data.test
    sides = mixture.sides(sum(wanted), validation, test, drawn=data.mixture == "repeat")
    inner_groups, inner_sources = [groups[row] for row in usable], [source_of[row] for row in usable]
    if data.mixture == "repeat":
        inner = split.with_repeats(inner_groups, inner_sources, shares or [1.0], sides, seed)
    else:
        inner = split.without_repeats(inner_groups, inner_sources, wanted, sides, seed)
    chosen = {side: [usable[row] for row in getattr(inner, side)] for side in SIDES}
    return split.Split(**{**chosen, **own})


def _arrays(encoded: Sequence[prompts.Encoded], chosen: split.Split) -> dict[str, np.ndarray[Any, Any]]:
    """Only the rows that stand on a side, renumbered."""
    used = sorted({row for side in SIDES for row in getattr(chosen, side)})
    number = {row: index for index, row in enumerate(used)}
    lengths = [len(encoded[row][0]) for row in used]
    trained = np.ones(sum(lengths), dtype=np.bool_)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    for index, row in enumerate(used):
        trained[offsets[index] : offsets[index] + encoded[row][1]] = False
    tokens = np.fromiter(itertools.chain.from_iterable(encoded[row][0] for row in used), np.int32, sum(lengths))
    sides = {side: np.array([number[row] for row in getattr(chosen, side)], dtype=np.int64) for side in SIDES}
    kept = np.array(used, dtype=np.int64)
    return {"tokens": tokens, "trained": trained, "offsets": offsets, "kept": kept, **sides}


def _write(folder: Path, settings: Any, arrays: dict[str, np.ndarray[Any, Any]], summary: Summary) -> Prepared:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    aside = folder.with_name(folder.name + ".part")
    manifest = {
        "fingerprint": digest.hexdigest()[:32],
        "settings": settings,
        "summary": dataclasses.asdict(summary),
    }
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array)
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StorageError(f"{folder}: the data cannot be written ({error.strerror or error})") from error
    return load(folder)


def _changes(before: Any, now: Any) -> str:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    words = {
        "data": "the `data` section",
        "sources": "the sources' files",
        "model": "the model",
        "seed": "the seed",
        "version": "the data format of meshtune",
    }
    return ", ".join(words.get(key, key) for key in changed) + " changed"
