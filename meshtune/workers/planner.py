"""Which processes a machine gets, and in which packs a block of trials is spread over them.

One process a visible GPU; on a CPU as many as are asked for, or have room, which share the cores. Where a trial takes
several devices, one process a group of them, in their order; those that are left over stand idle.

A GPU that one small batch starves gains by every trial that is packed with it, so there a pack is as large as memory
allows, by what its own members take. A CPU's core is at its peak from some hundred rows a product: there trials are
packed only where one alone has fewer, and a block is spread over one process a core. Nothing here depends on how fast
anything was: a pack is part of the record, and a study that is resumed on the same machine has the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError
from meshtune.system.machine import cores, visible_gpus
from meshtune.system.text import counted

BLOCK = 8  # trials of a block where nothing says otherwise: a MADS poll in four dimensions
ROUNDS = 6  # blocks of a search, at least: races of five (40 trials in blocks of 8) are in docs/decisions
MOST = 64  # trials of a pack, at most
PEAK_TOKENS = 300  # rows of a product from which a core is at its peak (measured; docs/decisions)


@dataclass(frozen=True)
class ProcessSpec:
    """What a process is started with.

    Attributes:
        device: as torch names it. environment: that makes its devices the only ones seen. threads: of a CPU, for each
            device. devices: that share the rows of what it trains. sharded: whether they share the base's layers too.
        gpus: that a cluster is to give it, and says which. None of them need be a device of torch here.
    """

    device: str
    environment: Mapping[str, str]
    threads: int | None
    devices: int = 1
    sharded: bool = False
    gpus: int = 0

    def place(self, index: int) -> str:
        """Its devices for people, where it is the process with that index: `cuda:2,3`, `cpu:0`."""
        return f"{self.device}:{self.environment.get('CUDA_VISIBLE_DEVICES') or index}"


@dataclass(frozen=True)
class Nodes:
    """What the nodes of a cluster have, those alone that the config's kind of GPU allows.

    Attributes:
        gpus: of all of them. gpu_memory: bytes of the smallest; None: not known. cpus: of each node.
        memory: bytes that are free on the node that has the fewest a CPU, for each CPU of it.
    """

    gpus: int
    gpu_memory: int | None
    cpus: tuple[int, ...]
    memory: int

    def processes(self, threads: int) -> int:
        """Processes of so many threads that the CPUs have room for."""
        return sum(count // threads for count in self.cpus)


def process_specs(
    config: WorkerConfig, device: str, gpus: Sequence[str] = (), nodes: Nodes | None = None
) -> list[ProcessSpec]:
    """The processes for a torch device kind (`cpu`, `cuda`, `mps`). CUDA_VISIBLE_DEVICES is respected.

    `gpus`: names or numbers, and `nodes`: that have the CPUs, where they are not this machine's.

    Not run on a GPU yet.

    Raises:
        InputError: there are fewer devices than a trial is to take.
    """
    each, sharded = config.devices_per_trial, config.shard_model
    if device == "cuda":
        visible = gpus or visible_gpus() or ["0"]  # torch sees one where nvidia-smi does not: ROCm, and some containers
        refuse_fewer(each, len(visible), "GPU")
        groups = [",".join(visible[first : first + each]) for first in range(0, len(visible) - each + 1, each)]
        chosen = (groups[index % len(groups)] for index in range(config.processes or len(groups)))
        seen = [{"CUDA_VISIBLE_DEVICES": group} for group in chosen]
        return [ProcessSpec("cuda", environment, config.threads, each, sharded, gpus=each) for environment in seen]
    if device == "mps":
        refuse_fewer(each, 1, "device of this kind")
    if nodes is None:
        count = config.processes or 1
        threads = config.threads or max(1, cores() // (count * each))
    else:
        threads = config.threads or 1
        count = config.processes or max(1, nodes.processes(threads * each))
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    if count * each > 1:
        environment["OMP_WAIT_POLICY"] = "passive"  # thread pools that spin ruin each other
    return [ProcessSpec(device, environment, threads, each, sharded)] * count


def program_specs(config: WorkerConfig, nodes: Nodes | None = None) -> list[ProcessSpec]:
    """The processes in which programs run, which choose their devices themselves, each among the GPUs of its own.

    Not run on a GPU yet.
    """
    visible = visible_gpus() if nodes is None else [str(number) for number in range(nodes.gpus)]
    if not visible:
        return process_specs(config, "cpu", nodes=nodes)
    own = process_specs(config, "cuda", visible)
    # Not a device of torch: what runs in these processes itself needs none, and does not load torch.
    return [replace(spec, device="cpu") for spec in own]


def refuse_fewer(wanted: int, there: int, kind: str) -> None:
    """Raise InputError where a trial is to take more devices than a machine has."""
    if wanted > there:
        has = f"there {'is' if there == 1 else 'are'} {counted(there, kind)}"
        what = f"a trial is to take {wanted} devices, and {has}: give at most {max(1, there)}"
        raise InputError(Fault(what, key="worker.devices_per_trial"))


Points = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Packing:
    """How blocks are cut into packs.

    Attributes:
        processes: that evaluate a pack each. most: trials of a pack, at most.
        exact: packs of `most` wherever a block has so many, also where a process then stands idle.
        starved: whether a device gains so much by packs that blocks are made larger for their sake.
        uneven: whether trials may be stopped early, so that there is more to do for a process that has done its own.
        usual: trials of a pack that fit where they are as a space's mean; None: `most`.
        gains: trials of a pack up to which predicted speed rises. block: trials that a block may have for its sake.
        fits: whether trials of these hyperparameters fit together, by predicted memory; None: not known. Fewer of them,
            or smaller ones, fit too; one alone is never asked for.
    """

    processes: int
    most: int = 1
    exact: bool = False
    starved: bool = False
    uneven: bool = False
    usual: int | None = None
    gains: int = 1
    block: int = BLOCK
    fits: Callable[[Points], bool] | None = None

    @property
    def expected(self) -> int:
        """Trials of a pack, at most, where nothing is known of them."""
        return self.most if self.usual is None else min(self.most, self.usual)

    @property
    def block_size(self) -> int:
        """Trials of a block where nothing says otherwise: one a process; a poll where packs gain more than blocks cost.

        A larger block costs a search some of its steps: its points are proposed without knowing each other's losses.
        Samplers wait for all of a block before they propose the next, so several starved devices are only filled by a
        block that holds a pack for each: as many trials as predicted speed gains by, up to a share of the search. Nor
        are blocks larger where trials are stopped early (docs/decisions/2026-12-01-early-stopping-batch-gp.md).
        """
        if self.exact:
            return self.processes * self.most
        if not self.starved:
            return self.processes
        poll = min(self.processes * self.expected, BLOCK)
        return max(self.processes, poll, min(self.processes * min(self.expected, self.gains), self.block))

    def width(self, points: Points) -> int | None:
        """Trials of a pack that are trained at once, where the next one takes the place of one that was stopped: as
        many as fit whichever they are.
        """
        if not self.uneven or self.most == 1:
            return None
        most = min(self.most, len(points))
        return next((count for count in range(most, 1, -1) if self._any_fit(points, count)), 1)

    def sizes(self, count: int) -> list[int]:
        """The sizes of the packs of a usual block of `count` trials, larger ones first; as even as can be."""
        return _even(count, self._number(count, self.expected)) if count else []

    def packs(self, points: Points) -> list[list[int]]:
        """A block cut into packs: the places of the points in it, each once.

        A pack of fewer trials never takes longer than one of more, so a block is spread over all processes: fewer packs
        would be larger ones beside idle devices. Where a block has more packs than there are processes, all rounds are
        full. As few packs as that allows are tried first: even ones in the order of the points; if one of them does not
        fit, the largest points first, each into the pack that has fewest (of those with room); then more packs.
        """
        count = len(points)
        if not count:
            return []
        least = self._number(count, self.most)
        further = () if self.exact or self.fits is None else range(least + 1, count)
        rounds = (number for number in further if number % self.processes == 0)
        for number in (least, *rounds):
            if found := self._cut(points, number):
                return found
        return [[place] for place in range(count)]

    def numbers(self, first: int, points: Points, begun: Sequence[int] = ()) -> list[int]:
        """The pack of each trial of a block that begins with trial `first`: the number of the pack's first trial.

        `begun`: the packs of its first trials, where these stand in the record: they stay.
        """
        found = [first] * len(points)
        for pack in self.packs(points):
            for place in pack:
                found[place] = first + pack[0]
        if found[: len(begun)] == list(begun):
            return found
        return [*begun, *self.numbers(first + len(begun), points[len(begun) :])]

    def share(self, count: int) -> int:
        """Trials of a usual block of `count` that a process gets when it is free, where no process waits for others."""
        return self.most if self.exact else max(1, min(self.expected, count // self.processes))

    def at_once(self, count: int) -> int:
        """Trials of a usual block of `count` that run at once."""
        return sum(min(size, self.expected) for size in self.sizes(count)[: self.processes])

    @property
    def _one_pack(self) -> bool:
        """Whether a block is one pack, of which only some run at once: of several processes each would keep its own
        trials waiting, so there they wait for whichever has a place first.
        """
        return self.uneven and self.most > 1 and self.processes == 1

    def _number(self, count: int, most: int) -> int:
        """Packs of a block, at least."""
        number = math.ceil(count / most)
        if self._one_pack:  # what does not run yet waits in it
            return 1
        if self.exact:
            return number
        # As many rounds as are needed, and every process busy in each.
        return min(count, self.processes * math.ceil(number / self.processes))

    def _cut(self, points: Points, number: int) -> list[list[int]] | None:
        """Into so many packs, none larger than what fits; None: this way there are none."""
        sizes, ends = _even(len(points), number), 0
        even = []
        for size in sizes:
            even.append(list(range(ends, ends + size)))
            ends += size
        if self.fits is None or self.exact or self._one_pack or all(self._fit(points, pack) for pack in even):
            return even
        packs = list[list[int]]([] for _ in range(number))
        for place in sorted(range(len(points)), key=lambda place: -_weight(points[place])):
            room = [pack for pack in packs if len(pack) < self.most and self._fit(points, [*pack, place])]
            if not room:
                return None
            min(room, key=len).append(place)
        return sorted((sorted(pack) for pack in packs), key=lambda pack: (-len(pack), pack))

    def fit_together(self, points: Points) -> bool:
        """Whether these trials may be trained at once."""
        return self.exact or self._fit(points, range(len(points)))

    def _fit(self, points: Points, pack: Sequence[int]) -> bool:
        return len(pack) == 1 or self.fits is None or self.fits([points[place] for place in pack])

    def _any_fit(self, points: Points, count: int) -> bool:
        largest = sorted(points, key=lambda point: -_weight(point))[:count]
        return self.fits is None or self.exact or self.fits(largest)


def _even(count: int, number: int) -> list[int]:
    size, larger = divmod(count, number)
    return [size + 1] * larger + [size] * (number - larger)


def _weight(point: Mapping[str, Any]) -> float:
    """What memory grows with most, to have an order."""
    return as_number(point.get("rank"))


def as_number(value: Any) -> float:
    """Of a hyperparameter; 0 where it is none."""
    return float(value) if isinstance(value, int | float) else 0.0


def packing(
    processes: int,
    *,
    device: str,
    tokens: float,
    usual: int | None = None,
    gains: int = 1,
    trials: float | None = None,
    fits: Callable[[Points], bool] | None = None,
    uneven: bool = False,
) -> Packing:
    """The packs that serve a device best.

    Args:
        device: as torch names it. tokens: of a micro-batch, on average. usual, gains, fits: as `Packing` has them.
        trials: of the whole search; None: not known. uneven: whether trials may be stopped early.
    """
    starved = device.startswith("cuda")
    useful = MOST if starved else math.ceil(PEAK_TOKENS / max(1.0, tokens))
    block = BLOCK if uneven or trials is None else max(BLOCK, int(trials / ROUNDS))
    most = max(1, min(useful, MOST))
    return Packing(processes, most, starved=starved, uneven=uneven, usual=usual, gains=gains, block=block, fits=fits)


def cpu_processes(cores: int, *, available: int | None, needed: int) -> int:
    """Processes of a CPU: one a core, no more than a block has trials, and than fit where each needs so many bytes."""
    fitting = math.inf if available is None else max(1, available // max(1, needed))
    return int(min(cores, BLOCK, fitting))
