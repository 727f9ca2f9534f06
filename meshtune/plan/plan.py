"""What a study is made of, before anything is trained: `build` is the one place where the config becomes parts.

`check`, `tune` and whoever trains further trials of a study build the same plan: all find the same faults, and `tune`
goes on with what `check` describes. Nothing here is recorded, and of a study without training nothing loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshtune.config import presets
from meshtune.config.sections import (
    CommandObjectiveConfig,
    SamplerConfig,
    StudyConfig,
    is_command,
)
from meshtune.errors import Fault, InputError, need_training
from meshtune.objectives.build import ObjectiveSpec
from meshtune.plan import fixed_keys
from meshtune.plan.advice import advised, known_beforehand
from meshtune.plan.goals import PlannedGoals, goals_of, measured_quantities
from meshtune.plan.locate import Located
from meshtune.plan.sampler import sampler_of
from meshtune.plan.tool import ToolPlan, refuse_missing
from meshtune.plan.warm_start import WarmStart, warm_start
from meshtune.priors.known import Known
from meshtune.space.space import Space
from meshtune.stopping.decisions import EarlyStopping
from meshtune.workers.build import nodes_of
from meshtune.workers.planner import Packing, ProcessSpec, program_specs

if TYPE_CHECKING:
    from meshtune.plan.training import Elsewhere, TrainingPlan


@dataclass(frozen=True)
class Plan:
    """The parts of a study.

    Attributes:
        space: what is searched. baseline: its hyperparameters (None: a command without one).
        start: the baseline's point, or None where it lies outside the space or the constraints.
        warm_start: earlier trials. goals: objectives and constraints.
        objective: evaluates trials, and crosses to the workers. processes: where each of them runs.
        packing: how blocks are cut into packs. training: what only a study that trains adapters has.
        early: where trials are stopped, if they are.
        sampler: that proposes, in blocks of `block_size`. why_sampler: where `auto` chose it, the reason.
        known: what is known beforehand of the search, for its sampler. fixed: the keys that must not change on resume.
    """

    space: Space
    baseline: Mapping[str, Any] | None
    start: Mapping[str, Any] | None
    warm_start: WarmStart
    goals: PlannedGoals
    objective: ObjectiveSpec
    processes: Sequence[ProcessSpec]
    packing: Packing
    training: TrainingPlan | None
    early: EarlyStopping | None
    sampler: SamplerConfig
    block_size: int
    why_sampler: str | None
    known: Known | None
    fixed: Mapping[str, Any]


def build(study: Located, elsewhere: Elsewhere | None = None) -> Plan:
    """Build the parts; loads and tokenizes the data. Raises InputError on whatever is wrong with the input.

    `elsewhere`: plan for these cards, and not for this machine.
    """
    config, notes = study.config, fixed_keys.recorded_notes(study)
    recorded = None if notes is None else notes.get("fixed")
    _refuse_packs(config)
    tool = ToolPlan.of(config)
    space, baseline = _points(config, recorded, None if tool is None else tool.start)
    earlier = warm_start(study, space)  # before the data, which may take long
    training = early = known = None
    if is_command(config.objective):
        if isinstance(config.objective, CommandObjectiveConfig):
            objective = _program(study, config.objective, space)
        else:
            assert tool is not None
            objective, early = tool.objective(study, space), tool.early_stopping(config, space)
        processes: Sequence[ProcessSpec] = program_specs(config.worker, nodes=nodes_of(config.worker))
        packing = Packing(len(processes), uneven=early is not None)
    else:
        need_training()
        from meshtune.plan.training import training_of

        training, processes, packing = training_of(study, space, baseline, recorded, elsewhere)
        if config.baseline == "advised":
            given = (recorded or {}).get("baseline") or advised(config, space, training)
            baseline = presets.baseline(config.space, given, lora=True, training=config.training)
        known = known_beforehand(config, space, training, recorded, baseline or {})
        objective = ObjectiveSpec("lora", training.spec.model_dump(mode="json"))
        early = _early_stopping(config, training, space)
    goals = goals_of(config, space, None if training is None else training.memory)
    start = _start(space, baseline, goals, objective)
    trained = None if tool is None else tool.fingerprint
    block_size = config.sampler.block_size or (recorded or {}).get("block_size") or packing.block_size
    sampler, why = sampler_of(config, space, start, goals, block_size, notes or {})
    return Plan(
        space=space,
        baseline=baseline,
        start=start,
        warm_start=earlier,
        goals=goals,
        objective=objective,
        processes=processes,
        packing=packing,
        training=training,
        early=early,
        sampler=sampler,
        block_size=block_size,
        why_sampler=why,
        known=known,
        fixed=fixed_keys.gather(config, space, baseline, goals, sampler, block_size, early, training, trained, known),
    )


def _refuse_packs(config: StudyConfig) -> None:
    """Refuse a size of packs, or devices that share their rows, where there can be none."""
    packed = not is_command(config.objective) and config.training.trainer.name == "packed"
    if config.worker.pack not in ("auto", 1) and not packed:
        what = f"{config.worker.pack} trials together can only be had with `training.trainer: packed`; write auto"
        raise InputError(Fault(what, key="worker.pack"))
    if config.worker.devices_per_trial > 1 and config.training.trainer.name == "import":
        what = "a trainer of your own has one device; write 1, or `training.trainer: packed` or `transformers`"
        raise InputError(Fault(what, key="worker.devices_per_trial"))


def _points(
    config: StudyConfig, recorded: Mapping[str, Any] | None, start: Mapping[str, Any] | None
) -> tuple[Space, Mapping[str, Any] | None]:
    """The space and the baseline; `start`: of a tool's own settings."""
    lora = not isinstance(config.objective, CommandObjectiveConfig)
    whole = presets.alpha_is_whole(recorded)
    space = presets.build(config.space, lora=lora, whole_alpha=whole, start=start)
    training = config.training
    given = config.baseline
    point = presets.baseline(config.space, given, lora=lora, training=training, whole_alpha=whole, start=start)
    return space, point


