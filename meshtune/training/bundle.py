"""What an adapter needs beside its weights to be used elsewhere: a base that its configuration names, and a tokenizer.

The chat template travels with the tokenizer, so that an adapter is asked as it was trained.
"""

from __future__ import annotations

import json
from pathlib import Path

from meshtune.config.sections import ModelConfig
from meshtune.data.tokenizer import load_tokenizer
from meshtune.errors import StorageError
from meshtune.training.models import embedded_folder, quiet

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


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
