"""The tokenizer of a model, wherever the model comes from. The only file here that imports transformers.

Guarantees: every way in which it cannot be loaded is an InputError that says what to do. Does not load weights.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.data.embedded import CONVERTED, cache_folder, embedded_gguf
from meshtune.data.hub import explain, hushed
from meshtune.errors import Fault, InputError, MissingExtra, extra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from meshtune.config.sections import ModelConfig

# What decides the tokens, among the files of a model's folder.
_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")


def location(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` of transformers is to be given: the name or folder, and further arguments.

    Raises InputError where a folder or file that was named does not exist, or the embedded model is not installed.
    """
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.name == "embedded":
        converted = cache_folder() / CONVERTED
        path = converted if converted.exists() else embedded_gguf()
    else:
        path = Path(model.name)
        if not path.exists() and (path.is_absolute() or path.suffix == ".gguf"):
            raise InputError(Fault("there is no such model folder or file", path, key="model"))
    if path.is_file():
        return str(path.parent), {**options, "gguf_file": path.name}
    return (str(path), options) if path.exists() else (model.name, {**options, "revision": model.revision})


def identity(model: ModelConfig) -> str:
    """What decides the model's tokens, without loading it: a folder's tokenizer files, a file's name and size, or id.

    A model of the hub is taken as unchanged under the same id and revision.
    """
    if model.name == "embedded":
        return CONVERTED
    name, options = location(model)
    folder = Path(name)
    if file := options.get("gguf_file"):
        return f"gguf:{file}:{(folder / file).stat().st_size}"
    if folder.is_dir():
        content = hashlib.sha256()
        for path in sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}):
            content.update(path.name.encode() + path.read_bytes())
        return f"folder:{content.hexdigest()}"
    return f"hub:{name}@{model.revision or 'main'}"


def identity_of_base(model: ModelConfig) -> str:
    """What decides the model's answers, without loading it: tokens, configuration, weights, and how they are loaded.

    Of a file its size and 256 pieces of 64 KiB, spread evenly, stand for all of it. A model of the hub is taken as
    unchanged under the same id and revision.
    """
    parts = [identity(model), model.dtype, *filter(None, [model.quantization])]
    name, options = location(model)
    if model.name != "embedded" and (folder := Path(name)).is_dir():
        content, file = hashlib.sha256(), options.get("gguf_file")
        files = {path for pattern in ("*config.json", "*.safetensors", "*.bin") for path in folder.glob(pattern)}
        for path in [folder / file] if file else sorted(files):
            content.update(path.name.encode() + _pieces(path))
        parts.append(content.hexdigest()[:16])
    return " ".join(parts)


def _pieces(path: Path, pieces: int = 256, size: int = 2**16) -> bytes:
    total = path.stat().st_size
    found = [str(total).encode()]
    with path.open("rb") as file:
        for place in range(0, total, max(size, total // pieces)):
            file.seek(place)
            found.append(file.read(size))
    return b"".join(found)


def has_tokenizer(model: ModelConfig) -> bool:
    """False for a folder without any file of a tokenizer."""
    name, options = location(model)
    folder = Path(name)
    if not folder.is_dir() or "gguf_file" in options:
        return True
    return any(path.is_file() for pattern in _FILES for path in folder.glob(pattern))


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises InputError where it cannot be had."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra("tokenizing", "transformers", extra("train")) from error
    name, options = location(model)
    try:
        with hushed():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
    # transformers raises errors of many unrelated families for one cause; all become the same kind of message.
    except Exception as error:
        if Path(name).is_dir() and "gguf_file" not in options:
            raise InputError(_folder_fault(model, Path(name), error)) from error
        raise InputError(explain(error, model.name, "model", key="model")) from error
    return tokenizer


def _folder_fault(model: ModelConfig, folder: Path, error: Exception) -> Fault:
    if not has_tokenizer(model):
        what = (
            "the folder holds no tokenizer (tokenizer.json or tokenizer.model): copy the model's tokenizer files to it"
        )
    else:
        what = f"its tokenizer cannot be loaded: {' '.join(str(error).split())[:500]}"
    return Fault(what, folder, key="model")


def window(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest sequence that the model was made for, as its configuration and its tokenizer say; None: not said."""
    from transformers import AutoConfig

    name, options = location(model)
    if Path(name).is_dir() and "gguf_file" not in options and not (Path(name) / "config.json").exists():
        return _sane(tokenizer.model_max_length)
    try:
        with hushed():
            config = AutoConfig.from_pretrained(name, **options)
    # The same families as above.
    except Exception as error:
        raise InputError(explain(error, model.name, "model", key="model")) from error
    text = config.get_text_config()
    limits = [_sane(getattr(text, "max_position_embeddings", None)), _sane(tokenizer.model_max_length)]
    return min((limit for limit in limits if limit), default=None)


def _sane(limit: int | None) -> int | None:
    """Tokenizers without a limit say 1e30, and positions without one 0 or -1."""
    return limit if limit is not None and 0 < limit < 10**9 else None
