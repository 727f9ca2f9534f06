"""SIGKILL of any process at any moment, then the same command: the record of an uninterrupted study."""

from pathlib import Path

import pytest

from tests.kill import killed_and_whole, record_of


@pytest.mark.parametrize(
    ("sampler", "kills"),
    [("mads", 4), *(pytest.param(name, 10, marks=pytest.mark.slow) for name in ("mads", "tpe"))],
)
def test_kills_leave_the_record_of_an_uninterrupted_study(
    tmp_path: Path, sampler: str, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")  # so that the kills fall inside the study
    killed, whole = killed_and_whole(tmp_path, sampler, kills=kills)
    assert record_of(killed) == record_of(whole)
