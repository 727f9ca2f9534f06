"""The optimizer of an adapter where it is not AdamW with one rate, the same for both trainers.

- LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B's rate is `lora_plus_ratio` times A's. Which weights count as B's is as
  in PEFT's `create_loraplus_optimizer`: those of B, and vectors (DoRA's magnitudes).
- `adamw_8bit`: bitsandbytes' AdamW, whose moments have eight bits in blocks of 256 numbers (Dettmers et al. 2022,
  arXiv:2110.02861). Matrices of fewer than 4,096 numbers keep them in float32. It runs on CPUs too.
- `muon` (Jordan et al. 2024): momentum, whose matrices A and B are made orthogonal one by one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch

from meshtune.errors import Fault, InputError, MissingExtra, extra
from meshtune.training.recipe import NO_VECTORS, Recipe

MOMENTUM, STEPS, NEWTON_SCHULZ = 0.95, 5, (3.4445, -4.7750, 2.0315)  # as in torch.optim.Muon
RMS = 0.2  # of AdamW's steps, which Muon's are scaled to (Liu et al. 2025, arXiv:2502.16982), so that its rates serve
EPSILON = 1e-7


def is_usual(recipe: Recipe) -> bool:
    """Whether it is AdamW with one rate, of which each trainer has its own."""
    return recipe.optimizer == "adamw" and recipe.lora_plus_ratio == 1


def optimizer_of(weights: Iterable[tuple[str, torch.nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """An optimizer over weights, which are named as PEFT names them.

    Raises MissingExtra where bitsandbytes is needed and not installed.
    """
    of_a, of_b = list[torch.nn.Parameter](), list[torch.nn.Parameter]()
    for name, weight in weights:
        (of_b if "lora_B" in name or weight.ndim == 1 else of_a).append(weight)
    rates = (recipe.learning_rate, recipe.learning_rate * recipe.lora_plus_ratio)
    groups = [{"params": own, "lr": rate} for own, rate in zip((of_a, of_b), rates, strict=True) if own]
    match recipe.optimizer:
        case "muon":
            return Muon(groups, recipe.learning_rate, recipe.weight_decay)
        case "adamw_8bit":
            check_optimizers((recipe.optimizer,), (), here=True)
            from bitsandbytes.optim import AdamW8bit

            made: torch.optim.Optimizer = AdamW8bit(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)
            return made
        case _:
            return torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def check_optimizers(optimizers: Sequence[str], dora: Sequence[bool], *, here: bool) -> None:
    """Refuse what cannot be had: `optimizers`, and values of `use_dora`, that trials may have.

    `here`: whether they are trained on this machine. Raises InputError, MissingExtra where bitsandbytes is needed.
    """
    if "muon" in optimizers and True in dora:
        raise InputError(Fault(NO_VECTORS, key="training.optimizer"))
    if here and "adamw_8bit" in optimizers and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("`optimizer: adamw_8bit`", "bitsandbytes", extra("gpu"))


class Muon(torch.optim.Optimizer):
    """As `torch.optim.Muon` with `match_rms_adamw`, in float32 throughout, many matrices at a time.

    In bfloat16, as there, steps of nearly the same gradients would differ, and so would a trial alone and in a pack.
    """

    def __init__(self, groups: list[dict[str, Any]], rate: float, weight_decay: float):
        super().__init__(groups, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            pairs = [(weight, weight.grad) for weight in group["params"] if weight.grad is not None]
            for shape, alike in groupby(sorted(pairs, key=lambda x: tuple(x[0].shape)), key=lambda x: x[0].shape):
                self._step(list(alike), shape, group["lr"], group["weight_decay"])

    def _step(
        self, pairs: list[tuple[torch.Tensor, torch.Tensor]], shape: torch.Size, rate: float, decay: float
    ) -> None:
        momenta = []
        for weight, gradient in pairs:
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
            momenta.append(torch.lerp(gradient, momentum, MOMENTUM))  # Nesterov's
        rate_here = rate * RMS * max(shape) ** 0.5
        for (weight, _), step in zip(pairs, orthogonal(torch.stack(momenta)), strict=True):
            weight.mul_(1 - rate * decay).add_(step, alpha=-rate_here)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(count, rows, columns): near to the orthogonal matrix that is next to each, by Newton and Schulz's iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    found: torch.Tensor = matrices.mT if tall else matrices
    found = found / torch.linalg.matrix_norm(found, keepdim=True).clamp(min=EPSILON)
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.mT if tall else found