def _program(study: Located, section: CommandObjectiveConfig, space: Space) -> ObjectiveSpec:
    """The user's program, which must be there: every trial would crash without it."""
    presets.check_placeholders(section.command, space)
    refuse_missing(section.command[0], section.directory)
    fields = {
        "command": list(section.command),
        "result": section.result,
        "folder": str(study.folder),
        "directory": section.directory,
        "also": list(measured_quantities(study.config)),
    }
    return ObjectiveSpec("command", fields)


def _early_stopping(config: StudyConfig, training: TrainingPlan, space: Space) -> EarlyStopping | None:
    section, data = config.early_stopping, training.data
    if section.rule == "none":
        return None
    if section.disk is not None and training.own_trainer:
        what = "how large the states of a trainer of one's own are is not known: leave it out"
        raise InputError(Fault(what, key="early_stopping.disk"))
    from meshtune.training.memory.formula import of_state

    at = training.memory

    def state(hyperparameters: Mapping[str, Any], validated: bool) -> int:
        return of_state(at.shape, at.recipe(hyperparameters), validated=validated)

    trained, held_out = training.spec.training, data.validation.rows
    rows = data.train.rows
    return EarlyStopping(section, trained.epochs, data.train.tokens, held_out, trained, rows, space, state)


def _start(
    space: Space, baseline: Mapping[str, Any] | None, goals: PlannedGoals, objective: ObjectiveSpec
) -> Mapping[str, Any] | None:
    """The baseline's point, where it may be a trial: it lies in the space and keeps what is known before training."""
    start = None
    if baseline is not None and space.contains(baseline) and goals.allowed(baseline):
        start = space.encode(baseline)
    if start is None and objective.kind != "lora" and goals.goals.refers_to("baseline"):
        what = "a constraint compares with it, so it must be a point of the space that keeps the other constraints"
        raise InputError(Fault(what, key="baseline"))
    return start
