"""The paper as one recipe, examples/tribes2024, at the scale that fits a test."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kill import meshtune

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_papers_recipe_is_killed_twice_and_ends_with_its_tables_and_figures(tmp_path: Path) -> None:
    """Every step of the scale `smoke` on the embedded model; killed in the first search and while it scores."""
    out = tmp_path / "out"
    command = meshtune("run", ROOT / "examples" / "tribes2024" / "pipeline.yaml", "--scale", "smoke", "--out", out)
    for written in (out / "round1" / "study.db", out / "mads-scores"):
        with subprocess.Popen(command) as process:
            while not written.exists():
                assert process.poll() is None
                time.sleep(0.1)
            os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the pipeline is done" in done.stderr + done.stdout
    for name in ("mads-scores", "tpe-scores"):
        assert any((out / name).glob("*.tex"))
    for name in ("round1", "mads", "tpe", "today"):
        assert (out / f"{name}.html").is_file()
        assert name == "today" or (out / f"{name}-figures" / "history.svg").is_file()
    assert "SIMULATED" in (out / "figure3" / "index.html").read_text().upper()
    assert "nothing is chosen" in (out / "mads" / "selection" / "selection.md").read_text().lower()
    published(out, tmp_path)


def published(out: Path, to: Path) -> None:
    """What there is goes under docs/paper in the same way at every scale."""
    program = [sys.executable, "-m", "benchmarks.paper_runs", "smoke", "--out", str(out), "--to", str(to)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page, facts = (to / "smoke.md").read_text(), json.loads((to / "smoke" / "facts.json").read_text())
    assert "or not done yet" not in page
    assert {"round1", "mads", "tpe"} == set(facts["studies"])
    assert facts["choices"]["mads"]["chosen"] is None
    assert facts["mads_less_tpe"]["rows"] == 4
    for whose in ("ours", "the paper's"):
        assert f"Statistics of the best candidates, in points ({whose})" in page
    assert facts["processor"].keys() == facts["steps"].keys()
    assert facts["today"]["trials"]["complete"] == 3
    assert "## Today's way" in page
    for name in ("figure1", "figure2a", "figure2b", "figure3"):
        assert f"(smoke/{name}.svg)" in page
        assert (to / "smoke" / f"{name}.svg").is_file()
    assert "SIMULATED VOTES" in (to / "smoke" / "figure3.svg").read_text()
