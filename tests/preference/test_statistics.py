"""Statistics against values by hand, against the libraries called directly, and against a known truth."""

import itertools
import json
import math
from pathlib import Path

import krippendorff
import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from meshtune.preference import design, statistics, votes
from meshtune.preference.analysis import analyse, verdict
from meshtune.preference.votes import Vote, Votes
from tests.preference.simulate import Truth, simulated

REVIEWS = Path(__file__).parents[3] / "shared" / "data" / "vicuna" / "review_alpaca-13b_vicuna-13b.jsonl"


def test_the_papers_score_is_no_evidence() -> None:
    """A net preference of 5 % of 300 votes: 158 wins and 142 losses."""
    scores = np.array([1.0] * 158 + [-1.0] * 142)
    found = statistics.sign_test(scores)
    assert found.p == pytest.approx(0.3865, abs=1e-4)
    assert (found.statistic, found.count) == (158, 300)
    assert statistics.sign_test(np.array([1.0] * 168 + [-1.0] * 132)).p < 0.05
    assert statistics.sign_test(np.array([1.0] * 167 + [-1.0] * 133)).p > 0.05
    assert design.power(0.05, 30, 10) == pytest.approx(0.1, abs=0.02)


def test_a_mean_by_hand() -> None:
    """Two questions and two annotators: 1, 1 / 1, -1. Mean squares are 1, 1 and 1; one vote more than two is lost."""
    scores = np.array([1.0, 1.0, 1.0, -1.0])
    questions, annotators = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    found = statistics.clustered_mean(scores, questions, annotators)
    assert (found.mean, found.error) == (0.5, pytest.approx(0.5))  # sqrt(1/4 + 1/4 - 1/4)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_mean_is_that_of_the_analysis_of_variance() -> None:
    made = simulated(Truth(0.2, 0.0, 0.5, 0.4), 12, 7, 1)
    table = made.scores.reshape(7, 12)
    within = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    squares = 7 * table.mean(0).var(ddof=1), 12 * table.mean(1).var(ddof=1), (within**2).sum() / 66
    parts = [square / 84 for square in squares]
    found = statistics.clustered_mean(made.scores, made.questions, made.annotators)
    assert found.error is not None
    assert found.error**2 == pytest.approx(parts[0] + parts[1] - parts[2])
    degrees = found.error**4 / (parts[0] ** 2 / 11 + parts[1] ** 2 / 6 + parts[2] ** 2 / 66)
    assert found.df == pytest.approx(degrees)
    assert found.high == pytest.approx(table.mean() + stats.t.ppf(0.975, degrees) * found.error)


def test_one_annotator_is_clustered_by_question_alone() -> None:
    scores = np.array([1.0, -1.0, 0.0, 1.0, 1.0])
    found = statistics.clustered_mean(scores, np.arange(5), np.zeros(5, dtype=np.int64))
    assert found.error == pytest.approx(scores.std(ddof=1) / math.sqrt(5))
    assert found.df == 4


