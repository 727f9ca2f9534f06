"""What guides a search beside the validation loss: quantities, objectives and constraints, as values and numbers.

A quantity has a name. *Known* ones follow from a point before anything is trained: the adapter's parameters, the
predicted memory, and hyperparameters. The others are *measured* with a trial. A constraint on a known quantity rules
points out before they are proposed; one on a measured quantity reaches the sampler as how far it is violated.
Nothing here measures or decides anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meshtune.errors import nearest

LOSS = "validation_loss"
PARAMETERS, MEMORY = "adapter_parameters", "predicted_memory"
PERPLEXITY = "perplexity"
BENCHMARKS = ("mmlu", "bbh", "drop", "humaneval")
GOLD = ".gold"  # behind a benchmark: the log-likelihood of its right answers
REFERENCES = ("untuned", "baseline")
SLACK = 1e-9  # relative: what floating point loses between a limit and a value that is equal to it
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Relation = Literal["<=", ">="]
Quantities = Mapping[str, float]

_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONSTRAINT = re.compile(r"\s*(?P<name>[A-Za-z_][\w.\-]*)\s*(?P<relation><=|>=|==|=|<|>)\s*(?P<bound>.+?)\s*")
_PLAIN = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-z]*)")
_RELATIVE = re.compile(rf"(?P<reference>[A-Za-z_]\w*)\s*(?:(?P<sign>[+*-])\s*(?P<number>{_NUMBER})\s*(?P<unit>\w*))?")
_TIMES = re.compile(rf"(?P<number>{_NUMBER})\s*\*\s*(?P<reference>[A-Za-z_]\w*)")
_EXAMPLES = "such as `adapter_parameters <= 5e6` or `mmlu >= untuned - 0.01`"


@dataclass(frozen=True)
class Names:
    """The quantities that a study has.

    Attributes:
        known: before training. measured: with each trial, the loss among them. result: what a program calls its loss.
        other: whether a program may report further ones by any name.
    """

    known: tuple[str, ...]
    measured: tuple[str, ...]
    result: str = LOSS
    other: bool = False

    def quantity(self, name: str) -> str:
        """The quantity that a name means. Raises ValueError where there is none."""
        if name == self.result:
            return LOSS
        if name in self.known or name in self.measured or self.other:
            return name
        there = (*self.measured, *self.known)
        raise ValueError(f"unknown quantity `{name}`; there are {', '.join(there)}.{nearest(name, there)}")


@dataclass(frozen=True)
class Objective:
    """A quantity that is minimised or maximised."""

    quantity: str
    maximize: bool = False


@dataclass(frozen=True)
class Constraint:
    """`quantity <= limit`, or >=; the limit is a number, or a reference's own value times `factor` plus `offset`.

    Attributes:
        text: as the user wrote it, with single spaces. reference: `untuned`, `baseline` or None.
        known: whether the quantity is known before training.
    """

    text: str
    quantity: str
    relation: Relation
    reference: str | None = None
    factor: float = 0.0
    offset: float = 0.0
    known: bool = False

    def limit(self, references: Mapping[str, Quantities]) -> float | None:
        """The number on the right; None while the reference has no value."""
        if self.reference is None:
            return self.offset
        value = references.get(self.reference, {}).get(self.quantity)
        return None if value is None else self.factor * value + self.offset

    def violation(self, value: float, limit: float) -> float:
        """How far a value is beyond the limit, in parts of it (as it is, where the limit is 0); at most 0 where held.

        Relative, since MADS adds the squares of what is counted in bytes and of what is counted in shares.
        """
        beyond = value - limit if self.relation == "<=" else limit - value
        if abs(beyond) <= SLACK * abs(limit):
            return 0.0
        return beyond / (abs(limit) or 1.0)


def constraint(text: str, names: Names) -> Constraint:
    """A constraint out of its text. Raises ValueError with what is wrong, and what to write instead."""
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise ValueError(f"`{text}` is no constraint: write a quantity, <= or >=, and a limit, {_EXAMPLES}")
    name, relation = found["name"], found["relation"]
    quantity = names.quantity(name)
    if relation not in ("<=", ">="):
        raise ValueError(f"`{relation}` in `{text}` is not allowed; <= and >= are")
    known = quantity in names.known
    reference, factor, offset = _bound(found["bound"], text, quantity)
    if reference is not None and known:
        raise ValueError(
            f"`{name}` is known before training and is compared with a number, not with `{reference}`: write the number"
        )
    shown = f"{name} {relation} {' '.join(found['bound'].split())}"
    return Constraint(shown, quantity, relation, reference, factor, offset, known)  # type: ignore[arg-type]


def _bound(text: str, whole: str, quantity: str) -> tuple[str | None, float, float]:
    """Reference, factor and offset of the right side."""
    if (plain := _PLAIN.fullmatch(text)) is not None:
        return None, 0.0, float(plain["number"]) * _unit(plain["unit"], whole, quantity)
    if (times := _TIMES.fullmatch(text)) is not None:
        return _reference(times["reference"], whole), float(times["number"]), 0.0
    if (relative := _RELATIVE.fullmatch(text)) is not None:
        reference = _reference(relative["reference"], whole)
        if relative["sign"] is None:
            return reference, 1.0, 0.0
        number = float(relative["number"]) * _unit(relative["unit"], whole, quantity)
        if relative["sign"] == "*":
            return reference, number, 0.0
        return reference, 1.0, -number if relative["sign"] == "-" else number
    raise ValueError(
        f"`{text}` in `{whole}` is no limit: write a number, or `untuned` or `baseline` with + - or * and a number,"
        f" {_EXAMPLES}"
    )


def _reference(word: str, whole: str) -> str:
    if word not in REFERENCES:
        what = f"`{word}` in `{whole}` is nothing to compare with; a number is, untuned and baseline"
        raise ValueError(what + f".{nearest(word, REFERENCES)}")
    return word


def _unit(word: str, whole: str, quantity: str) -> float:
    if not word:
        return 1.0
    if quantity != MEMORY:
        raise ValueError(f"`{word}` in `{whole}`: only {MEMORY} has a unit")
    return float(in_bytes(word, whole))


def in_bytes(unit: str, whole: str) -> int:
    """A unit of memory. Raises ValueError where there is none of that name; `whole`: what it stands in."""
    if unit not in BYTES:
        raise ValueError(f"`{unit}` in `{whole}` is no unit; there are {', '.join(BYTES)}.{nearest(unit, BYTES)}")
    return BYTES[unit]


@dataclass(frozen=True)
class Goals:
    """The objectives and constraints of a study; by default its validation loss alone."""

    objectives: tuple[Objective, ...] = (Objective(LOSS),)
    constraints: tuple[Constraint, ...] = ()

    @property
    def several(self) -> bool:
        """Whether there are several objectives, and so a Pareto set in place of one best."""
        return len(self.objectives) > 1

    @property
    def known(self) -> tuple[Constraint, ...]:
        """Constraints that rule points out before they are proposed."""
        return tuple(each for each in self.constraints if each.known)

    @property
    def measured(self) -> tuple[Constraint, ...]:
        """Constraints that a trial keeps or violates."""
        return tuple(each for each in self.constraints if not each.known)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Every quantity that an objective or a constraint is about, the validation loss left out."""
        named = [*(each.quantity for each in self.objectives), *(each.quantity for each in self.constraints)]
        return tuple(name for name in dict.fromkeys(named) if name != LOSS)

    @property
    def leading(self) -> Objective:
        """What the best is the best by: the loss where it is an objective, else the first objective."""
        return next((each for each in self.objectives if each.quantity == LOSS), self.objectives[0])

    def refers_to(self, reference: str) -> bool:
        """Whether a constraint compares with it."""
        return any(each.reference == reference for each in self.constraints)

    def described(self) -> dict[str, Any]:
        """Plain values for a study's fixed keys; nothing where there is only the loss, as in studies before these."""
        found: dict[str, Any] = {}
        if self.objectives != (Objective(LOSS),):
            found["objectives"] = [
                f"{'maximize' if each.maximize else 'minimize'} {each.quantity}" for each in self.objectives
            ]
        if self.constraints:
            found["constraints"] = [
                {"text": each.text, "quantity": each.quantity, "known": each.known} for each in self.constraints
            ]
        return found


