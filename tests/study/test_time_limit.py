"""Lengths of time as people and SLURM write them, and when a run is stopped."""

import time

import pytest

from meshtune.errors import InputError
from meshtune.study.time_limit import seconds, time_limit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", 5400),
        ("3h30m", 12600),
        ("1d2h", 93600),
        ("45s", 45),
        ("90", 5400),
        ("30:15", 1815),
        ("12:00:00", 43200),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:00:30", 216030),
    ],
)
def test_lengths_of_time(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "0", "0m", "-5m", "1.5h", "30m3h", "1:2:3:4", "h", "2-"])
def test_what_is_none_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(InputError, match=r"--time-limit.*3h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "margin"), [("10s", 5), ("2m", 60), ("10m", 60), ("1h", 180), ("12h", 300), ("7d", 300)]
)
def test_the_margin_grows_with_the_time_that_there_is(text: str, margin: float) -> None:
    limit = time_limit(text, {})
    assert limit is not None
    assert limit.moment == pytest.approx(time.time() + seconds(text) - margin, abs=1)
    assert 0 < limit.grace < margin
    assert limit.stop() is None
    assert limit.left() == pytest.approx(seconds(text) - 0.1 * margin, abs=1)


def test_the_earlier_end_counts_and_one_that_is_over_does_not() -> None:
    now = time.time()
    job = {"SLURM_JOB_END_TIME": str(int(now + 3600))}
    for text, reason in (("30m", "time limit of 30m"), ("2h", "SLURM job"), (None, "SLURM job")):
        limit = time_limit(text, job)
        assert limit is not None
        assert reason in limit.reason
    assert time_limit(None, {}) is None
    for old in (str(int(now - 5)), "", "Unknown"):
        assert time_limit(None, {"SLURM_JOB_END_TIME": old}) is None
