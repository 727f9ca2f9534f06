"""Effects of seeds: variances that are put in come out, draws are as wide as they should be, and decisions know it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from meshtune.finalists import sentences as told
from meshtune.selection.decide import Settings, decide
from meshtune.selection.measured import POINTS, Array, Measured, of_answers
from meshtune.selection.resampling import Seeds, with_trainings
from tests.selection.synthetic import world

NAMES = tuple("abcd")


def cubes(
    own: float, shared: float, trainings: int, seed: int, items: int = 400
) -> tuple[Measured, dict[str, dict[str, Array]]]:
    """Four candidates whose true scores move with the seed, by so many points."""
    chance = np.random.default_rng(seed)
    moves = 50 + shared * chance.normal(size=trainings) + own * chance.normal(size=(4, trainings))
    right = POINTS * (chance.uniform(size=(4, trainings, items)) < moves[..., None] / 100)
    told = {name: {str(n): each / POINTS for n, each in enumerate(right[row, 0])} for row, name in enumerate(NAMES)}
    measured = Measured(NAMES, (of_answers("m", "M", told),))
    return measured, {name: {"m": right[row]} for row, name in enumerate(NAMES)}


def mean_of(own: float, shared: float, part: str) -> float:
    """The mean variance over draws of trainings that comes out."""
    found = []
    for seed in range(60):
        measured, answers = cubes(own, shared, 4, seed)
        seeds = with_trainings(measured, answers, [])[1]
        found.append(getattr(seeds, part)["m"] ** 2)
    return float(np.mean(found))


def test_variances_come_out_as_they_were_put_in() -> None:
    assert mean_of(6.0, 0.0, "own") == pytest.approx(36, rel=0.2)
    assert mean_of(6.0, 0.0, "shared") < 8
    assert mean_of(0.0, 6.0, "shared") == pytest.approx(36, rel=0.3)
    assert mean_of(0.0, 6.0, "own") < 3
    assert mean_of(0.0, 0.0, "own") < 3  # what single answers flip by is no effect of the seed


def test_scores_are_means_over_trainings() -> None:
    measured, answers = cubes(6.0, 0.0, 3, 0)
    some = {name: answers[name] for name in "ac"}
    found, seeds = with_trainings(measured, some, ["b", "d"])
    assert found.scores[0, 0] == pytest.approx(answers["a"]["m"].mean())
    assert found.scores[1, 0] == measured.scores[1, 0]
    assert (seeds.names, seeds.once, seeds.trainings, seeds.freedom) == (("a", "c"), ("b", "d"), 3, 2)
    alone = with_trainings(measured, {"a": answers["a"]}, [])[1]
    assert alone.shared["m"] == 0


def test_draws_are_as_wide_as_they_should_be() -> None:
    measured, _ = cubes(0.0, 0.0, 2, 0)
    seeds = Seeds(("a", "b"), ("c",), 4, {"m": 2.0}, {"m": 0.0}, 1000)
    drawn = seeds.draws(measured, 20000, 0)[:, :, 0]
    assert drawn.std(axis=0) == pytest.approx([1.0, 1.0, 2.0, 0], rel=0.03)
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(2**0.5, rel=0.03)
    assert np.array_equal(drawn, seeds.draws(measured, 20000, 0)[:, :, 0])


@pytest.mark.parametrize("candidates", [2, 4])
def test_what_all_candidates_share_is_known_from_the_trainings_alone(candidates: int) -> None:
    """However many candidates there are: three seeds leave two degrees of freedom, not two a candidate."""
    measured, _ = cubes(0.0, 0.0, 2, 0)
    seeds = Seeds(NAMES[:candidates], (), 3, {"m": 0.0}, {"m": 3.0}, 2 * (candidates - 1))
    drawn = seeds.draws(measured, 100_000, 0)[:, :, 0]
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert np.quantile(drawn[:, 0], 0.975) == pytest.approx(stats.t.ppf(0.975, 2) * 3 / 3**0.5, rel=0.05)


def test_a_decision_is_less_sure_where_seeds_move_scores() -> None:
    one = world("one best", 7, items=2000)
    before = decide(one.measured, one.facts, Settings(draws=400), references=["base"])
    names = one.measured.names
    effects = {measure.name: 8.0 for measure in one.measured.measures}
    seeds = Seeds(names[:2], names[2:-1], 4, effects, dict.fromkeys(effects, 1.0), 3)
    after = decide(one.measured, one.facts, Settings(draws=400), references=["base"], seeds=seeds)
    assert before.chosen == after.chosen == "0"
    assert before.beyond_noise
    assert not after.beyond_noise
    assert after.gains[0].high - after.gains[0].low > 2 * (before.gains[0].high - before.gains[0].low)
    said, notes = told.sentences(after, one.facts, {}), " ".join(told.notes(after, {}, failed={"3": "it diverged"}))
    assert "resamples of the items and seeds" in said[1]
    assert "were trained with 3 other seeds" in notes
    assert "never the best seed's" in notes
    assert "all seeds of training" in notes
    assert "3 counts with its one training: it diverged." in notes
    assert "Not covered" not in notes
    assert "Not covered" in " ".join(told.notes(before, {}))


def test_more_items_do_not_lower_the_noise_of_seeds() -> None:
    one = world("one best", 7, items=200)
    names, kinds = one.measured.names, [measure.name for measure in one.measured.measures]
    found = []
    for own in (0.0, 0.5, 8.0):
        seeds = Seeds(names[:-1], (), 4, dict.fromkeys(kinds, own), dict.fromkeys(kinds, 0.0), 1000)
        found.append(decide(one.measured, one.facts, Settings(draws=1000), seeds=seeds).items_to_separate)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] < found[1]
    assert found[2] is None


def test_few_seeds_do_not_put_scores_further_apart_than_scores_can_be() -> None:
    one = world("one best", 7, items=100)
    effects = {measure.name: 20.0 for measure in one.measured.measures}
    seeds = Seeds(("0", "base"), one.measured.names[1:-1], 2, effects, effects, 1)
    decision = decide(one.measured, one.facts, Settings(draws=400), references=["base"], seeds=seeds)
    assert {(each.low, each.high) for each in decision.comparisons} == {(-100.0, 100.0)}
    assert [(each.low, each.high) for each in decision.gains] == [(-100.0, 100.0)]


def test_who_left_a_race_is_compared_and_never_chosen() -> None:
    one = world("spread", 3, items=400)
    before = decide(one.measured, one.facts, Settings(draws=300), references=["base"])
    assert before.chosen is not None
    facts = {**one.facts, before.chosen: replace(one.facts[before.chosen], left=40)}
    after = decide(one.measured, facts, Settings(draws=300), references=["base"])
    assert after.chosen == before.runner_up
    assert after.runner_up == before.chosen
    assert before.chosen in {each.name for each in after.candidates if each.merit is not None}
    assert "1 of which had left the race" in told.sentences(after, facts, {})[0]
    gone = {name: replace(fact, left=40) for name, fact in one.facts.items()}
    assert decide(one.measured, gone, Settings(draws=300), references=["base"]).chosen is None