LOSS_ALONE = Goals()


def of_fixed(fixed: Mapping[str, Any]) -> Goals:
    """What `described` said."""
    objectives = [text.split(" ", 1) for text in fixed.get("objectives", ())]
    constraints = []
    for each in fixed.get("constraints", ()):
        name, quantity = each["text"].split(" ", 1)[0], each["quantity"]
        result = name if quantity == LOSS else LOSS
        known = (quantity,) if each["known"] else ()
        constraints.append(constraint(each["text"], Names(known, (), result, other=True)))
    return Goals(
        tuple(Objective(name, how == "maximize") for how, name in objectives) or Goals.objectives,
        tuple(constraints),
    )


@dataclass(frozen=True)
class GoalValues:
    """What a trial reached: its objectives in order, and the violation of each measured constraint by its text."""

    values: tuple[float, ...]
    violations: Mapping[str, float] = field(default_factory=dict)


def goal_values(goals: Goals, quantities: Quantities, references: Mapping[str, Quantities]) -> GoalValues:
    """What a complete trial reached. Raises KeyError with a quantity or reference that has no value."""
    violations = {}
    for each in goals.measured:
        limit = each.limit(references)
        if limit is None:
            raise KeyError(f"{each.quantity} of {each.reference}")
        violations[each.text] = each.violation(quantities[each.quantity], limit)
    return GoalValues(tuple(quantities[each.quantity] for each in goals.objectives), violations)


def allows(goals: Goals, quantities: Quantities) -> bool:
    """Whether what is known of a point before it is trained keeps the constraints on it."""
    return all(each.violation(quantities[each.quantity], each.offset) <= 0 for each in goals.known)


def violation(violations: Collection[float]) -> float:
    """All violations together; 0 where every constraint is kept."""
    return math.fsum(max(each, 0.0) for each in violations)
