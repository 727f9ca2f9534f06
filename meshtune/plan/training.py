"""The parts of a plan that only a study which trains adapters has: model, rows, measurements, memory, processes, packs.

Numbers come from the predicted memory of the study's largest trial and from the rows; `workers.planner` decides how
trials are packed. Imports torch.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.config.goals import GuideConfig
from meshtune.config.sections import DataConfig, LoraObjectiveConfig, ModelConfig, StudyConfig, TrainingConfig
from meshtune.data import build as data_build
from meshtune.data.assemble import LONGEST
from meshtune.data.store import Rows
from meshtune.data.summary import Summary
from meshtune.data.tokenizer import has_tokenizer
from meshtune.errors import Fault, InputError, StudyMismatch, together
from meshtune.objectives import measurements, metrics
from meshtune.objectives.answers import Answering
from meshtune.objectives.lora_spec import LoraSpec
from meshtune.plan.goals import measured_quantities
from meshtune.plan.locate import Located
from meshtune.space.space import Space, expected_point
from meshtune.system.machine import cores, query_gpus
from meshtune.training.machine import available
from meshtune.training.memory.cards import USUAL, Cards, named
from meshtune.training.memory.check import (
    POLL,
    Setting,
    fewer_tokens,
    largest,
    largest_length,
    no_exact_room,
    refuse_to_shard,
    unpackable_space,
)
from meshtune.training.memory.formula import Batch, batches_of, full_batch
from meshtune.training.memory.shape import shape_of
from meshtune.training.memory.speed import Speed
from meshtune.training.models import check_model, in_its_type, resolve_device, resolve_precision
from meshtune.training.optimizers import check_optimizers
from meshtune.training.packed.limits import LEAST
from meshtune.training.recipe import Recipe, target_modules, variants
from meshtune.workers.build import nodes_of
from meshtune.workers.planner import MOST, Packing, ProcessSpec, cpu_processes, packing, process_specs


@dataclass(frozen=True)
class Measurements:
    """What each trial is measured by beside its loss, and on what."""

    spec: measurements.MeasurementSpec
    chosen: measurements.MeasurementSet


@dataclass(frozen=True)
class TrainingPlan:
    """What only a study that trains adapters has.

    Attributes:
        spec: crosses to the workers. data: summary of the rows. damage: why they were made again, or None.
        answers: validation rows that the finalists answer. measurements: None where only the loss is measured.
        memory: what decides the memory of its trials. no_exact_room: why there is none for the base in float32.
        largest_rank: that the model's modules can use. Of a trainer of one's own neither of the two is known.
    """

    spec: LoraSpec
    data: Summary
    damage: str | None
    answers: int
    measurements: Measurements | None
    memory: Setting
    no_exact_room: str | None
    largest_rank: int | None

    @property
    def own_trainer(self) -> bool:
        """Whether the trainer is imported."""
        return self.spec.training.trainer.imported is not None

    @property
    def may_pack(self) -> bool:
        """Whether packs are wanted; the model may turn out not to allow any."""
        return self.spec.training.trainer.name == "packed"


@dataclass(frozen=True)
class Elsewhere:
    """Cards to plan for, which need not be here, nor the model's weights; `scratch`: a folder for its rows."""

    cards: Cards
    scratch: Path


