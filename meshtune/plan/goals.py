"""The goals of a study, as `check` and `tune` need them: quantities known before training, and what they allow.

Where the baseline lies outside the constraints on these, it is measured beside the trials, as one outside the space is:
whether the best beats what people use today is asked all the same, and no trial is spent on what cannot be chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meshtune.config import goals as section
from meshtune.config.sections import StudyConfig
from meshtune.errors import Fault, InputError
from meshtune.record.distributions import distributions
from meshtune.samplers.allowed import share
from meshtune.space.goals import LOSS_ALONE, MEMORY, PARAMETERS, Goals, Quantities, allows
from meshtune.space.space import Space
from meshtune.system.text import number

if TYPE_CHECKING:
    from meshtune.training.memory.check import Setting

# Hyperparameters that neither the adapter's size nor a trial's memory depends on.
_FREE = (
    *("alpha", "learning_rate", "weight_decay", "warmup_ratio", "lr_scheduler", "use_rslora", "lora_plus_ratio"),
    "neftune_alpha",
    "optimizer",  # whatever it is, AdamW is planned for, whose moments take most
)


@dataclass(frozen=True)
class PlannedGoals:
    """The objectives and constraints of a study.

    Attributes:
        known: the quantities of a point that are known before training, by its hyperparameters.
        allowed_share: the share of the space that the constraints leave, and whether it is exact; None where none is
            known before training.
    """

    goals: Goals
    known: Callable[[Mapping[str, Any]], Quantities]
    allowed_share: tuple[float, bool] | None

    def allowed(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether a point keeps the constraints that are known before training."""
        return not self.goals.known or allows(self.goals, self.known(hyperparameters))

    def allows(self, space: Space) -> Callable[[Mapping[str, Any]], bool] | None:
        """The same of what the optimizer moves; None where every point is allowed."""
        return (lambda params: self.allowed(space.decode(params))) if self.goals.known else None

    def lines(self) -> list[tuple[str, str]]:
        """For people: a label and a text each."""
        found = []
        if self.goals.objectives != LOSS_ALONE.objectives:
            each = [f"{'maximise' if one.maximize else 'minimise'} {one.quantity}" for one in self.goals.objectives]
            found.append(("objectives", ", ".join(each)))
        for index, one in enumerate(self.goals.constraints):
            when = "known before training" if one.known else "measured with each trial"
            found.append(("constraint" if index == 0 else "", f"{one.text} ({when})"))
        if self.allowed_share is not None:
            share, exact = self.allowed_share
            how = "of the space's points keep" if exact else "of random points of the space keep"
            found.append(("", f"{number(100 * share, 3)} % {how} what is known before training"))
        return found


def measured_quantities(config: StudyConfig) -> tuple[str, ...]:
    """The quantities that each trial is asked for, beside the loss."""
    return section.wanted(config.model_dump(mode="json", exclude_none=True))


def goals_of(config: StudyConfig, space: Space, memory: Setting | None) -> PlannedGoals:
    """The goals of a study; `memory` is None where nothing is trained.

    Raises InputError where no point is allowed, or a quantity cannot be known.
    """
    goals = section.goals(config.model_dump(mode="json", exclude_none=True))
    found = PlannedGoals(goals, _known(config, goals, memory), None)
    if (allowed := found.allows(space)) is None:
        return found
    left = share(distributions(space), allowed)
    if not left[0]:
        texts = " and ".join(f"`{one.text}`" for one in goals.known)
        what = "no point of the space keeps" if left[1] else "none of 10,000 random points of the space keeps"
        raise InputError(Fault(f"{what} {texts}: loosen them, or change `space`", key="constraints"))
    return replace(found, allowed_share=left)


def _known(config: StudyConfig, goals: Goals, memory: Setting | None) -> Callable[[Mapping[str, Any]], Quantities]:
    names = goals.quantities
    of_shape = [name for name in names if name in (PARAMETERS, MEMORY)]
    if MEMORY in of_shape and config.training.trainer.imported is not None:
        what = f"{MEMORY} of a trainer of one's own is not known: leave the constraint out"
        raise InputError(Fault(what, key="constraints"))
    predicted = _predicted(memory, of_shape) if memory is not None and of_shape else lambda _: {}

    def known(hyperparameters: Mapping[str, Any]) -> Quantities:
        own = {name: float(hyperparameters[name]) for name in names if _is_number(hyperparameters.get(name))}
        return {**own, **predicted(hyperparameters)}

    return known


def _predicted(memory: Setting, names: list[str]) -> Callable[[Mapping[str, Any]], Quantities]:
    """What follows from the model's shape; imports torch."""
    from meshtune.training.memory.formula import adapter_parameters

    at = replace(memory, pack=1)

    @functools.cache
    def of(items: tuple[tuple[str, Any], ...]) -> Quantities:
        point = {**dict(items), "alpha": 1.0, "learning_rate": 1e-4}
        found = {PARAMETERS: float(adapter_parameters(at.shape, at.recipe(point)))}
        if MEMORY in names:
            found[MEMORY] = float(at.memory(point).total)
        return {name: found[name] for name in names}

    def predicted(hyperparameters: Mapping[str, Any]) -> Quantities:
        kept = {name: value for name, value in hyperparameters.items() if name not in _FREE}
        kept["dropout"] = 0.1 if kept.get("dropout") else 0.0  # memory asks only whether there is any
        return of(tuple(sorted(kept.items())))

    return predicted


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
