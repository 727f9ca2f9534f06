"""The benchmark of early stopping: its table is what it says, its replays are the loop, its lines hold together."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.presets import RECOMMENDED_BASELINE, recommended
from meshtune.config.sections import SamplerConfig
from meshtune.plan.budget import Budget
from meshtune.record.decisions import IN_PACK
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.ends import Ends
from meshtune.study.loop import run
from meshtune.trial import Decision, Event, Request, Verdict
from meshtune.workers.planner import Packing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.syspath_prepend(ROOT / "benchmarks" / "curves")
        yield


@pytest.fixture(scope="module")
def surrogate() -> Any:
    from learning_curves import Surrogate, Table

    return Surrogate(Table.read())


class Answers:
    """A worker of one place that answers from curves, without training."""

    def __init__(self, course: Any, record: Record, rungs: tuple[float, ...]):
        self.course, self.record, self.rungs = course, record, rungs
        self.pack: Any = None
        self.told: dict[int, Verdict] | None = None

    def submit(self, requests: Sequence[Request]) -> None:
        assert all(request.asks == (request.trial > 0) for request in requests)
        self.pack, self.told = self.course.pack([self.record.trials[each.trial] for each in requests], self.rungs), None

    def free(self) -> int:
        return int(self.pack is None)

    def events(self, timeout: float) -> list[Event]:
        try:
            event: Event = self.pack.send(self.told)
        except StopIteration:
            self.pack = None
            return []
        self.told = None
        return [event]

    def decide(self, decision: Decision) -> None:
        self.told = {trial: verdict for trial, _, verdict in decision.verdicts}

    def join(self, pack: int, request: Request) -> bool:
        raise AssertionError("nothing joins")

    def suspend(self, seconds: float) -> None:
        raise AssertionError("nothing is suspended")

    def close(self) -> None:
        self.pack = None


@pytest.mark.parametrize(
    ("sampler", "value", "rule"),
    [
        ("mads", "predicted", "asha"),
        ("mads", "failed", "asha"),
        ("tpe", "predicted", "asha"),
        ("batch-gp", "predicted", "asha"),
        ("batch-gp", "failed", "asha"),
        ("tpe", "predicted", "model"),
    ],
)
def test_a_replay_is_what_the_loop_does(
    surrogate: Any,
    tmp_path: Path,
    sampler: Literal["mads", "tpe", "batch-gp"],
    value: Literal["predicted", "failed"],
    rule: Literal["asha", "model"],
) -> None:
    """Same points, decisions, stops and tokens as the record has after a run of the real loop."""
    from replay import EPOCH_TOKENS, EPOCHS, Course, Search, replayed

    rungs = (0.15, 0.3, 0.5)
    config = EarlyStoppingConfig(rule=rule, rungs=rungs, startup=3, value=value, freeze=False)
    spent = replayed(Search(sampler, 2, config), surrogate, seed=1, trials=16)

    space, early = recommended(), EarlyStopping(config, EPOCHS, EPOCH_TOKENS, space=recommended())
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={})
    start = space.encode(RECOMMENDED_BASELINE)
    record.note(IN_PACK, True)
    made = build(
        SamplerConfig(name=sampler),
        record.distributions,
        x0=start,
        block_size=2,
        seed=1,
        pruned="value" if value == "predicted" else "failed",
        ends=Ends(early, space),
    )
    thresholds = early.measured(RECOMMENDED_BASELINE)
    record.enqueue(RECOMMENDED_BASELINE, origin="baseline", seed=1, thresholds=thresholds)
    worker = Answers(Course(surrogate, 1), record, rungs)
    for _ in run(record, made, worker, Budget(trials=16), seed=1, packing=Packing(1, most=2, exact=True), early=early):
        pass
    made.close()
    outcomes = [trial.outcome for trial in record.finished]
    assert np.cumsum([outcome.tokens for outcome in outcomes if outcome]).tolist() == spent.tokens
    assert [outcome.loss for outcome in outcomes if outcome and outcome.ending == "complete"] == [
        loss for loss, finished in zip(spent.loss, spent.finished, strict=True) if finished
    ]
    assert 0 < sum(spent.finished) < 16
    assert len(early.promising(record)) == len(spent.promoted)


@pytest.mark.parametrize("value", ["predicted", "failed"])
def test_early_stopping_does_not_starve_batch_gp(surrogate: Any, value: Literal["predicted", "failed"]) -> None:
    """On real curves one trial in six ends by itself, and a good one is found; this seed had 1 of 40, at 3.207."""
    from replay import Search, replayed

    spent = replayed(Search("batch-gp", 1, EarlyStoppingConfig(value=value)), surrogate, seed=2, trials=40)
    assert sum(spent.finished) >= 7
    assert spent.best < 3.15


def test_the_table_is_what_it_says() -> None:
    """Its points are those of the setting, and its curves are whole."""
    import setting
    from learning_curves import Table

    table = Table.read()
    assert table.header["training"] == setting.described()
    assert table.header["rungs"] == list(setting.FRACTIONS)
    assert len(table.pairs) >= 100
    points = setting.points()
    for (point, seed), params in table.params.items():
        assert params == pytest.approx(setting.baseline() if point == setting.BASELINE else points[point])
        curve = table.curves[point, seed]
        assert curve.shape == (len(table.fractions),)
        assert np.isfinite(curve).all()
    assert table.fractions[-1] == table.tokens[-1] == 1
    assert all(asked <= done for asked, done in zip(table.fractions, table.tokens, strict=True))


def test_a_curve_depends_on_its_point_and_seed_alone(surrogate: Any) -> None:
    one = recommended().encode(RECOMMENDED_BASELINE)
    other = {**one, "step": 2 * one["step"]}
    first = surrogate.curve(one, 3)
    assert not np.array_equal(surrogate.curve(other, 3), first)
    assert not np.array_equal(surrogate.curve(one, 4), first)
    assert np.array_equal(surrogate.curve(one, 3), first)
    many = np.log([surrogate.curve(one, seed) for seed in range(200)])
    assert np.abs(many.mean(0) - np.log(surrogate.mean(one))).max() < 4 * many.std(0).max() / np.sqrt(200)


def test_the_surrogate_is_near_the_table(surrogate: Any) -> None:
    """At the table's own points, as far as seeds allow."""
    from learning_curves import Table

    table = Table.read()
    off = [
        abs(np.log(surrogate.mean(table.params[point, 0])[-1] / table.curves[point, seed][-1]))
        for point in table.pairs
        for seed in (0, 1)
    ]
    assert np.median(off) < 0.05