def training_of(
    study: Located,
    space: Space,
    baseline: Mapping[str, Any] | None,
    recorded: Mapping[str, Any] | None,
    elsewhere: Elsewhere | None = None,
) -> tuple[TrainingPlan, Sequence[ProcessSpec], Packing]:
    """These parts, and the processes and packs that they have room for.

    Args:
        recorded: the fixed keys of a study that has begun. elsewhere: where it is to run, where that is not here; what
            is measured beside the loss is then left out.
    """
    config = study.config
    if config.model is None or config.data is None or not isinstance(config.objective, LoraObjectiveConfig):
        raise InputError("a study of LoRA hyperparameters needs `model` and `data`")
    model, sources, at_epoch = config.model, config.data, config.objective.at
    device, precision, at, card = _place(config, model, elsewhere)
    begun = None if recorded is None else recorded.get("model", {}).get("dtype", "auto")
    parameters = shape_of(model).parameters if device == "cuda" and model.dtype == "auto" else 0
    model = in_its_type(model, device, precision, parameters, begun)
    if card is not None:  # as many processes as there are machines for
        config = config.model_copy(update={"worker": config.worker.model_copy(update={"processes": len(at)})})
    training = config.training.model_copy(update={"precision": precision})
    refuse_to_shard(config.worker, model, training, space, baseline)
    _check(config, model, sources, space, here=elsewhere is None)

    def longest() -> int | None:
        return _longest_row(space, model, training, at, card)

    data = rows(study, sources, model, longest) if elsewhere is None else _rows_elsewhere(study, elsewhere, longest)
    answers = answered(config, data.summary.validation.rows)
    if config.metrics and answers and elsewhere is None:
        Answering(model, data.ref, config.metrics, answers, config.generation.max_new_tokens).try_metrics()
    found = measurements_of(study, model, answers) if elsewhere is None else None
    read = batches_of(Rows.open(data.ref, "train"), config.seed, _epochs(space, training))
    memory = _memory(space, model, training, at, read, baseline, card)
    speed = None if training.trainer.imported else _speed(space, baseline, data.summary, memory, elsewhere)
    again = _checkpointing(space, config, memory, recorded, speed)
    training = training.model_copy(update={"gradient_checkpointing": again})
    memory = replace(memory, training=training)
    if not training.trainer.imported and (tokens := _pass_tokens(space, config, memory, recorded, speed)):
        training = training.model_copy(update={"pass_tokens": tokens})
        memory = replace(memory, training=training)
    packs = Packing(len(at), uneven=config.early_stopping.rule != "none")
    if not training.trainer.imported:  # whose memory is not known
        at, packs, memory = _processes_and_packs(space, baseline, config, data.summary, memory, at, speed)
    spec = LoraSpec(
        model=model,
        training=training,
        data=data.ref,
        at=at_epoch,
        folder=str(study.folder),
        answers=answers,
        max_new_tokens=config.generation.max_new_tokens,
        metrics=config.metrics,
        variants=tuple(variants(space, baseline)),
        rung_rows=config.early_stopping.rows,
        measurements=None if found is None else found.spec,
    )
    own = training.trainer.imported is not None
    plan = TrainingPlan(
        spec=spec,
        data=data.summary,
        damage=data.damage,
        answers=answers,
        measurements=found,
        memory=memory,
        no_exact_room=None if own else no_exact_room(memory.shape, device, memory.available),
        largest_rank=None if own else memory.shape.largest_rank,
    )
    return plan, at, packs


def _place(
    config: StudyConfig, model: ModelConfig, elsewhere: Elsewhere | None
) -> tuple[str, str, Sequence[ProcessSpec], int | None]:
    """The torch device, the precision of training there, the processes, and, where that is not this machine, the bytes
    of a card or those that all processes may take together.
    """
    wanted = config.training.precision
    on_gpus = "bfloat16" if wanted == "auto" else wanted
    if elsewhere is not None:
        gpus = [str(number) for number in range(elsewhere.cards.count)]
        return "cuda", on_gpus, process_specs(config.worker, "cuda", gpus), elsewhere.cards.card.memory
    nodes = nodes_of(config.worker)
    if nodes is None:
        device = resolve_device(model)
        return device, resolve_precision(wanted, device), process_specs(config.worker, device), None
    if nodes.gpus and model.device in ("auto", "cuda"):
        gpus = [str(number) for number in range(nodes.gpus)]
        return "cuda", on_gpus, process_specs(config.worker, "cuda", gpus), nodes.gpu_memory
    at = process_specs(config.worker, "cpu", nodes=nodes)
    return "cpu", resolve_precision(wanted, "cpu"), at, nodes.memory * sum((p.threads or 1) * p.devices for p in at)


