"""What cannot be trained in a pack, said before anything is changed; such a recipe is for the `transformers` trainer.

What only shows when a model runs (a mask of its own, rows that leak into each other) is found by `base.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.training.models import ALL_LINEAR, targeted
from meshtune.training.quantized import QuantizedLinear
from meshtune.training.recipe import Recipe

STARTS = (True, False, "gaussian", "orthogonal")  # which leave the base as it is


class Unpackable(Exception):
    """A model or a recipe that the packed trainer does not train; `reason` says why, as the rest of a sentence."""

    def __init__(self, reason: str):
        super().__init__(f"cannot be trained in a pack: {reason}")
        self.reason = reason


def check_packable(base: Any, recipes: Sequence[Recipe]) -> None:
    """Refuse what cannot be packed, as far as it can be known without running the model.

    Raises:
        Unpackable: with the first reason found.
    """
    _check_base(base)
    for recipe in recipes:
        _check_recipe(base, recipe)
    if len({(recipe.precision, recipe.gradient_checkpointing, recipe.pass_tokens) for recipe in recipes}) > 1:
        raise Unpackable("its adapters differ in precision, gradient checkpointing or tokens of a pass")


def _check_base(base: Any) -> None:
    if getattr(base, "is_quantized", False):
        raise Unpackable("the base is published quantized")
    if base.dtype not in (torch.float32, torch.bfloat16):
        raise Unpackable(f"the base's weights are {str(base.dtype).removeprefix('torch.')}")


def of_expert(name: str) -> bool:
    """Whether a module belongs to an expert, which is given other rows than those of the batch.

    Experts are computed by the base alone. Shared ones, which are given all rows, are no experts here.
    """
    return ".experts." in name


def unpackable_values(recipe: Recipe) -> str | None:
    """Why a recipe cannot be packed over any base; None where its values do not forbid it."""
    if recipe.use_dora:
        return "DoRA needs the norms of merged weights"
    if recipe.init_lora_weights not in STARTS:
        return f"the start weights `{recipe.init_lora_weights}` change the base"
    if recipe.precision == "float16":
        return "float16 needs a gradient scaler"
    return None


def _check_recipe(base: Any, recipe: Recipe) -> None:
    reason = unpackable_values(recipe)
    if reason is not None:
        raise Unpackable(reason)
    head = base.get_output_embeddings()
    for name, part in targeted(base, recipe.target_modules):
        if part is head:
            raise Unpackable(f"an adapter on the output head (`{name}`)")
        if of_expert(name):
            raise Unpackable(f"an adapter on an expert (`{name}`)")
        if type(part) not in (nn.Linear, Conv1D, QuantizedLinear):
            raise Unpackable(f"`{name}` is a linear layer of its own kind, {type(part).__name__}")
    if recipe.target_modules != ALL_LINEAR:
        for name, part in base.named_modules():
            if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in recipe.target_modules:
                raise Unpackable(f"an adapter on the embedding `{name}`")
