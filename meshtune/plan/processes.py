"""How the trials of a study are spread over this machine: processes, and packs in each. Imports torch.

Numbers come from the predicted memory of the study's largest trial and from the rows; `workers.planner` decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshtune.config.sections import StudyConfig
from meshtune.plan.forecast import setting
from meshtune.space.space import Space
from meshtune.training.chosen_trainer import DECIDING
from meshtune.training.memory.check import Setting, largest, no_exact_room
from meshtune.training.memory.passes import fewer_tokens
from meshtune.workers.planner import Packing, cpu_processes, packing
from meshtune.workers.processes import cores, places

if TYPE_CHECKING:
    from meshtune.plan.plan import Prepared


def spread(prepared: Prepared, config: StudyConfig, recorded: Mapping[str, Any] | None) -> Prepared:
    """The same study in as many processes, and packs, as this machine has room for; what the config says stands.

    `recorded`: the fixed keys of a study that was begun.
    """
    device = prepared.places[0].device
    trainer = config.training.trainer
    if trainer.imported is not None:  # whose memory is not known
        return prepared
    found = setting(prepared, config.seed)
    if tokens := _pass_tokens(prepared, config, found, recorded):
        prepared = _with_pass_tokens(prepared, tokens)
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
    # Of the whole machine: each process may measure at the same time.
    room = None if whole is None else whole // max(sharing, 1)
    exact = no_exact_room(found.shape, device, room)
    return replace(prepared, places=at, packing=packs, no_exact_room=exact, largest_rank=found.shape.largest_rank)


def _pass_tokens(
    prepared: Prepared, config: StudyConfig, found: Setting, recorded: Mapping[str, Any] | None
) -> int | None:
    """Tokens of the packed trainer's passes, where they are not as many as suit the device.

    The config's; else those of a study that was begun; else as many as memory has room for.
    """
    if config.training.pass_tokens is not None or found.trainer != "packed":
        return config.training.pass_tokens
    if recorded is not None:
        known: int | None = recorded.get("training", {}).get("pass_tokens")
        return known
    if found.available is None:
        return None
    one_process = found.device == "cpu" and config.worker.processes is None
    available = found.available * (found.processes if one_process else 1)
    if config.worker.pack != "auto":
        found = replace(found, pack=config.worker.pack)
    return fewer_tokens(prepared.space, found, available)


def _with_pass_tokens(prepared: Prepared, tokens: int) -> Prepared:
    """The same study with them in what crosses to the worker and in what is fixed."""
    spec, fixed = prepared.objective.spec, prepared.fixed
    spec = {**spec, "training": {**spec["training"], "pass_tokens": tokens}}
    fixed = {**fixed, "training": {**fixed["training"], "pass_tokens": tokens}}
    return replace(prepared, objective=replace(prepared.objective, spec=spec), fixed=fixed)


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
