"""A frozen base whose linear layers keep their weights in int8 or nf4; all but the output head.

What is kept is what bitsandbytes keeps: `int8` has one scale for each output (LLM.int8, Dettmers et al. 2022,
arXiv:2208.07339), `nf4` one for each 64 weights (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), without double
quantization. So weights are those that Transformers loads with `load_in_8bit` or with `load_in_4bit` and `nf4`.

What is computed is not bitsandbytes': its int8 layers round their inputs too, and on a CPU its 4-bit layers are
repacked in place, so that losses would depend on what computes them. Here a product takes its input as it is and the
weight written out in the type of the product, on every device, in both trainers and in validation. A weight is written
out for one product, used for all rows of the pass, whosever they are, and forgotten: once forward and once backward.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.errors import Fault, InputError, MissingExtra, extra

Quantization = Literal["int8", "nf4"]
BLOCK = 64  # weights of nf4 with one scale
INSTALL = extra("gpu")


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in few bits.

    Args:
        module: `nn.Linear` or `Conv1D`, whose weight is read and whose bias is shared.
        dtype: of the base, in which `weight` is given. device: where the weight shall lie.
    """

    codes: torch.Tensor
    scales: torch.Tensor

    def __init__(self, module: Any, quantization: Quantization, dtype: torch.dtype, device: str | torch.device):
        nn.Module.__init__(self)
        self.transposed = isinstance(module, Conv1D)
        weight = (module.weight.t() if self.transposed else module.weight).detach().to(device).contiguous()
        self.out_features, self.in_features = weight.shape
        self.quantization, self.dtype = quantization, dtype
        codes, scales = _quantized(weight, quantization)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_parameter("bias", module.bias)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight written out: (outputs, inputs)."""
        if self.quantization == "int8":
            return self.codes.to(dtype).mul_(self.scales)
        from bitsandbytes.functional import QuantState, dequantize_4bit

        shape = torch.Size((self.out_features, self.in_features))
        state = QuantState(self.scales, shape=shape, dtype=dtype, blocksize=BLOCK, quant_type=self.quantization)
        weight: torch.Tensor = dequantize_4bit(self.codes, state)
        return weight

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight written out anew; what is written to it is lost."""
        return self.dequantized(self.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs), in the input's type, or autocast's."""
        device = input.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        output: torch.Tensor = _Product.apply(input, self, kind)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(kind)

    def plain(self) -> nn.Module:
        """The layer as it was, with the weight written out."""
        if self.transposed:
            layer: Any = Conv1D(self.out_features, self.in_features)
            weight = self.weight.t().contiguous()
        else:
            layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
            weight = self.weight
        layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), self.bias
        return layer  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """Keeps no weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: QuantizedLinear, kind: torch.dtype) -> torch.Tensor:
        ctx.layer, ctx.kind, ctx.dtype = layer, kind, rows.dtype
        return rows.to(kind) @ layer.dequantized(kind).t()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return (grads[0].to(ctx.kind) @ ctx.layer.dequantized(ctx.kind)).to(ctx.dtype), None, None


def check_quantizable(quantization: Quantization, device: str) -> None:
    """Refuse what cannot be had on this machine.

    Raises:
        MissingExtra: bitsandbytes is not installed. InputError: the device has no kernels for it.
    """
    if device.startswith("mps"):
        text = f"`{quantization}` can be had on CPUs and CUDA devices, not on mps; write `device: cpu` or leave it out"
        raise InputError(Fault(text, key="model.quantization"))
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(f"a base in {quantization}", "bitsandbytes", INSTALL)


def quantize(base: Any, quantization: Quantization, *, device: str, dtype: torch.dtype) -> Any:
    """The model with its linear layers, but for the output head, in few bits, and the rest in `dtype`; in place.

    Layer by layer, each on the device: what is not quantized yet stays where it is.

    Raises:
        InputError: the model is quantized already, or most of it is no linear layer.
        MissingExtra: bitsandbytes is not installed.
    """
    check_quantizable(quantization, device)
    if getattr(base, "is_quantized", False):
        raise _fault(quantization, "its weights are quantized as they are published: leave `quantization` out")
    if any(weight.dim() > 2 and "expert" in name for name, weight in base.named_parameters()):
        raise _fault(quantization, "it is a mixture of experts, which are no linear layers: leave `quantization` out")
    head = base.get_output_embeddings()
    for name, part in list(base.named_modules()):
        if type(part) in (nn.Linear, Conv1D) and part is not head:
            _replace(base, name, QuantizedLinear(part, quantization, dtype, device))
    for weight in base.parameters():  # as copies: else the whole file that they were read from stays in memory
        weight.data = weight.data.to(device, dtype, copy=True)
    return base.to(device)


def dequantize(base: Any) -> Any:
    """The model with its weights written out in its own type, as an ordinary one; in place."""
    for name, part in list(base.named_modules()):
        if isinstance(part, QuantizedLinear):
            _replace(base, name, part.plain())
    return base


def _replace(base: Any, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(base.get_submodule(parent), child, layer)


def _quantized(weight: torch.Tensor, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales: int8 (outputs, inputs) and (outputs, 1); or bytes of two codes each, and one a block."""
    from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit

    if quantization == "int8":
        codes, largest, _ = int8_vectorwise_quant(weight.half())
        return codes, (largest / 127)[:, None]
    codes, state = quantize_4bit(weight.float(), blocksize=BLOCK, quant_type=quantization)
    return codes, state.absmax


def _fault(quantization: Quantization, why: str) -> InputError:
    return InputError(Fault(f"the model cannot be had in {quantization}: {why}", key="model.quantization"))
