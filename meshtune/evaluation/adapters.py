"""The candidates that are scored: adapters over one base, and the base itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, refuse
from meshtune.training.checkpoints import CONFIG, WEIGHTS, attached, saved
from meshtune.training.models import targeted

_PREFIX = "base_model.model."
_NOT_ANSWERS = ("base_model_name_or_path", "revision", "peft_version")  # settings that decide no answer


@dataclass(frozen=True)
class Candidate:
    """What is scored: `name` also names its file of answers; `adapter` is its folder, None for the base alone."""

    name: str
    adapter: Path | None

    @property
    def identity(self) -> str | None:
        """A hash of the adapter's weights and settings. Raises InputError where it is not whole."""
        if self.adapter is None:
            return None
        try:
            settings = {key: value for key, value in _settings(self.adapter).items() if key not in _NOT_ANSWERS}
            content = json.dumps(settings, sort_keys=True).encode() + (self.adapter / WEIGHTS).read_bytes()
        except (OSError, ValueError) as error:
            raise InputError(_no_adapter(self.adapter, error)) from error
        return hashlib.sha256(content).hexdigest()[:16]


def check(candidates: Sequence[Candidate], base: Any) -> None:
    """Refuse adapters that are not of this base, all at once. Raises InputError."""
    faults = [fault for candidate in candidates for fault in _faults(candidate, base)]
    refuse(faults)


@contextlib.contextmanager
def on(base: Any, candidate: Candidate) -> Iterator[Any]:
    """The base with the candidate's adapter on it; afterwards the base as it was."""
    if candidate.adapter is None:
        yield base
    else:
        with attached(base, candidate.adapter) as model:
            yield model


def _settings(folder: Path) -> dict[str, Any]:
    """What PEFT is told of the adapter. Raises OSError, ValueError where it is none of LoRA's."""
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{CONFIG} is no object")
    numbers = [settings.get(key) for key in ("r", "lora_alpha")]
    if settings.get("peft_type") != "LORA" or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{CONFIG} is none of LoRA's")
    return settings


def _no_adapter(folder: Path, error: Exception) -> Fault:
    return Fault(f"holds no whole adapter of PEFT ({error}): remove the folder, and it is trained again", folder)


def _faults(candidate: Candidate, base: Any) -> Iterator[Fault]:
    folder = candidate.adapter
    if folder is None:
        return
    try:
        settings = _settings(folder)
        weights = saved(folder)
    except (OSError, ValueError) as error:
        yield _no_adapter(folder, error)
        return
    advice = "score it with the model that it was trained on"
    # Folders differ between machines, so that their last names alone are compared.
    named = str(settings.get("base_model_name_or_path") or "")
    if named and Path(named).name != Path(base.name_or_path).name:
        what = f"is an adapter of another base, as {CONFIG} says: `{named}`, and this is `{base.name_or_path}`"
        yield Fault(f"{what}; {advice}", folder)
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
            yield Fault(f"{what}; {advice}", folder)
            return
    held = {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in weights}
    if lacking := [name for name in _adapted(settings, base) if name not in held]:
        what = f"holds no weights of {len(lacking):,} of its modules, such as `{lacking[0]}`: is it of a smaller base?"
        yield Fault(f"{what} {advice.capitalize()}", folder)


def _adapted(settings: Mapping[str, Any], base: Any) -> Iterator[str]:
    """The linear layers that its settings name, where they do so by names alone."""
    targets = settings.get("target_modules")
    if isinstance(targets, list) and not any(settings.get(key) for key in ("layers_to_transform", "exclude_modules")):
        yield from (name for name, _ in targeted(base, targets))
