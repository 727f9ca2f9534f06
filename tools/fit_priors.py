"""Fits the model behind `meshtune advise` to the table of runs, and writes it into the package.

    python -m tools.fit_priors [--sweep FILE.csv] [--curves FILE.jsonl]

reads meshtune/priors/runs.jsonl and writes meshtune/priors/known.json, with what it was fitted to. The options put
tasks into the table first, in place of those with the same source: the sweep of thinking-machines-lab/tinker-cookbook
(columns model, family, hidden_size, learning_rate, rank, alpha, test_nll), and the table of benchmarks/curves.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meshtune.priors import advice, runs
from meshtune.priors.fit import fit
from meshtune.priors.runs import Facts, Run, Task
from meshtune.system import whole_file

SWEEP = "thinking-machines-lab/tinker-cookbook @ 9dfcc3a, sweep of rate and rank (test NLL)"
CURVES = "meshtune, benchmarks/curves/embedded.jsonl"
SWEEP_STEPS, SWEEP_BATCH = 780, 128


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sweep", type=Path)
    parser.add_argument("--curves", type=Path)
    given = parser.parse_args()
    tasks = runs.read(runs.SHIPPED) if runs.SHIPPED.read_text(encoding="utf-8").strip() else []
    if given.sweep:
        tasks = [*of_sweep(given.sweep), *(task for task in tasks if task.source != SWEEP)]
    if given.curves:
        tasks = [*(task for task in tasks if task.source != CURVES), of_curves(given.curves)]
    whole_file.write(runs.SHIPPED, "".join(task.line() + "\n" for task in tasks))
    found = {"provenance": provenance(tasks), **table(tasks).to_json()}
    whole_file.write(advice.SHIPPED, json.dumps(_rounded(found), indent=1) + "\n")


def table(tasks: Iterable[Task]) -> advice.Table:
    """The model of some tasks, as advice reads it."""
    tasks = list(tasks)
    found = fit(tasks)
    models = tuple(task.model for task in tasks)
    return advice.Table(found.known, models, (found.prior.means, found.prior.deviations), found.centres, found.scales)


def provenance(tasks: list[Task]) -> dict[str, Any]:
    """What a model was fitted to."""
    return {
        "made_by": "python -m tools.fit_priors",
        "runs": sum(len(task.runs) for task in tasks),
        "sha256": hashlib.sha256(runs.SHIPPED.read_bytes()).hexdigest(),
        "sources": runs.sources(tasks),
    }


def of_sweep(path: Path) -> list[Task]:
    """The tasks of the sweep."""
    by_model = dict[str, list[dict[str, str]]]()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by_model.setdefault(row["model"], []).append(row)
    tasks = []
    for model, rows in by_model.items():
        name = model.rpartition("/")[2]
        family = "kimi-k2" if name.startswith("Kimi") else runs.family_of(name)
        assert family is not None
        facts = Facts(
            family, int(rows[0]["hidden_size"]), SWEEP_STEPS * SWEEP_BATCH, steps=SWEEP_STEPS, batch_size=SWEEP_BATCH
        )
        points = [
            Run(int(r["rank"]), int(r["alpha"]), 0.0, float(r["learning_rate"]), float(r["test_nll"])) for r in rows
        ]
        more: dict[str, Any] = {"instruct": not name.endswith("-Base")}
        if size := re.search(r"-(\d+)b\b", name, re.IGNORECASE):
            more["parameters"] = int(size[1]) * 10**9
        tasks.append(Task(facts, model, "Tulu-3", SWEEP, "Apache-2.0", tuple(points), more))
    return tasks


def of_curves(path: Path) -> Task:
    """The task of the table of learning curves: the lowest of the losses at the ends of the epochs."""
    head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    batch = head["training"]["batch_size"]
    rows = head["rows"]["train"]
    facts = Facts("smollm2", 576, rows, steps=rows // batch * head["training"]["epochs"], batch_size=batch)
    points = tuple(
        Run(**_rounded({**line["hyperparameters"], "loss": min(line["losses"])}))
        for line in lines
        if line["ending"] == "complete"
    )
    more = {"layers": 30, "parameters": 134_515_008, "instruct": True, "tokens": head["rows"]["train_tokens"]}
    data = "descriptions and signatures of Python's standard library"
    return Task(facts, "HuggingFaceTB/SmolLM2-135M-Instruct", data, CURVES, "Apache-2.0", points, more)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
    return value


if __name__ == "__main__":
    main()
