"""What a study is made of, before anything is trained: the one place where the config becomes parts.

`prepare` is shared by `check` and `tune`: both find the same faults, and `tune` goes on with what `check` describes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config import presets
from meshtune.config.sections import (
    CommandObjectiveConfig,
    DataConfig,
    LoraObjectiveConfig,
    ModelConfig,
    SamplerConfig,
    StudyConfig,
)
from meshtune.errors import Fault, InputError, StudyMismatch, need, together
from meshtune.objectives import metrics
from meshtune.objectives.build import ObjectiveSpec
from meshtune.plan.fixed_keys import recorded_keys
from meshtune.plan.goals import Guided, guidance_of, guided
from meshtune.plan.locate import Located
from meshtune.plan.measurements import Guides, guides_of
from meshtune.plan.sampler import fixed as fixed_sampler
from meshtune.plan.sampler import with_sampler
from meshtune.plan.warm_start import WarmStart, warm_start
from meshtune.space.space import Space
from meshtune.stopping.decisions import EarlyStopping
from meshtune.system.imported import portable
from meshtune.workers.local import Place
from meshtune.workers.planner import Packing
from meshtune.workers.processes import places

if TYPE_CHECKING:
    from meshtune.data.build import PreparedData


@dataclass(frozen=True)
class Prepared:
    """The parts of a study.

    Attributes:
        space: what is searched. baseline: its hyperparameters (None: a command without one).
        start: the baseline's point, or None where it lies outside.
        objective: crosses to the worker. places: a process each. fixed: keys that must not change on resume.
        packing: how blocks are cut into packs. packing_to_be_tried: whether the model may turn out not to allow packs.
        data: summary of the prepared rows, None for a command. damage: why they were made again, or None.
        test_rows: rows that the search never reads.
        answers: validation rows that the finalists answer. warm: what is known from the start.
        early: where trials are stopped, if they are.
        no_exact_room: why there is no memory for the base in float32, where that is known.
        largest_rank: that the model's modules can use, where that is known.
        guided: objectives and constraints. guides: what each trial is measured by beside the loss, and on what.
        sampler: that proposes, in blocks of `block_size`. why: where `auto` chose it, the reason.
    """

    space: Space
    baseline: Mapping[str, Any] | None
    start: Mapping[str, Any] | None
    objective: ObjectiveSpec
    places: Sequence[Place]
    fixed: Mapping[str, Any]
    data: Any
    packing: Packing
    packing_to_be_tried: bool = False
    test_rows: int = 0
    answers: int = 0
    early: EarlyStopping | None = None
    warm: WarmStart = field(default_factory=WarmStart)
    no_exact_room: str | None = None
    largest_rank: int | None = None
    guided: Guided = field(default_factory=Guided)
    guides: Guides | None = None
    damage: str | None = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    block_size: int = 1
    why: str | None = None


def prepare(study: Located) -> Prepared:
    """Build the parts; loads and tokenizes the data. Raises InputError on whatever is wrong with the input."""
    return with_sampler(study, _parts(study))


def _parts(study: Located) -> Prepared:
    config = study.config
    lora = not isinstance(config.objective, CommandObjectiveConfig)
    recorded = recorded_keys(study)
    whole = presets.alpha_is_whole(recorded)
    space = presets.build(config.space, lora=lora, whole_alpha=whole)
    baseline = presets.baseline(config.space, config.baseline, lora=lora, training=config.training, whole_alpha=whole)
    start = space.encode(baseline) if baseline is not None and space.contains(baseline) else None
    warm = warm_start(study, space)  # before the data, which may take long
    fixed: dict[str, Any] = {
        "objective": config.objective.model_dump(mode="json", exclude={"directory"}),
        "space": space.describe(),
        "baseline": dict(baseline) if baseline is not None else None,
        "sampler": fixed_sampler(config.sampler),
        "seed": config.seed,
        "warm_start": config.warm_start.fixed if config.warm_start else None,
    }
    if isinstance(config.objective, CommandObjectiveConfig):
        presets.check_placeholders(config.objective.command, space)
        _check_program(config.objective)
        fields = {
            "command": list(config.objective.command),
            "result": config.objective.result,
            "folder": str(study.folder),
            "directory": config.objective.directory,
            "also": list(guidance_of(config)[1]),
        }
        objective = ObjectiveSpec("command", fields)
        at = places(config.worker, "cpu")
        _check_pack(config, packs=False)
        prepared = Prepared(space, baseline, start, objective, at, fixed, None, Packing(len(at)), warm=warm)
        return guided(prepared, config)
    return _lora(study, space, baseline, start, fixed, warm, recorded)


def _check_program(objective: CommandObjectiveConfig) -> None:
    """Refuse a program that is not there, which every trial would crash on."""
    program = objective.command[0]
    if "{" not in program and shutil.which(program) is None and not (Path(objective.directory) / program).is_file():
        what = f"there is no program `{program}`, neither on the PATH nor in {objective.directory}"
        raise InputError(Fault(what, key="objective.command.0"))


def _check_pack(config: StudyConfig, *, packs: bool) -> None:
    """Refuse a size of packs where there can be none."""
    if config.worker.pack not in ("auto", 1) and not packs:
        what = f"{config.worker.pack} trials together can only be had with `training.trainer: packed`; write auto"
        raise InputError(Fault(what, key="worker.pack"))


def _lora(
    study: Located,
    space: Space,
    baseline: Mapping[str, Any] | None,
    start: Mapping[str, Any] | None,
    fixed: dict[str, Any],
    warm: WarmStart,
    recorded: Mapping[str, Any] | None,
) -> Prepared:
    """The parts that need the data and the model; imports torch."""
    need_training()
    from meshtune.data.build import check_there
    from meshtune.objectives.lora import LoraSpec
    from meshtune.plan.memory import longest_row
    from meshtune.plan.processes import spread, variants
    from meshtune.training.chosen_trainer import takes, trainer_of
    from meshtune.training.models import check_model, resolve_device
    from meshtune.training.precision import resolve_precision, validation_precision
    from meshtune.training.recipe import target_modules

    config = study.config
    if config.model is None or config.data is None:
        raise InputError("a study of LoRA hyperparameters needs `model` and `data`")
    if not isinstance(config.objective, LoraObjectiveConfig):
        raise InputError("this is no LoRA objective")
    model, sources = config.model, config.data
    device = resolve_device(config.model)
    train = trainer_of(config.training)  # one that is imported may not be there
    if config.early_stopping.rule != "none" and not takes(train, "rungs"):
        what = "the trainer has no argument `rungs`, so it cannot be stopped early (see docs/training.md); write none"
        raise InputError(Fault(what, key="early_stopping"))
    searched = any(dimension.name == "target_modules" for dimension in space.dimensions)
    targets = space.fixed.get("target_modules", config.training.target_modules)
    together(
        lambda: check_model(model, None if searched else target_modules(targets)),
        lambda: check_there(sources),
        lambda: metrics.load(config.metrics),  # finds their faults now, and not at the end of the search
    )
    training = config.training.model_copy(update={"precision": resolve_precision(config.training.precision, device)})
    _check_pack(config, packs=training.trainer.name == "packed")
    at = places(config.worker, device)
    data = rows(study, sources, model, lambda: longest_row(space, model, training, at))
    answers = answered(config, data.summary.validation.rows)
    guides = guides_of(study, model, answers)
    spec = LoraSpec(
        model=config.model,
        training=training,
        data=data.ref,
        at=config.objective.at,
        folder=str(study.folder),
        answers=answers,
        max_new_tokens=config.generation.max_new_tokens,
        metrics=config.metrics,
        variants=tuple(variants(space, baseline)),
        rung_rows=config.early_stopping.rows,
        guides=None if guides is None else guides.spec,
    )
    fixed = {
        **fixed,
        "model": _fixed_model(config.model),
        "data": data.ref.fingerprint,
        "training": training.model_dump(mode="json", exclude={"keep_adapters", "checkpoint_minutes", "pass_tokens"}),
    }
    early = None
    if config.early_stopping.rule != "none":  # a study without it keeps the fixed keys that it had before there was any
        train_side, held_out = data.summary.train, data.summary.validation.rows
        early = EarlyStopping(
            config.early_stopping, training.epochs, train_side.tokens, held_out, training, train_side.rows
        )
        fixed["early_stopping"] = early.described()
    if guides is not None:
        fixed["guides"] = guides.fixed
    fixed["validation_precision"] = validation_precision(config.model)
    fixed["training"]["trainer"] = portable(fixed["training"]["trainer"])
    objective = ObjectiveSpec("lora", spec.model_dump(mode="json"))
    prepared = Prepared(
        space,
        baseline,
        start,
        objective,
        at,
        fixed,
        data.summary,
        Packing(len(at), uneven=early is not None),
        packing_to_be_tried=training.trainer.name == "packed",
        test_rows=data.summary.test.rows,
        answers=answers,
        early=early,
        warm=warm,
        guides=guides,
        damage=data.damage,
    )
    return guided(spread(prepared, config, recorded), config)


def answered(config: StudyConfig, validation_rows: int) -> int:
    """How many of the validation rows are answered."""
    asked = config.generation.rows
    return min((64 if config.metrics else 4) if asked is None else asked, validation_rows)


def _fixed_model(model: ModelConfig) -> dict[str, Any]:
    """What of the model must not change; records that are older than a key do not hold its default."""
    values = model.model_dump(mode="json", exclude={"device"})
    return {key: value for key, value in values.items() if key != "quantization" or value is not None}


def need_training() -> None:
    """Raises MissingExtra where a package that training needs is not installed."""
    need("the training of adapters", "torch", "transformers", "peft", "accelerate", "datasets")


def rows(
    study: Located, data: DataConfig, model: ModelConfig, longest: Callable[[], int | None] = lambda: None
) -> PreparedData:
    """The study's rows as tokens in its folder, made or found there. Raises InputError.

    `longest()` is the longest row that the device has memory for; asked only where rows are made under
    `max_length: auto`.
    """
    from meshtune.data.build import prepare as prepare_rows

    folder = study.folder / "data"
    limit = None
    if data.max_length == "auto" and not folder.exists():
        limit = _length_of_rounds(study) or longest()
    try:
        return prepare_rows(data, model, study.config.seed, folder, memory_length=limit)
    except StudyMismatch:
        if study.started:
            raise
        shutil.rmtree(folder)  # nothing was trained on them: they are of an earlier `check`
        return rows(study, data, model, longest)


def _length_of_rounds(study: Located) -> int | None:
    """The longest row of the first round, which is that of all: other rows would be split into other sides."""
    if study.whole is None or study.number == 1:
        return None
    from meshtune.data.build import load

    folder = study.whole.rounds[0].folder / "data"
    return load(folder).summary.max_length if folder.exists() else None
