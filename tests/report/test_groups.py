"""Studies that differ only in their seed are one group."""

import math
from typing import Any

import pytest
from scipy import stats

from meshtune.report.groups import Compared, comparable, grouped


def compared(name: str, losses: list[float | None], *, sampler: str = "mads", seed: int = 0, **fixed: Any) -> Compared:
    trials = [{"ending": "complete" if loss is not None else "diverged", "loss": loss} for loss in losses]
    data = fixed.pop("rows", {"sources": ["a"]})
    keys = {"sampler": {"name": sampler}, "seed": seed, "data": f"{data} split by {seed}", **fixed}
    return Compared(name, {"all": trials, "sampler": sampler}, keys, data)


def test_seeds_are_repeats_and_samplers_are_not() -> None:
    studies = [
        compared("a", [3.0], seed=0),
        compared("b", [2.0], sampler="tpe", seed=0),
        compared("c", [2.5], seed=1),
    ]
    mads, tpe = grouped(studies)
    assert [study.name for study in mads.studies] == ["a", "c"]
    assert (mads.title, tpe.title) == ("mads, 2 seeds", "tpe")


def test_the_curve_is_the_mean_over_seeds_with_its_interval() -> None:
    (group,) = grouped([compared("a", [None, 3.0, 4.0, 1.0], seed=0), compared("b", [2.0, 2.0, 1.0], seed=1)])
    (second, at_second), (third, at_third) = group.curve  # before the second trial one seed has no loss
    assert (second, at_second.mean, third, at_third.mean) == (2, 2.5, 3, 2.0)
    half = float(stats.t.ppf(0.975, 1)) * math.sqrt(2) / math.sqrt(2)
    assert at_third.high == pytest.approx(2.0 + half)


def test_studies_of_one_seed_are_no_independent_seeds() -> None:
    twice = [compared("a", [3.0, 1.0], seed=0), compared("b", [2.0, 2.0], seed=0)]
    (group,) = grouped(twice)
    assert (group.seeds, group.count, group.title) == (1, "1 (2 studies)", "mads, 2 studies of one seed")
    mean = group.mean(lambda status: status["all"][0]["loss"])
    assert mean is not None
    assert (mean.mean, mean.count) == (2.5, 1)
    assert [(count, mean.mean, mean.count) for count, mean in group.curve] == [(1, 2.5, 1), (2, 1.5, 1)]
    (group,) = grouped([*twice, compared("c", [0.5, 0.5], seed=1)])
    assert (group.seeds, group.title) == (2, "mads, 3 studies of 2 seeds")
    last = group.curve[-1][1]
    assert (last.mean, last.count) == (1.0, 2)


def test_a_single_study_has_a_curve_without_interval() -> None:
    (group,) = grouped([compared("a", [2.0, 1.0])])
    assert [(count, mean.mean) for count, mean in group.curve] == [(1, 2.0), (2, 1.0)]
    assert math.isnan(group.curve[0][1].low)


def test_the_label_is_what_differs() -> None:
    one_key = grouped([compared("a", [1.0], block_size=1), compared("b", [1.0], block_size=4)])
    assert [group.label for group in one_key] == ["block_size 1", "block_size 4"]
    two_keys = grouped([compared("a", [1.0], x=1, y=1), compared("b", [1.0], x=2, y=2)])
    assert [group.label for group in two_keys] == ["a", "b"]
    same_name = grouped([compared("a", [1.0], x=1, y=1), compared("a", [1.0], x=2, y=2)])
    assert len({group.label for group in same_name}) == 2


@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        (
            {"objective": {"command": ["run", "--data=/of/alice/a.json"]}},
            {"objective": {"command": ["run", "--data=/of/alice/b.json"]}},
            ["objective.command.1 --data=a.json", "objective.command.1 --data=b.json"],
        ),
        (
            {"objective": {"command": ["run", "/of/alice/rows.json"]}},
            {"objective": {"command": ["run", "/of/bob/rows.json"]}},
            ["a", "b"],
        ),
        ({"model": {"name": "/of/alice/m"}}, {"model": {"name": "/of/alice/n"}}, ["model.name m", "model.name n"]),
        ({"model": {"name": "/of/alice/m"}}, {"model": {"name": "/of/bob/m"}}, ["a", "b"]),
    ],
)
def test_no_label_holds_an_absolute_path(one: dict[str, Any], other: dict[str, Any], labels: list[str]) -> None:
    groups = grouped([compared("a", [1.0], **one), compared("b", [1.0], **other)])
    assert [group.label for group in groups] == labels


def test_under_one_seed_the_fingerprint_tells_what_data_these_are() -> None:
    here = compared("a", [1.0], rows={"sources": ["/of/alice/rows.json"]}, data="f0")
    there = compared("b", [1.0], rows={"sources": ["/of/bob/rows.json"]}, data="f0")
    assert comparable(grouped([here, there])) is None
    assert len(grouped([here, there])) == 1
    changed = compared("c", [1.0], rows={"sources": ["/of/alice/rows.json"]}, data="f1")
    assert "data" in (comparable(grouped([here, changed])) or "")
    assert len(grouped([here, changed])) == 2
    another_seed = compared("d", [1.0], seed=1, rows={"sources": ["/of/bob/rows.json"]}, data="f2")
    assert comparable(grouped([here, there, another_seed])) is None


def test_other_rows_models_and_objectives_are_not_comparable() -> None:
    plain = compared("a", [1.0], model={"name": "m"})
    assert comparable(grouped([plain, compared("b", [1.0], seed=3, sampler="tpe", model={"name": "m"})])) is None
    for other, word in (
        (compared("b", [1.0], model={"name": "m"}, rows={"sources": ["b"]}), "data"),
        (compared("b", [1.0], model={"name": "n"}), "model"),
        (compared("b", [1.0], model={"name": "m"}, objective={"at": "last"}), "objective"),
    ):
        assert word in (comparable(grouped([plain, other])) or "")
