"""The base model: any causal language model of Transformers by Hub id or folder, a GGUF file, or the embedded one.

Weights are float32 unless the config says otherwise, so that losses of two machines can be compared; but on a GPU a
base from about 1B parameters up is bfloat16, which the record then holds. A GGUF file's are dequantized. A model whose
weights are incomplete is refused, never filled up with random ones. Nothing is printed. Models spread over several
devices are not handled here.

Target modules: `all-linear` is every linear layer but the output head. Experts of a mixture are no linear layers:
Transformers holds them as one weight a block. PEFT would leave them out for some models; for others it puts adapters of
other ranks on them and on the router, unasked. So `all-linear` is refused there, and layers beside the experts can be
named.

Precision of training: `auto` takes bfloat16 where the machine has units for it, else float32. Training in bfloat16
keeps weights, adapters, optimizer and norms in the model's data type; only matrix products are rounded. Measuring has
one precision a study, the base's own, by both trainers and never under autocast. Rounded products move a loss by up to
.03, and unevenly, which training in bfloat16 does not (.002). So it is float32, and a base that does not fit so is
refused by `memory/check.py` until the config says `model.dtype: bfloat16`, which the record then holds.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GgufConfig,
)
from transformers.utils import logging

from meshtune.data.embedded import CONVERTED, cache_folder, embedded_gguf
from meshtune.data.hub import explain, hushed
from meshtune.errors import Fault, InputError, StorageError
from meshtune.training import machine
from meshtune.training.quantized import check_quantizable, quantize

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig


from typing import TYPE_CHECKING, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.errors import nearest

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig

LARGE = 900 * 10**6  # parameters: what is called 1B has a little more or less
HUB_SECONDS = 20.0  # in which the hub says anything, where it can be reached
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_CARD = """# SmolLM2-135M-Instruct, dequantized

Made by meshtune from `{name}`, whose 4-bit weights are written out here in float32: they are as exact as that file,
not as the original model.
"""


def resolve_device(model: ModelConfig) -> str:
    """The torch device to compute on: `auto` is `cuda` where there is one, else `cpu`; `mps` only when asked for.

    Not run on a GPU yet.

    Raises:
        InputError: this machine has none.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if model.device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[model.device]:
        why = machine.why_no_cuda() if model.device == "cuda" else None
        what = "torch sees none here" if why is None else why
        raise _fault(f"`{model.device}` was asked for, and {what}; or write `auto` or `cpu`", "device")
    return model.device


def advice(device: str) -> str | None:
    """One sentence where `auto` took a device that is slower than what this machine has; None where all is well."""
    return machine.why_no_cuda() if device == "cpu" else None


def check_model(model: ModelConfig, targets: str | Sequence[str] | None = None, *, here: bool = True) -> None:
    """Refuse a model that cannot be loaded or trained, as far as that can be known without reading weights.

    A model of the Hub that is not in the cache has its configuration fetched, not its weights. With the names of its
    target modules given, or `all-linear`, these are checked too, where the model comes with no code of its own.

    `here`: whether it is to be trained on this machine; if not, a folder needs no weights.
    """
    if model.quantization is not None and here:
        check_quantizable(model.quantization, resolve_device(model))
    if model.name == "embedded" and (targets is None or targets == ALL_LINEAR):
        embedded_gguf()
        return
    name, arguments = _source(model, weights=here)
    if arguments.get("gguf_file"):
        return
    with quiet(), explained(model):
        config = AutoConfig.from_pretrained(name, trust_remote_code=model.trust_remote_code, **arguments)
    known = type(config) in AutoModelForCausalLM._model_mapping
    own = "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if not own:
        _check_kind(name, config, known)
    if known and targets is not None:
        with quiet(), torch.device("meta"):
            check_targets(AutoModelForCausalLM.from_config(config), targets)


def _check_kind(name: str, config: Any, known: bool) -> None:
    """Refuse what the trainer has no rows for: it trains causal language models on text."""
    kind = f"`{name}` is a `{config.model_type}` model"
    # Of some models with a vision part Transformers has the language part as a model of its own, which is trained.
    built = AutoModelForCausalLM._model_mapping[type(config)].config_class if known else type(config)
    senses = [part for part in getattr(built, "sub_configs", {}) if part.startswith(("vision", "audio"))]
    if senses or (not known and type(config) in AutoModelForImageTextToText._model_mapping):
        what = "images or sound" if any(part.startswith("audio") for part in senses) else "images"
        raise _fault(f"{kind}, which reads {what} beside text; such models are not trained here, take a text-only one")
    if getattr(config, "is_encoder_decoder", False):
        raise _fault(f"{kind}, no causal language model but an encoder with a decoder; take one with a decoder only")
    if not known:
        raise _fault(f"{kind}, no causal language model, which LoRA training needs")


