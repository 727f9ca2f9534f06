"""Every example runs as it stands, and so do the configurations that the README shows."""

import json
import re
import shutil
from pathlib import Path

import pytest

from meshtune import config_file, yaml_file
from tests.kill import run

ROOT = Path(__file__).parents[1]


def test_any_program(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "any_program", tmp_path / "example")
    ended = run(tmp_path / "example" / "study.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    status = json.loads(ended.stdout)
    assert sum(count for name, count in status["trials"].items() if name not in ("proposed", "pending")) == 16
    assert status["best"]["loss"] < status["baseline"]["loss"]


BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS)
def test_configurations_of_the_readme_are_valid(text: str, tmp_path: Path) -> None:
    config = config_file.parse(yaml_file.parse(text).values, tmp_path)
    assert config.budget.trials is not None
    assert len(text.splitlines()) < 25
