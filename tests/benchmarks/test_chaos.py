"""The short form of the chaos benchmark: a study under faults has the record of one that was left alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.parametrize(("worker", "faults"), [("local", 4), ("ray", 3)])
def test_no_trial_is_lost_or_told_twice(tmp_path: Path, worker: str, faults: int) -> None:
    if worker == "ray":
        pytest.importorskip("ray")
    given = ["--worker", worker, "--trials", "24", "--kills", str(faults), "--seed", "1", "--folder", str(tmp_path)]
    ended = subprocess.run([sys.executable, CHAOS, *given], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["ours"], told["theirs"], told["same"]) == (24, 24, True)
    logged = [json.loads(line) for line in (tmp_path / worker / "faults.jsonl").read_text().splitlines()]
    assert [each["number"] for each in logged] == list(range(faults))
    again = subprocess.run([sys.executable, CHAOS, *given], capture_output=True, text=True, check=False)
    assert json.loads(again.stdout.splitlines()[-1]) == told, "nothing is left to do: it says the same again"
