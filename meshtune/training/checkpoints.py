"""Adapters as files in PEFT's format, and on the base.

A folder that has an adapter's name is complete: it is written aside and renamed into place. The base is exactly what
it was once an adapter is taken off it again, also where start weights changed its own (`start_weights.py`).

The header of the weights holds a sum of them and of PEFT's configuration, which others pass over: what was damaged on a
disk or on its way is not used. Adapters without one, of earlier versions or other programs, are taken as they are.

To be used elsewhere an adapter needs more than its weights: a base that its configuration names, and a tokenizer. The
chat template travels with the tokenizer, so that an adapter is asked as it was trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.save_and_load import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import save

from meshtune.data.tokenizer import load_tokenizer
from meshtune.errors import Fault, InputError, StorageError
from meshtune.training.models import embedded_folder, quiet
from meshtune.training.start_weights import Adapter, base_weights, put_back, started

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = ("base_model_name_or_path", "revision")  # in the configuration: which model an adapter is for
SUM = "sha256"  # in the header of the weights


@contextlib.contextmanager
def new_adapter(base: Any, config: LoraConfig, seed: int) -> Iterator[Adapter]:
    """A new adapter on the base, whose start depends on the seed alone; afterwards the base as it was."""
    torch.manual_seed(seed)
    changed = base_weights(base, config)
    try:
        with _on(base, lambda: get_peft_model(base, config)) as model:
            yield started(model, changed)
    finally:
        put_back(base, changed)


@contextlib.contextmanager
def adapted(base: Any, config: LoraConfig, seed: int) -> Iterator[Any]:
    """As `new_adapter`, for who needs PEFT's model alone."""
    with new_adapter(base, config, seed) as adapter:
        yield adapter.model


@contextlib.contextmanager
def attached(base: Any, folder: Path) -> Iterator[Any]:
    """The base with a saved adapter on it, for measuring; afterwards the base as it was.

    Raises InputError where the adapter is damaged.
    """
    check_whole(folder)
    with _on(base, lambda: PeftModel.from_pretrained(base, str(folder))) as model:
        yield model


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a saved adapter, on the CPU. Raises OSError or ValueError where there is no whole one."""
    try:
        weights: dict[str, torch.Tensor] = load_peft_weights(str(folder), device="cpu")
        _compare_sum(folder)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return weights


def check_whole(folder: Path) -> None:
    """Read a saved adapter. Raises InputError where its weights cannot be read."""
    try:
        if not saved(folder):
            raise ValueError("it holds no weights")
    except (OSError, ValueError) as error:
        advice = "remove the folder, and train it again, with `meshtune train STUDY OUT --trial NUMBER` say"
        raise InputError(Fault(f"its adapter is damaged ({error}): {advice}", folder)) from error


def is_whole(folder: Path) -> bool:
    """Whether there is an adapter that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return bool(saved(folder))
    return False


def _compare_sum(folder: Path) -> None:
    """Raise ValueError where an adapter is not what was written, as far as it says what that was."""
    if not (folder / WEIGHTS).is_file():  # another program's, in PEFT's other format
        return
    header, content = _parts((folder / WEIGHTS).read_bytes())
    told = (header.get("__metadata__") or {}).get(SUM)
    if told is not None and told != _sum(folder, header, content):
        raise ValueError(f"{WEIGHTS} or {CONFIG} was changed after meshtune wrote them, their sum differs")


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, which is JSON behind its length, and what follows."""
    end = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:end])
    return header, data[end:]


def _sum(folder: Path, header: Mapping[str, Any], content: bytes) -> str:
    """Of weights and configuration, without what may change: the base is called by another name elsewhere."""
    weights = {name: where for name, where in header.items() if name != "__metadata__"}
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    settings = {name: value for name, value in config.items() if name not in (*BASE, "inference_mode")}
    told = json.dumps([weights, settings], sort_keys=True).encode()
    return hashlib.sha256(told + hashlib.sha256(content).digest()).hexdigest()


def _with_sum(folder: Path, data: bytes) -> bytes:
    """A safetensors file whose header holds the sum."""
    header, content = _parts(data)
    header["__metadata__"][SUM] = _sum(folder, header, content)
    words = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    words += b" " * (-len(words) % 8)  # the format's alignment
    return len(words).to_bytes(8, "little") + words + content


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights on the CPU, named as PEFT's files name them."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in state.items()}


def save_adapter(folder: Path, weights: Mapping[str, torch.Tensor], config: LoraConfig, base: str) -> None:
    """Write an adapter that `PeftModel.from_pretrained` loads over the model `base`; replaces what stands there.

    Raises:
        StorageError: it cannot be written.
    """
    aside = folder.with_name(f".{folder.name}.part")
    config = copy(config)
    config.inference_mode = True
    config.base_model_name_or_path = base
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # the same adapter, the same file
    try:
        for stale in (aside, aside.with_suffix(".old")):  # left by a process that was killed
            if stale.exists():
                shutil.rmtree(stale)
        aside.mkdir(parents=True)
        config.save_pretrained(str(aside))
        (aside / WEIGHTS).write_bytes(_with_sum(aside, save(dict(weights), metadata={"format": "pt"})))
        if folder.exists():
            os.rename(folder, aside.with_suffix(".old"))
        os.rename(aside, folder)
        shutil.rmtree(aside.with_suffix(".old"), ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the adapter cannot be written to {folder}: {error}") from error


@contextlib.contextmanager
def _on(base: Any, put: Callable[[], Any]) -> Iterator[Any]:
    model = None
    try:
        with warnings.catch_warnings():
            # PEFT asks Transformers by a name that is deprecated there; nothing that a user could change.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
            # Of transposed weights PEFT knows by itself.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            model = put()
        yield model
    finally:
        if model is None:
            _take_off(base)
        else:
            model.unload()
        if hasattr(base, "peft_config"):  # PEFT 0.18 leaves it there
            del base.peft_config
        base.requires_grad_(False).eval()


def _take_off(base: Any) -> None:
    """Put the base's own modules back where putting an adapter on failed half-way, for want of memory say."""
    for name, part in list(base.named_modules()):
        if isinstance(part, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, part.get_base_layer())


def base_of(model: ModelConfig) -> str:
    """What loads the base again: a Hub id, a folder, a .gguf file; of the embedded model its folder in the cache."""
    return str(embedded_folder()) if model.name == "embedded" else model.name


def name_base(folder: Path, model: ModelConfig) -> None:
    """Let the adapter in `folder` name its base, at the revision that it was trained over. Raises StorageError."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["base_model_name_or_path"], values["revision"] = base_of(model), model.revision
        path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be rewritten: {error}") from error


def save_tokenizer(folder: Path, model: ModelConfig) -> None:
    """Put the base's tokenizer and chat template into `folder`.

    Raises:
        InputError: the tokenizer cannot be had. StorageError: it cannot be written.
    """
    tokenizer = load_tokenizer(model)
    try:
        with quiet():
            tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise StorageError(f"the tokenizer cannot be written to {folder}: {error}") from error
