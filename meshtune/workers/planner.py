"""Which processes a machine gets, and in which packs a block of trials is spread over them.

One process a visible GPU; on a CPU as many as are asked for, or have room, which share the cores.

A GPU that one small batch starves gains by every trial that is packed with it, so there a pack is as large as memory
allows. A CPU's core is at its peak from some hundred rows a product: there trials are packed only where one alone has
fewer, and a block is spread over one process a core. Nothing here depends on how fast anything was: a pack is part of
the record, and a study that is resumed on the same machine has the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshtune.config.sections import WorkerConfig
from meshtune.system.machine import cores, visible_gpus

BLOCK = 8  # trials of a block where nothing says otherwise: a MADS poll in four dimensions
MOST = 64  # trials of a pack, at most
PEAK_TOKENS = 300  # rows of a product from which a core is at its peak (measured; docs/decisions)


@dataclass(frozen=True)
class ProcessSpec:
    """What a process is started with: a torch device, the environment that makes it the only one seen, CPU threads."""

    device: str
    environment: Mapping[str, str]
    threads: int | None


def process_specs(config: WorkerConfig, device: str, gpus: Sequence[str] = ()) -> list[ProcessSpec]:
    """The processes for a torch device kind (`cpu`, `cuda`, `mps`). CUDA_VISIBLE_DEVICES is respected.

    `gpus`: names or numbers, where they are not those of this machine.

    Not run on a GPU yet.
    """
    if device == "cuda":
        visible = gpus or visible_gpus() or ["0"]  # torch sees one where nvidia-smi does not: ROCm, and some containers
        gpus = (visible[index % len(visible)] for index in range(config.processes or len(visible)))
        return [ProcessSpec("cuda", {"CUDA_VISIBLE_DEVICES": gpu}, config.threads) for gpu in gpus]
    count = config.processes or 1
    threads = config.threads or max(1, cores() // count)
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    if count > 1:
        environment["OMP_WAIT_POLICY"] = "passive"  # thread pools that spin ruin each other
    return [ProcessSpec(device, environment, threads)] * count


@dataclass(frozen=True)
class Packing:
    """How blocks are cut into packs.

    Attributes:
        processes: that evaluate a pack each. most: trials of a pack, at most.
        exact: packs of `most` wherever a block has so many, also where a process then stands idle.
        starved: whether a device gains so much by packs that blocks are made larger for their sake.
        uneven: whether trials may be stopped early, so that there is more to do for a process that has done its own.
    """

    processes: int
    most: int = 1
    exact: bool = False
    starved: bool = False
    uneven: bool = False

    @property
    def width(self) -> int | None:
        """Trials of a pack that are trained at once, where the next one takes the place of one that was stopped."""
        return self.most if self.uneven and self.most > 1 else None

    @property
    def block_size(self) -> int:
        """Trials of a block where nothing says otherwise: one a process; a poll where packs gain more than blocks cost.

        A larger block costs a search some of its steps: its points are proposed without knowing each other's losses.
        Nor does it pay where trials are stopped early: at what loss is fixed when they are proposed, so that a block
        knows nothing of itself (docs/decisions/2026-12-01-early-stopping-batch-gp.md).
        """
        if self.exact:
            return self.processes * self.most
        return max(self.processes, min(self.processes * self.most, BLOCK)) if self.starved else self.processes

    def sizes(self, count: int) -> list[int]:
        """The sizes of the packs of a block of `count` trials, larger ones first; as even as can be."""
        if count == 0:
            return []
        number = math.ceil(count / self.most)
        if self.width is not None:  # what does not run yet waits in its pack
            number = min(number if self.exact else count, self.processes)
        elif not self.exact:  # as many rounds as are needed, and every process busy in each
            number = min(count, self.processes * math.ceil(number / self.processes))
        size, larger = divmod(count, number)
        return [size + 1] * larger + [size] * (number - larger)

    def numbers(self, first: int, count: int) -> list[int]:
        """The pack of each trial of a block that begins with trial `first`: the number of the pack's first trial."""
        found: list[int] = []
        for size in self.sizes(count):
            found += [first + len(found)] * size
        return found

    def at_once(self, count: int) -> int:
        """Trials of a block of `count` that run at once."""
        return sum(min(size, self.most) for size in self.sizes(count)[: self.processes])


def packing(
    processes: int, *, device: str, tokens: float, free: int | None, extra: int, uneven: bool = False
) -> Packing:
    """The packs that serve a device best.

    Args:
        device: as torch names it. tokens: of a micro-batch, on average.
        free: bytes that a process may take beside a pack of one; None: not known. extra: bytes of one more adapter.
        uneven: whether trials may be stopped early.
    """
    fitting = math.inf if free is None else 1 + max(0, free) // max(1, extra)
    starved = device.startswith("cuda")
    useful = math.inf if starved else math.ceil(PEAK_TOKENS / max(1.0, tokens))
    return Packing(processes, int(max(1, min(fitting, useful, MOST))), starved=starved, uneven=uneven)


def cpu_processes(cores: int, *, available: int | None, needed: int) -> int:
    """Processes of a CPU: one a core, no more than a block has trials, and than fit where each needs so many bytes."""
    fitting = math.inf if available is None else max(1, available // max(1, needed))
    return int(min(cores, BLOCK, fitting))
