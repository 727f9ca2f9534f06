"""What is known before any trial: where to start, what to try next, and what a search can be expected to gain.

The start is one of two, as docs/decisions/2026-12-01-priors.md measures:

- of a family and generation with at least two known tasks: the point with the lowest expected loss by the model of
  `effects`;
- of any other: the constant, learning rate 3e-4 with the largest rank and alpha 32, which no model beat there; its rate
  is moved by what shorter trainings of one model showed.

What can be gained, and the portfolio, are by the model in either case. Outside of what is known the deviations grow,
and the advice says so. Loads no library, so that `meshtune advise` answers at once.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, noting, refuse
from meshtune.priors.effects import (
    CENTRE,
    EFFECTS,
    Effects,
    Known,
    Predicted,
    least,
    predict,
    relative_loss,
)
from meshtune.priors.model_facts import model_facts
from meshtune.priors.runs import Facts, family_of, read_all, size_fault, unknown_family
from meshtune.system.text import percent, point

SHIPPED = Path(__file__).with_name("known.json")  # written by tools/fit_priors.py
ALPHA, RATE, MAX_RANK = 32, 3e-4, 128  # of the constant
RANKS = tuple(2**power for power in range(2, 8))
OF_ONE_GENERATION = 2  # tasks from which on the model is better than the constant
PORTFOLIO = 8
DRAWS = 400
WIDER = 1.5  # the portfolio is for a prior that may be wrong
SMALL = 1e-3  # a gain, as a share of the loss, that is not worth a search
MOST_TRIALS = 24
WIDTH = 100  # of a line of text, behind its label
FAR = math.log10(2)  # decades outside of what is known, from where on no model is trusted with the start
FARTHEST = 3.0  # decades outside of what is known: a gain may be anything from there on
ROUND = 1.25  # passes over the rows are as many as are known up to this factor: a last step may have few rows
BELOW, ABOVE, APART = 0.8, 0.6, 0.1  # decades of the product around the expected peak, where points are tried

Point = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The model of the known tasks; see `fit.Fit`."""

    known: tuple[Known, ...]
    models: tuple[str, ...]
    prior: tuple[Effects, Effects]
    centres: Effects
    scales: tuple[dict[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        tasks = [{"model": m, **asdict(k)} for m, k in zip(self.models, self.known, strict=True)]
        return {"prior": self.prior, "centres": self.centres, "scales": self.scales, "tasks": tasks}

    @classmethod
    def from_json(cls, value: Any) -> Table:
        """What was written."""
        known = [
            Known(Facts(**task["facts"]), tuple(task["effects"]), tuple(task["variances"])) for task in value["tasks"]
        ]
        means, deviations = (tuple(each) for each in value["prior"])
        models = tuple(task["model"] for task in value["tasks"])
        return cls(tuple(known), models, (means, deviations), tuple(value["centres"]), tuple(value["scales"]))


@dataclass(frozen=True)
class Advice:
    """What to do first.

    Attributes:
        start, portfolio: points: rank, alpha, dropout, learning_rate. gain: mean, and the ends of the 95 % interval, of
            what a search lowers the loss by below the start's, as shares of it. trials: after which what is left to be
            gained is expected to be below 0.1 %. rests_on: what is known, and what is not. expected: how the loss
            depends on the point, as far as is known.
    """

    start: Point
    portfolio: tuple[Point, ...]
    gain: tuple[float, float, float]
    trials: int
    rests_on: str
    expected: Predicted

    def text(self) -> str:
        """As `meshtune advise` prints it."""
        first, *others = self.portfolio
        lines = [("start", point(self.start)), ("then", point(first)), *(("", point(each)) for each in others)]
        rests, *on = wrapped(self.rests_on)
        lines += [("to gain", self.to_gain()), ("rests on", rests), *(("", text) for text in on)]
        return "\n".join(f"{label:<10} {text}" for label, text in lines)

    def to_gain(self) -> str:
        """What a search can be expected to gain, in a sentence."""
        mean, low, high = map(percent, self.gain)
        said = f"{mean} % of the loss below the start's (95 %: {low} to {high} %)"
        if self.trials == 1:
            return f"{said}: a search is hardly worth it"
        if self.trials > MOST_TRIALS:
            return f"{said}; more than {percent(SMALL)} % are left after {MOST_TRIALS} trials"
        return f"{said}, most of it in the first {self.trials} trials"

    def to_json(self) -> dict[str, Any]:
        """As `meshtune advise --json` prints it."""
        gain = dict(zip(("mean", "low", "high"), self.gain, strict=True))
        first = {"start": self.start, "portfolio": list(self.portfolio), "expected_gain": gain}
        return {**first, "trials": self.trials, "rests_on": self.rests_on}


def advise(
    model: str | Path | None = None,
    *,
    hidden_size: int | None = None,
    family: str | None = None,
    rows: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    max_rank: int | None = None,
    ranks: Sequence[int] | None = None,
    priors: Sequence[Path | str] = (),
) -> Advice:
    """The advice for a LoRA fine-tuning. Raises InputError that holds everything wrong with what is given.

    Args:
        model: `embedded`, a folder, or a name of the hub whose config is in the local cache: its hidden size and
            family. hidden_size, family: in place of `model`; see `runs.FAMILIES`.
        rows: of the training data. steps: of the optimizer; without them one pass over the rows. batch_size: rows a
            step, with gradient accumulation.
        max_rank: the largest allowed. ranks: those that may be chosen, in place of powers of two. priors: a team's own
            tables of runs (docs/priors.md).
    """
    faults, table = list[Fault](), shipped()
    with noting(faults):
        facts = _facts(model, hidden_size, family, rows, steps, batch_size, max_rank)
    with noting(faults):
        if priors:
            table = with_own(table, [Path(path) for path in priors])
    refuse(faults)
    return advice(table, facts, max_rank=max_rank, ranks=ranks or RANKS)


@cache
def shipped() -> Table:
    """The model that comes with the package."""
    return Table.from_json(json.loads(SHIPPED.read_text(encoding="utf-8")))


def with_own(table: Table, paths: Sequence[Path]) -> Table:
    """A table with further tasks, out of files. Raises InputError that holds all their faults."""
    tasks = read_all(paths)
    from meshtune.priors.fit import Prior, known_task  # loads scipy

    prior = Prior(*table.prior)
    known = tuple(known_task(task, prior) for task in tasks)
    return replace(table, known=(*table.known, *known), models=(*table.models, *(task.model for task in tasks)))


def advice(table: Table, facts: Facts, *, max_rank: int | None = None, ranks: Sequence[int] = RANKS) -> Advice:
    """The advice of a table, with one of these ranks, but for a `max_rank` below all of them."""
    most = max_rank or max(MAX_RANK, min(ranks))
    ranks = tuple(rank for rank in ranks if rank <= most) or (most,)
    predicted = expected(table, facts)
    alike = sum(known.facts.family == facts.family != "other" for known in table.known)
    points = candidates(predicted, ranks)
    draws = predicted.draws(DRAWS)
    if alike >= OF_ONE_GENERATION and not _far(table, facts):
        start = lowest(points, draws)
    else:
        start = (_rounded(RATE * 10 ** step_shift(table, facts)), max(ranks))
    order = portfolio(start, points, predicted.draws(DRAWS, wider=WIDER), MOST_TRIALS)
    gains = sorted(gain(start, draw, ranks) for draw in draws)
    low, high = (gains[round(share * (len(gains) - 1))] for share in (0.025, 0.975))
    return Advice(
        _point(start),
        tuple(_point(place) for place in order[:PORTFOLIO]),
        (sum(gains) / len(gains), low, high),
        _trials([start, *order], draws, ranks),
        _rests_on(table, facts, alike),
        predicted,
    )


Place = tuple[float, int]  # learning rate, rank


def expected(table: Table, facts: Facts) -> Predicted:
    """The effects that are expected of a task. Far outside of what is known they are those of sizes at FAR; the further
    outside, the less sure they are, up to FARTHEST. With more passes over the rows than are known they are half as sure
    at once, and then as with sizes.
    """
    edge = predict(table.known, _held(table, facts, FAR), table.centres, table.scales)
    there = predict(table.known, _held(table, facts, FARTHEST), table.centres, table.scales)
    away = [_outside(table, facts, name)[0] for name in _SIZES]
    passes, most = _passes(table, facts)
    away += [1.0, math.log10(passes / most)] if passes > ROUND * most else []
    wider = 1.0 + sum(min(each, FARTHEST) for each in away)
    one, two, three, four, five = (wider * deviation for deviation in there.deviations)
    return Predicted(edge.means, (one, two, three, four, five))


def _held(table: Table, facts: Facts, most: float) -> Facts:
    """Facts with sizes at most so many decades outside of what is known."""
    sizes = dict[str, Any]()
    for name in _SIZES:
        away, low, high = _outside(table, facts, name)
        if away > most:
            sizes[name] = round(low * 10**-most) or 1 if getattr(facts, name) < low else round(high * 10**most)
    return replace(facts, **sizes)


def candidates(predicted: Predicted, ranks: Sequence[int]) -> list[Place]:
    """Points around the peak, at the largest rank and those next to a quarter and a sixteenth of it."""
    parts = [max(ranks) / part for part in (1, 4, 16) if max(ranks) / part >= min(ranks)]
    few = dict.fromkeys(min(ranks, key=lambda rank: abs(math.log(rank / part))) for part in parts)
    steps = range(round(-BELOW / APART), round(ABOVE / APART) + 1)
    peak, tilt = predicted.means[EFFECTS.index("peak")], predicted.means[EFFECTS.index("tilt")]
    return [
        (_rounded(10 ** (peak + tilt * (math.log2(rank) - 6) + APART * step) / ALPHA), rank)
        for rank in few
        for step in steps
    ]


def lowest(places: Sequence[Place], draws: Sequence[Effects]) -> Place:
    """The place with the lowest expected loss."""
    return min(places, key=lambda place: sum(relative_loss(draw, place[0] * ALPHA, place[1]) for draw in draws))


def portfolio(start: Place, places: Sequence[Place], draws: Sequence[Effects], most: int) -> list[Place]:
    """Places in the order in which each lowers the expected loss of the best so far the most."""
    best = [relative_loss(draw, start[0] * ALPHA, start[1]) for draw in draws]
    losses = {
        place: [relative_loss(draw, place[0] * ALPHA, place[1]) for draw in draws] for place in places if place != start
    }
    order = list[Place]()
    while losses and len(order) < most:
        chosen = min(losses, key=lambda place: sum(map(min, losses[place], best)))
        best = list(map(min, losses.pop(chosen), best))
        order.append(chosen)
    return order


def gain(start: Place, draw: Effects, ranks: Sequence[int]) -> float:
    """What the best point lowers the loss by, as a share of the start's loss."""
    return 1.0 - math.exp(least(draw, ranks) - relative_loss(draw, start[0] * ALPHA, start[1]))


def step_shift(table: Table, facts: Facts) -> float:
    """Decades that the best product moves from the sweep's number of steps to these, as far as steps are known."""
    known = [task.facts.steps for task in table.known]
    steps = min(max(facts.steps, min(known)), max(known))
    here, there = (
        predict(table.known, replace(CENTRE, steps=each), table.centres, table.scales) for each in (steps, CENTRE.steps)
    )
    return here.means[0] - there.means[0]


def _trials(order: Sequence[Place], draws: Sequence[Effects], ranks: Sequence[int]) -> int:
    floor = [least(draw, ranks) for draw in draws]
    best = [math.inf] * len(draws)
    for number, place in enumerate(order, 1):
        best = [min(b, relative_loss(draw, place[0] * ALPHA, place[1])) for b, draw in zip(best, draws, strict=True)]
        if sum(b - f for b, f in zip(best, floor, strict=True)) <= SMALL * len(draws):
            return number
    return MOST_TRIALS + 1  # also where there are fewer places than that, as with small ranks


def wrapped(text: str) -> list[str]:
    """A long sentence as lines."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _point(place: Place) -> Point:
    return {"rank": place[1], "alpha": ALPHA, "dropout": 0.0, "learning_rate": place[0]}


_SIZES = {"hidden_size": "hidden size", "steps": "steps", "batch_size": "rows a step"}


def _outside(table: Table, facts: Facts, name: str) -> tuple[float, int, int]:
    """Decades outside of what is known, and its ends."""
    values = [getattr(known.facts, name) for known in table.known]
    value, low, high = getattr(facts, name), min(values), max(values)
    return max(0.0, math.log10(value / high), math.log10(low / value)), low, high


def _passes(table: Table, facts: Facts) -> tuple[float, float]:
    """Over the rows, and the most that are known; one where the rows are not given."""
    passes, *known = (
        each.steps * each.batch_size / each.rows if each.rows else 1.0
        for each in (facts, *(task.facts for task in table.known))
    )
    return passes, max(known)


def _far(table: Table, facts: Facts) -> bool:
    return any(_outside(table, facts, name)[0] > FAR for name in _SIZES)


def _rests_on(table: Table, facts: Facts, alike: int) -> str:
    models = len(set(table.models))
    roots = sum(known.facts.root == facts.root for known in table.known) if facts.root != "other" else 0
    if alike:
        whose = f"{alike} of {facts.family}"
        if alike >= OF_ONE_GENERATION and _far(table, facts):
            whose += ", but of sizes or lengths too far from yours"
    else:
        whose = f"{roots} of this family, none of this generation" if roots else "none of this family"
    parts = [f"{models} models, {len(table.known)} tasks: {whose}"]
    if alike < OF_ONE_GENERATION or _far(table, facts):
        moved = "" if facts.steps == CENTRE.steps else f", its rate moved from {CENTRE.steps} steps to {facts.steps:,}"
        parts.append(f"so the start is the constant that was best for the others{moved}")
    far = [
        f"{text} {getattr(facts, name):,}, known {low:,} to {high:,}"
        for name, text in _SIZES.items()
        for away, low, high in [_outside(table, facts, name)]
        if away > 0
    ]
    held = "; the points are those for twice or half the nearest known, and less sure" if _far(table, facts) else ""
    passes, most = _passes(table, facts)
    if passes > ROUND * most:
        far.append(f"passes over the rows {passes:,.3g}, known 1 to {most:.3g}")
    return "; ".join([", ".join(parts), *([f"outside what is known: {'; '.join(far)}{held}"] if far else [])])


def _facts(
    model: str | Path | None,
    hidden_size: int | None,
    family: str | None,
    rows: int | None,
    steps: int | None,
    batch_size: int | None,
    max_rank: int | None,
) -> Facts:
    sizes = {"hidden_size": hidden_size, "rows": rows, "steps": steps, "batch_size": batch_size, "max_rank": max_rank}
    faults = [
        Fault(message, key=key)
        for key, value in sizes.items()
        if value is not None and (message := size_fault(key, value)) is not None
    ]
    if family is not None and family_of(family) is None:
        faults.append(Fault(unknown_family(family), key="family"))
    if rows and batch_size and batch_size > rows > 0:
        faults.append(Fault(f"`{batch_size}` is more than the {rows} rows: give at most so many", key="batch_size"))
    if model is None and hidden_size is None:
        faults.append(Fault("is needed, or `model`, whose config has it", key="hidden_size"))
    if model is not None:
        try:
            size, kind = model_facts(str(model))
            hidden_size, family = hidden_size or size, family or kind
        except InputError as error:
            instead = "give the hidden size and the family in its place, or fetch the model first"
            faults += [replace(fault, message=f"{fault.message}; {instead}") for fault in error.faults]
    refuse(faults)
    assert hidden_size is not None
    batch_size = batch_size or (min(CENTRE.batch_size, rows) if rows else CENTRE.batch_size)
    steps = steps or (math.ceil(rows / batch_size) if rows else CENTRE.steps)
    return Facts(family_of(family or "other") or "other", hidden_size, rows, steps, batch_size)
