"""Candidates whose true scores are known, answering items that are hard for all or easy for all, and a reference."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from meshtune.selection.decide import CandidateInfo
from meshtune.selection.measured import Array, Measured, of_answers

KINDS = ("ties", "two best", "one best", "spread", "steps")


@dataclass(frozen=True)
class World:
    """True scores in points, (candidates, benchmarks), the last one's adapter damaged; `base` is the reference."""

    measured: Measured
    truth: Array
    base: Array
    facts: dict[str, CandidateInfo]


def world(kind: str, seed: int, candidates: int = 7, benchmarks: int = 3, items: int = 150) -> World:
    """One draw. In `ties` all but the damaged one are equal; in `steps` many are."""
    chance = np.random.default_rng(seed)
    skill = np.zeros((candidates, benchmarks))
    match kind:
        case "two best":
            skill[:2] = 0.06
        case "one best":
            skill[0] = 0.08
        case "spread":
            skill = chance.normal(0, 0.04, (candidates, 1)) + chance.normal(0, 0.02, (candidates, benchmarks))
        case "steps":
            skill = 0.04 * np.round(chance.normal(0, 1, (candidates, benchmarks)))
    skill[-1] = -0.3
    level = chance.uniform(0.4, 0.6, benchmarks)
    whole = np.clip(np.vstack([level + skill, level - 0.03]), 0.02, 0.98)
    names = [*map(str, range(candidates)), "base"]
    measures = []
    for kind_, right in enumerate(norm.ppf(whole.T) * 2**0.5):  # half of the variance is the items' difficulty
        easy = chance.normal(size=items)
        answers = right[:, None] + easy + chance.normal(size=(len(names), items)) > 0
        told = {
            name: {str(n): float(each) for n, each in enumerate(row)} for name, row in zip(names, answers, strict=True)
        }
        measures.append(of_answers(f"b{kind_}", f"B{kind_}", told))
    order = chance.permutation(candidates)
    facts = {str(n): CandidateInfo(rank=int(order[n]) + 1, cost=8.0) for n in range(candidates)} | {
        "base": CandidateInfo()
    }
    return World(Measured(tuple(names), tuple(measures)), 100 * whole[:-1], 100 * whole[-1], facts)
