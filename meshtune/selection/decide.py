"""One decision: from scores of candidates to the model that is chosen, with all the evidence, as plain values.

Steps: benchmarks that say nothing are left out; candidates that are shown to be worse than a reference are dropped
(`comparisons`); one of the others is chosen by a rule (`rules`), exact ties going to the cheaper one; how sure that is
(`resampling`), what it gains (`comparisons`), and whether the validation loss could have told (`ranks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import ndtri

from meshtune.errors import InputError
from meshtune.selection.comparisons import MARGIN, Comparison, Gain, GuardVerdict, gain, guard, margins, most_apart
from meshtune.selection.measured import FEWEST_ITEMS, Array, Measured
from meshtune.selection.ranks import Correlation, correlation
from meshtune.selection.resampling import (
    DRAWS,
    LEVEL,
    Seeds,
    chance_best,
    confidence_set,
    items_to_separate,
    least_error,
    resample,
)
from meshtune.selection.rules import DEFAULT, SAME, Rule, check, merits, weights_of
from meshtune.space.pareto import pareto


@dataclass(frozen=True)
class CandidateInfo:
    """What is known of a candidate beside its scores.

    `rank` by validation loss, from 1. `cost`: what it takes to serve, such as its LoRA rank; lower is cheaper. `trial`:
    its number. None where it is not known. `left`: the items that it had answered when it left a race: it is compared
    by what they foretell, and never chosen; None: it did not leave.
    """

    rank: int | None = None
    loss: float | None = None
    cost: float | None = None
    trial: int | None = None
    baseline: bool = False
    left: int | None = None


@dataclass(frozen=True)
class Settings:
    """How it is decided.

    Attributes:
        best: so many with the lowest validation loss can be chosen; None: all ranked. margin: of the guard, points.
        only_kept: choose only what is shown to be no worse, not what is undecided. draws, seed: of the resampling.
        barred: names of candidates that cannot be chosen, since they violate a constraint of their study.
    """

    rule: Rule = DEFAULT
    best: int | None = None
    margin: float = MARGIN
    only_kept: bool = False
    draws: int = DRAWS
    seed: int = 0
    barred: tuple[str, ...] = ()

    @property
    def allowed(self) -> tuple[GuardVerdict, ...]:
        """Of the guard, with which a candidate can be chosen."""
        return (GuardVerdict.KEPT,) if self.only_kept else (GuardVerdict.KEPT, GuardVerdict.UNDECIDED)


@dataclass(frozen=True)
class Standing:
    """Where a candidate that can be chosen stands; shares of draws for the chances. `merit`: higher is better."""

    name: str
    verdict: GuardVerdict
    merit: float | None
    chance_best: float
    chance_pareto: float
    pareto: bool
    may_be_best: bool


@dataclass(frozen=True)
class Decision:
    """The choice and its evidence.

    Attributes:
        chosen: None where every candidate is dropped, or no benchmark says anything.
        tied: others with the same merit. runner_up: the next by merit.
        candidates: by merit, those that left a race behind the others, dropped ones last.
        pareto: of all ranked candidates, choosable or not.
        items_to_separate: see `resampling`, of chosen and runner-up by mean score; None also where not `items_known`.
        correlations: by benchmark, over all ranked candidates and over the choosable ones.
        left_out: why, by benchmark. paired: item by item.
    """

    chosen: str | None
    tied: tuple[str, ...]
    runner_up: str | None
    candidates: tuple[Standing, ...]
    pareto: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    gains: tuple[Gain, ...]
    items_to_separate: int | None
    items_known: bool
    correlations: tuple[Correlation, ...]
    correlations_top: tuple[Correlation, ...]
    benchmarks: tuple[str, ...]
    left_out: dict[str, str]
    paired: bool
    settings: Settings
    seeds: Seeds | None = None

    @property
    def beyond_noise(self) -> bool:
        """Whether no other candidate may be the best, by what varies with the items, which the loss does not."""
        alone = sum(standing.may_be_best for standing in self.candidates) == 1
        return self.chosen is not None and not self.only_one and not self.by_loss and alone

    @property
    def only_one(self) -> bool:
        """Whether there is no other candidate that can be chosen or left a race."""
        return sum(standing.merit is not None for standing in self.candidates) == 1

    @property
    def by_loss(self) -> bool:
        """Whether the scores did not choose."""
        return self.settings.rule.name == "validation_loss"

    @property
    def standing(self) -> Standing | None:
        """That of the chosen one."""
        return next((standing for standing in self.candidates if standing.name == self.chosen), None)


def decide(
    measured: Measured,
    facts: dict[str, CandidateInfo],
    settings: Settings = Settings(),
    *,
    references: Sequence[str] = (),
    silent: Sequence[str] = (),
    seeds: Seeds | None = None,
) -> Decision:
    """Choose one candidate.

    Args:
        measured: ranked candidates and references. facts: of each. references: that it must not be worse than, such as
            the baseline and the untuned model. silent: benchmarks without signal.
        seeds: what these do to scores, where candidates were trained with several.

    Where no benchmark says anything nothing is chosen, and `left_out` says why. Raises InputError where the rule is
    unknown or there is no candidate.
    """
    counted, left_out = _counted(measured, silent)
    benchmarks = [measure.name for measure in counted.measures]
    ranked = sorted((name for name in measured.names if facts[name].rank is not None), key=lambda n: facts[n].rank or 0)
    choosable = _choosable(ranked, facts, settings)
    if not benchmarks:
        return _nothing(choosable, left_out, settings, paired=measured.paired)
    check(settings.rule, benchmarks)
    of_items = resample(counted, settings.draws, settings.seed)
    of_seeds = np.zeros_like(of_items) if seeds is None else seeds.draws(counted, settings.draws, settings.seed)
    draws = of_items + of_seeds
    guarded = guard(counted, draws, choosable, references, settings.margin)
    eligible = [name for name in choosable if guarded.verdicts[name] in settings.allowed]
    if all(facts[name].left is not None for name in eligible):
        eligible = []
    place = {name: number for number, name in enumerate(measured.names)}
    rows = [place[name] for name in ranked]
    front = tuple(name for name, on in zip(ranked, pareto(counted.scores[rows], same=SAME), strict=True) if on)
    found = _standings(counted, draws, eligible, facts, settings, benchmarks) if eligible else []
    chosen = found[0].name if found else None
    runner_up = max(found[1:], key=lambda one: one.merit or 0.0, default=None)
    rest = [name for name in choosable if name not in eligible]
    dropped = [Standing(name, guarded.verdicts[name], None, 0.0, 0.0, name in front, False) for name in rest]
    standings = [replace(one, verdict=guarded.verdicts[one.name], pareto=one.name in front) for one in found]
    weights = weights_of(settings.rule, benchmarks)
    return Decision(
        chosen=chosen,
        tied=tuple(one.name for one in found[1:] if one.merit == found[0].merit and facts[one.name].left is None),
        runner_up=runner_up.name if runner_up is not None else None,
        candidates=(*standings, *dropped),
        pareto=front,
        comparisons=guarded.comparisons,
        gains=_gains(counted, draws, weights, choosable, chosen, references),
        items_to_separate=_separate(counted, of_items, of_seeds, weights, chosen, runner_up),
        items_known=all(measure.items is not None for measure in counted.measures),
        correlations=_correlations(counted, ranked, facts),
        correlations_top=_correlations(counted, choosable, facts) if len(choosable) < len(ranked) else (),
        benchmarks=tuple(benchmarks),
        left_out=left_out,
        paired=counted.paired,
        settings=settings,
        seeds=seeds,
    )


def _nothing(choosable: Sequence[str], left_out: dict[str, str], settings: Settings, *, paired: bool) -> Decision:
    """No benchmark says anything: that is the result."""
    standings = tuple(Standing(name, GuardVerdict.UNDECIDED, None, 0.0, 0.0, False, False) for name in choosable)
    return Decision(
        chosen=None,
        tied=(),
        runner_up=None,
        candidates=standings,
        pareto=(),
        comparisons=(),
        gains=(),
        items_to_separate=None,
        items_known=False,
        correlations=(),
        correlations_top=(),
        benchmarks=(),
        left_out=left_out,
        paired=paired,
        settings=settings,
    )


def _choosable(ranked: Sequence[str], facts: dict[str, CandidateInfo], settings: Settings) -> list[str]:
    """Those of the best by loss that violate no constraint. Raises InputError where there is none."""
    best = [name for name in ranked if settings.best is None or (facts[name].rank or 0) <= settings.best]
    if not best:
        raise InputError("there is no ranked candidate to choose from: score some trials")
    if not (found := [name for name in best if name not in settings.barred]):
        raise InputError(
            f"every candidate ({', '.join(settings.barred)}) violates a constraint of the study, so none can be chosen:"
            " `meshtune status --trials` shows which; score others with `meshtune evaluate --trials`, or search with"
            " looser constraints"
        )
    return found


def _counted(measured: Measured, silent: Sequence[str]) -> tuple[Measured, dict[str, str]]:
    """The benchmarks that say something, and why others do not."""
    found = {}
    for measure in measured.measures:
        if measure.items is not None and measure.items < FEWEST_ITEMS:
            found[measure.name] = f"{measure.items} items are fewer than {FEWEST_ITEMS}"
        elif measure.name in silent:
            found[measure.name] = "no signal, no candidate is above chance by two standard errors"
    return measured.only([measure.name for measure in measured.measures if measure.name not in found]), found


def _standings(
    counted: Measured,
    draws: Array,
    eligible: Sequence[str],
    facts: dict[str, CandidateInfo],
    settings: Settings,
    benchmarks: Sequence[str],
) -> list[Standing]:
    """The eligible ones by merit, ties by cost, then validation loss; those that left a race behind the others."""
    rows = [counted.names.index(name) for name in eligible]
    losses = np.array([facts[name].loss for name in eligible], float)
    if np.isnan(losses).any():  # their order says the same, but the two are never mixed
        losses = np.array([facts[name].rank for name in eligible], float)
    seen = counted.scores[rows]
    merit = np.round(merits(settings.rule, seen, benchmarks, losses), 9)
    drawn = merits(settings.rule, draws[:, rows], benchmarks, losses)
    order = sorted(
        range(len(rows)),
        key=lambda n: (
            facts[eligible[n]].left is not None,
            -merit[n],
            math.inf if (cost := facts[eligible[n]].cost) is None else cost,
            facts[eligible[n]].rank or 0,
        ),
    )
    best, optimal = chance_best(drawn), pareto(draws[:, rows], same=SAME).mean(axis=0)
    may = confidence_set(drawn, order[0])
    return [
        Standing(
            eligible[n], GuardVerdict.KEPT, float(merit[n]), float(best[n]), float(optimal[n]), False, bool(may[n])
        )
        for n in order
    ]


def _gains(
    counted: Measured,
    draws: Array,
    weights: Array,
    choosable: Sequence[str],
    chosen: str | None,
    references: Sequence[str],
) -> tuple[Gain, ...]:
    """Intervals hold for all that could be chosen, those that the guard dropped too: the same scores dropped them."""
    if chosen is None:
        return ()
    rows = [counted.names.index(name) for name in choosable]
    seen, drawn = counted.scores @ weights, draws @ weights
    least, mine = _least(counted, weights), counted.names.index(chosen)
    found = []
    for name in references:
        if name != chosen:
            other = counted.names.index(name)
            among = [row for row in rows if row != other]
            found.append(
                gain(
                    name,
                    seen[among],
                    drawn[:, among],
                    among.index(mine),
                    seen[other],
                    drawn[:, other],
                    least,
                    margins=partial(_margins, counted, weights, mine, other),
                    most=max(most_apart(measure) for measure in counted.measures),
                )
            )
    return tuple(found)


def _margins(counted: Measured, weights: Array, mine: int, other: int, width: float) -> tuple[float, float]:
    """Of a difference in mean score: those of independent benchmarks add up in squares (Zou and Donner 2008)."""
    each = np.concatenate([margins(measure, [mine], [other], width) for measure in counted.measures])
    below, above = np.sqrt(((weights[:, None] * each) ** 2).sum(axis=0))
    return float(below), float(above)


def _least(counted: Measured, weights: Array) -> float:
    """A standard error that no difference in mean score is below."""
    return math.hypot(*(w * least_error(measure) for w, measure in zip(weights, counted.measures, strict=True)))


def _separate(
    counted: Measured,
    of_items: Array,
    of_seeds: Array,
    weights: Array,
    chosen: str | None,
    runner_up: Standing | None,
) -> int | None:
    """The effects of seeds have Student's t, whose standard deviation need not exist: their width is a quantile's."""
    sizes = [measure.items for measure in counted.measures]
    if chosen is None or runner_up is None or any(size is None for size in sizes):
        return None
    first, second = (counted.names.index(name) for name in (chosen, runner_up.name))
    difference = float((counted.scores[first] - counted.scores[second]) @ weights)
    apart, moved = ((draws[:, first] - draws[:, second]) @ weights for draws in (of_items, of_seeds))
    error = math.hypot(float(apart.std()), _least(counted, weights))
    lasting = float(np.quantile(np.abs(moved), LEVEL) / ndtri((1 + LEVEL) / 2))
    return items_to_separate(difference, error, sum(size or 0 for size in sizes), lasting=lasting)


def _correlations(counted: Measured, names: Sequence[str], facts: dict[str, CandidateInfo]) -> tuple[Correlation, ...]:
    rows = [counted.names.index(name) for name in names]
    order = [float(facts[name].rank or 0) for name in names]
    return tuple(correlation(m.name, order, list(m.scores[rows])) for m in counted.measures)
