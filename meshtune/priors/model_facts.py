"""The hidden size and the family of a model, out of its config.json: a folder, the hub's cache on this machine, or the
embedded model. Nothing is fetched, and no library is loaded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.priors.runs import family_of

EMBEDDED = (576, "smollm2")
EMBEDDED_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_facts(name: str) -> tuple[int, str]:
    """Hidden size and family, `other` where it is none of `runs.FAMILIES`. Raises InputError, which says why not."""
    if name == "embedded":
        return EMBEDDED
    path = _config(name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(Fault(f"the model's config cannot be read ({error})", path, key="model")) from error
    inner = config.get("text_config", config) if isinstance(config, dict) else {}
    size = _first(inner, config)
    if size is None:
        raise InputError(Fault("the model's config has no hidden size", path, key="model"))
    return size, _family(name, config)


def _first(*configs: Any) -> int | None:
    for config in configs:
        for key in ("hidden_size", "n_embd", "d_model") if isinstance(config, dict) else ():
            if isinstance(config.get(key), int) and config[key] > 0:
                return int(config[key])
    return None


def _family(name: str, config: Any) -> str:
    """By the model's own name, which tells the generation, else by its config's kind."""
    names = (
        [config.get("_name_or_path", ""), name, config.get("model_type", "")] if isinstance(config, dict) else [name]
    )
    for word in names:
        last = str(word).rstrip("/").rpartition("/")[2]
        if (family := family_of(last.replace("Meta-", ""))) is not None:
            return family
    return "other"


def _config(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        return path / "config.json"
    if path.is_file() or path.suffix == ".gguf":
        raise InputError(Fault(f"`{name}` is no folder with a config.json", key="model"))
    root = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", root / "hub"))
    found = sorted(
        (hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json"),
        key=lambda each: each.stat().st_mtime,
    )
    if not found:
        what = f"there is no folder `{name}`, and the hub's cache on this machine has no such model"
        raise InputError(Fault(what, key="model"))
    return found[-1]
