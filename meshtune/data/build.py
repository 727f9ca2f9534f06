"""From the config's data section to prepared rows in a folder, once.

Guarantees: a second call with the same settings and unchanged sources reads what is there (no tokenizer, no network),
and makes it again where its files are not those that were written; other settings are refused with what differs, never
overwritten; faults of all sources come at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.config.sections import DataConfig, ModelConfig, RowsFile, SourceConfig
from meshtune.data import prompts, store, tokenizer
from meshtune.data.assemble import Assembled, assemble
from meshtune.data.files import missing
from meshtune.data.rows import Conversation
from meshtune.data.sources import identity, load_all
from meshtune.data.summary import Summary
from meshtune.errors import Fault, InputError, StudyMismatch, refuse
from meshtune.system.text import counted
from meshtune.trial import DataRef

# Settings that data of meshtune 0.1 do not name: they were made with these.
_LATER = {"template_arguments": dict[str, Any](), "train_on": "all", "split_by": None, "split_rows": None}


@dataclass(frozen=True)
class PreparedData:
    """Prepared data: where they lie, and what they are. `damage`: why they were made again, or None."""

    ref: DataRef
    summary: Summary
    damage: str | None = None


def load(folder: Path) -> PreparedData:
    """What was prepared in a folder, from its manifest alone. Raises InputError."""
    manifest = store.read_manifest(folder)
    return PreparedData(DataRef(str(folder), manifest["fingerprint"]), Summary.from_dict(manifest["summary"]))


def prepare(
    data: DataConfig,
    model: ModelConfig,
    seed: int,
    folder: Path,
    report: Callable[[str], None] | None = None,
    memory_length: int | None = None,
    tokens_like: ModelConfig | None = None,
) -> PreparedData:
    """Make the data in `folder`, or find them there.

    Args:
        memory_length: the longest row, in tokens, that the device has memory for: a further limit for
            `max_length: auto`. Data that were made already stay as they are, whatever it is now.
        tokens_like: a model whose tokenizer takes the place of the model's own, to count tokens alone.

    Raises InputError with all faults of the sources; StudyMismatch where the folder holds data that were made with
    other settings or from other files; StorageError where it cannot be written.
    """
    settings = _settings(data, model, seed)
    held, damage = _held(folder)
    if held is not None:
        _check_same(held["settings"], settings, data, folder)
        memory_length = Summary.from_dict(held["summary"]).max_length  # nothing else must differ from what was there
    if not (folder / store.MANIFEST).exists() or damage is not None:
        made = _made(data, model, seed, report or (lambda message: None), memory_length, tokens_like)
        manifest = {
            "layout": store.LAYOUT,
            "fingerprint": store.fingerprint(made.sides),
            "settings": settings,
            "summary": made.summary.to_dict(),
        }
        if held is not None and manifest["fingerprint"] != held["fingerprint"]:
            what = (
                "and what this version of meshtune makes from the same rows differs: begin another study (`--folder`)"
            )
            raise StudyMismatch(f"{damage}; {what}")
        texts = {
            store.original_file(side): (row.line_of_json() for row in rows) for side, rows in made.original_rows.items()
        }
        store.write(folder, made.sides, manifest, texts, anew=damage is not None)
    # Also after writing: another process may have been faster, with settings of its own.
    _check_same(store.read_manifest(folder)["settings"], settings, data, folder)
    return replace(load(folder), damage=damage)


def _held(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest of what is in the folder, where it can be read, and what is damaged there, if anything is."""
    if not any((folder / name).exists() for name in (store.MANIFEST, store.file_name("train", "tokens"))):
        return None, None
    manifest = None
    try:
        manifest = store.read_manifest(folder)
        store.check(folder, manifest)
        if manifest["layout"] >= store.WITH_ORIGINALS:
            for side in store.ORIGINAL_SIDES:
                store.check_original_rows(folder, side, manifest["summary"][side]["rows"])
    except store.Damaged as error:
        return manifest, error.what
    return manifest, None


