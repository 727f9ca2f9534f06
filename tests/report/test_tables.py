"""The sentences and tables: verdicts, marks, advice, CSV that reads back."""

import csv
import io
import re
from typing import Any

import pytest

from meshtune.report import tables
from meshtune.report.groups import Compared, grouped
from meshtune.report.trials import complete
from meshtune.trial import Ending

BASELINE = {"trial": 0, "loss": 2.0, "test_loss": 2.0, "hyperparameters": {"rank": 16}}
BEST = {"trial": 3, "loss": 1.8, "test_loss": 1.8, "hyperparameters": {"rank": 64}}


FEW_ROWS = {"mean": -1.834, "low": -1.9, "high": -1.8, "rows": 2}
WIDE = {"mean": -0.2, "low": -0.39, "high": -0.01, "rows": 50}
LUCKY = {"count": 3, "above": {"mean": 0.1, "low": -0.1, "high": 0.3}}
ONE_ROW = {"mean": -0.2, "low": None, "high": None, "rows": 1}


def status_with(low: float = -0.3, high: float = -0.1, **changed: Any) -> dict[str, Any]:
    difference = {"mean": (low + high) / 2, "low": low, "high": high, "rows": 50}
    given = {"state": "finished", "objective": "lora", "trials": {"complete": 4}, "all": [], "untuned": None}
    return {**given, "best": BEST, "baseline": BASELINE, "best_against_baseline": difference, **changed}


NONE_BETTER = "None of 4 complete trials has a better loss"


@pytest.mark.parametrize(
    ("given", "verdict", "evidence"),
    [
        (status_with(), "The best beats the baseline by 10.0 % in test loss", "95 % interval 5.0 % to 15.0 %, on 50"),
        (
            status_with(-0.3, 0.1),
            "does not beat the baseline beyond noise",
            "5.0 % lower; 95 % interval -5.0 % to 15.0",
        ),
        (status_with(0.1, 0.3), "worse than the baseline by 10.0 %", "5.0 % to 15.0 %"),
        (status_with(best=BASELINE), "The baseline was not beaten", NONE_BETTER),
        (status_with(best=BASELINE, all=[{}]), "Only the baseline was tried", "nothing to compare it with"),
        (status_with(best=BASELINE, advised=True), "The advice was already the best", NONE_BETTER),
        (status_with(advised=True), "The best beats the advised baseline by 10.0 %", "95 % interval"),
        (status_with(-0.3, 0.1, advised=True), "does not beat the advised baseline beyond noise", "95 % interval"),
        (status_with(seed_noise=LUCKY), "does not beat the baseline beyond the noise of seeds", "10.0 % lower"),
        (
            status_with(seed_noise=LUCKY, best_against_baseline=None),
            "does not beat the baseline beyond the noise of seeds",
            "not beyond seed noise",
        ),
        (
            status_with(expected_gain={"mean": 5e-4, "low": -1e-4, "high": 3e-3, "trials": 20, "told": 30}),
            "The best beats the baseline by 10.0 %",
            "Another 20 trials would be expected to gain 0.05 % of the loss (0 to 0.3 %).",
        ),
        (status_with(best=None), "No trial completed", "No trial has ended"),
        (status_with(best=None, state="running"), "No trial has completed yet", ""),
        (status_with(best_against_baseline=None), "by 10.0 % in validation loss", "luck is not known"),
        (status_with(best_against_baseline=FEW_ROWS), "2 test rows are too few to tell", "91.7 % below the baseline"),
        (status_with(best_against_baseline=WIDE), "by 10.0 % in test loss", "interval is wider than the gain"),
        (status_with(best_against_baseline=None, state="stopped"), "by 10.0 % in validation loss", "not yet measured"),
        (status_with(best_against_baseline=None, objective="command"), "by 10.0 % in the objective", "luck"),
        (
            status_with(best_against_baseline=None, objective="command", best={**BEST, "loss": -3e99}),
            "beats the baseline by 3e99 in the objective",
            "luck",
        ),
        (status_with(baseline=None), "Best loss 1.8, of trial 3", "There is no baseline"),
        (status_with(baseline={**BASELINE, "loss": None}), "Best loss 1.8", "The baseline has no loss"),
        (status_with(best_against_baseline=ONE_ROW), "too few to tell", "at least two"),
        (
            status_with(best_against_baseline=None, baseline={**BASELINE, "loss": -1.0}, best={**BEST, "loss": -1.5}),
            "by 0.5000 in validation loss",  # a percentage of a negative loss means nothing
            "",
        ),
    ],
)
def test_the_verdict(given: dict[str, Any], verdict: str, evidence: str) -> None:
    title, words = tables.headline(given)
    assert verdict in title
    assert evidence in words
    assert words.endswith(".")
    assert not title.endswith(".")


