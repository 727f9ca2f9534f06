"""LLaMA-Factory's `dataset_info.json`, which says what the data sets are that its settings name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from meshtune.errors import InputError
from meshtune.export.foreign.keys import Keys, Left
from meshtune.export.foreign.reasons import NO_COUNTERPART
from meshtune.export.foreign.training import RESPONSE, ForeignStudy, Source

INFO = "dataset_info.json"
VALIDATION = "validation_rows"  # the name of validation rows that have a file of their own
_COLUMNS = {
    "dolly": {"prompt": "instruction", "query": "context", "response": "response"},
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    **{name: {"prompt": "prompt", "response": response} for name, response in RESPONSE.items()},
}
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "tool",
    "function_tag": "function",
}
# Columns of a whole conversation, by the names under which meshtune reads them.
_BESIDE = {"system": "system", "tools": "tools"}
_SPEAKERS = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "system_tag": ("system",),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "function"),
}
# Parts of an entry that are read whatever they say: where the rows are, and how they are formed.
_USED = ("file_name", "hf_hub_url", "formatting", "ranking")


def names(study: ForeignStudy) -> list[str]:
    """A name for each source, as `dataset_info.json` has it: no two alike, no comma."""
    found: list[str] = []
    for source in study.sources:
        stem = Path(source.path).name.split(".")[0] if source.path else source.dataset.rpartition("/")[2]
        name = re.sub(r"\W+", "_", stem).strip("_") or "rows"
        free = (
            other for other in (name, *(f"{name}_{n}" for n in range(2, 1000))) if other not in (*found, VALIDATION)
        )
        found.append(next(free))
    return found


def write(study: ForeignStudy) -> str:
    """The text of the file that goes with the settings."""
    entries = {name: _entry(source) for name, source in zip(names(study), study.sources, strict=True)}
    if (own := study.validation_rows) is not None:
        entries[VALIDATION] = _entry(own)
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _entry(source: Source) -> dict[str, Any]:
    entry: dict[str, Any] = {"file_name": source.path} if source.path else {"hf_hub_url": source.dataset}
    if not source.path:
        entry |= {"subset": source.subset} if source.subset else {}
        entry["split"] = source.split
    if source.format == "messages":
        return {**entry, "formatting": "openai", "columns": {"messages": "messages", **_BESIDE}, "tags": _TAGS}
    if source.format == "sharegpt":
        return {**entry, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    return {**entry, "formatting": "alpaca", "columns": _COLUMNS[source.format]}


def read(keys: Keys, key: str, name: str) -> dict[str, Any] | None:
    """A source of study.yaml from the entry in dataset_info.json; None, and left, where there is none."""
    where = str(keys.take("dataset_dir", "data"))
    if where == "ONLINE":  # then names are ids of the hub
        return {"dataset": name, "format": "alpaca"}
    folder = next((f for start in (keys.folder, Path.cwd()) if (f := start / where).is_dir()), None)
    info: Any = {}
    if folder is not None and (folder / INFO).is_file():
        try:
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{folder / INFO}: is not JSON text: {error}") from error
    entry = info.get(name) if isinstance(info, dict) else None
    if folder is None or not isinstance(entry, dict):
        keys.leave(key, f"no {INFO} in `{where}` explains `{name}`")
        return None
    if isinstance(entry.get("file_name"), str) and not entry.get("hf_hub_url"):
        source: dict[str, Any] = {"path": str((folder / entry["file_name"]).absolute())}
    elif isinstance(entry.get("hf_hub_url"), str):
        source = {"dataset": entry["hf_hub_url"]}
        source |= {part: entry[part] for part in ("subset", "split") if isinstance(entry.get(part), str)}
    else:
        keys.leave(key, f"`{name}` is neither a file nor a data set of the Hugging Face hub")
        return None
    if entry.get("ranking"):
        keys.fault(key, f"`{name}` is preference data (`ranking` in {INFO}); meshtune tunes supervised fine-tunings")
    row_format = _format(keys, key, name, entry)
    _leave_parts(keys, name, entry, source, row_format)
    return {**source, "format": row_format}


def _leave_parts(keys: Keys, name: str, entry: dict[str, Any], source: dict[str, Any], row_format: str) -> None:
    """Leave every part of an entry that says something and is not used."""
    columns, tags = _part(entry, "columns"), _part(entry, "tags")
    shape = {"messages": "messages", **_BESIDE} if row_format in ("messages", "sharegpt") else _COLUMNS["alpaca"]
    unused = {part: value for part, value in entry.items() if part not in ("columns", "tags", *_USED, *source)}
    if entry.get("split") == "train":  # which is also the split of a file
        unused.pop("split", None)
    unused |= {
        f"columns.{part}": value
        for part, value in columns.items()
        if part not in shape or (part in _BESIDE and value != part)
    }
    unused |= {f"tags.{part}": tag for part, tag in tags.items() if tag not in _SPEAKERS.get(part, (tag,))}
    for part, value in unused.items():
        if value not in (None, False, "", [], {}):
            keys.left.append(Left(f"{INFO}: {name}.{part}", value, NO_COUNTERPART))


def _part(entry: dict[str, Any], name: str) -> dict[str, Any]:
    part = entry.get(name)
    return part if isinstance(part, dict) else {}


def _format(keys: Keys, key: str, name: str, entry: dict[str, Any]) -> str:
    columns, tags = _part(entry, "columns"), _part(entry, "tags")
    found: str | None
    if entry.get("formatting", "alpaca") in ("sharegpt", "openai"):
        shape = [
            columns.get("messages", "conversations"),
            tags.get("role_tag", "from"),
            tags.get("content_tag", "value"),
        ]
        shapes = {"messages": ["messages", "role", "content"], "sharegpt": ["conversations", "from", "value"]}
        found = next((ours for ours, known in shapes.items() if known == shape), None)
    else:
        usual = _COLUMNS["alpaca"]  # which are taken where no column is named
        shown = {part: value for part in usual if (value := (columns or usual).get(part))}
        found = next((ours for ours, known in _COLUMNS.items() if known == shown), None)
    if found is None:
        keys.leave(key, f"the columns of `{name}` fit no format of meshtune: it is told from the rows' keys")
    return found or "auto"
