"""`meshtune export --config TOOL`: a point of a study as the settings of another fine-tuning tool."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.errors import InputError, nearest
from meshtune.export import foreign, takeaway
from meshtune.export.chosen import ChosenPoint, choose, kept_epoch
from meshtune.study.status import of_record
from meshtune.system import whole_file
from meshtune.trial import Ending


def export_settings(path: Path, out: Path, tool: str, *, trial: str | int = "best") -> dict[str, Any]:
    """Write the settings into the folder `out`, which must be free.

    `path` is of the study, or a folder that `train` or `export` wrote, whose study must be where it was.

    Returns `folder`, `files` (their names, the settings first) and `notes`: what differs in that tool.

    Raises InputError: an unknown tool, no such point, or `out` is not free. StorageError: it cannot be written.
    """
    if tool not in foreign.TOOLS:
        known = ", ".join(foreign.TOOLS)
        raise InputError(f"--config {tool}: there are {known}.{nearest(tool, foreign.TOOLS)}")
    study = _of_folder(path, trial) if (path / takeaway.FACTS).is_file() else _of_point(choose(path, trial))
    out = Path(out).absolute()
    takeaway.check_free(out)
    texts = foreign.files(tool, study)
    with whole_file.writing(out), takeaway.written_aside(out) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return {"folder": str(out), "files": list(texts), "notes": foreign.notes(tool, study)}


def as_text(result: Mapping[str, Any]) -> str:
    """What was written and what differs, for people."""
    written = ", ".join(str(Path(result["folder"]) / name) for name in result["files"])
    return "\n".join([*(f"note: {note}" for note in result["notes"]), f"wrote {written}"])


def _of_folder(path: Path, trial: str | int) -> foreign.ForeignStudy:
    """What the adapter in a folder was trained with: the study's data, and what the folder says of the training."""
    from meshtune.training.recipe import Recipe

    held, folder = takeaway.read_facts(path, trial)
    number, training, run = held["point"]["trial"], held["training"], held["run"]
    named = "baseline" if number is None else number
    if folder is None:
        raise InputError(
            f"--config needs the study, whose data it names; that of {path} is not where it was: name the study, with "
            f"--trial {named}"
        )
    study = _of_point(choose(folder, named))
    if held["made"] == "export":  # the trial's own adapter
        return study
    modules = training["target_modules"]
    recipe = Recipe(**{**training, "target_modules": modules if isinstance(modules, str) else tuple(modules)})
    facts = {**study.facts, "loss": run["loss"], "epoch": run["epoch"], "test_loss": None}
    return dataclasses.replace(study, recipe=recipe, facts=facts)


def _of_point(chosen: ChosenPoint) -> foreign.ForeignStudy:
    from meshtune.data.build import load

    config, record, outcome = chosen.study.config, chosen.record, chosen.outcome
    status, at = of_record(chosen.study, record), record.notes["fixed"]["objective"]["at"]
    summary = load(chosen.study.folder / "data").summary
    mixed = [source.format for source in summary.sources if source.side == "mix"]
    sources = config.data.sources if config.data is not None else ()
    facts = {
        "study": chosen.study.name,
        "trial": chosen.trial,
        "loss": outcome.loss if outcome is not None else None,
        "epoch": kept_epoch(outcome, at) if outcome is not None and outcome.ending is Ending.COMPLETE else None,
        **{f"{which}_loss": (status[which] or {}).get("loss") for which in ("baseline", "untuned")},
        "test_loss": chosen.test_loss,
        "precision": chosen.training["precision"],
        "prompt": summary.prompt,
        "train_rows": summary.train.rows,
        "formats": dict(zip((source.name for source in sources), mixed, strict=True)),
    }
    known = {key: value for key, value in facts.items() if value is not None}
    return foreign.settings_of(config, chosen.hyperparameters, summary.max_length, known)