def load_model(model: ModelConfig, device: str) -> Any:
    """The model on a device: frozen, in evaluation mode, `name_or_path` set to what loads it again.

    Raises:
        InputError: it cannot be had; the message says why and what to do.
    """
    name, arguments = _source(model)
    dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
    # What is quantized is read as it is published: a model whose float32 weights have no room may be the reason for it.
    read = dtype if model.quantization is None or "gguf_file" in arguments else "auto"
    if model.quantization is None and "gguf_file" not in arguments:
        # Weight by weight to the device, in its type there: the memory of the CPU need not hold the whole model.
        arguments["device_map"] = {"": device}
    with quiet(), contextlib.redirect_stderr(io.StringIO()), explained(model):  # see _convert
        base, told = AutoModelForCausalLM.from_pretrained(
            name, dtype=read, trust_remote_code=model.trust_remote_code, output_loading_info=True, **arguments
        )
    if missing := sorted(told["missing_keys"]):
        raise _fault(f"`{name}` is incomplete: it lacks {len(missing)} weights, such as `{missing[0]}`")
    _forget_quantization(base)
    base.name_or_path = name if "gguf_file" not in arguments else model.name
    base.requires_grad_(False).eval()
    if model.quantization is not None:
        return quantize(base, model.quantization, device=device, dtype=dtype)
    return base.to(device)


def embedded_folder() -> Path:
    """The embedded model as a folder that Transformers loads as it is; converted at the first call (15 s).

    Two processes may call at once: one converts, the other waits. A folder that stands there is complete.

    Raises:
        InputError: the package that holds the model is not installed.
        StorageError: the cache folder cannot be written.
    """
    target = cache_folder() / CONVERTED
    if target.exists():
        return target
    source = embedded_gguf()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.exists():
                aside = target.with_name(target.name + ".part")
                if aside.exists():  # left by a process that was killed: who holds the lock is alone
                    shutil.rmtree(aside)
                _convert(source, aside)
                os.rename(aside, target)
    except OSError as error:
        raise StorageError(
            f"the embedded model cannot be unpacked to {target.parent} (550 MB): {error}; "
            "set MESHTUNE_CACHE to a folder with room"
        ) from error
    return target


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers, its Trainer and the hub without progress bars and warnings, which say nothing that is not handled
    here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with hushed():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _convert(source: Path, folder: Path) -> None:
    arguments: dict[str, Any] = {"gguf_file": source.name, "quantization_config": GgufConfig(dequantize=True)}
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the bar of the GGUF reader cannot be turned off
        base = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **arguments)
        _forget_quantization(base)
        base.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)
    (folder / "README.md").write_text(_CARD.format(name=source.name), encoding="utf-8")


def _forget_quantization(base: Any) -> None:
    """A dequantized model is an ordinary one, but still counts as quantized: it could not be saved or trained."""
    if getattr(base, "hf_quantizer", None) is None or base.config.quantization_config.quant_method != "gguf":
        return
    del base.hf_quantizer, base.config.quantization_config
    for name in ("is_quantized", "quantization_method"):
        if hasattr(base, name):
            delattr(base, name)


def _source(model: ModelConfig, weights: bool = True) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes. Looks at local files only."""
    if model.name == "embedded":
        return str(embedded_folder()), {}
    path = Path(model.name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise _fault(f"there is no file `{path}`")
        return str(path.parent), {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise _fault(f"the folder `{path}` holds no model: it has no config.json")
        if weights and not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
            raise _fault(f"the folder `{path}` holds no weights: no {' or '.join(_WEIGHTS)}")
        return str(path), {}
    if path.is_absolute() or model.name.startswith((".", "~")):
        raise _fault(f"there is no folder `{path}`")
    reach_hub(model)
    return model.name, {"revision": model.revision} if model.revision is not None else {}


def reach_hub(model: ModelConfig) -> None:
    """Refuse at once a model that is neither in the cache nor can be fetched: the libraries would try for a minute."""
    with explained(model):
        if constants.is_offline_mode() or try_to_load_from_cache(model.name, "config.json", revision=model.revision):
            return
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    # Whatever the library below raises where there is no network, no name, no proxy or no certificate.
    except Exception as error:
        unreachable = LocalEntryNotFoundError(str(error))
        raise InputError(explain(unreachable, model.name, "model", "model.name")) from error


@contextlib.contextmanager
def explained(model: ModelConfig) -> Iterator[None]:
    """What goes wrong inside `from_pretrained`, as one message for the user."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:  # the hub's errors are OSErrors, and wrapped in such
        if "trust_remote_code" in str(error):
            text = f"`{model.name}` comes with code of its own; if you trust it, write `trust_remote_code: true` there"
            raise _fault(text, "trust_remote_code") from error
        raise InputError(explain(error, model.name, "model", "model.name")) from error


