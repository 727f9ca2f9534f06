"""Whether a study's largest trial fits the device, before anything is trained; and what would.

The largest point of a space is found by its bounds: memory grows with the rank, the batch, dropout, DoRA and the number
of target modules, and with nothing else that is searched. Predictions are `memory.predict`'s. No sampler sees them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshtune.config.sections import ModelConfig, TrainingConfig, WorkerConfig
from meshtune.errors import Fault, InputError
from meshtune.space.hyperparameters import WHOLE
from meshtune.space.space import Dimension, Space
from meshtune.training.memory.formula import Batch, Memory, full_batch, of_state, predict, validating
from meshtune.training.memory.packs import PackSetting
from meshtune.training.memory.shape import Shape
from meshtune.training.packed.limits import LEAST, token_limit
from meshtune.training.packed.unpackable import unpackable_values
from meshtune.training.recipe import Recipe, check_cut, recipe

POLL = 8  # trials of a usual block
CLOSE = 0.85  # of what there is: from here on the prediction's error may decide
_UPPER = ("rank", "batch_size", "dropout", "epochs")  # memory never falls with these
_EACH = ("target_modules", "use_dora", "init_lora_weights", "optimizer")


@dataclass(frozen=True)
class Setting:
    """What decides the memory of a study's trials beside their hyperparameters.

    Attributes:
        training: with a resolved precision. device: as torch names it.
        dtype, quantization: the base's, as in the config.
        batch: the largest micro-batch by batch size: `memory.batches_of(rows, ..)`, or `full_batch` of a length.
        available: bytes for each process, or None where that is not known. processes: that share the device.
        devices: of a CPU, processes of a trial, each with a base of its own. shards: devices over which it is cut.
        trainer: that will train, `packed` or `transformers`. unpackable: why `packed`, which was asked for, will not.
        pack: how many trials go into a pack.
    """

    shape: Shape
    training: TrainingConfig
    device: str
    dtype: str
    batch: Callable[[int], Batch]
    available: int | None
    processes: int = 1
    devices: int = 1
    shards: int = 1
    trainer: str = "transformers"
    unpackable: str | None = None
    pack: int = 1
    quantization: str | None = None

    def memory(self, hyperparameters: Mapping[str, Any]) -> Memory:
        """Of the trial with these hyperparameters, or of a pack of such."""
        if self.trainer == "packed":
            return self.packs(hyperparameters).memory([self.recipe(hyperparameters)] * self.pack)
        batch = self.batch(self.batch_size(hyperparameters))
        return predict(
            self.shape,
            self.training,
            hyperparameters,
            batch,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            shards=self.shards,
        )

    def packs(self, hyperparameters: Mapping[str, Any]) -> PackSetting:
        """What decides the memory of packs whose members have the batches of these hyperparameters."""
        batch = self.batch(self.batch_size(hyperparameters))
        return PackSetting(self.shape, batch, self.device, self.dtype, self.quantization, self.shards)

    def pack_memory(self, points: Sequence[Mapping[str, Any]]) -> Memory:
        """Of the trials with these hyperparameters in one pack; the largest batch of any of them stands for all."""
        if self.trainer != "packed":
            return max((self.memory(point) for point in points), key=lambda memory: memory.total)
        packs = max((self.packs(point) for point in points), key=lambda packs: packs.batch.unpadded)
        return packs.memory([self.recipe(point) for point in points])

    def fit_together(self, points: Sequence[Mapping[str, Any]], activations: float = 1.0) -> bool:
        """Whether these trials fit in one pack, where activations take so many times what is predicted."""
        if self.available is None:
            return True
        memory = self.pack_memory(points)
        return memory.total + (activations - 1) * memory.activations <= self.available

    def activations_of(self, points: Sequence[Mapping[str, Any]], peak: int) -> float:
        """How many times the predicted activations the pack of these trials took; `peak`: bytes, without overhead."""
        memory = self.pack_memory(points)
        return (peak - memory.base - memory.adapter - memory.optimizer) / memory.activations

    def recipe(self, hyperparameters: Mapping[str, Any]) -> Recipe:
        """Of the trial with these hyperparameters."""
        return recipe(self.training, hyperparameters, 0)

    def batch_size(self, hyperparameters: Mapping[str, Any]) -> int:
        """Rows of that trial's micro-batch."""
        return int(hyperparameters.get("batch_size", self.training.batch_size))

    def fits(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether that trial does."""
        return self.available is None or self.memory(hyperparameters).total <= self.available


@dataclass(frozen=True)
class Largest:
    """The largest trial of a space: its hyperparameters and what it takes, beside what there is for it."""

    hyperparameters: Mapping[str, Any]
    memory: Memory
    available: int | None

    @property
    def close(self) -> bool:
        """Whether it fits so closely that it may fail."""
        return self.available is not None and self.memory.total > CLOSE * self.available


def largest(space: Space, setting: Setting) -> Largest:
    """The trial of the space that takes most memory."""
    point = max(_corners(space), key=lambda hyperparameters: setting.memory(hyperparameters).total)
    return Largest(point, setting.memory(point), setting.available)


def largest_state(space: Space, setting: Setting, share: float) -> tuple[int, int]:
    """Rank and bytes of the largest state that a trial of the space keeps where it is stopped; `share`: of its training
    at which it is stopped at the latest.
    """
    found = []
    for point in _corners(space):
        made = setting.recipe(point)
        found.append((of_state(setting.shape, made, validated=share * made.epochs >= 1), made.rank))
    size, rank = max(found)
    return rank, size


def unpackable_space(space: Space, training: TrainingConfig, baseline: Mapping[str, Any] | None = None) -> str | None:
    """Why trials of a space, or the baseline, cannot be packed over any base; None where no value forbids that."""
    points = itertools.chain(_corners(space), [] if baseline is None else [baseline])
    reasons = (unpackable_values(recipe(training, point, 0)) for point in points)
    return next((reason for reason in reasons if reason is not None), None)


def refuse_too_large(space: Space, setting: Setting, baseline: Mapping[str, Any] | None = None) -> Largest:
    """The largest trial of a space.

    Raises:
        InputError: it cannot fit, or the baseline beside it cannot. The fault names the largest rank of the space that
            does, and what else would help.
    """
    found = largest(space, setting)
    faults = [] if setting.fits(found.hyperparameters) else [_fault(space, found, setting)]
    if baseline is not None and not setting.fits(baseline) and not space.contains(baseline):
        what = f"needs about {gigabytes(setting.memory(baseline).total)}, and {_there(setting)}"
        faults.append(Fault(f"rank {baseline['rank']} {what}: choose a smaller point to beat", key="baseline"))
    if faults:
        raise InputError(faults)
    return found


def _fault(space: Space, found: Largest, setting: Setting) -> Fault:
    below = ranks(space) or range(1, int(found.hyperparameters["rank"]))
    fitting = _last(len(below), lambda count: setting.fits({**found.hyperparameters, "rank": below[count - 1]}))
    rank = found.hyperparameters["rank"]
    searched = any(dimension.name == "rank" for dimension in space.dimensions)
    who = "the largest trial needs" if setting.pack == 1 else f"a pack of {setting.pack} of the largest trials needs"
    what = f"{who} about {gigabytes(found.memory.total)} ({describe(found.memory, rank, setting.pack)})"
    ways = [f"`{way}`" for way in _ways(found, setting)]
    if fitting:
        highest = below[fitting - 1]
        bound = _written(space, highest) if searched else f"rank: {highest}"
        advice = f"the largest rank that fits is {highest}: write `{bound}`"
        advice += f", or {' or '.join(ways)}" if ways else ""
    else:
        advice = "no rank fits: " + (f"write {' or '.join(ways)}" if ways else _several(setting))
    return Fault(f"{what}, and {_there(setting)}; {advice}", key="space.rank" if searched else "space")


def largest_length(space: Space, setting: Setting, longest: int) -> int:
    """The longest row, in tokens up to `longest`, with which the largest trial fits; 0 where none does.

    The setting's own batches are not asked: every row of a batch is taken to be so long, and all of it labels.
    """

    def fits(length: int) -> bool:
        long = replace(setting, batch=lambda rows: full_batch(rows, length))
        return setting.available is None or largest(space, long).memory.total <= setting.available

    return _last(longest, fits)


def no_exact_room(shape: Shape, device: str, available: int | None) -> str | None:
    """Why losses cannot be measured with the base in float32; None where they can, or where that is not known."""
    needed = validating(shape, device)
    if available is None or needed <= available:
        return None
    there = f"this {'CPU' if device == 'cpu' else 'GPU'} has {gigabytes(available)} a process"
    return f"that needs about {gigabytes(needed)}, and {there}"


def refuse_to_shard(
    worker: WorkerConfig,
    model: ModelConfig,
    training: TrainingConfig,
    space: Space,
    baseline: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a base of which each device would hold another copy, or that cannot be cut over several, or whose weights
    an adapter of the space, or the baseline, reads or changes.

    `training`: with a resolved precision. Raises InputError.
    """
    precision = training.precision
    dtype = "float32" if model.dtype == "auto" else model.dtype
    what = None
    if not worker.shard_model:
        return
    if model.quantization is not None:
        what = "a base with `model.quantization` is not cut over devices: leave one of them out"
    elif dtype != precision:
        what = f"the base is {dtype} and trained in {precision}, so that each device would hold a whole rounded copy"
        what += f": write `model.dtype: {precision}`, or `training.precision: {dtype}`"
    if what is not None:
        raise InputError(Fault(what, key="worker.shard_model"))
    for point in itertools.chain(_corners(space), [] if baseline is None else [baseline]):
        check_cut(recipe(training, point, 0))


def describe(memory: Memory, rank: int, pack: int = 1) -> str:
    """`base 0.54 GB + adapter at rank 256 1.2 GB + activations 0.4 GB + process 0.6 GB`."""
    parts = {
        "base": memory.base,
        f"{'adapter' if pack == 1 else f'{pack} adapters'} at rank {rank}": memory.adapter + memory.optimizer,
        "activations": memory.activations,
        "process": memory.overhead,
    }
    return " + ".join(f"{name} {gigabytes(count)}" for name, count in parts.items())


def gigabytes(count: int) -> str:
    """Bytes as people read them: `0.54 GB` (10^9), `24 GB`, and below 0.1 GB `5.2 MB`."""
    value, unit = (count / 1e9, "GB") if count >= 1e8 else (count / 1e6, "MB")
    return f"{value:.2g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """Points among which the largest is: bounds of what memory grows with, and each choice that has no order."""
    options = [_options(dimension) for dimension in space.dimensions]
    names = [dimension.parameter.name for dimension in space.dimensions]
    for values in itertools.product(*options):
        yield space.decode(dict(zip(names, values, strict=True)))


def _options(dimension: Dimension) -> Sequence[Any]:
    parameter = dimension.parameter
    if parameter.kind == "categorical":
        return parameter.choices if dimension.name in _EACH else parameter.choices[:1]
    return [parameter.high if dimension.name in _UPPER else parameter.low]


def ranks(space: Space) -> Sequence[int]:
    """The ranks that are searched, upwards; none where it is fixed."""
    for dimension in space.dimensions:
        if dimension.name == "rank":
            parameter = dimension.parameter
            exponents = range(int(parameter.low), int(parameter.high) + 1)
            return [int(dimension.decode(value)) for value in exponents]
    return ()


def _written(space: Space, rank: int) -> str:
    """The space as study.yaml has it, with this upper bound of the rank."""
    entries = {name: json.dumps(value) for name, value in space.fixed.items()}
    for dimension in space.dimensions:
        parameter = dimension.parameter
        if choices := dimension.listed:
            kept = [value for value in choices if dimension.name != "rank" or int(value) <= rank]
            entries[dimension.name] = json.dumps(kept)
            continue
        low, high = dimension.decode(parameter.low), dimension.decode(parameter.high)
        high = rank if dimension.name == "rank" else high
        if low == high:
            entries[dimension.name] = f"{low:g}"
            continue
        entries[dimension.name] = f"{{low: {low:g}, high: {high:g}{_how(dimension)}}}"
    return f"space: {{{', '.join(f'{name}: {text}' for name, text in entries.items())}}}"


def _how(dimension: Dimension) -> str:
    match dimension.encoding, dimension.parameter.kind:
        case "log2", "int":
            return ", power_of: 2"
        case "log2", _:
            return ", log: true"
        case _, kind:
            integer = ", integer: true" if kind == "int" and dimension.name not in WHOLE else ""
            integer = ", integer: false" if kind == "float" and dimension.name == "alpha" else integer
            return (", log: true" if dimension.parameter.log else "") + integer


def _ways(found: Largest, setting: Setting) -> Iterator[str]:
    """Single changes with which the largest trial fits."""
    point, rows = found.hyperparameters, setting.batch_size(found.hyperparameters)

    def fits(**changes: Any) -> bool:
        return replace(setting, **changes).fits(point)

    if setting.dtype in ("auto", "float32") and fits(dtype="bfloat16"):
        yield "model.dtype: bfloat16"
    if setting.quantization is None and fits(quantization="nf4"):
        yield "model.quantization: nf4"
    checkpoints = setting.training.model_copy(update={"gradient_checkpointing": True})
    if setting.training.gradient_checkpointing is not True and fits(training=checkpoints):
        yield "training.gradient_checkpointing: true"
    if smaller := _last(rows - 1, lambda size: fits(batch=lambda _: setting.batch(size))):
        key = "space.batch_size" if "batch_size" in point else "training.batch_size"
        yield f"{key}: {smaller}"
    length = setting.batch(rows).length
    if shorter := _last(length - 1, lambda size: fits(batch=lambda given: _shorter(setting.batch(given), size))):
        yield f"data.max_length: {shorter}"
    if found.available is not None and setting.processes > 1:
        at_once = found.available * setting.processes // (found.memory.total * setting.devices)
        if at_once:
            yield f"worker.processes: {at_once}"
    if setting.pack > 1 and (fewer := _last(setting.pack - 1, lambda count: fits(pack=count))):
        yield f"worker.pack: {fewer}"


def _shorter(batch: Batch, length: int) -> Batch:
    unpadded = min(batch.unpadded, batch.rows * length)
    return Batch(batch.rows, length, min(batch.labels, unpadded), unpadded)


def _last(end: int, fits: Callable[[int], bool]) -> int:
    """The last number from 1 to `end` that fits, where all before it do; 0 where not even 1 does."""
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _several(setting: Setting) -> str:
    dtype = "`model.dtype: bfloat16`, " if setting.dtype in ("auto", "float32") else ""
    together = "a smaller `training.batch_size` and `data.max_length` together, or a smaller model"
    return f"no single change is enough; {dtype}{together}"


def _there(setting: Setting) -> str:
    kind = "CPU" if setting.device == "cpu" else "GPU"
    each = f" for each of {setting.processes} processes" if setting.processes > 1 else ""
    return f"this {kind} has {gigabytes(setting.available or 0)}{each}"


def fewer_tokens(space: Space, setting: Setting, available: int, enough: int | None = None) -> int | None:
    """As many as the largest trial of a space has room for, or on a GPU, which one alone would leave idle, two of them.

    Smaller passes make room for further trials: where as many as are `enough` for speed do so, there are no more.
    None: as many as usual. Where even the fewest do not fit, these are given.

    Args:
        setting: of the packed trainer. available: bytes of a process. enough: tokens; None: that is not known.
    """
    point = largest(space, setting).hyperparameters
    packs, member = setting.packs(point), setting.recipe(point)
    wanted = max(2, setting.pack) if setting.device.startswith("cuda") else setting.pack
    tokens = LEAST
    for count in dict.fromkeys((wanted, setting.pack)):
        tokens = packs.pass_tokens([member] * count, available)
        if packs.memory([replace(member, pass_tokens=tokens)] * count).total <= available:
            break
    while enough is not None and tokens // 2 >= max(enough, LEAST, packs.batch.length):
        if packs.memory([replace(member, pass_tokens=tokens)] * POLL).total <= available:
            break
        tokens //= 2
    return tokens if tokens < token_limit(setting.device) else None
