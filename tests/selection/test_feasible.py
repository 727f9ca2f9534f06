"""How likely a constraint is kept on other items of the kind."""

from pathlib import Path

import numpy as np
import pytest

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.objectives import measurement_files
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.selection.decide import CandidateInfo, Settings, decide
from meshtune.selection.feasible import Chance, barred, chances, kept, notes
from meshtune.selection.measured import Measured, of_answers
from meshtune.trial import Ending, Outcome


def equal(count: int) -> np.ndarray:
    return np.full(count, 1 / count)


def test_a_chance_is_what_repeated_draws_of_items_give() -> None:
    """Of models whose true difference is known, those that are told a chance of p keep the constraint p times."""
    rng = np.random.default_rng(0)
    told, held = [], []
    for _ in range(4000):
        truth = rng.uniform(-0.1, 0.1)
        better, worse = 0.15 + truth / 2, 0.15 - truth / 2
        margins = rng.choice([1.0, -1.0, 0.0], size=60, p=[better, worse, 0.7])
        told.append(kept(margins, equal(60), -0.01, at_most=False))
        held.append(truth >= -0.01)
    chances, outcomes = np.array(told), np.array(held)
    for low, high in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9)):
        inside = (chances >= low) & (chances < high)
        assert abs(outcomes[inside].mean() - chances[inside].mean()) < 0.1


def test_items_that_all_agree_do_not_make_sure() -> None:
    assert 0.5 < kept(np.zeros(20), equal(20), -0.01, at_most=False) < 0.6
    assert kept(np.zeros(2000), equal(2000), -0.01, at_most=False) > 0.99
    assert kept(np.zeros(20), equal(20), 0.0, at_most=True) == pytest.approx(0.5)


def test_a_candidate_that_violates_a_constraint_is_not_chosen() -> None:
    answers = {name: {f"{n}": float(n < right) for n in range(40)} for name, right in (("a", 30), ("b", 25))}
    measured = Measured(("a", "b"), (of_answers("mmlu", "MMLU", answers),))
    facts = {"a": CandidateInfo(rank=1), "b": CandidateInfo(rank=2)}
    assert decide(measured, facts, Settings(draws=200)).chosen == "a"
    found = {"a": [Chance("size <= 5", 0.1)], "b": [Chance("size <= 5", -0.2), Chance("mmlu >= untuned", 0.0, 0.7, 40)]}
    assert barred(found) == ("a",)
    decision = decide(measured, facts, Settings(draws=200, barred=barred(found)))
    assert decision.chosen == "b"
    assert notes(found, "b") == [
        "a violates `size <= 5` and cannot be chosen.",
        "b keeps `size <= 5` as it was measured.",
        "b keeps `mmlu >= untuned` with a probability of 0.70, by its differences on 40 items that guided the search,"
        " by which it was chosen.",
    ]


def test_a_users_metric_is_taken_as_it_was_measured(tmp_path: Path) -> None:
    """Its values may be of any size, while the least error of a chance is that of right and wrong answers."""
    space = presets.recommended()
    limits = [
        {"text": f"{name} <= {limit}", "quantity": name, "known": False}
        for name, limit in (("exact", 2.0), ("mmlu", 0.6))
    ]
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={"constraints": limits})
    record.propose(build(SamplerConfig(name="random"), distributions(space), x0=None, block_size=2, seed=0), seed=0)
    record.tell(Outcome(0, 1, Ending.COMPLETE, loss=2.0, extra={"exact": 1.5, "mmlu": 0.5}), elapsed=1.0)
    half = measurement_files.Items(tuple("abcd"), (1.0, 0.0, 1.0, 0.0), (0.25,) * 4)
    large = measurement_files.Items(tuple("abcd"), (41.0, -38.0, 41.0, -38.0), (0.25,) * 4)
    measurement_files.write(
        tmp_path, 0, measurement_files.Measured("", None, {"exact": 1.5}, {"exact": large, "mmlu": half})
    )
    measured = Measured(("trial 0",), (of_answers("drop", "DROP", {"trial 0": {"1": 1.0}}),))
    of_exact, of_mmlu = chances(record, tmp_path, measured, {"trial 0": 0})["trial 0"]
    assert of_exact == Chance("exact <= 2.0", pytest.approx(-0.25))
    assert of_mmlu.chance is not None
    assert 0.5 < of_mmlu.chance < 0.9