def _file_sides(data: DataConfig) -> dict[str, SourceConfig]:
    """The sides that are files of their own, test first: it keeps rows that stand in both."""
    sides = {"test": data.test, "validation": data.validation}
    return {
        name: SourceConfig(path=side.path, format=side.format)
        for name, side in sides.items()
        if isinstance(side, RowsFile)
    }


def _by_key(data: DataConfig) -> list[tuple[str, SourceConfig]]:
    """All files and data sets, by the keys that name them."""
    sources = [(f"data.sources.{number}", source) for number, source in enumerate(data.sources)]
    return [*sources, *((f"data.{side}", source) for side, source in _file_sides(data).items())]


def check_there(data: DataConfig) -> None:
    """Raise InputError that names every file of the sources which is not there; nothing is read."""
    faults = list[Fault]()
    for key, source in _by_key(data):
        if source.path is not None and not Path(source.path).exists():
            faults.append(replace(missing(Path(source.path)), key=f"{key}.path"))
    refuse(faults)


def _settings(data: DataConfig, model: ModelConfig, seed: int) -> dict[str, Any]:
    """All that decides the rows, by dotted key; of files their content, not their place."""
    settings: dict[str, Any] = {"seed": seed, "model": tokenizer.identity(model)}
    for key in ("mixture", "rows", "validation", "test", "max_length", "prompt", "strict", *_LATER):
        value = getattr(data, key)
        if not isinstance(value, RowsFile):
            settings[f"data.{key}"] = value
    faults = list[Fault]()
    for key, source in _by_key(data):
        try:
            settings[key] = f"{identity(source)} as {source.format}"
        except InputError as error:
            faults += (Fault(fault.message, fault.file, fault.line, key) for fault in error.faults)
        if source.share is not None:
            settings[f"{key}.share"] = source.share
    refuse(faults)
    return settings


def _check_same(held: dict[str, Any], settings: dict[str, Any], data: DataConfig, folder: Path) -> None:
    held = {**{f"data.{key}": default for key, default in _LATER.items()}, **held}
    keys = [key for key in sorted({**held, **settings}) if held.get(key) != settings.get(key)]
    if not keys:
        return
    files = {key: source.path for key, source in _by_key(data) if source.path is not None}
    faults = [
        Fault(f"{files[key]} holds other rows than the study began with", key=key)
        if key in files and _format(held.get(key)) == _format(settings[key])
        else Fault(f"was {held.get(key, 'absent')}, is now {settings.get(key, 'absent')}", key=key)
        for key in keys
    ]
    advice = "The prepared data were made from what was: bring it back, or begin another study (`--folder`)."
    raise StudyMismatch([*faults, Fault(advice, folder)])


def _format(identified: str | None) -> str:
    """The format in what `_settings` says of a source."""
    return (identified or "").rpartition(" as ")[2]


def _made(
    data: DataConfig,
    model: ModelConfig,
    seed: int,
    report: Callable[[str], None],
    memory_length: int | None,
    tokens_like: ModelConfig | None,
) -> Assembled:
    """The data themselves: everything is read before the tokenizer is loaded, which takes long."""
    file_sides = _file_sides(data)
    sources = load_all([*data.sources, *file_sides.values()])
    report(f"read {counted(sum(len(source.rows) for source in sources), 'row')}")
    loader = tokenizer.load_tokenizer(tokens_like or model)
    maker = prompts.build(
        data.prompt,
        loader,
        conversations=any(isinstance(source.rows[0], Conversation) for source in sources),
        train_on=data.train_on,
        arguments=data.template_arguments,
    )
    window = tokenizer.window(model, loader)
    sides = ["mix"] * len(data.sources) + list(file_sides)
    return assemble(data, sources, sides, maker, window, seed, report, memory_length)
