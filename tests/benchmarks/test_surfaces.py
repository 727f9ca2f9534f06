"""The benchmark's surfaces have the minimum that regrets are measured from, and its lines are what tools read."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.surfaces import ALPHA, DROPOUT, FLOOR, LEARNING_RATE, RANK_LOG2, SENSIBLE, SURFACES, UNTUNED, Surface

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_the_minimum_is_inside_the_space_and_nothing_is_below_it(surface: Surface) -> None:
    best = surface.best
    assert math.log2(best["rank"]) in range(RANK_LOG2[0], RANK_LOG2[1] + 1)
    assert ALPHA[0] <= best["alpha"] <= ALPHA[1]
    assert LEARNING_RATE[0] <= best["learning_rate"] <= LEARNING_RATE[1]
    assert round(best["dropout"] / DROPOUT[2], 9) in range(round(DROPOUT[1] / DROPOUT[2]) + 1)
    assert surface(best) == pytest.approx(FLOOR, abs=1e-12)
    rng = np.random.default_rng(0)
    losses = np.array(
        [
            surface(
                {
                    "rank": 2 ** int(rng.integers(RANK_LOG2[0], RANK_LOG2[1] + 1)),
                    "alpha": round(2 ** rng.uniform(*np.log2(ALPHA))),
                    "dropout": DROPOUT[2] * int(rng.integers(7)),
                    "learning_rate": 10 ** rng.uniform(*np.log10(LEARNING_RATE)),
                }
            )
            for _ in range(2000)
        ]
    )
    assert np.nanmin(losses) > FLOOR
    diverged = np.isnan(losses).mean()
    assert 0.02 < diverged < 0.2 if math.isfinite(surface.cliff) else diverged == 0


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_a_rate_too_small_learns_nothing_and_the_sensible_start_is_not_the_answer(surface: Surface) -> None:
    still = {**surface.best, "learning_rate": LEARNING_RATE[0] / 100}
    assert surface(still) == pytest.approx(UNTUNED, abs=1e-3)
    assert surface(SENSIBLE) - FLOOR > 0.03


@pytest.mark.slow
def test_the_race_prints_one_line_a_setting() -> None:
    program = [sys.executable, "benchmarks/optimizers.py", "--quick", "--seeds", "1", "--block", "8", "--no-times"]
    said = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in said.splitlines()]
    assert len(lines) == 2 * 4 * 2 * 3  # starts, other sides, points taken, budgets
    for line in lines:
        assert set(line) == {"name", "ours", "theirs", "ratio", "low", "high", "won", "lost", "setting"}
        assert line["ratio"] == pytest.approx(line["theirs"] / line["ours"], rel=0.02)
        assert line["low"] <= line["ratio"] <= line["high"]
