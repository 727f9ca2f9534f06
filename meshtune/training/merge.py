"""An adapter merged into its base: a full model in a folder that plain Transformers loads, and its loss again.

Weights stay in the data type that the base was loaded in. Those that it keeps in few bits are written out before:
merged is the base that the adapter was trained and measured over, not the one that was published. What is measured
is the model as it was written, loaded anew. The whole model is in memory, once at a time.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from meshtune.config.sections import ModelConfig
from meshtune.errors import MeshtuneError, StorageError
from meshtune.training import machine
from meshtune.training.checkpoints import attached, check_whole
from meshtune.training.loss import RowSet, mean_loss, row_losses
from meshtune.training.models import load_model, quiet
from meshtune.training.quantized import dequantize


@dataclass(frozen=True)
class Merged:
    """The losses of the same rows: the merged model's, and the adapter's before; None where nothing was measured."""

    loss: float | None
    adapter_loss: float | None


def merge(
    model: ModelConfig,
    adapter: Path,
    folder: Path,
    *,
    device: str,
    rows: RowSet | None,
    adapter_loss: float | None,
    report: Callable[[str], None],
) -> Merged:
    """Write base and adapter as one model into `folder`, which exists.

    Args:
        rows: to measure the merged model on; None: it is not measured.
        adapter_loss: the adapter's loss on these rows; None: it is measured first.

    Raises:
        InputError: the base cannot be had. StorageError: a full disk. MeshtuneError: the merged weights are not finite.
    """
    check_whole(adapter)
    report("loading the base model")
    base = load_model(model, device)
    if rows is not None and adapter_loss is None:
        report("measuring the adapter")
        with attached(base, adapter):
            adapter_loss = mean_loss(row_losses(base, rows))
    report("merging")
    merged = _merged(dequantize(base), adapter)
    _name(merged, model)
    _write(merged, folder)
    _copy_code(model, folder)
    del base, merged
    machine.free(device)
    if rows is None:
        return Merged(None, None)
    report("measuring the merged model")
    with quiet():
        again = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto", trust_remote_code=model.trust_remote_code
        )
    return Merged(mean_loss(row_losses(again.to(device), rows)), adapter_loss)


def _merged(base: Any, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        on_base = PeftModel.from_pretrained(base, str(adapter))
    try:
        return on_base.merge_and_unload(safe_merge=True)
    except ValueError as error:  # what PEFT raises where a merged weight is not finite
        raise MeshtuneError(f"{adapter} cannot be merged into its base: {error}") from error


def _name(merged: Any, model: ModelConfig) -> None:
    """Let the configuration say what the base was, and hold no path of this machine."""
    merged.name_or_path = "" if Path(model.name).is_absolute() or model.name == "embedded" else model.name
    merged.config._name_or_path = merged.name_or_path


def _write(merged: Any, folder: Path) -> None:
    if not _writable(merged.generation_config):
        # Several models come with sampling values and without the flag that they are for; Transformers loads such a
        # configuration, but refuses to write it.
        merged.generation_config.do_sample = True
    try:
        with quiet():
            merged.save_pretrained(str(folder))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the merged model cannot be written to {folder}: {error}") from error


def _writable(generation: Any) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True


def _copy_code(model: ModelConfig, folder: Path) -> None:
    """A folder's own model code, which the configuration names, travels along."""
    if model.trust_remote_code and Path(model.name).is_dir():
        for path in Path(model.name).glob("*.py"):
            shutil.copy2(path, folder)