def test_a_table_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    import make_short as make

    table, said = tmp_path / "table.jsonl", {"data": "abc", "versions": {"torch": "1"}}
    assert make.read(table, said) == set()
    with table.open("a") as file:
        file.write('{"point": 0, "seed": 1}\n{"point": 0, "se')
    assert make.read(table, {**said, "versions": {"torch": "2"}}) == {(0, 1)}
    assert table.read_text().endswith('"seed": 1}\n')
    with pytest.raises(SystemExit, match="another data"):
        make.read(table, {"data": "other"})


def test_lines() -> None:
    """Three for each search of ours, two for each of Optuna's and one against ours, for either deviation; and one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(ROOT / "benchmarks" / "early_stopping.py"), "--quick"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["name"] for line in lines} == {"early_stopping"}
    assert len({line["setting"] for line in lines}) == len(lines) == 28
    for line in lines:
        if line["ratio"] is None:
            assert 0 <= line["ours"] <= 1
        else:
            assert 0 <= line["low"] <= line["ratio"] <= line["high"]
    equal = [line for line in lines if "saved" in line]
    assert len(equal) == 4
    for line in equal:
        assert "equal number of trials" in line["setting"]
        assert 0 <= line["saved"] < 1
        assert line["cost"] > -0.1


def test_what_a_search_spent() -> None:
    from replay import Spent

    spent = Spent()
    for tokens, loss, finished in ((100, 3.0, True), (20, 2.0, False), (100, 2.5, True)):
        spent.add(tokens, loss, finished)
    assert spent.reached(3.0) == 100
    assert spent.reached(2.5) == 220
    assert spent.reached(2.0) == float("inf")
    assert not spent.keeps_a_leader(0.1)
    promoted = dataclasses.replace(spent, promoted=[(80, 2.0)])
    assert promoted.reached(2.0) == 300
    assert (spent.total, promoted.total) == (220, 300)
    assert promoted.keeps_a_leader(0.1)


@pytest.mark.slow
def test_a_training_of_the_table(tmp_path: Path) -> None:
    """The first pack, from the embedded model and data; where the data are the table's, so are the curves."""
    program = [sys.executable, str(ROOT / "benchmarks" / "curves" / "make_short.py"), "--workers", "1", "--first", "4"]
    made = tmp_path / "table.jsonl"
    subprocess.run([*program, "--table", str(made), "--data", str(tmp_path / "data")], check=True)
    from learning_curves import Table

    new, old = Table.read(made), Table.read()
    assert list(new.curves) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert new.fractions == old.fractions
    assert all(np.isfinite(curve).all() for curve in new.curves.values())
    if new.header["data"] == old.header["data"]:
        assert new.tokens == pytest.approx(old.tokens, abs=0.02)
        assert new.curves[1, 0] == pytest.approx(old.curves[1, 0], abs=0.05)
