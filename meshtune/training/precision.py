"""In which precision the products of training are computed, and in which losses are measured.

Training: `auto` takes bfloat16 where the machine has units for it, else float32. Training in bfloat16 keeps weights,
adapters, optimizer and norms in the model's data type; only matrix products are rounded.

Measuring: one precision a study, the base's own, by both trainers and never under autocast. Rounded products move a
loss by up to .03, and unevenly, which training in bfloat16 does not (.002). So it is float32, and a base that does not
fit so is refused by `fits.py` until the config says `model.dtype: bfloat16`, which the record then holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from meshtune.errors import Fault, InputError

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig

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
                raise _fault(precision, "this GPU has no bfloat16; write `float16` or `float32`")
            return "bfloat16"
        case "float16":
            if kind != "cuda":
                raise _fault(
                    precision, f"float16 is for CUDA devices, and this is `{kind}`; write `bfloat16` or `auto`"
                )
            return "float16"
        case _:
            raise _fault(precision, "allowed are auto, float32, bfloat16 and float16")


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


def _fault(precision: str, message: str) -> InputError:
    return InputError(Fault(f"`{precision}` cannot be had: {message}", key="training.precision"))
