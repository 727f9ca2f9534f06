"""Start weights that change the base: PiSSA and OLoRA take a part of each weight out of the base and train it.

Their adapter alone, over the base as its authors publish it, would be wrong. What is measured and saved here is the
ordinary adapter that equals it: with the trained product `s B A` and the first one `s B0 A0`, the base's part being
`W - s B0 A0`, the difference to W is `s (B A - B0 A0)`, an adapter of twice the rank (PEFT's conversion, held to the
original weights instead of the rounded remainder). A copy of the changed weights is kept on the CPU meanwhile.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from meshtune.training.models import targeted
from meshtune.training.recipe import CHANGING

ADAPTER = "default"


@dataclass(frozen=True)
class Adapter:
    """An adapter on its base.

    Attributes:
        model: PEFT's. changed: by module the base's original weights, where the start weights changed them, on the CPU.
        first: by module A and B as they started, where the base was changed.
    """

    model: Any
    changed: Mapping[str, torch.Tensor] = field(default_factory=dict)
    first: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def saved_config(self) -> LoraConfig:
        """PEFT's configuration of the adapter as it is saved."""
        config = copy(self.model.peft_config[ADAPTER])
        if self.changed:
            config.r = 2 * config.r
            config.lora_alpha = config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)  # the scale stays
            config.init_lora_weights = True  # else loading it would change the base again
        return config


def base_weights(base: Any, config: LoraConfig) -> dict[str, torch.Tensor]:
    """Copies on the CPU of the weights that the start weights of a configuration will change; by module's name."""
    if config.init_lora_weights not in CHANGING:
        return {}
    return {name: part.weight.detach().to("cpu", copy=True) for name, part in targeted(base, config.target_modules)}


def started(model: Any, changed: Mapping[str, torch.Tensor]) -> Adapter:
    """The adapter just made, whose weights are still its first ones."""
    layers = model.get_base_model().get_submodule
    first = {name: tuple(weight.detach().clone() for weight in _weights(layers(name))) for name in changed}
    return Adapter(model, changed, first)


@torch.no_grad()
def put_back(base: Any, changed: Mapping[str, torch.Tensor]) -> None:
    """Make the changed weights of a base without an adapter what they were, bit by bit."""
    for name, weight in changed.items():
        base.get_submodule(name).weight.copy_(weight)


@contextlib.contextmanager
def as_saved(adapter: Adapter) -> Iterator[None]:
    """The adapter as it is saved, over the original base; afterwards as it is trained. Nothing may be trained inside.

    Without changed weights there is no difference, and nothing is done.
    """
    base = adapter.model.get_base_model()
    trained = {}
    with torch.no_grad():
        for name, original in adapter.changed.items():
            layer = base.get_submodule(name)
            a, b = _weights(layer)
            weight = layer.get_base_layer().weight
            trained[name] = weight.detach().to("cpu", copy=True), a.data, b.data
            weight.copy_(original)
            a0, b0 = adapter.first[name]
            rank = 2 * adapter.model.peft_config[ADAPTER].r  # more than there is where the layer is narrower
            a.data = nn.functional.pad(torch.cat([a, a0]), (0, 0, 0, rank - 2 * len(a)))
            b.data = nn.functional.pad(torch.cat([b, -b0], 1), (0, rank - 2 * b.shape[1]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, (residual, a_data, b_data) in trained.items():
                layer = base.get_submodule(name)
                a, b = _weights(layer)
                layer.get_base_layer().weight.copy_(residual)
                a.data, b.data = a_data, b_data


def _weights(layer: LoraLayer) -> tuple[Any, Any]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
