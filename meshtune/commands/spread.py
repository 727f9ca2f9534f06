"""How the trials of a study are spread over this machine: processes, and packs in each. Imports torch.

Numbers come from the predicted memory of the study's largest trial and from the rows; `workers.planner` decides.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from meshtune.commands.spending import setting
from meshtune.config import StudyConfig
from meshtune.space import Space
from meshtune.training.chosen_trainer import DECIDING
from meshtune.training.fits import largest
from meshtune.workers.places import cores, places
from meshtune.workers.planner import Packing, cpu_processes, packing

if TYPE_CHECKING:
    from meshtune.commands.prepared import Prepared


def spread(prepared: Prepared, config: StudyConfig) -> Prepared:
    """The same study in as many processes, and packs, as this machine has room for; what the config says stands."""
    device = prepared.places[0].device
    trainer = config.training.trainer
    if trainer.imported is not None:  # whose memory is not known
        return prepared
    found = setting(prepared, config.seed)
    top = largest(prepared.space, found)
    most = top.memory
    whole = None if found.available is None else found.available * found.processes
    at, sharing = prepared.places, found.processes
    if device == "cpu" and config.worker.processes is None:
        sharing = cpu_processes(cores(), available=whole, needed=most.total)
        at = places(config.worker.model_copy(update={"processes": sharing}), device)
    uneven = prepared.early is not None
    packs = Packing(len(at), uneven=uneven)
    if config.worker.pack != "auto":
        packs = Packing(len(at), config.worker.pack, exact=True, uneven=uneven)
    elif trainer.name == "packed":
        a_row = prepared.data.train.tokens / prepared.data.train.rows
        packs = packing(
            len(at),
            device=device,
            tokens=a_row * found.batch_size(prepared.baseline or {}),
            free=None if whole is None else whole // sharing - most.total,
            extra=found.packs(top.hyperparameters).extra(found.recipe(top.hyperparameters)),
            uneven=uneven,
        )
    return dataclasses.replace(prepared, places=at, packing=packs)


def variants(space: Space, baseline: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Of the hyperparameters that decide whether a trial can be packed, all combinations that the study may hold."""
    held: dict[str, tuple[Any, ...]] = {name: (space.fixed[name],) for name in DECIDING if name in space.fixed}
    for dimension in space.dimensions:
        if dimension.name in DECIDING:
            held[dimension.name] = dimension.values or dimension.parameter.choices
    for values in itertools.product(*held.values()):
        yield dict(zip(held, values, strict=True))
    if baseline is not None:
        yield {name: baseline[name] for name in DECIDING if name in baseline}
