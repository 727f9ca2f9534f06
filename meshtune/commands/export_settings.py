"""`meshtune export --config TOOL`: a point of a study as the settings of another fine-tuning tool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune import finals, foreign
from meshtune.commands import takeaway
from meshtune.commands.chosen import Chosen, choose
from meshtune.errors import InputError, nearest


def export_settings(path: Path, out: Path, tool: str, *, trial: str | int = "best") -> dict[str, Any]:
    """Write the settings into the folder `out`, which must be free.

    Returns `folder`, `files` (their names, the settings first) and `notes`: what differs in that tool.

    Raises InputError: an unknown tool, no such point, or `out` is not free. StorageError: it cannot be written.
    """
    if tool not in foreign.TOOLS:
        known = ", ".join(foreign.TOOLS)
        raise InputError(f"--config {tool}: there are {known}.{nearest(tool, foreign.TOOLS)}")
    chosen = choose(Path(path), trial)
    out = Path(out).absolute()
    takeaway.check_free(out)
    study = _described(chosen)
    texts = foreign.files(tool, study)
    with takeaway.writing(out), takeaway.written_aside(out) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return {"folder": str(out), "files": list(texts), "notes": foreign.notes(tool, study)}


def told(result: Mapping[str, Any]) -> str:
    """What was written and what differs, for people."""
    written = ", ".join(str(Path(result["folder"]) / name) for name in result["files"])
    return "\n".join([*(f"note: {note}" for note in result["notes"]), f"wrote {written}"])


def _described(chosen: Chosen) -> foreign.ForeignStudy:
    from meshtune.data.build import load

    config, record = chosen.study.config, chosen.record
    summary = load(chosen.study.folder / "data").summary
    mixed = [source.format for source in summary.sources if source.side == "mix"]
    sources = config.data.sources if config.data is not None else ()
    name = finals.baseline_name(record) if chosen.trial is None else f"trial-{chosen.trial}"
    facts = {
        "study": chosen.study.folder.name,
        "trial": chosen.trial,
        "loss": chosen.outcome.loss if chosen.outcome is not None else None,
        "baseline_loss": record.baseline.loss if record.baseline is not None else None,
        "untuned_loss": (record.notes.get("untuned") or {}).get("loss"),
        "test_loss": finals.read(chosen.study.folder).get(name, {}).get("loss"),
        "precision": chosen.training["precision"],
        "prompt": summary.prompt,
        "formats": dict(zip((source.name for source in sources), mixed, strict=True)),
    }
    known = {key: value for key, value in facts.items() if value is not None}
    return foreign.settings_of(config, chosen.hyperparameters, summary.max_length, known)
