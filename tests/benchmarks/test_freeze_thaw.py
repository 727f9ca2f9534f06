"""The benchmark of the model of points and curves: its searches spend what they say, its lines hold together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.fixture(scope="module")
def surrogate() -> Any:
    from learning_curves import Surrogate, Table

    return Surrogate(Table.read())


@pytest.mark.parametrize("side", ["freeze-thaw", "default", "asha", "median", "SuccessiveHalving", "Hyperband"])
def test_a_search_spends_less_than_whole_trainings_and_ends(surrogate: Any, side: str) -> None:
    import freeze_thaw
    from replay import WHOLE

    spent = freeze_thaw.searched(side, surrogate, block=4, seed=1, trials=12, noise=0.0)
    assert len(spent.loss) == 12
    assert 1 <= sum(spent.finished) <= 12
    assert WHOLE <= spent.total < 12 * WHOLE
    assert spent.tokens == sorted(spent.tokens)


@pytest.mark.slow
def test_rays_scheduler_stops_what_is_behind() -> None:
    """Two of three at its first rung, once three have been there."""
    pytest.importorskip("ray.tune.schedulers", exc_type=ImportError)
    import freeze_thaw

    asha = freeze_thaw.RaysAsha(4, 100)
    assert [asha.stops(trial, 4, loss) for trial, loss in enumerate((1.0, 3.0, 0.5, 2.0))] == [False, True, False, True]


def test_a_long_table_borrows_from_the_short_one(surrogate: Any, tmp_path: Path) -> None:
    """At its own points it is near them, whatever their level; two seeds differ by about the deviation."""
    from learning_curves import RUNGS, Borrowing, Table

    table, lines = Table.read(), []
    for point in table.pairs[:20]:
        losses = 5 + 2 * np.interp(RUNGS, table.tokens, surrogate.mean(table.params[point, 0]))
        lines.append({"schedule": "wsd", "seed": 0, "ending": "complete", "params": table.params[point, 0]})
        lines[-1] |= {"point": point, "losses": losses.tolist()}
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [{"task": "t", "shares": RUNGS}, *lines]))
    made = Borrowing(path, surrogate, trainings=16)
    assert made.points == 16
    assert made.fractions == RUNGS
    curves = [[made.curve(line["params"], seed) for seed in range(8)] for line in lines[:16]]
    low = sorted(range(16), key=lambda k: lines[k]["losses"][-1])[:5]
    away = [abs(np.mean(curves[k], 0)[-1] - lines[k]["losses"][-1]) for k in low]
    assert max(away) < 4 * made.deviation
    assert 0 < np.mean([np.std(curves[k], 0)[-1] for k in low]) < 3 * made.deviation
    assert made.curve(lines[0]["params"], 1).tolist() == made.curve(lines[0]["params"], 1).tolist()


def test_a_replay_is_the_same_every_time(surrogate: Any) -> None:
    import freeze_thaw

    one, again = (freeze_thaw.thawed(surrogate, 4, seed=2, trials=12, noise=0.0) for _ in range(2))
    assert one == again


def test_lines_of_a_cell(surrogate: Any) -> None:
    import freeze_thaw

    lines = list(freeze_thaw.replays(surrogate, "task", 4, ["SuccessiveHalving"], [0, 1], trials=10, noise=0.0))
    assert [("knowing" in line, "saved" in line) for line in lines] == [(True, False), (True, False), (False, True)]
    assert all({"name", "ours", "theirs", "ratio", "low", "high", "setting"} <= line.keys() for line in lines)


def test_predictions_are_within_their_intervals() -> None:
    """By rung, of the stored table: the later, the nearer."""
    import freeze_thaw
    from learning_curves import TABLE

    lines = list(freeze_thaw.calibration(TABLE, repeats=6))
    assert len(lines) == 5
    assert lines[-1]["ours"] < lines[0]["ours"]
    assert sum(line["within_95"] * line["predictions"] for line in lines) / 120 > 0.8


def test_a_long_table_is_read(tmp_path: Path) -> None:
    """Curves of wsd by the losses of the weights; cosine, the baseline and what diverged not."""
    import freeze_thaw

    params = {"rank_log2": 4, "scale_log2": 1.0, "dropout_index": 0, "step": 0.01}
    whole = {"schedule": "wsd", "point": 0, "seed": 1, "params": params, "ending": "complete"}
    whole |= {"losses": [3.0, 2.5, 2.0], "averaged": [None, 2.4, None]}
    lines = [{"task": "dolly-hh", "shares": [0.1, 0.5, 1.0]}, whole, whole | {"schedule": "cosine"}]
    lines += [whole | {"point": -1}, whole | {"ending": "diverged"}]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    task, shares, curves = freeze_thaw.curves_of(path)
    assert (task, shares) == ("dolly-hh, wsd", (0.1, 0.5, 1.0))
    assert [(seed, curve) for seed, _, curve in curves] == [(1, [(0.1, 3.0), (0.5, 2.5), (1.0, 2.0)])]
    assert list(freeze_thaw.calibration(path)) == []