def _check(config: StudyConfig, model: ModelConfig, sources: DataConfig, space: Space, here: bool) -> None:
    """Find what is wrong with the trainer, the model, the sources and the metrics now, and not at the search's end."""
    if config.training.trainer.imported is not None:
        from meshtune.training.chosen_trainer import check_own  # ours need not be loaded to plan a study

        check_own(config.training, rungs=config.early_stopping.rule != "none")
    searched = any(dimension.name == "target_modules" for dimension in space.dimensions)
    targets = space.fixed.get("target_modules", config.training.target_modules)
    checks: list[Callable[[], object]] = [
        lambda: check_model(model, None if searched else target_modules(targets), here=here),
        lambda: data_build.check_there(sources),
        lambda: metrics.load(config.metrics),
        lambda: check_optimizers(*(_held(config, space, name) for name in ("optimizer", "use_dora")), here=here),
    ]
    together(checks)


def _held(config: StudyConfig, space: Space, name: str) -> tuple[Any, ...]:
    """The values of a hyperparameter that trials may have."""
    for dimension in space.dimensions:
        if dimension.name == name:
            return dimension.listed
    return (space.fixed.get(name, getattr(config.training, name)),)


def answered(config: StudyConfig, validation_rows: int) -> int:
    """How many of the validation rows are answered."""
    wanted = config.generation.rows
    return min((64 if config.metrics else 4) if wanted is None else wanted, validation_rows)


def rows(
    study: Located, data: DataConfig, model: ModelConfig, longest: Callable[[], int | None] = lambda: None
) -> data_build.PreparedData:
    """The study's rows as tokens in its folder, made or found there. Raises InputError.

    `longest()` is the longest row that the device has memory for; asked only where rows are made under
    `max_length: auto`.
    """
    folder = study.folder / "data"
    limit = None
    if data.max_length == "auto" and not folder.exists():
        limit = _length_of_rounds(study) or longest()
    try:
        return data_build.prepare(data, model, study.config.seed, folder, memory_length=limit)
    except StudyMismatch:
        if study.started:
            raise
        shutil.rmtree(folder)  # nothing was trained on them: they are of an earlier `check`
        return rows(study, data, model, longest)


def _rows_elsewhere(study: Located, elsewhere: Elsewhere, longest: Callable[[], int | None]) -> data_build.PreparedData:
    """The rows for a plan: those that the study has, else made for these cards; the study's folder stays as it is.

    A folder without a tokenizer has its tokens counted by the embedded model's.
    """
    data, model, seed = study.config.data, study.config.model, study.config.seed
    assert data is not None
    assert model is not None
    if (study.folder / "data").exists():
        with contextlib.suppress(StudyMismatch):
            return data_build.prepare(data, model, seed, study.folder / "data")
    return data_build.prepare(
        data,
        model,
        seed,
        elsewhere.scratch / "data",
        memory_length=longest() if data.max_length == "auto" else None,
        tokens_like=None if has_tokenizer(model) else ModelConfig(name="embedded"),
    )


def _length_of_rounds(study: Located) -> int | None:
    """The longest row of the first round, which is that of all: other rows would be split into other sides."""
    if study.whole is None or study.number == 1:
        return None
    folder = study.whole.rounds[0].folder / "data"
    return data_build.load(folder).summary.max_length if folder.exists() else None


def measurements_of(study: Located, model: ModelConfig, answers: int) -> Measurements | None:
    """What is measured with each trial, chosen and kept in the study's folder; None: nothing but the loss.

    `answers`: validation rows that are answered. Raises InputError with why something cannot be measured.
    """
    config = study.config
    quantities = measured_quantities(config)
    if not quantities:
        return None
    section = config.guide or GuideConfig()
    spec = measurements.MeasurementSpec(quantities=quantities, **section.model_dump(exclude={"measure"}))
    if spec.metrics and not answers:
        what = f"no row is answered, and {', '.join(spec.metrics)} is measured on answers: give some"
        raise InputError(Fault(what, key="generation.rows"))
    return Measurements(spec, measurements.choose(spec, model, study.folder, anew=not study.started))


def _epochs(space: Space, training: TrainingConfig) -> int:
    """Those of the longest trial."""
    for searched in space.dimensions:
        if searched.name == "epochs":
            return max(int(value) for value in searched.listed or (searched.parameter.high,))
    return int(space.fixed.get("epochs", training.epochs))


