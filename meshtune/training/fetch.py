"""Brings a model's weights to this machine without loading them: for `meshtune prepare` on a login node.

Guarantees: afterwards `load_model` finds everything in the local caches, with HF_HUB_OFFLINE too; a second call fetches
nothing. A cache that holds a part of the weights only, and no network, is an error and not a later surprise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from meshtune.config.sections import ModelConfig
from meshtune.data.hub import explain
from meshtune.errors import Fault, InputError
from meshtune.training.models import embedded_folder, quiet

# Of a repository's top folder: below it lie other formats of the same weights.
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_NOT = ["*/*", "consolidated*", "*.fp16.*", "*.bf16.*"]  # further copies of the same weights
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Fetched:
    """Where a model lies on this machine, and how many bytes it takes."""

    place: Path
    size: int


def fetch(model: ModelConfig) -> Fetched:
    """Have the model here: fetched from the hub, converted where it is the embedded one, or found where it is named.

    Raises InputError where it cannot be had, with what to do.
    """
    if model.name == "embedded":
        place = embedded_folder()
    elif Path(model.name).exists():
        place = Path(model.name)
    else:
        place = _snapshot(model)
    return Fetched(place, size_of(place))


def hub_folder() -> Path:
    """Where the libraries of Hugging Face keep what they fetch (HF_HOME)."""
    return Path(constants.HF_HOME)


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())


def _snapshot(model: ModelConfig) -> Path:
    files = [*_FILES, *(["*.py"] if model.trust_remote_code else [])]
    try:
        with quiet():
            for weights in ("*.safetensors", "pytorch_model*.bin"):
                place = Path(
                    snapshot_download(
                        model.name, revision=model.revision, allow_patterns=[*files, weights], ignore_patterns=_NOT
                    )
                )
                if _whole(place):
                    return place
    except (OSError, ValueError) as error:  # the hub's errors are of these two
        raise InputError(explain(error, model.name, "model", "model.name")) from error
    raise InputError(
        Fault(
            f"of the model `{model.name}` only a part is in the local cache ({place}), or it has no weights in"
            " safetensors or PyTorch's format: run this again where the Hugging Face hub can be reached",
            key="model.name",
        )
    )


def _whole(folder: Path) -> bool:
    """Whether all weights are there. Without network the hub's library gives what it has, be it a part."""
    for name in _INDEXES:
        if (folder / name).is_file():
            shards = set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values())
            if all((folder / shard).is_file() for shard in shards):
                return True
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
