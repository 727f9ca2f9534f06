"""Five real studies, their reports, figures and pictures of the pages: `python -m tools.five_reports OUT [NAME ..]`.

For a look at what a change of `meshtune/report` does to real pages: the quickstart, one trial, a hundred trials of
which many fail, two objectives, and everything that one study can have. Pictures are of a wide window and of a phone,
by day and in the dark. The quickstart takes minutes; the others, a program and a tiny random model whose figures mean
nothing, take some minutes together. A study that is there is not searched again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from meshtune.system import yaml_file
from tests.conftest import make_tiny_model

ROOT = Path(__file__).parents[1]
SIZES = {"wide": (1280, 900), "phone": (390, 844)}  # CSS pixels
TINY = {
    "model": "tiny",
    "data": {
        "sources": [{"embedded": "python-stdlib-describe"}, {"embedded": "python-stdlib-signature"}],
        "rows": 160,
        "validation": 32,
        "test": 40,
        "max_length": 400,  # bytes
    },
    "training": {"epochs": 2, "batch_size": 4},
    "seed": 1,
}
# Diverges, crashes, takes too long, or prints a loss: by its learning rate and depth.
FAILING = """import json, math, sys, time
rate, depth, seed = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if rate > 0.03:
    print(json.dumps({"loss": float("nan")}))
elif depth == 7:
    raise MemoryError("no room for a depth of 7")
elif depth == 8 and rate < 1e-4:
    time.sleep(60)
else:
    losses = [1 / n + (math.log10(rate) + 3) ** 2 / 4 + abs(depth - 4) / 9 + 10 ** (-2 - seed % 3) for n in (1, 2, 3)]
    print(json.dumps({"loss": losses[-1], "losses": losses}))
"""
METRIC = "def score(row, answer):\n    return float(len(answer.split()) <= 2 * len(row['output'].split()))\n"


def quickstart(folder: Path) -> Path:
    """As README has it."""
    meshtune("quickstart", folder)
    return folder / "study"


def one(folder: Path) -> Path:
    """The baseline alone."""
    return tiny(folder, {"budget": {"trials": 1}, "generation": {"rows": 4, "max_new_tokens": 24}})


def failures(folder: Path) -> Path:
    """A program, a hundred times."""
    (folder / "program.py").write_text(FAILING)
    command = [sys.executable, "program.py", "{rate}", "{depth}", "{seed}"]
    study = {
        "objective": {"command": command, "result": "loss"},
        "space": {"rate": {"low": 1e-5, "high": 0.1, "log": True}, "depth": {"low": 1, "high": 8, "integer": True}},
        "baseline": {"rate": 1e-4, "depth": 2},
        "sampler": "random",
        "budget": {"trials": 100, "trial_hours": 0.001},
    }
    return tuned(folder, study)


def objectives(folder: Path) -> Path:
    """The loss against the size of the adapter, with a constraint that is measured."""
    goals = {"objectives": ["validation_loss", "adapter_parameters"], "constraints": ["perplexity <= untuned * 1.02"]}
    return tiny(folder, {**goals, "sampler": "tpe", "budget": {"trials": 24}})


def everything(folder: Path) -> Path:
    """Rounds, constraints, early stopping, replicates, a metric, scores and a choice."""
    (folder / "metrics.py").write_text(METRIC)
    study = {
        "constraints": ["adapter_parameters <= 2e6", "predicted_memory <= 8 GiB"],
        "early_stopping": {"rule": "default", "rungs": [0.25, 0.5, 0.75], "rows": 16},
        "metrics": {"short": {"file": "metrics.py", "function": "score"}},
        "generation": {"rows": 6, "max_new_tokens": 24},
        "replicates": 3,
        "rounds": [
            {"data": {"rows": 80}, "training": {"epochs": 1}, "budget": {"trials": 10}},
            {"budget": {"trials": 30}},
        ],
    }
    made = tiny(folder, study)
    subprocess.run([sys.executable, ROOT / "examples/tribes2024/tiny_data.py", folder / "items"], check=True)
    meshtune("evaluate", made, "--data", folder / "items", "--benchmarks", "mmlu,bbh,drop")
    meshtune("select", made)
    return made


STUDIES: dict[str, Callable[[Path], Path]] = {
    "quickstart": quickstart,
    "one": one,
    "failures": failures,
    "objectives": objectives,
    "everything": everything,
}


def main() -> None:
    """Make the studies, then a report, figures and pictures of each."""
    out, *names = sys.argv[1:]
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in names or STUDIES:
            folder = Path(out).resolve() / name
            folder.mkdir(parents=True, exist_ok=True)
            study = STUDIES[name](folder)
            meshtune("report", study, "--figures", folder / "figures")
            pictures(browser, study / "report" / "index.html", folder)
        browser.close()


def tiny(folder: Path, study: dict[str, Any]) -> Path:
    """Of a random model of two layers."""
    if not (folder / "tiny").exists():
        make_tiny_model(folder / "tiny")
    return tuned(folder, {**TINY, **study})


def tuned(folder: Path, study: dict[str, Any]) -> Path:
    """The study's folder, after its search."""
    (folder / "study.yaml").write_text(yaml_file.dump(json.loads(json.dumps(study))))  # without anchors
    meshtune("tune", folder / "study.yaml", "--folder", folder / "study")
    return folder / "study"


def meshtune(*words: object) -> None:
    """A command, which must end well."""
    subprocess.run([sys.executable, "-m", "meshtune.cli", *map(str, words)], check=True)


def pictures(browser: Browser, page: Path, folder: Path) -> None:
    """Of the whole page."""
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            opened.set_default_timeout(120_000)  # milliseconds: a busy machine takes its time
            opened.goto(page.as_uri())
            opened.screenshot(path=folder / f"{size}-{scheme}.png", full_page=True)
            opened.close()


if __name__ == "__main__":
    main()