def _memory(
    space: Space,
    model: ModelConfig,
    training: TrainingConfig,
    at: Sequence[ProcessSpec],
    batch: Callable[[int], Batch],
    baseline: Mapping[str, Any] | None = None,
    card: int | None = None,
) -> Setting:
    """What decides the memory of trials that are trained alone in these processes, on the machine that is there now, or
    on cards of so many bytes.
    """
    trainer: str = training.trainer.name
    unpackable = unpackable_space(space, training, baseline) if trainer == "packed" else None
    device = at[0].device
    gpus = Counter(place.environment.get("CUDA_VISIBLE_DEVICES", "") for place in at)
    sharing = len(at) * at[0].devices if device != "cuda" else max(gpus.values())
    there = card or available(device, [name for name in gpus if name])
    return Setting(
        shape=shape_of(model),
        training=training,
        device=device,
        dtype=model.dtype,
        batch=batch,
        available=None if there is None else there // sharing,
        processes=sharing,
        devices=1 if device == "cuda" else at[0].devices,
        shards=at[0].devices if at[0].sharded else 1,
        trainer=trainer if unpackable is None else "transformers",
        unpackable=unpackable,
        quantization=model.quantization,
    )


def _longest_row(
    space: Space, model: ModelConfig, training: TrainingConfig, at: Sequence[ProcessSpec], card: int | None = None
) -> int | None:
    """The longest row, in tokens, with which the largest trial fits; None where none does, or nothing is known."""
    if training.trainer.imported is not None:
        return None
    least: dict[str, Any] = {}  # rows are worth more than speed
    if training.pass_tokens is None:
        least["pass_tokens"] = LEAST
    if training.gradient_checkpointing == "auto":
        least["gradient_checkpointing"] = True
    training = training.model_copy(update=least)
    setting = _memory(space, model, training, at, lambda count: full_batch(count, 1), card=card)
    return largest_length(space, setting, LONGEST) or None


@dataclass(frozen=True)
class _UsualSpeed:
    """Of a space's mean trial on a GPU."""

    member: Recipe
    point: Mapping[str, Any]
    speed: Speed


def _speed(
    space: Space, baseline: Mapping[str, Any] | None, data: Summary, memory: Setting, elsewhere: Elsewhere | None
) -> _UsualSpeed | None:
    """By formula, of the cards to plan for, or of this machine's first GPU; None where no GPU is used."""
    if not memory.device.startswith("cuda"):
        return None
    names = query_gpus("name") if elsewhere is None else []
    card = elsewhere.cards.card if elsewhere is not None else named(names[0]) if names else USUAL
    point = expected_point(space, baseline or largest(space, memory).hyperparameters)
    rows, labels = data.train.tokens / data.train.rows, data.train.label_tokens / data.train.tokens
    return _UsualSpeed(memory.recipe(point), point, Speed(memory.packs(point), card, rows, labels))


def _checkpointing(
    space: Space,
    config: StudyConfig,
    memory: Setting,
    recorded: Mapping[str, Any] | None,
    usual: _UsualSpeed | None,
) -> bool:
    """Whether activations are computed again in the backward pass.

    The config's word, or that of a study that has begun; else where the largest trial does not fit without, or where
    the larger packs that fit are predicted to be so much faster that the second forward pass is paid for.
    """
    given = config.training.gradient_checkpointing
    if given != "auto" or memory.training.trainer.imported is not None:
        return given is True
    if recorded is not None:
        return bool(recorded.get("training", {}).get("gradient_checkpointing", False))
    if memory.available is None:
        return False
    plain, again = (
        _with_passes(space, config, replace(memory, training=training), usual)
        for training in (memory.training.model_copy(update={"gradient_checkpointing": use}) for use in (False, True))
    )
    there = _whole(config, memory)
    if there is not None and largest(space, plain).memory.total > there:
        return largest(space, again).memory.total <= there
    if usual is None or memory.trainer != "packed":
        return False
    rates = []
    for setting in (plain, again):
        together = min(_usual(setting, usual.point), POLL)
        rates.append(usual.speed.training([setting.recipe(usual.point)] * together))
    return rates[1] > rates[0]


