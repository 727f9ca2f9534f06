"""From votes to everything that is reported about them, as plain values. Draws nothing and writes nothing.

Votes of several origins are never mixed: those of people are analysed where there are any, else those of the one other
origin. Only votes of people are evidence; for others `stamp` says so, and stands on everything that is shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meshtune.errors import InputError
from meshtune.preference import statistics
from meshtune.preference.votes import Vote, Votes

ONE_SIDED = 0.001  # p of an annotator's left and right choices, at which they are called one-sided
FEWEST = 10  # choices of an annotator of which that can be said
STAMPS = {
    "people": "",
    "simulated": "SIMULATED VOTES: not evidence",
    "model judgements": "JUDGEMENTS OF A MODEL: not votes of people",
}


def analyse(study: Votes, origin: str | None = None) -> dict[str, Any]:
    """All results, as plain values that go to JSON.

    Raises InputError: no votes, or none of that origin, or several origins of which none is people's and none is named.
    """
    found = Counter[str](vote.origin for vote in study.votes)
    chosen = _origin(found, origin)
    votes = [vote for vote in study.votes if vote.origin == chosen]
    present = {vote.left for vote in votes} | {vote.right for vote in votes}
    names = [name for name in study.models if name in present]
    compared = [
        _pair(first, second, chosen_votes)
        for first, second in statistics.pairs(names)
        if (chosen_votes := [vote for vote in votes if {vote.left, vote.right} == {first, second}])
    ]
    return {
        "models": names,
        "origin": chosen,
        "evidence": chosen == "people",
        "stamp": STAMPS[chosen],
        "left_out": {name: count for name, count in found.items() if name != chosen},
        "votes": len(votes),
        "questions": len({vote.question for vote in votes}),
        "annotators": len({vote.annotator for vote in votes}),
        "made": dict(study.made),
        "screening": [dict(said) for said in study.screening],
        "pairs": compared,
        "bradley_terry": _strengths(names, votes) if len(names) > 2 else None,
    }


def verdict(pair: Mapping[str, Any], stamp: str) -> str:
    """One sentence about a pair; begins with the stamp where there is one."""
    first, second = pair["first"], pair["second"]
    mean, low, high = (100 * pair["net"][key] for key in ("mean", "low", "high"))
    if high < 0:
        first, second, mean, low, high = second, first, -mean, -high, -low
    interval = f"net preference {mean:+z.1f} % [{low:+z.1f}, {high:+z.1f}]"
    if low > 0:
        text = f"{first} is preferred to {second}: {interval}"
    else:
        text = f"no preference between {first} and {second} is shown: {interval} for {first}"
    return f"{stamp}. {text}" if stamp else text


def _origin(found: Counter[str], asked: str | None) -> str:
    if not found:
        raise InputError("there are no votes yet")
    if asked is not None:
        if asked not in found:
            raise InputError(
                f"--origin {asked}: there are no such votes; there are those of {', '.join(sorted(found))}"
            )
        return asked
    if "people" in found or len(found) == 1:
        return "people" if "people" in found else next(iter(found))
    raise InputError(f"the votes are of {', '.join(sorted(found))}, which are not mixed: choose with --origin")


def _pair(first: str, second: str, votes: Sequence[Vote]) -> dict[str, Any]:
    result = _core(first, votes)
    annotators = _by(first, votes, "annotator")
    clickers = {row["annotator"] for row in annotators if row["one_sided"]}
    kept = [vote for vote in votes if vote.annotator not in clickers]
    flagged = [vote for vote in votes if not vote.flags]
    return {
        "first": first,
        "second": second,
        **result,
        "per_question": _by(first, votes, "question"),
        "per_annotator": annotators,
        "without_one_sided": {"annotators": sorted(clickers), "net": _core(first, kept)["net"] if kept else None}
        if clickers
        else None,
        "without_flagged": {
            "votes": len(votes) - len(flagged),
            "net": _core(first, flagged)["net"] if flagged else None,
        }
        if len(flagged) < len(votes)
        else None,
        "mixed": _mixed(first, votes),
    }


def _core(first: str, votes: Sequence[Vote]) -> dict[str, Any]:
    scores, questions, annotators = _arrays(first, votes)
    net = statistics.clustered_mean(scores, questions, annotators)
    lefts = sum(vote.choice == "a" for vote in votes)
    decided = lefts + sum(vote.choice == "b" for vote in votes)
    longer = [vote for vote in votes if vote.choice in "ab" and vote.left_length != vote.right_length]
    long_won = sum((vote.choice == "a") == (vote.left_length > vote.right_length) for vote in longer)
    return {
        "votes": len(votes),
        "wins": int((scores > 0).sum()),
        "ties": sum(vote.choice == "tie" for vote in votes),
        "both_bad": sum(vote.choice == "bad" for vote in votes),
        "losses": int((scores < 0).sum()),
        "net": dataclasses.asdict(net),
        "win_rate": {key: None if (x := getattr(net, key)) is None else (1 + x) / 2 for key in ("mean", "low", "high")},
        "question_test": dataclasses.asdict(statistics.question_test(scores, questions)),
        "sign_test": dataclasses.asdict(statistics.sign_test(scores)),
        "alpha": statistics.agreement(scores, questions, annotators),
        "left": _share(lefts, decided),
        "longer": _share(long_won, len(longer)),
    }


def _by(first: str, votes: Sequence[Vote], key: str) -> list[dict[str, Any]]:
    """A row for each question or annotator, in the order of their names."""
    groups: dict[str, list[Vote]] = {}
    for vote in votes:
        groups.setdefault(getattr(vote, key), []).append(vote)
    rows = []
    for name in sorted(groups, key=lambda text: (len(text), text)):
        own = groups[name]
        scores = [vote.score(first) for vote in own]
        left = _share(sum(vote.choice == "a" for vote in own), sum(vote.choice in "ab" for vote in own))
        row: dict[str, Any] = {
            key: name,
            "votes": len(own),
            "wins": scores.count(1),
            "ties": sum(vote.choice == "tie" for vote in own),
            "both_bad": sum(vote.choice == "bad" for vote in own),
            "losses": scores.count(-1),
            "net": sum(scores) / len(scores),
            "left": None if left is None else left["share"],
        }
        if key == "annotator":
            most = Counter(vote.choice for vote in own).most_common(1)[0][1]
            seconds = [vote.seconds for vote in own if vote.seconds is not None]
            turned = sum(vote.left == first for vote in own) / len(own)  # one that never changes sides tells nothing
            enough = left is not None and left["total"] >= FEWEST and 0.25 <= turned <= 0.75
            row["one_sided"] = bool(enough and left is not None and left["p"] < ONE_SIDED)
            row["same_button"] = most / len(own)
            row["median_seconds"] = float(np.median(seconds)) if seconds else None
        else:
            row["category"] = own[0].category
            row["flags"] = " ".join(sorted({flag for vote in own for flag in vote.flags.split()}))
        rows.append(row)
    return rows


def _mixed(first: str, votes: Sequence[Vote]) -> dict[str, Any]:
    scores, questions, annotators = _arrays(first, votes)
    on_left = np.array([1.0 if vote.left == first else -1.0 for vote in votes])
    ratios = np.array([math.log((vote.left_length + 1) / (vote.right_length + 1)) for vote in votes]) * on_left
    fit = statistics.mixed(scores, on_left, ratios, questions, annotators)
    return {"reason": fit} if isinstance(fit, str) else dataclasses.asdict(fit)


def _strengths(names: Sequence[str], votes: Sequence[Vote]) -> dict[str, Any]:
    number = {name: index for index, name in enumerate(names)}
    left = np.array([number[vote.left] for vote in votes])
    right = np.array([number[vote.right] for vote in votes])
    scores = np.array([float(vote.score(vote.left)) for vote in votes])
    questions, _ = statistics.codes([vote.question for vote in votes])
    annotators, _ = statistics.codes([vote.annotator for vote in votes])
    fit = statistics.bradley_terry(names, left, right, scores, questions, annotators)
    if isinstance(fit, str):
        return {"reason": fit}
    strengths, side = fit
    return {"strengths": [dataclasses.asdict(one) for one in strengths], "side": dataclasses.asdict(side)}


def _arrays(first: str, votes: Sequence[Vote]) -> tuple[statistics.Scores, statistics.Codes, statistics.Codes]:
    scores = np.array([float(vote.score(first)) for vote in votes])
    questions, _ = statistics.codes([vote.question for vote in votes])
    annotators, _ = statistics.codes([vote.annotator for vote in votes])
    return scores, questions, annotators


def _share(count: int, total: int) -> dict[str, Any] | None:
    found = statistics.share(count, total)
    return None if found is None else dataclasses.asdict(found)
