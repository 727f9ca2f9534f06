"""`meshtune export --push-to-hub`: what was exported, to the Hugging Face hub; with `--dry-run` a list of it alone.

The folder is sent as it stands, but for the name of the base: the embedded model lies in this machine's cache, so its
published one is named, which anyone can load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.data.embedded import PUBLISHED
from meshtune.errors import InputError
from meshtune.export.chosen import choose
from meshtune.export.takeaway import FACTS, read_facts
from meshtune.system.text import counted

_CONFIG, _BASE = "adapter_config.json", "base_model_name_or_path"


def check_name(repository: str) -> None:
    """Raise InputError where this is no name of a repository."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise InputError(f"--push-to-hub {repository}: must be OWNER/NAME, such as `me/my-adapter`")


def exported(path: Path, out: Path, trial: str | int, *, merge: bool) -> dict[str, Any] | None:
    """What the folder `out` holds, where that is what would be exported; None where nothing was exported there yet.

    Raises InputError where it is something else.
    """
    if not (out / FACTS).is_file():
        return None
    same = path.resolve() == out.resolve()
    facts, _ = read_facts(out, trial if same else "best")
    wanted, held = (facts["point"]["trial"], facts["study"]["name"]), (facts["point"]["trial"], facts["study"]["name"])
    if not same:
        chosen = choose(path, trial)
        wanted = (chosen.trial, chosen.study.name)
    if wanted != held or merge != (facts.get("merged") is not None):
        kind = "a merged model" if facts.get("merged") is not None else "an adapter"
        raise InputError(f"{out} holds {kind} of {facts['point']['name']} of `{held[1]}`: name another folder")
    return facts


def push(folder: Path, repository: str, *, public: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Send an exported folder; returns what was sent, or with `dry_run` what would be: plain values.

    Raises InputError and MeshtuneError as `training.hub_upload.send`, and InputError where nothing was exported there.
    """
    facts, _ = read_facts(folder)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    warnings = []
    if _CONFIG in files:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if facts["model"]["name"] == "embedded":
            files[_CONFIG] = (json.dumps({**config, _BASE: PUBLISHED}, indent=2) + "\n").encode()
        elif Path(config.get(_BASE) or "").is_absolute():
            warnings.append(f"the base is named as {config[_BASE]}, a folder that others do not have")
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    listed = [{"path": name, "bytes": size} for name, size in sizes.items()]
    sent = None
    if not dry_run:
        from meshtune.training.hub_upload import send

        sent = send(repository, files, public=public, message=f"{facts['point']['name']}, by meshtune")
    return {"repository": repository, "private": not public, "files": listed, "commit": sent, "warnings": warnings}


def as_text(result: Mapping[str, Any]) -> str:
    """For people: every file that was sent, or would be."""
    total = sum(file["bytes"] for file in result["files"])
    kind = "private" if result["private"] else "public"
    to = f"to the {kind} repository {result['repository']}"
    head = f"sent {to}: {result['commit']}" if result["commit"] else f"dry run, nothing was sent; {to} would go"
    lines = [f"warning: {text}" for text in result["warnings"]]
    lines += [f"{head} ({counted(len(result['files']), 'file')}, {total:,} bytes)"]
    return "\n".join([*lines, *(f"  {file['bytes']:>13,}  {file['path']}" for file in result["files"])])
