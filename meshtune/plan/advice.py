"""What is known of a study's hyperparameters before its first trial, by its model, its data and its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config.sections import StudyConfig
from meshtune.errors import Fault, InputError
from meshtune.priors import Advice, advise
from meshtune.priors.advice import MAX_RANK, RANKS
from meshtune.priors.known import Known
from meshtune.priors.model_facts import model_facts
from meshtune.space.space import Space
from meshtune.training.recipe import other_steps

if TYPE_CHECKING:
    from meshtune.plan.training import TrainingPlan

FIRST = 3  # points of the portfolio that are tried after the start


def no_advice(config: StudyConfig, space: Space, *, fetched: bool = True) -> str | None:
    """Why nothing is known of a study of adapters; None where something is.

    `fetched`: False: a model that is neither a file nor a folder may still be fetched, and have a config then.
    """
    if config.model is None:
        return "the study names no model"
    keys, given, name = config.training, space.fixed, config.model.name
    if given.get("target_modules", keys.target_modules) != "all-linear":
        return "the known runs have adapters on all linear layers, and this study's are on some of them"
    if given.get("use_rslora", keys.use_rslora):
        return "the known runs scale adapters by alpha / rank, and rsLoRA does not"
    if given.get("use_dora", keys.use_dora):
        return "none of the known runs is of DoRA"
    if other := other_steps(keys, given):
        return f"none of the known runs has `{other[0]}`"
    if Path(name).suffix == ".gguf":
        return "a .gguf file has no config.json that tells the model's size"
    try:
        model_facts(name)
    except InputError as error:
        what = " ".join(error.faults[0].message.split())
        return what if fetched or Path(name).exists() else None
    return None


def advice_for(config: StudyConfig, space: Space, training: TrainingPlan | None) -> Advice | None:
    """The advice, with ranks of the space; None where nothing is known, and where a program is the objective.

    Raises InputError that holds every fault of `priors`.
    """
    if training is None or config.model is None or no_advice(config, space) is not None:
        return None
    hidden_size, family = model_facts(config.model.name)
    keys = config.training
    rows, batch_size = training.data.train.rows, keys.batch_size * keys.gradient_accumulation
    return advise(
        hidden_size=hidden_size,
        family=family,
        rows=rows,
        steps=-(-rows // batch_size) * keys.epochs,
        batch_size=min(batch_size, rows),
        ranks=ranks_of(space),
        priors=[Path(path) for path in config.priors],
    )


def advised(config: StudyConfig, space: Space, training: TrainingPlan) -> dict[str, Any]:
    """The advice's start, as far as the space leaves it open; where it fixes alpha, the rate moves with it.

    Raises InputError where nothing is known.
    """
    found = advice_for(config, space, training)
    if found is None:
        what = f"nothing can be advised: {no_advice(config, space)}; write common, or a point of your own"
        raise InputError(Fault(f"`advised`: {what}", key="baseline"))
    return _start(found, space)


def known_beforehand(
    config: StudyConfig,
    space: Space,
    training: TrainingPlan,
    recorded: Mapping[str, Any] | None,
    usual: Mapping[str, Any],
) -> Known | None:
    """What samplers are given of the advice, where it is the study's `baseline`; `usual`: the point's other values.

    A study that has begun keeps what it began with. None beside earlier trials, which say more of this very task, and
    where it is not the validation loss alone that is searched.
    """
    if recorded is not None:
        return Known.from_json(space, recorded["known"]) if "known" in recorded else None
    loss_alone = config.objectives == ("validation_loss",)
    if config.baseline != "advised" or config.warm_start is not None or not loss_alone:
        return None
    found = advice_for(config, space, training)
    return None if found is None else Known.of(space, found.expected, found.portfolio[:FIRST], usual)


def _start(found: Advice, space: Space) -> dict[str, Any]:
    start = {name: value for name, value in found.start.items() if name not in space.fixed}
    if "alpha" in space.fixed or "scale" in space.fixed:
        product = found.start["learning_rate"] * found.start["alpha"]
        start = {name: value for name, value in start.items() if name not in ("alpha", "learning_rate")}
        start |= {} if {"learning_rate", "step"} & space.fixed.keys() else {"step": product}
    elif "step" in space.fixed:
        del start["learning_rate"]
    return start


def ranks_of(space: Space) -> tuple[int, ...]:
    """Those of a space that may be advised; none where it names no rank. Of an interval the powers of two."""
    for dimension in space.dimensions:
        if dimension.name == "rank":
            if dimension.values:
                return tuple(sorted(int(rank) for rank in dimension.values))
            low, high = (int(dimension.decode(end)) for end in (dimension.parameter.low, dimension.parameter.high))
            return tuple(rank for rank in RANKS if low <= rank <= high) or (min(high, max(low, MAX_RANK)),)
    rank = space.fixed.get("rank")
    return (rank,) if isinstance(rank, int) else ()
