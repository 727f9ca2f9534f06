"""A study as NNI's tuner meets it: the search space, and what happened in which order.

What the events mean stands in `nni_process.py`. Their order follows from the record alone: trials in the order of their
numbers, and how they ended when the next block begins; asynchronously, before the next proposal, whose note says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import given_params, note_of

# Optuna's system attribute of what NNI proposed: {"trial", "space", "block", "asked", "point"}; asynchronously in place
# of the block `ended`: the trials that had, and that NNI had not known of
NOTE = "nni_tpe"
CHOICES = 10  # so many whole numbers at most are a `choice`, as the paper's authors wrote ranks and dropouts
Event = list[Any]


def described(encoding: Encoding) -> dict[str, dict[str, Any]]:
    """NNI's search space over the coordinates of an encoding.

    Reals are `uniform`, those on a logarithmic scale by their logarithm to base 10. Categories and few whole numbers
    are a `choice`, which has no order; more whole numbers are `quniform`.
    """
    space: dict[str, dict[str, Any]] = {}
    variables = zip(encoding.space.items(), encoding.integer, encoding.lower, encoding.upper, strict=True)
    for (name, distribution), integer, low, high in variables:
        if not integer:
            space[name] = {"_type": "uniform", "_value": [low, high]}
        elif isinstance(distribution, CategoricalDistribution) or high < CHOICES:
            space[name] = {"_type": "choice", "_value": list(range(int(high) + 1))}
        else:
            space[name] = {"_type": "quniform", "_value": [low, high, 1]}
    return space


def events(begun: Sequence[FrozenTrial], encoding: Encoding, block: int) -> tuple[list[Event], list[int]]:
    """What happened to the trials that have begun, before the block that follows the first `block` of them; and the
    numbers of those whose end NNI learns of last.
    """
    found: list[Event] = []
    running: dict[int, FrozenTrial] = {}  # by place, as NNI sees it
    for place, trial in enumerate(begun):
        note = note_of(trial, NOTE, encoding.name())
        point = _point(trial, encoding, note)
        if point is None:
            continue
        if note:
            found += _ends(running, note.get("block", 0), note.get("ended", ()))
            found += [["ask", trial.number, None]] * note["asked"]
        found.append(["take", trial.number, point])
        running[place] = trial
    last = list(_ends(running, block))
    return found + last, [number for _, number, _ in last]


def earlier(trials: Sequence[FrozenTrial], encoding: Encoding) -> list[Event]:
    """Finished trials of another study, as what happened before this one."""
    found: list[Event] = []
    for index, trial in enumerate(trials):
        if (point := _point(trial, encoding, {})) is not None:
            found += [["take", -1 - index, point], _end(trial, -1 - index)]
    return found


def _ends(running: dict[int, FrozenTrial], block: int, ended: Sequence[int] = ()) -> Iterator[Event]:
    """How those ended that began before a block, and others by their numbers; they run no longer."""
    known = [(place, trial) for place, trial in running.items() if place < block or trial.number in ended]
    for place, trial in known:
        if not trial.state.is_finished():
            continue
        del running[place]
        yield _end(trial, trial.number)


def _end(trial: FrozenTrial, number: int) -> Event:
    value: float | None = None
    if trial.state is TrialState.COMPLETE:
        value = trial.value
    elif trial.state is TrialState.PRUNED and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    if value is None or math.isnan(value):
        return ["forget", number, None]
    if any(constraint > 0 for constraint in trial.constraints.values()):
        return ["bad", number, None]
    return ["tell", number, value]


def _point(trial: FrozenTrial, encoding: Encoding, note: Mapping[str, Any]) -> list[float] | None:
    """The coordinates of a trial: as NNI gave them, unless other values were evaluated; None: it has none here."""
    params = given_params(trial)
    lent = encoding.decode(note["point"]) if note else {}
    params = {**lent, **params}
    if not encoding.has(params):
        return None
    if note and encoding.key(params) == encoding.key(lent):
        return list(note["point"])
    return list(encoding.encode(params))
