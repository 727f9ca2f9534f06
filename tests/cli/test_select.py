"""The options of `select`, as they are read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.errors import InputError


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (f"mmlu={10**20}", "it is at most 1,000,000,000"),
        ("mmlu=0", "it is above 0"),
        ("mmlu=-1", "it is above 0"),
        ("mmlu=1e3", "such as mmlu=100"),
    ],
)
def test_numbers_of_items_are_checked(tmp_path: Path, items: str, said: str) -> None:
    (tmp_path / "scores.csv").write_text("rank,mmlu\n1,40\n2,41\n")
    done = CliRunner().invoke(app, ["select", "--scores", str(tmp_path / "scores.csv"), "--items", items])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
