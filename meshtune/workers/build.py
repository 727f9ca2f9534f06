"""The worker that a study's config names. The one place where a worker is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshtune.config.sections import WorkerConfig
from meshtune.errors import need
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system.machine import memory_available
from meshtune.training.memory.cards import cards
from meshtune.workers.interface import Worker
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import Nodes, ProcessSpec


def build(config: WorkerConfig, objective: ObjectiveSpec, processes: Sequence[ProcessSpec], folder: Path) -> Worker:
    """A worker that evaluates the objective; its logs go to `<folder>/logs/`. Raises WorkerError."""
    match config.name:
        case "local":
            return LocalWorker(objective, processes, folder)
        case "ray":
            need("trials on a Ray cluster", "ray", extras="ray")
            from meshtune.workers.ray import RayWorker

            return RayWorker(config, objective, processes, folder)
        case "slurm":
            need("trials on SLURM's nodes", "submitit", extras="slurm")
            from meshtune.workers.slurm import SlurmWorker

            return SlurmWorker(config, objective, processes, folder)


def nodes_of(config: WorkerConfig) -> Nodes | None:
    """What the nodes have on which trials will run; None where that is this machine alone. Raises InputError."""
    match config.name:
        case "ray":
            need("trials on a Ray cluster", "ray", extras="ray")
            from meshtune.workers.ray import survey

            return survey(config)
        case "slurm":  # what the jobs will get
            count, threads = config.processes or 1, config.threads or 1
            card = None if config.accelerator is None else cards(config.accelerator).card.memory
            memory = (memory_available() or 0) // threads  # SLURM is not asked: as on this machine
            each = config.devices_per_trial
            return Nodes(count * each if card else 0, card, (threads * each,) * count, memory)
        case _:
            return None
