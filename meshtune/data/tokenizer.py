"""The tokenizer of a model: embedded, a Hugging Face id, a folder, or a .gguf file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshtune.config import ModelConfig
from meshtune.data import embedded
from meshtune.errors import Fault, InputError


def location(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with: a folder or id, and further arguments.

    The embedded model is read from its converted folder where that is complete, else from the GGUF file.
    """
    if model.name == "embedded":
        converted = embedded.converted_folder()
        if (converted / "config.json").is_file():
            return str(converted), {}
        file = embedded.gguf_file()
        return str(file.parent), {"gguf_file": file.name}
    if model.name.endswith(".gguf"):
        path = Path(model.name)
        if not path.is_file():
            raise InputError(Fault("there is no such file", path, key="model"))
        return str(path.parent), {"gguf_file": path.name}
    arguments: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.revision is not None:
        arguments["revision"] = model.revision
    return model.name, arguments


def load_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer (`transformers.PreTrainedTokenizerBase`). Raises InputError where it cannot be had."""
    import transformers

    name, arguments = location(model)
    with quiet_transformers():
        try:
            return transformers.AutoTokenizer.from_pretrained(name, **arguments)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(Fault(explain(model.name, "tokenizer", error), key="model")) from error


def explain(name: str, what: str, error: Exception) -> str:
    """Why a model or tokenizer cannot be loaded, and what to do."""
    text = str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if "gated" in text or "401" in text or "restricted" in text:
        return f"`{name}` is gated: accept its terms on its page, then log in with `hf auth login`"
    if Path(name).is_dir():
        return f"the folder {name} holds no {what} that Transformers can load ({first})"
    if "trust_remote_code" in text:
        return f"`{name}` needs code of its own: read it, then set `trust_remote_code: true` under `model`"
    if Path(name).is_absolute():
        return f"there is no model folder {name}"
    if any(sign in text for sign in ("offline", "connect", "resolve", "couldn't", "cached", "not a valid model")):
        return (
            f"`{name}` cannot be loaded: it is no folder, and not in the Hugging Face cache, and the hub does not have"
            " it or cannot be reached. Check the id and the network, or give a folder"
        )
    return f"the {what} of `{name}` cannot be loaded ({first})"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences Transformers' warnings and progress bars inside the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
