"""The sandbox's benchmark runs, and what it prints holds together. No speed is asserted."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.evaluation.sandbox.hostile import HARMLESS

ROOT = Path(__file__).parents[3]


def test_it_runs(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text(f"{json.dumps(dataclasses.asdict(HARMLESS))}\n" * 3)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "sandbox.py", tmp_path / "problems.jsonl", "--repeats", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["name"] == "sandbox"
    assert result["setting"].startswith("3 canonical solutions, 2 at once")
    assert 0 < result["low"] <= result["ratio"] <= result["high"]
    assert result["ours"] > 0
    assert result["theirs"] > 0