def test_the_result_has_who_there_is(status: dict[str, Any]) -> None:
    untuned, baseline, best = tables.result(status)
    assert (untuned.name, untuned.note) == ("untuned", "no adapter")
    assert baseline.gain.startswith("+")
    assert " to " in untuned.interval
    assert best.gain == ""
    baseline = tables.result(status_with(best_against_baseline=ONE_ROW))[0]
    assert (baseline.gain, baseline.interval) == ("+0.2000", "")
    (both,) = tables.result(status_with(best=BASELINE))
    assert (both.name, both.is_best) == ("baseline and best, trial 0", True)
    assert tables.result(status_with(untuned=None, baseline=None, best=None)) == []


def test_the_recommended_trial_has_a_row_where_it_is_another_one() -> None:
    recommended = {**BEST, "trial": 2, "loss": 1.81, "expected": 1.79, "deviation": 0.01}
    names = [row.name for row in tables.result(status_with(recommended=recommended))]
    assert names == ["baseline, trial 0", "best, trial 3", "recommended, trial 2"]
    names = [row.name for row in tables.result(status_with(recommended={**recommended, "trial": 3}))]
    assert names == ["baseline, trial 0", "best, trial 3"]


def test_the_trials_are_marked_and_sortable(status: dict[str, Any]) -> None:
    head, rows = tables.trials(status)
    assert head[:4] == ["trial", "place", "ending", "loss"]
    assert all(len(row["cells"]) == len(head) for row in rows)
    assert rows[status["best"]["trial"]]["mark"] == "best"
    assert rows[0]["mark"] == "baseline"
    assert [row["failed"] for row in rows] == [trial["ending"] != "complete" for trial in status["all"]]
    assert rows[status["best"]["trial"]]["cells"][1].text == "1"
    assert [row["cells"][3].value for row in rows] == [trial["loss"] for trial in status["all"]]


def test_endings_come_with_their_advice(status: dict[str, Any]) -> None:
    rows = tables.endings(status)
    assert sum(row["count"] for row in rows) == len(status["all"])
    for row in rows:
        assert row["advice"] == Ending(row["name"].replace(" ", "_")).advice
    assert any("logs" in row["last"] for row in rows)
    assert re.findall("`(.*?)`", Ending.STOPPED_EARLY.advice) == ["keep", "confidence"]  # the rule model has no `keep`
    assert not any(row["last"] for row in tables.endings(status, messages=False))


def test_the_csv_reads_back(status: dict[str, Any]) -> None:
    read = list(csv.DictReader(io.StringIO(tables.as_csv({"a": status}))))
    assert [float(row["loss"]) for row in read if row["loss"]] == [trial["loss"] for trial in complete(status)]
    assert [float(row["learning_rate"]) for row in read] == [
        trial["hyperparameters"]["learning_rate"] for trial in status["all"]
    ]
    assert "study" not in read[0]
    assert "message" not in tables.as_csv({"a": status}, messages=False).splitlines()[0]
    both = list(csv.DictReader(io.StringIO(tables.as_csv({"a": status, "b": status}))))
    assert [row["study"] for row in both] == ["a"] * 12 + ["b"] * 12


def test_the_comparison_says_who_is_ahead_and_how_sure_it_is(status: dict[str, Any]) -> None:
    def moved(by: float, seed: int) -> dict[str, Any]:
        trials = [{**t, "loss": t["loss"] and t["loss"] + by} for t in status["all"]]
        best = {**status["best"], "loss": status["best"]["loss"] + by}
        return {**status, "all": trials, "best": best, "seed": seed}

    def studies(name: str, *by: float) -> list[Compared]:
        return [
            Compared(
                f"{name}{seed}", {**moved(one, seed), "sampler": name}, {"sampler": {"name": name}, "seed": seed}, None
            )
            for seed, one in enumerate(by)
        ]

    apart = grouped(studies("tpe", 1.0, 1.1) + studies("mads", 0.0, 0.01))
    title, words = tables.comparison_headline(apart)
    assert title.startswith("mads found the lowest loss")
    assert "do not overlap" in words
    assert "accident" in tables.comparison_headline(grouped(studies("tpe", 0.5, 0) + studies("mads", 0, 0.4)))[1]
    assert "several seeds" in tables.comparison_headline(grouped(studies("tpe", 1.0) + studies("mads", 0.0)))[1]
    title, words = tables.comparison_headline(grouped(studies("tpe", 1.0) + studies("mads", 0.0, 0.1)))
    assert title.startswith("mads found the lowest loss on average, ")
    assert "With one seed of tpe, " in words
    one_row = grouped([Compared("a", {**moved(0, 0), "best_against_baseline": ONE_ROW}, {}, None)])
    assert tables.comparison(one_row)[0]["gain"] == "+0.2000"
    (repeats,) = grouped([*studies("mads", 0.2), *studies("mads", 0.4)])
    assert tables.comparison_headline([repeats])[1] == "The best loss of 2 studies."
    assert "[" not in tables.comparison([repeats])[0]["validation"], "one seed twice has no interval over seeds"
    rows = tables.comparison(apart)
    assert [row["seeds"] for row in rows] == ["2", "2"]
    assert "[" in rows[0]["validation"]
    head, listed = tables.studies(apart)
    assert len(listed) == 4
    assert all(len(row) == len(head) for row in listed)
