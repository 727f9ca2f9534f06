"""SIGKILL of any process at any moment, then the same command: the record of an uninterrupted study."""

from pathlib import Path

import pytest

from tests.kill import record_of, ten_kills


@pytest.mark.parametrize("sampler", ["mads", pytest.param("tpe", marks=pytest.mark.slow)])
def test_ten_kills_leave_the_record_of_an_uninterrupted_study(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")  # so that ten kills fall inside the study
    killed, whole = ten_kills(tmp_path, sampler)
    assert record_of(killed) == record_of(whole)
