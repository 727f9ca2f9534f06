"""A decision in sentences that can be cited, and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from meshtune.selection.comparisons import ESTIMAND, ESTIMAND_OF_SEEDS, GuardVerdict
from meshtune.selection.decide import CandidateInfo, Decision
from meshtune.selection.ranks import Correlation
from meshtune.selection.resampling import Seeds
from meshtune.selection.rules import DESCRIBED


def sentences(decision: Decision, facts: Mapping[str, CandidateInfo], titles: Mapping[str, str]) -> list[str]:
    """Five: what is chosen, how sure that is, whether it is safe, what it gains, and what the loss was worth.

    One where nothing can be chosen. `titles`: of benchmarks.
    """
    if decision.chosen is None:
        return [_nothing(decision, facts)]
    return [
        _choice(decision, facts, titles),
        _sure(decision, facts),
        _safe(decision, titles),
        _gain(decision),
        _proxy(decision, _order(facts), titles),
    ]


def notes(
    decision: Decision,
    titles: Mapping[str, str],
    race: Mapping[str, Any] | None = None,
    failed: Mapping[str, str] | None = None,
) -> list[str]:
    """What the sentences rest on, and what they leave out.

    `race`: how the candidates were raced. `failed`: why candidates that were trained again do not count as that.
    """
    settings = decision.settings
    found = [f"{titles.get(name, name)} is left out: {why}." for name, why in decision.left_out.items()]
    if not decision.paired:
        found.append(
            "Only scores are known, not answers item by item: nothing is paired, each score varies alone, and small"
            " differences look less certain than they may be."
        )
    if race is not None and race["left"]:
        gone = [f"{name} after {sum(each['items'].values()):,} items" for name, each in race["left"].items()]
        missed = 100 * sum(each["chance"] for each in race["left"].values())
        found.append(
            f"{_list(gone)} left a race of {sum(race['total'].values()):,} items, and cannot be chosen; ranks are over"
            f" all, by what their answers foretell. The predicted chance that scoring everybody would choose one of"
            f" them is {missed:.1f} %, at most {100 * race['error']:g} % by the rule of the race ({race['rule']})."
        )
    for name, broken in (race or {}).get("barred", {}).items():
        found.append(f"{name} could not win the race, since it violates {_list([f'`{text}`' for text in broken])}.")
    if decision.seeds is None:
        found.append("Not covered: how much scores move with the seed of training.")
    else:
        found.append(_seeds(decision.seeds, titles))
    found += [f"{name} counts with its one training: {why}." for name, why in (failed or {}).items()]
    estimand = ESTIMAND if decision.seeds is None else ESTIMAND_OF_SEEDS
    found.append(
        f"Thresholds: margin {_points(settings.margin)}, 95 % simultaneous bounds and 95 % set (comparison with"
        f" the best), {settings.draws:,} resamples with seed {settings.seed}. Gain: {estimand}."
    )
    return found


def as_values(
    decision: Decision, facts: Mapping[str, CandidateInfo], texts: list[str], said: list[str]
) -> dict[str, Any]:
    """Everything as plain JSON values."""
    values = dataclasses.asdict(decision)
    for standing in values["candidates"]:
        standing.update(dataclasses.asdict(facts[standing["name"]]))
    return {
        **values,
        "beyond_noise": decision.beyond_noise,
        "best_set": [one.name for one in decision.candidates if one.may_be_best],
        "sentences": texts,
        "notes": said,
    }


def _nothing(decision: Decision, facts: Mapping[str, CandidateInfo]) -> str:
    """Why: no benchmark, the references, a race that others left, constraints."""
    if not decision.benchmarks:
        return "Nothing is chosen: no benchmark is left to choose by. Score more items, or other benchmarks."
    margin, settings = _points(decision.settings.margin), decision.settings
    left = [one for one in decision.candidates if facts[one.name].left is not None]
    kinds = [*(["stayed in the race"] if left else []), *(["keeps the constraints"] if settings.barred else [])]
    who = f"candidate that {_list(kinds)}" if kinds else "candidate"
    if len(left) == len(decision.candidates):
        why = "No candidate that stayed in the race keeps the constraints"
    elif settings.only_kept:
        why = f"No {who} is shown to be within {margin} of the references everywhere"
    else:
        why = f"Every {who} is shown to be worse than a reference by more than {margin}"
    if able := [one.name for one in left if one.verdict in settings.allowed]:
        return f"{why}; {_list(able)} left it and cannot be chosen: score everybody, without `--race`."
    return f"{why}: keep what you have."


def _choice(decision: Decision, facts: Mapping[str, CandidateInfo], titles: Mapping[str, str]) -> str:
    chosen = decision.chosen or ""
    count = sum(one.merit is not None for one in decision.candidates)
    rank = facts[chosen].rank
    by = DESCRIBED[decision.settings.rule.name]
    over = _list([titles.get(name, name) for name in decision.benchmarks])
    where = "" if rank is None else f", number {rank} by {_order(facts)}"
    tie = ""
    if decision.tied:
        others = _list(list(decision.tied))
        cheaper = any(facts[name].cost != facts[chosen].cost for name in decision.tied)
        why = (
            "the cheapest of them is taken" if cheaper else f"they cost the same, the first by {_order(facts)} is taken"
        )
        tie = f"; it is tied with {others}, and {why}"
    gone = sum(one.merit is not None and facts[one.name].left is not None for one in decision.candidates)
    raced = f" ({gone} of which had left the race)" if gone else ""
    of = f"of {count} candidates" if count > 1 else "as the only candidate"
    return f"{_called(chosen)} is chosen by {by} over {over}, {of}{raced}{where}{tie}."


def _order(facts: Mapping[str, CandidateInfo]) -> str:
    """What ranks the candidates: a file of scores may have no losses."""
    return "validation loss" if any(one.loss is not None for one in facts.values()) else "the file's own order"


def _sure(decision: Decision, facts: Mapping[str, CandidateInfo]) -> str:
    standing = decision.standing
    if standing is None:
        return ""
    of = "items" if decision.seeds is None else "items and seeds"
    if decision.by_loss:
        return "How sure the choice is cannot be told: resampling the items says nothing of the loss."
    if decision.only_one:
        return "It is the only candidate that can be chosen, so noise has no say in the choice."
    share = f"It comes out best in {100 * standing.chance_best:.0f} % of resamples of the {of}"
    others = [one.name for one in decision.candidates if one.may_be_best and one.name != decision.chosen]
    if decision.beyond_noise:
        return f"{share}, and no other candidate may be the best at 95 % confidence: the choice is beyond noise."
    text = f"{share}; with 95 % confidence the best is among it and {_list(others)}, so the choice is not beyond noise"
    own = facts[standing.name].cost
    cheap = [name for name in others if own is not None and (facts[name].cost or own) < own]
    if cheap:
        text += f"; {min(cheap, key=lambda name: facts[name].cost or 0.0)} is the cheapest of these"
    if decision.runner_up is not None and decision.items_known:
        more = decision.items_to_separate
        needs = "no realistic number of items" if more is None else f"about {int(float(f'{more:.2g}')):,} more items"
        text += f"; {needs} would separate it from {decision.runner_up}" if more != 0 else ""
    return f"{text}."


def _safe(decision: Decision, titles: Mapping[str, str]) -> str:
    standing, own = decision.standing, [one for one in decision.comparisons if one.candidate == decision.chosen]
    dropped = [one.name for one in decision.candidates if one.verdict is GuardVerdict.DROPPED]
    worse = (
        f"; {_list(dropped)} {'is' if len(dropped) == 1 else 'are'} shown to be worse and dropped" if dropped else ""
    )
    if standing is None or not own:
        return f"There is no reference that it must not be worse than{worse}."
    margin = _points(decision.settings.margin)
    named = _list(list(dict.fromkeys(one.reference for one in own)))
    if standing.verdict is GuardVerdict.KEPT:
        return f"It is shown to be within {margin} of {named} or better on every benchmark{worse}."
    open_ = [one for one in own if one.low <= -decision.settings.margin]
    parts = [
        f"{titles.get(one.benchmark, one.benchmark)} against {one.reference} (lower bound {one.low:+z.1f})"
        for one in open_
    ]
    return f"It is not shown to be within {margin} of {named}: undecided on {_list(parts)}{worse}."


def _gain(decision: Decision) -> str:
    parts = [
        f"{one.raw:+z.2f} points over {one.reference} as observed, {one.corrected:+z.2f} corrected for having been"
        f" chosen (95 % interval {one.low:+z.2f} to {one.high:+z.2f})"
        for one in decision.gains
    ]
    return f"Its mean score is {_list(parts)}." if parts else "There is no other model to tell a gain over."


def _seeds(seeds: Seeds, titles: Mapping[str, str]) -> str:
    """What several trainings say, and what they are of."""
    moves = _list([f"{titles.get(name, name)} by {value:.2f}" for name, value in seeds.own.items()])
    return (
        f"{_list(list(seeds.names))} were trained with {seeds.trainings - 1} other seeds, the same for all, and count"
        f" with the mean of their {seeds.trainings} trainings: between seeds, scores move {moves} points (standard"
        f" deviation, {seeds.freedom} degrees of freedom; taken for the others too). What is delivered is the original"
        " adapter of the chosen one, never the best seed's."
    )


def _proxy(decision: Decision, order: str, titles: Mapping[str, str]) -> str:
    def over(found: tuple[Correlation, ...]) -> str:
        known = [one for one in found if one.value is not None]
        shown = [f"{titles.get(one.benchmark, one.benchmark)} {one.value:+z.2f}{_interval(one)}" for one in known]
        return _list(shown)

    whole, top = decision.correlations, decision.correlations_top
    shown = over(whole)
    if not shown:
        return f"The rank by {order} cannot be compared with the scores: too few candidates, or all are alike."
    text = f"Spearman's correlation of the rank by {order} with the scores is {shown} over {whole[0].candidates}"
    last, what = whole, order.rpartition(" ")[2]
    if top and over(top):
        text += f", and {over(top)} among the {top[0].candidates} that can be chosen"
        last = top
    good = [titles.get(one.benchmark, one.benchmark) for one in last if one.trusted]
    among = "among those that can be chosen" if last is top else "here"
    if len(good) == len(last):
        verdict = f"the {what} could be trusted {among}"
    else:
        said = f"trusted on {_list(good)} alone" if good else "not shown to tell who is better"
        verdict = f"{among} the {what} is {said}"
    return f"{text}: {verdict}."


def _interval(one: Correlation) -> str:
    return "" if one.low is None else f" [{one.low:+z.2f}, {one.high:+z.2f}]"


def _points(number: float) -> str:
    return f"{number:g} point{'s' * (number != 1)}"


def _called(name: str) -> str:
    text = f"Candidate {name}" if name.isdecimal() else name
    return text[:1].upper() + text[1:]


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