def _fault(message: str, key: str = "name") -> InputError:
    return InputError(Fault(message, key=f"model.{key}"))


ALL_LINEAR = "all-linear"


def check_targets(base: Any, targets: str | Sequence[str]) -> None:
    """Refuse targets that the model, whose weights may be on the meta device, does not have.

    Raises:
        InputError: with every name that is not there, or with what to name instead.
    """
    found = [name for name, part in base.named_modules() if isinstance(part, nn.Linear | nn.Embedding | Conv1D)]
    known = sorted({name.rpartition(".")[2] for name in found})
    experts = [name for name, weight in base.named_parameters() if weight.dim() > 2 and "expert" in name]
    if targets == ALL_LINEAR:
        if experts:
            linear = ", ".join(sorted({name.rpartition(".")[2] for name, _ in targeted(base, ALL_LINEAR)}))
            text = f"cannot be had for a mixture of experts, whose experts (`{experts[0]}`) are no linear layers"
            raise InputError(Fault(f"`all-linear` {text}; name the layers to adapt, of {linear}", key="target_modules"))
        return
    text = f"it has {', '.join(known)}" + ("" if experts else ", or write all-linear")
    missing = [t for t in targets if not any(_fits(name, t) for name in found)]
    if missing:
        raise InputError(
            [Fault(f"the model has no module `{t}`; {text}.{nearest(t, known)}", key="target_modules") for t in missing]
        )
    if not targets:
        raise InputError(Fault(f"no target module is named; {text}", key="target_modules"))


def targeted(base: Any, targets: str | Sequence[str]) -> list[tuple[str, Any]]:
    """Name and module of every linear layer that PEFT puts an adapter on."""
    linears = [(name, part) for name, part in base.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    if targets == ALL_LINEAR:
        head = base.get_output_embeddings()
        return [(name, part) for name, part in linears if part is not head]
    return [(name, part) for name, part in linears if any(_fits(name, t) for t in targets)]


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


Precision = Literal["float32", "bfloat16", "float16"]


def resolve_precision(precision: str, device: str) -> Precision:
    """The precision that a config's `training.precision` means on a device.

    Not run on a GPU yet.

    Raises:
        InputError: the device cannot compute in it.
    """
    kind = torch.device(device).type
    match precision:
        case "float32":
            return "float32"
        case "auto":
            return "bfloat16" if _fast_bfloat16(kind) else "float32"
        case "bfloat16":
            if kind == "cuda" and not torch.cuda.is_bf16_supported():
                raise _no_precision(precision, "this GPU has no bfloat16; write `float16` or `float32`")
            return "bfloat16"
        case "float16":
            if kind != "cuda":
                raise _no_precision(
                    precision, f"float16 is for CUDA devices, and this is `{kind}`; write `bfloat16` or `auto`"
                )
            return "float16"
        case _:
            raise _no_precision(precision, "allowed are auto, float32, bfloat16 and float16")


def in_its_type(
    model: ModelConfig, device: str, precision: str, parameters: int, begun: str | None = None
) -> ModelConfig:
    """The model with the data type that `dtype: auto` means; `auto` still where that is float32.

    That is bfloat16 for a large base on a GPU that trains in bfloat16: in float32 it would take three times the memory,
    since products read a copy.

    Args:
        precision: of training. parameters: of the model. begun: the type that a study has which has begun.
    """
    if model.dtype != "auto":
        return model
    large = device == "cuda" and precision == "bfloat16" and begun is None and parameters >= LARGE
    return model.model_copy(update={"dtype": begun or ("bfloat16" if large else "auto")})


def exact(model: ModelConfig) -> ModelConfig:
    """The same model with all its weights in float32."""
    return model.model_copy(update={"dtype": "float32", "quantization": None})


def validation_precision(model: ModelConfig) -> str:
    """The precision in which a study measures all its losses: the base's own, such as `float32 over nf4`."""
    dtype = "float32" if model.dtype == "auto" else model.dtype
    return dtype if model.quantization is None else f"{dtype} over {model.quantization}"


def _fast_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these units a CPU emulates bfloat16, slower than float32. Some Arm CPUs have them; torch does not tell.
    return kind == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _no_precision(precision: str, message: str) -> InputError:
    return InputError(Fault(f"`{precision}` cannot be had: {message}", key="training.precision"))