def test_votes_that_are_all_the_same_have_an_interval() -> None:
    found = statistics.clustered_mean(np.ones(20), np.arange(20) % 10, np.arange(20) // 10)
    assert found.high == 1
    assert found.low == pytest.approx(2 * stats.binomtest(10, 10).proportion_ci(0.95).low - 1)


def test_votes_that_are_all_ties_are_no_certainty() -> None:
    """None of 30 questions shows a win: .025 is the chance of that where 11.6 % are won."""
    thirty = np.repeat(np.arange(30), 2)
    tied = statistics.clustered_mean(np.zeros(60), thirty, np.tile([0, 1], 30))
    assert tied.low == pytest.approx(-0.1157, abs=5e-5)
    assert tied.high == pytest.approx(0.1157, abs=5e-5)


def test_the_test_by_question_is_all_sign_flips() -> None:
    scores = np.array([1.0, 1, 1, 0, -1, 1, 1, 1, 0, 0, 1, 1])
    questions = np.arange(12) % 6
    means = np.array([scores[questions == q].mean() for q in range(6)])
    flips = [abs(np.mean(means * signs)) for signs in itertools.product((1, -1), repeat=6)]
    by_hand = np.mean([flip >= abs(means.mean()) - 1e-12 for flip in flips])
    assert statistics.question_test(scores, questions).p == pytest.approx(by_hand)
    assert statistics.question_test(np.zeros(4), np.arange(4)).p == 1


def test_agreement_is_krippendorffs() -> None:
    made = simulated(Truth(0.1, 0, 0.6, 0.1), 20, 5, 3)
    found = statistics.agreement(made.scores, made.questions, made.annotators)
    table = made.scores.reshape(5, 20)
    assert found == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))
    same = np.tile([1.0, -1.0, 0.0], 2)
    assert statistics.agreement(same, np.arange(6) % 3, np.arange(6) // 3) == 1
    assert statistics.agreement(np.ones(6), np.arange(6) % 3, np.arange(6) // 3) is None
    assert statistics.agreement(np.array([1.0, -1, 0]), np.arange(3), np.zeros(3, dtype=int)) is None


def test_the_mixed_model_of_a_balanced_table_is_its_analysis_of_variance() -> None:
    made = simulated(Truth(0.1, 0.1), 30, 10, 1)
    found = statistics.mixed(made.scores, made.on_left, np.zeros(300), made.questions, made.annotators)
    assert isinstance(found, statistics.Mixed)
    least = sm.OLS(made.scores, np.column_stack([np.ones(300), made.on_left])).fit()
    assert (found.model.value, found.side.value) == (pytest.approx(least.params[0]), pytest.approx(least.params[1]))
    table = made.scores.reshape(10, 30)
    mean = statistics.clustered_mean(made.scores, made.questions, made.annotators)
    assert found.model.error == pytest.approx(mean.error, rel=0.02)  # the side explains a little
    within = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    squares = (within**2).sum() / 261
    assert found.question_sd == pytest.approx(math.sqrt((10 * table.mean(0).var(ddof=1) - squares) / 10), rel=0.01)
    assert found.annotator_sd == pytest.approx(math.sqrt((30 * table.mean(1).var(ddof=1) - squares) / 30), rel=0.05)
    assert found.length is None


def test_the_mixed_model_says_why_there_is_none() -> None:
    ones = np.ones(40)
    q, a = np.arange(40) % 20, np.arange(40) // 20
    assert "too few" in str(statistics.mixed(ones, ones, ones, q, a))
    assert "not balanced" in str(statistics.mixed(np.where(q < 5, 1.0, -1.0), ones, ones, q, a))


def test_bradley_terry_of_two_models_is_the_log_odds() -> None:
    """30 wins and 10 losses of the first model, on each side as often: its log odds are log 3."""
    scores = np.array([1.0] * 15 + [-1.0] * 5 + [-1.0] * 15 + [1.0] * 5)
    left = np.array([0] * 20 + [1] * 20)
    found = statistics.bradley_terry(["x", "y"], left, 1 - left, scores, np.arange(40), np.zeros(40, dtype=int))
    assert not isinstance(found, str)
    strengths, side = found
    assert [one.name for one in strengths] == ["x", "y"]
    assert strengths[0].value - strengths[1].value == pytest.approx(math.log(3))
    assert side.value == pytest.approx(0, abs=1e-9)


def test_bradley_terry_is_statsmodels_with_clusters() -> None:
    generator = np.random.default_rng(0)
    truth = np.array([0.8, 0.0, -0.8])
    pairs = generator.permuted(np.tile([0, 1, 2], (600, 1)), axis=1)[:, :2]
    questions, annotators = np.arange(600) % 60, np.arange(600) // 60
    chance = 1 / (1 + np.exp(-(truth[pairs[:, 0]] - truth[pairs[:, 1]] + 0.3)))
    scores = np.where(generator.random(600) < chance, 1.0, -1.0)
    found = statistics.bradley_terry(["x", "y", "z"], pairs[:, 0], pairs[:, 1], scores, questions, annotators)
    assert not isinstance(found, str)
    strengths, side = found
    assert [one.name for one in strengths] == ["x", "y", "z"]
    for one, value in zip(strengths, truth, strict=True):
        assert one.low < value < one.high
    assert side.low < 0.3 < side.high
    design = np.column_stack([np.ones(600), *((pairs[:, 0] == m) * 1.0 - (pairs[:, 1] == m) for m in (0, 1))])
    fit = sm.GLM((scores + 1) / 2, design, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": questions, "use_correction": True}
    )
    assert side.value == pytest.approx(fit.params[0])
    assert strengths[0].value - strengths[2].value == pytest.approx(fit.params[1])


def test_bradley_terry_says_which_model_has_no_strength() -> None:
    scores, left = np.ones(12), np.array([0, 0, 1] * 4)
    right = np.array([1, 2, 2] * 4)
    answer = statistics.bradley_terry(["x", "y", "z"], left, right, scores, np.arange(12), np.zeros(12, dtype=int))
    assert "`x` never lost" in str(answer)


@pytest.mark.filterwarnings("error")
def test_votes_that_are_separated_have_no_strengths() -> None:
    """Side A always wins, two models always beat two others, or nobody chose: a fit gives numbers without meaning."""
    names, left, right = ["w", "x", "y", "z"], np.arange(24) % 4, (np.arange(24) % 4 + 1 + np.arange(24) // 4 % 3) % 4
    clusters = np.arange(24) % 5, np.arange(24) // 5
    by_group = np.sign((right // 2) - (left // 2)) + (right // 2 == left // 2) * np.where(np.arange(24) % 8 < 4, 1, -1)
    for scores, why in ((np.ones(24), "won every time"), (by_group, "won every time"), (np.zeros(24), "nobody chose")):
        answer = statistics.bradley_terry(names, left, right, scores.astype(float), *clusters)
        assert isinstance(answer, str)
        assert why in answer


def test_votes_without_a_rest_have_no_mixed_model() -> None:
    questions, annotators = (part.ravel() for part in np.meshgrid(np.arange(4), np.arange(6)))
    left = np.where((questions + annotators) % 2 == 0, 1.0, -1.0)
    for scores in (np.where(questions % 2, 1.0, -1.0), left):
        answer = statistics.mixed(scores, left, np.zeros(24), questions, annotators)
        assert isinstance(answer, str)
        assert "no rest" in answer


def test_intervals_cover_the_truth_and_power_is_what_was_said() -> None:
    truth = Truth(lead=0.1, side=0.1, question_sd=0.3, annotator_sd=0.1)
    covered = seen = 0
    for seed in range(1000):
        made = simulated(truth, 30, 10, seed)
        found = statistics.clustered_mean(made.scores, made.questions, made.annotators)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth.lead <= found.high
        seen += found.low > 0 or found.high < 0
    assert 930 <= covered <= 990
    assert seen / 1000 == pytest.approx(design.power(0.1, 30, 10, design.Variation(0.3, 0.1, 0.2)), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        Truth(0.05, 0, 0, 0, 0),
        Truth(0.0, 0.1, 0.3, 0.2),
        Truth(0.1, 0.1, 0.5, 0.1),
        Truth(0.1, 0.1, 0.0, 0.3),
        Truth(0.2, 0.0, 0.3, 0.1),
    ],
)
@pytest.mark.parametrize(("questions", "annotators"), [(30, 10), (12, 3), (20, 5), (80, 20)])
def test_intervals_cover_the_truth_in_other_designs(truth: Truth, questions: int, annotators: int) -> None:
    covered = 0
    for seed in range(1000):
        made = simulated(truth, questions, annotators, seed)
        found = statistics.clustered_mean(made.scores, made.questions, made.annotators)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth.lead <= found.high
    assert 930 <= covered <= 990


def test_power_by_hand() -> None:
    """Nothing varies and nothing ties: the normal power of independent votes, where there are many clusters."""
    plain = design.Variation(0.0, 0.0, 0.0)
    normal = stats.norm.sf(1.96 - 0.03 * math.sqrt(12_000 / (1 - 0.03**2)))
    assert design.power(0.03, 200, 60, plain) == pytest.approx(normal, abs=0.02)
    assert design.power(0.0, 30, 10) == pytest.approx(0.05, abs=1e-6)
    edge = design.smallest(40, 10)
    assert edge is not None
    assert design.power(edge, 40, 10) == pytest.approx(0.8, abs=1e-3)
    needed = design.questions_needed(0.2, 10)
    assert needed is not None
    assert design.power(0.2, needed, 10) >= 0.8 > design.power(0.2, needed - 1, 10)
    people = design.annotators_needed(0.2, 30)
    assert people is not None
    assert design.power(0.2, 30, people) >= 0.8 > design.power(0.2, 30, people - 1)
    assert design.questions_needed(0.05, 10) is None
    assert design.smallest(1, 2) is None or design.smallest(1, 2)


@pytest.mark.skipif(not REVIEWS.exists(), reason="the real files are not here")
def test_reviews_of_a_model_are_what_the_libraries_say(tmp_path: Path) -> None:
    study = votes.of_file(REVIEWS)
    found = analyse(study)
    assert found["origin"] == "model judgements"
    assert not found["evidence"]
    pair = found["pairs"][0]
    assert (pair["first"], pair["second"]) == ("alpaca-13b", "vicuna-13b")
    values = [json.loads(line)["score"] for line in REVIEWS.read_text(encoding="utf-8").splitlines()]
    signs = np.array([float(np.sign(one - other)) for one, other in values])
    wins, losses = int((signs > 0).sum()), int((signs < 0).sum())
    assert (pair["wins"], pair["ties"], pair["losses"]) == (wins, int((signs == 0).sum()), losses)
    assert pair["net"]["mean"] == pytest.approx(signs.mean())
    assert pair["win_rate"]["mean"] == pytest.approx(np.mean((signs + 1) / 2))
    assert pair["sign_test"]["p"] == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)
    assert pair["left"]["share"] == pytest.approx(wins / (wins + losses))
    interval = stats.binomtest(wins, wins + losses).proportion_ci(0.95)
    assert (pair["left"]["low"], pair["left"]["high"]) == (interval.low, interval.high)
    flipped = stats.permutation_test(
        (signs,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(5)
    )
    assert pair["question_test"]["p"] == pytest.approx(flipped.pvalue, abs=1e-4)
    judges = [json.loads(line)["reviewer_id"] for line in REVIEWS.read_text(encoding="utf-8").splitlines()]
    fit = sm.OLS(signs, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": np.arange(80)})
    assert pair["net"]["error"] >= fit.bse[0] * (1 - 1e-9)
    assert {row["annotator"] for row in pair["per_annotator"]} == set(judges)
    assert not any(row["one_sided"] for row in pair["per_annotator"])  # the sides never changed
    assert verdict(pair, found["stamp"]).startswith("JUDGEMENTS OF A MODEL")


def made_votes(one_sided: bool = False) -> Votes:
    made = simulated(Truth(0.4, 0.1), 20, 6, 2)
    found = []
    for score, left, question, annotator in zip(
        made.scores, made.on_left, made.questions, made.annotators, strict=True
    ):
        side = score * left
        choice = "a" if side > 0 else "b" if side < 0 else "tie"
        if one_sided and annotator == 0:
            choice = "a"
        names = ("one", "two") if left > 0 else ("two", "one")
        lengths = (300, 100) if left > 0 else (100, 300)
        length = {"left_length": lengths[0] + int(question), "right_length": lengths[1]}
        found.append(Vote(f"p{annotator}", f"q{question}", *names, choice, seconds=5.0, **length))
    return Votes(("one", "two"), tuple(found), {})


def test_one_sided_clickers_are_shown_and_counted() -> None:
    pair = analyse(made_votes(one_sided=True))["pairs"][0]
    assert [row["annotator"] for row in pair["per_annotator"] if row["one_sided"]] == ["p0"]
    assert pair["votes"] == 120
    assert pair["without_one_sided"]["annotators"] == ["p0"]
    assert pair["without_one_sided"]["net"]["mean"] > pair["net"]["mean"]
    assert analyse(made_votes())["pairs"][0]["without_one_sided"] is None


def test_votes_of_several_origins_are_not_mixed() -> None:
    people = made_votes()
    others = [Vote("bot", "q0", "one", "two", "a", origin="simulated")]
    both = Votes(people.models, (*people.votes, *others), {})
    found = analyse(both)
    assert (found["votes"], found["left_out"], found["stamp"]) == (120, {"simulated": 1}, "")
    only = analyse(both, "simulated")
    assert (only["votes"], only["evidence"]) == (1, False)
    assert only["stamp"].startswith("SIMULATED")
