"""The sections of study.yaml that say how much is spent and where: the budget, what ends a search before it is spent,
replicates of the best point, and early stopping. Values only: nothing here counts, stops or trains anything.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from meshtune.config.values import PositiveReal, Real, Section, Size


class BudgetConfig(Section):
    """When the search ends: at the first limit that is reached. `trial_hours` is the timeout of one trial."""

    trials: PositiveInt | None = 30
    hours: PositiveReal | None = None
    tokens: PositiveInt | None = None
    kilowatt_hours: PositiveReal | None = None  # of this machine's processors and GPUs, where they can be read
    trial_hours: PositiveReal | None = None
    price_per_hour: PositiveReal | None = None  # of this machine, in any currency: shown, and decides nothing

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if all(limit is None for limit in (self.trials, self.hours, self.tokens, self.kilowatt_hours)):
            raise ValueError("there is no limit: give at least one of `trials`, `hours`, `tokens` and `kilowatt_hours`")
        return self


def _share(value: Any) -> Any:
    """`0.1 %` is 0.001."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*%\s*", value)
    with contextlib.suppress(ValueError):
        if found is not None and 0 < float(found[1]) < 100:
            return float(found[1]) / 100
    raise ValueError(f"`{value}` is not allowed; a share above 0 and below 1 is, or percent, such as `0.1 %`")


class StopWhenConfig(Section):
    """What ends a search before its budget is spent; the first that holds.

    `no_improvement`: so many trials after the last that bettered the best by more than the noise, which is what
    replicates measured, else `noise`. `target`: the best loss is as low. `expected_gain`: another 20 trials are
    expected to lower the loss by less than this share of it, such as `0.1 %` or 0.001.
    """

    no_improvement: PositiveInt | None = None
    noise: Annotated[Real, Field(ge=0)] = 0.0
    target: Real | None = None
    expected_gain: Annotated[float, BeforeValidator(_share), Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.no_improvement is None and self.target is None and self.expected_gain is None:
            what = "give `no_improvement`, `expected_gain`, `target` or several"
            raise ValueError(f"nothing is given that could end the search: {what}")
        if self.no_improvement is None and self.noise:
            raise ValueError("`noise` belongs to `no_improvement`, which is not given: give it, or remove `noise`")
        return self


def _some_or_none(value: int) -> int:
    if value == 1:
        raise ValueError("1 is not allowed: one training shows no spread; write 2 or more, or 0 for none")
    return value


Replicates = Annotated[int, Field(ge=0, le=100), AfterValidator(_some_or_none)]


def of_rule(value: Any) -> Any:
    """`early_stopping: median` is short for `early_stopping: {rule: median}`."""
    return {"rule": value} if isinstance(value, str) else value


Fraction = Annotated[float, Field(gt=0, lt=1)]


def _ascending(rungs: tuple[float, ...]) -> tuple[float, ...]:
    for before, after in pairwise(rungs):
        if after <= before:
            raise ValueError(f"{after:g} follows {before:g}: rungs ascend, such as [0.15, 0.3, 0.5, 0.7]")
    return rungs


def _as_tuple(value: Any) -> Any:
    """Behind `of_rule` a list comes as Python's, which a strict tuple refuses."""
    return tuple(value) if isinstance(value, list) else value


Rungs = Annotated[tuple[Fraction, ...], Field(min_length=1), AfterValidator(_ascending), BeforeValidator(_as_tuple)]


FEWEST_FINISHED = 3  # trials that any prediction of another one's end needs


class EarlyStoppingConfig(Section):
    """Which trials end before their training does.

    Attributes:
        rule: `none`: no trial; `default`: `asha`, which saves the most tokens; or one by name. `meshtune init`
            writes `model`, which did best in our measurements.
        rungs: shares of a trial's tokens after which it is measured and goes on or ends.
        startup: trials that reach their end before any is stopped; fewer than 3, as older files have, count as 3.
        keep: share of those that reached a rung which goes on from it whatever the rule says.
            Not of `model`.
        confidence: of the rules `curve` and `model`, that a trial which they stop would not have become the best. Of
            `model` it is .98 unless another one is given.
        rows: validation rows that a rung is measured on.
        promote: at most so many stopped trials are trained to the end before anything is chosen.
        value: of a stopped trial for the sampler: the loss that is predicted for its end, or none (`failed`).
        freeze: a trial that was stopped may go on later in the search, where it promises more than a new point; with
            `model`, of which it is true unless it is given, where the rule would not stop it any more.
        disk: the states of such trials take at most so much, such as `20 GB`: of those that promise least they are
            dropped. Null: no limit.
    """

    rule: Literal["none", "default", "median", "asha", "curve", "model"] = "default"
    rungs: Rungs = (0.1, 0.15, 0.3, 0.5, 0.7)
    startup: PositiveInt = FEWEST_FINISHED
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    rows: PositiveInt = 64
    promote: Annotated[int, Field(ge=0)] = 3
    value: Literal["predicted", "failed"] = "predicted"
    freeze: bool = False
    disk: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_model(cls, values: Any) -> Any:
        """The numbers that this rule was measured with."""
        by_model = isinstance(values, Mapping) and values.get("rule") == "model"
        return {"confidence": 0.98, "freeze": True, **values} if by_model else values

    @model_validator(mode="after")
    def _frozen_states(self) -> Self:
        if self.disk is not None and not self.freeze:
            raise ValueError("`disk` limits what frozen trials keep: write `freeze: true` beside it, or remove `disk`")
        return self