def _with_passes(space: Space, config: StudyConfig, memory: Setting, usual: _UsualSpeed | None) -> Setting:
    """The setting with the pack that the config asks for, and the tokens of a pass that it would have."""
    tokens = _pass_tokens(space, config, memory, None, usual)
    pack = 1 if config.worker.pack == "auto" or memory.trainer != "packed" else config.worker.pack
    return replace(memory, pack=pack, training=memory.training.model_copy(update={"pass_tokens": tokens}))


def _whole(config: StudyConfig, memory: Setting) -> int | None:
    """Bytes that one process may take, where their number follows from it."""
    one_process = memory.device == "cpu" and config.worker.processes is None
    return None if memory.available is None else memory.available * (memory.processes if one_process else 1)


def _pass_tokens(
    space: Space,
    config: StudyConfig,
    memory: Setting,
    recorded: Mapping[str, Any] | None,
    usual: _UsualSpeed | None,
) -> int | None:
    """Tokens of the packed trainer's passes, where they are not as many as suit the device.

    The config's; else those of a study that has begun; else as many as memory has room for, and speed needs.
    """
    if config.training.pass_tokens is not None or memory.trainer != "packed":
        return config.training.pass_tokens
    if recorded is not None:
        known: int | None = recorded.get("training", {}).get("pass_tokens")
        return known
    if (there := _whole(config, memory)) is None:
        return None
    pack = 1 if config.worker.pack == "auto" else config.worker.pack
    enough = None if usual is None else usual.speed.enough(usual.member)
    return fewer_tokens(space, replace(memory, pack=pack), there, enough)


def _processes_and_packs(
    space: Space,
    baseline: Mapping[str, Any] | None,
    config: StudyConfig,
    data: Summary,
    memory: Setting,
    at: Sequence[ProcessSpec],
    speed: _UsualSpeed | None,
) -> tuple[Sequence[ProcessSpec], Packing, Setting]:
    """As many processes, and packs, as this machine has room for, and the memory of trials in these; what the config
    says stands.
    """
    top, device, sharing, each = largest(space, memory), memory.device, memory.processes, memory.devices
    whole = None if memory.available is None else memory.available * sharing
    uneven = config.early_stopping.rule != "none"
    if device == "cpu" and config.worker.processes is None:
        count = cpu_processes(max(1, cores() // each), available=whole, needed=top.memory.total * each)
        at = process_specs(config.worker.model_copy(update={"processes": count}), device)
        sharing = count * each
    share = None if whole is None else whole // sharing  # each process may take it at the same time
    memory = replace(memory, processes=sharing, available=share)
    if config.worker.pack != "auto":
        packs = Packing(len(at), config.worker.pack, exact=True, uneven=uneven)
        return at, packs, memory if memory.unpackable else replace(memory, pack=packs.most)
    if config.training.trainer.name != "packed":
        return at, Packing(len(at), uneven=uneven), memory
    packs = packing(
        len(at),
        device=device,
        tokens=data.train.tokens / data.train.rows * memory.batch_size(baseline or {}),
        usual=_usual(memory, expected_point(space, baseline or top.hyperparameters)),
        gains=1 if speed is None else speed.speed.gains(memory.recipe(speed.point), MOST),
        trials=_trials(config, data, _epochs(space, config.training)),
        fits=memory.fit_together,
        uneven=uneven,
    )
    return at, packs, memory


def _usual(memory: Setting, point: Mapping[str, Any]) -> int:
    """Trials that fit together where they are as a space's mean."""
    return next((count for count in range(MOST, 1, -1) if memory.fit_together([point] * count)), 1)


def _trials(config: StudyConfig, data: Summary, epochs: int) -> float | None:
    """Of the whole search, as far as trials or tokens limit it; None: hours or energy alone do."""
    budget = config.budget
    limits = [float(budget.trials)] if budget.trials is not None else []
    if budget.tokens is not None:
        limits.append(budget.tokens / (epochs * data.train.tokens))
    return min(limits, default=None)
