"""Real items asked of the embedded model, with an adapter and without: as a plain script and lm-eval score them.

A part of what benchmarks/scoring_agreement.py compares, which see.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import made

ROOT = Path(__file__).parents[2]


def compared(*arguments: object) -> list[dict[str, Any]]:
    """The lines of the benchmark."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "scoring_agreement.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_agree(lines: list[dict[str, Any]]) -> None:
    kinds = [(line["protocol"], line["candidate"], line["benchmark"]) for line in lines]
    assert kinds == [
        *(("instruct-eval", who, what) for who in ("untuned", "candidate-0") for what in ("mmlu", "bbh", "humaneval")),
        *(("harness", who, what) for who in ("untuned", "candidate-0") for what in ("mmlu", "bbh")),
    ]
    for line in lines:
        assert line["differ"] == []
        assert line["furthest"] < (1e-3 if line["benchmark"] == "humaneval" else 1e-4)  # of a sum over the solution


@pytest.mark.slow
@made.needs_real_files
def test_the_embedded_model_on_real_items(tmp_path: Path) -> None:
    counts = ("--mmlu", 8, "--bbh", 8, "--humaneval", 2)
    assert_agree(compared("--data", made.REAL, "--out", tmp_path, *counts))


@pytest.mark.slow
def test_a_tiny_model_on_made_items(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The comparison itself, which goes on where it was."""
    data = made.make_all(tmp_path / "data", subjects=("anatomy", "virology"))
    counts = ("--mmlu", 4, "--bbh", 4, "--humaneval", 2)
    lines = compared("--model", tiny_model_folder, "--data", data, "--out", tmp_path / "out", *counts)
    assert_agree(lines)
    assert [line["items"] for line in lines] == [4, 4, 2, 4, 4, 2, 4, 4, 4, 4]
