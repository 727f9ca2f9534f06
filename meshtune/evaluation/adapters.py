"""The candidates that are scored: adapters over one base, and the base itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.training.bundle import CONFIG, WEIGHTS
from meshtune.training.checkpoints import attached, saved

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Candidate:
    """What is scored: `name` also names its file of answers; `adapter` is its folder, None for the base alone."""

    name: str
    adapter: Path | None

    @property
    def identity(self) -> str | None:
        """A hash of the adapter's weights. Raises InputError where there are none."""
        if self.adapter is None:
            return None
        try:
            return hashlib.sha256((self.adapter / WEIGHTS).read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise InputError(_no_adapter(self.adapter, error)) from error


def check(candidates: Sequence[Candidate], base: Any) -> None:
    """Refuse adapters that are not of this base, all at once. Raises InputError."""
    faults = [fault for candidate in candidates for fault in _faults(candidate, base)]
    if faults:
        raise InputError(faults)


@contextlib.contextmanager
def on(base: Any, candidate: Candidate) -> Iterator[Any]:
    """The base with the candidate's adapter on it; afterwards the base as it was."""
    if candidate.adapter is None:
        yield base
    else:
        with attached(base, candidate.adapter) as model:
            yield model


def _no_adapter(folder: Path, error: Exception) -> Fault:
    return Fault(f"holds no whole adapter of PEFT ({error}): remove the folder, and it is trained again", folder)


def _faults(candidate: Candidate, base: Any) -> Iterator[Fault]:
    folder = candidate.adapter
    if folder is None:
        return
    try:
        named = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        weights = saved(folder)
    except (OSError, ValueError, AttributeError) as error:
        yield _no_adapter(folder, error)
        return
    modules = dict(base.named_modules())
    for name, weight in weights.items():
        module, matrix, _ = name.removeprefix(_PREFIX).rpartition(".lora_")
        side = {f"{module}.lora_A.weight": 1, f"{module}.lora_B.weight": 0}.get(name.removeprefix(_PREFIX))
        if not matrix or side is None:
            continue
        shape = getattr(getattr(modules.get(module), "weight", None), "shape", None)
        if shape is None or weight.shape[side] not in tuple(shape):
            has = "lacks it" if shape is None else f"has {tuple(shape)} there"
            what = f"is an adapter of another base (`{named}`): its `{module}` is {tuple(weight.shape)}, this one {has}"
            yield Fault(f"{what}; score it with the model that it was trained on", folder)
            return
