"""`meshtune export`: what a study found, in a folder that works without meshtune.

An adapter in PEFT's format, or with `merge` a full model; each with the tokenizer, a model card and `training.json`.
What is exported is a trial of a study, or a folder that `train` or `export` wrote. The folder appears whole.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError, need_training
from meshtune.export import takeaway
from meshtune.export.chosen import ChosenPoint, choose, describe, kept_adapter, kept_epoch
from meshtune.system import whole_file
from meshtune.system.machine import cores
from meshtune.trial import DataRef, Outcome

TOLERANCE = 1e-3  # nats a token between an adapter's loss and the merged model's


@dataclass(frozen=True)
class _Source:
    """What is exported: an adapter's folder, the facts for the card, the study's folder (None: it is not here)."""

    adapter: Path
    facts: dict[str, Any]
    study: Path | None


def export(
    path: Path,
    out: Path,
    *,
    trial: str | int = "best",
    merge: bool = False,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write an adapter, or with `merge` the full model, into the folder `out`, which must be free.

    Args:
        path: of the study, or a folder that `train` or `export` wrote.
        trial: `best`, `recommended`, `baseline` or a number.
        report: is told what is being done.

    Returns what `training.json` holds, and `folder`, `load` (Python that loads it) and `warnings`.

    Raises InputError: nothing to export, or `out` is not free. StorageError: it cannot be written.
    """
    out = Path(out).absolute()
    need_training()
    source = _source(Path(path), trial)
    takeaway.check_free(out)
    from meshtune.training.checkpoints import check_whole

    check_whole(source.adapter)
    model = ModelConfig.model_validate(source.facts["model"])
    warnings: list[str] = []
    with takeaway.written_aside(out) as folder:
        facts = source.facts
        if merge:
            facts, warnings = _merge(source, model, folder, report or (lambda _: None))
        else:
            _copy(source, model, folder)
        facts = takeaway.write_facts(folder, facts, out, source.study)
    from meshtune.export.card import loading_code

    return {**facts, "folder": str(out), "load": loading_code(facts, str(out)), "warnings": warnings}


def as_text(result: Mapping[str, Any]) -> str:
    """What was written, for people: the losses where it was merged, warnings, and how to load it."""
    lines = [f"warning: {warning}" for warning in result["warnings"]]
    if (merged := result.get("merged")) is not None and merged["loss"] is not None:
        lines.append(
            f"validation loss of the merged model {merged['loss']:.4f}, of the adapter {merged['adapter_loss']:.4f}"
        )
    return "\n".join([*lines, f"wrote {result['folder']}; to load it:", textwrap.indent(result["load"], "    ")])


def _source(path: Path, trial: str | int) -> _Source:
    """What `path` and `trial` name. Raises InputError."""
    if not (path / takeaway.FACTS).is_file():
        chosen = choose(path, trial)
        adapter = kept_adapter(chosen)
        return _Source(adapter, _facts(chosen), chosen.study.folder)
    facts, study = takeaway.read_facts(path, trial)
    if not (path / "adapter_config.json").is_file():
        raise InputError(
            f"{path} holds a merged model, no adapter: export it from the study, or from what `train` wrote"
        )
    return _Source(path.absolute(), facts, study)


def _facts(chosen: ChosenPoint) -> dict[str, Any]:
    """The facts of a trial as it was trained in the study."""
    from meshtune.training.recipe import recipe

    outcome = chosen.outcome
    if outcome is None:  # `kept_adapter` has refused it
        raise InputError(f"{chosen.name} has not ended yet")
    described = describe(chosen)
    training = chosen.study.config.training.model_copy(update=chosen.as_run)
    made = recipe(training, chosen.hyperparameters, chosen.seed)
    return {
        **described,
        "made": "export",
        "training": dataclasses.asdict(made),
        "run": {
            "epochs": _epochs(outcome),
            "at": described["study"]["at"],
            "epoch": kept_epoch(outcome, described["study"]["at"]),
            "loss": outcome.loss,
            "all_data": False,
            "rows": described["data"]["summary"]["train"]["rows"],
            "tokens": outcome.tokens,
            "seconds": outcome.seconds,
            "seed": chosen.seed,
        },
    }


def _epochs(outcome: Outcome) -> list[dict[str, Any]]:
    training = (*outcome.training_losses[1:], *[None] * len(outcome.losses))  # the first is of the first step
    return [
        {"epoch": number, "training_loss": training[number - 1], "validation_loss": loss}
        for number, loss in enumerate(outcome.losses, start=1)
    ]


def _copy(source: _Source, model: ModelConfig, folder: Path) -> None:
    from meshtune.training.checkpoints import CONFIG, WEIGHTS, name_base, save_tokenizer

    with whole_file.writing(folder):
        for name in (CONFIG, WEIGHTS):
            shutil.copy2(source.adapter / name, folder / name)
    name_base(folder, model)
    save_tokenizer(folder, model)


def _merge(
    source: _Source, model: ModelConfig, folder: Path, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Write the merged model; returns the facts with its losses, and warnings."""
    from meshtune.training import machine
    from meshtune.training.checkpoints import save_tokenizer
    from meshtune.training.merge import merge
    from meshtune.training.models import resolve_device

    machine.use_threads(cores())
    rows, warnings = _validation_rows(source), []
    if rows is None:
        warnings.append("the study's data are not where they were: the merged model's loss was not measured")
    device = resolve_device(model)
    # An adapter that was trained on all rows has no loss yet: it is measured before it is merged.
    known: float | None = source.facts["run"]["loss"]
    merged = merge(model, source.adapter, folder, device=device, rows=rows, adapter_loss=known, report=report)
    save_tokenizer(folder, model)
    gap = None
    if merged.loss is not None and merged.adapter_loss is not None:
        gap = merged.loss - merged.adapter_loss
        if abs(gap) > TOLERANCE:
            warnings.append(
                f"the merged model's validation loss is {merged.loss:.4f}, the adapter's {merged.adapter_loss:.4f}:"
                " weights of low precision lose by merging; a `model.dtype` of float32 does not"
            )
    losses = {"loss": merged.loss, "adapter_loss": merged.adapter_loss, "difference": gap}
    return {**source.facts, "merged": losses}, warnings


def _validation_rows(source: _Source) -> Any:
    """The study's validation rows, None where they are not here (any more)."""
    from meshtune.data.store import Rows

    if source.study is None:
        return None
    try:
        return Rows.open(DataRef(str(source.study / "data"), source.facts["data"]["fingerprint"]), "validation")
    except InputError:
        return None
