"""What guides a study's search, as `check` and `tune` need it: quantities known before training, and what they allow.

Where the baseline lies outside the constraints on these, it is measured beside the trials, as one outside the space is:
whether the best beats what people use today is asked all the same, and no trial is spent on what cannot be chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meshtune.config import goals
from meshtune.config.sections import StudyConfig
from meshtune.errors import Fault, InputError
from meshtune.space.goals import LOSS_ALONE, MEMORY, PARAMETERS, Guidance, Quantities, allows
from meshtune.space.space import Space
from meshtune.system.text import number

if TYPE_CHECKING:
    from meshtune.plan.plan import Prepared

# Hyperparameters that neither the adapter's size nor a trial's memory depends on.
_FREE = ("alpha", "learning_rate", "weight_decay", "warmup_ratio", "lr_scheduler", "use_rslora")


@dataclass(frozen=True)
class Guided:
    """The objectives and constraints of a study.

    Attributes:
        known: the quantities that guide the search of a point, by its hyperparameters, before training.
        measured: quantities that each trial is asked for, beside the loss. left: the share of the space that the
            constraints leave, and whether it is exact; None where none is known before training.
    """

    guidance: Guidance = LOSS_ALONE
    known: Callable[[Mapping[str, Any]], Quantities] = lambda _: {}
    measured: tuple[str, ...] = ()
    left: tuple[float, bool] | None = None

    def allowed(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether a point keeps the constraints that are known before training."""
        return not self.guidance.known or allows(self.guidance, self.known(hyperparameters))

    def allows(self, space: Space) -> Callable[[Mapping[str, Any]], bool] | None:
        """The same of what the optimizer moves; None where every point is allowed."""
        return (lambda params: self.allowed(space.decode(params))) if self.guidance.known else None

    def lines(self) -> list[tuple[str, str]]:
        """For people: a label and a text each."""
        found = []
        if self.guidance.objectives != LOSS_ALONE.objectives:
            each = [f"{'maximise' if one.maximize else 'minimise'} {one.quantity}" for one in self.guidance.objectives]
            found.append(("objectives", ", ".join(each)))
        for index, one in enumerate(self.guidance.constraints):
            when = "known before training" if one.known else "measured with each trial"
            found.append(("constraint" if index == 0 else "", f"{one.text} ({when})"))
        if self.left is not None:
            share, exact = self.left
            how = "of the space's points keep" if exact else "of random points of the space keep"
            found.append(("", f"{number(100 * share, 3)} % {how} what is known before training"))
        return found


def guidance_of(config: StudyConfig) -> tuple[Guidance, tuple[str, ...]]:
    """The objectives and constraints of a config, and the quantities that each trial is asked for."""
    values = config.model_dump(mode="json", exclude_none=True)
    return goals.guidance(values), goals.wanted(values)


def guided(prepared: Prepared, config: StudyConfig) -> Prepared:
    """The same study with what guides it; a baseline that is not allowed is no trial.

    Raises InputError where no point is allowed, or a quantity cannot be known.
    """
    guidance, measured = guidance_of(config)
    if guidance == LOSS_ALONE and not measured:
        return prepared
    found = Guided(guidance, _known(prepared, config, guidance), measured)
    if (allowed := found.allows(prepared.space)) is not None:
        from meshtune.record.distributions import distributions
        from meshtune.samplers.allowed import share

        left = share(distributions(prepared.space), allowed)
        if not left[0]:
            texts = " and ".join(f"`{one.text}`" for one in guidance.known)
            what = "no point of the space keeps" if left[1] else "none of 10,000 random points of the space keeps"
            raise InputError(Fault(f"{what} {texts}: loosen them, or change `space`", key="constraints"))
        found = replace(found, left=left)
    start, baseline = prepared.start, prepared.baseline
    if baseline is not None and start is not None and not found.allowed(baseline):
        start = None
    if start is None and prepared.objective.kind == "command" and guidance.refers_to("baseline"):
        what = "a constraint compares with it, so it must be a point of the space that keeps the other constraints"
        raise InputError(Fault(what, key="baseline"))
    return replace(prepared, start=start, guided=found, fixed={**prepared.fixed, **guidance.described()})


def _known(prepared: Prepared, config: StudyConfig, guidance: Guidance) -> Callable[[Mapping[str, Any]], Quantities]:
    names = [*guidance.quantities]
    predicted = [name for name in names if name in (PARAMETERS, MEMORY)] if config.data is not None else []
    of_shape = _predicted(prepared, config, predicted) if predicted else lambda _: {}

    def known(hyperparameters: Mapping[str, Any]) -> Quantities:
        own = {name: float(hyperparameters[name]) for name in names if _is_number(hyperparameters.get(name))}
        return {**own, **of_shape(hyperparameters)}

    return known


def _predicted(prepared: Prepared, config: StudyConfig, names: list[str]) -> Callable[[Mapping[str, Any]], Quantities]:
    """What follows from the model's shape; imports torch."""
    from meshtune.plan.forecast import setting
    from meshtune.training.memory.formula import adapter_parameters

    if MEMORY in names and config.training.trainer.imported is not None:
        what = f"{MEMORY} of a trainer of one's own is not known: leave the constraint out"
        raise InputError(Fault(what, key="constraints"))
    at = replace(setting(prepared, config.seed), pack=1)

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
