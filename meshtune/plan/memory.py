"""What decides the memory of a study's trials, on the machine that is there now. Imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data.assemble import LONGEST
from meshtune.space.space import Space
from meshtune.training.memory.check import Setting, largest_length, unpackable_space
from meshtune.training.memory.formula import Batch, full_batch
from meshtune.training.memory.free import available
from meshtune.training.memory.shape import shape_of
from meshtune.workers.local import Place


def setting_of(
    space: Space,
    model: ModelConfig,
    training: TrainingConfig,
    places: Sequence[Place],
    batch: Callable[[int], Batch],
    *,
    baseline: Mapping[str, Any] | None = None,
    pack: int = 1,
) -> Setting:
    """What decides the memory of trials in these places, on the machine that is there now; see `Setting`."""
    trainer: str = training.trainer.name
    unpackable = unpackable_space(space, training, baseline) if trainer == "packed" else None
    device = places[0].device
    gpus = Counter(place.environment.get("CUDA_VISIBLE_DEVICES", "") for place in places)
    processes = len(places) if device != "cuda" else max(gpus.values())
    there = available(device, [name for name in gpus if name])
    return Setting(
        shape=shape_of(model),
        training=training,
        device=device,
        dtype=model.dtype,
        batch=batch,
        available=None if there is None else there // processes,
        processes=processes,
        trainer=trainer if unpackable is None else "transformers",
        unpackable=unpackable,
        pack=pack if unpackable is None else 1,
        quantization=model.quantization,
    )


def longest_row(space: Space, model: ModelConfig, training: TrainingConfig, places: Sequence[Place]) -> int | None:
    """The longest row, in tokens, with which the largest trial fits; None where none does, or nothing can be told."""
    if training.trainer.imported is not None:
        return None
    at = setting_of(space, model, training, places, lambda rows: full_batch(rows, 1))
    return largest_length(space, at, LONGEST) or None
