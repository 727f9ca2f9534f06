"""Studies whose outcomes are made and not trained: real records in real folders, of any size and with any endings."""

import json
import math
import random
from pathlib import Path
from typing import Any

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.plan.locate import existing
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.study.status import of_record
from meshtune.trial import Ending, Outcome

YAML = """model: embedded
data:
  sources: [{{path: {root}/secret-rows.jsonl}}]
space: recommended
sampler: {sampler}
budget: {{trials: {trials}, price_per_hour: 2.5}}
seed: {seed}
"""
SECRET = "the launch code is swordfish"
EPOCHS = 3


def loss_of(hyperparameters: dict[str, Any], chance: random.Random) -> float:
    """A smooth surface with noise: low at large ranks and a learning rate near 1e-3; some points are far off."""
    rate = math.log10(hyperparameters["learning_rate"])
    loss = 2.5 + 0.12 * (rate + 3) ** 2 - 0.03 * math.log2(hyperparameters["rank"]) + chance.gauss(0, 0.01)
    return loss if rate > -5.5 else loss + 4


def made_study(
    folder: Path,
    trials: int,
    *,
    failures: float = 0.0,
    sampler: str = "random",
    seed: int = 0,
    finished: bool = True,
    pending: int = 0,
    test_rows: int = 50,
    answers: bool = False,
) -> Path:
    """A LoRA study in `folder/study`: a baseline, random points, outcomes of `loss_of`; returns its folder."""
    study = folder / "study"
    (study / "data").mkdir(parents=True)
    (study / "study.yaml").write_text(YAML.format(root=folder.parent, sampler=sampler, trials=trials, seed=seed))
    space = presets.recommended()
    fixed = {
        "objective": {"at": "best"},
        "space": space.describe(),
        "baseline": presets.RECOMMENDED_BASELINE,
        "sampler": {"name": sampler, "options": {}},
        "seed": seed,
        "model": {"name": "embedded"},
        "data": f"{seed:064x}",
        "training": {"precision": "float32"},
    }
    record = Record(f"sqlite:///{study / 'study.db'}", "study", space, fixed=fixed)
    record.note("untuned", {"loss": 3.4})
    record.enqueue(presets.RECOMMENDED_BASELINE, origin="baseline", seed=seed)
    made = build(SamplerConfig(name="random"), distributions(space), x0=None, block_size=1, seed=seed)
    chance = random.Random(seed)
    for number in range(trials):
        if number:
            record.propose(made, seed=seed)
        record.tell(_outcome(record, number, chance, failures, study), elapsed=40.0 * (number + 1))
    for _ in range(pending):
        record.propose(made, seed=seed)
    if finished:
        record.note("finished", f"{trials} trials are done")
    if record.best is not None:
        adapter = study / "adapters" / f"{record.best.number}"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
    _prepared(study, folder.parent)
    if test_rows and record.best is not None:
        _measured(study, record, test_rows, chance)
    if answers:
        _answers(study, record)
    return study


def status_of(study: Path) -> dict[str, Any]:
    """The status with all trials."""
    located = existing(study)
    return of_record(located, Record(located.url, located.folder.name), trials=True)


def _outcome(record: Record, number: int, chance: random.Random, failures: float, study: Path) -> Outcome:
    ends = [Ending.DIVERGED, Ending.OUT_OF_MEMORY, Ending.CRASHED, Ending.TIMED_OUT]
    if chance.random() < failures:
        words = f"exit code 1: broken (see {study}/logs/trial-{number}.err)"
        return Outcome(number, 1, ends[number % 4], seconds=chance.uniform(1, 9), message=words)
    loss = loss_of(dict(record.trials[number].hyperparameters), chance)
    losses = (*(loss + 0.4 * 0.4**epoch for epoch in range(EPOCHS - 1)), loss)
    return Outcome(
        number,
        1,
        Ending.COMPLETE,
        loss=loss,
        losses=losses,
        training_losses=(3.4, *losses),
        seconds=chance.uniform(30, 60),
        tokens=120_000,
        peak_memory=3 * 2**30,
        adapter=f"adapters/{number}",
    )


def _measured(study: Path, record: Record, rows: int, chance: random.Random) -> None:
    """Losses by test row: each model's validation loss with noise that the rows share."""
    best, base = record.best, record.baseline
    assert best is not None
    assert base is not None
    entries = {"untuned": 3.4, f"trial-{best.number}": best.loss}
    if math.isfinite(base.loss):
        entries[f"trial-{base.number}"] = base.loss
    difficulty = [chance.gauss(0, 0.4) for _ in range(rows)]
    counts = [chance.randint(20, 200) for _ in range(rows)]
    measured = {}
    for name, loss in entries.items():
        sums = [[(loss + hard + chance.gauss(0, 0.1)) * n, n] for hard, n in zip(difficulty, counts, strict=True)]
        measured[name] = {"loss": sum(total for total, _ in sums) / sum(counts), "rows": sums}
    (study / "evaluation").mkdir(exist_ok=True)
    (study / "evaluation" / "test.json").write_text(json.dumps(measured))


def _answers(study: Path, record: Record) -> None:
    best, base = record.best, record.baseline
    assert best is not None
    assert base is not None
    (study / "evaluation" / "answers").mkdir(parents=True, exist_ok=True)
    for name, skill in (("untuned", 0.3), (f"trial-{base.number}", 0.6), (f"trial-{best.number}", 0.8)):
        chance = random.Random(name)
        lines = [
            {
                "row": row,
                "prompt": f"Explain row {row} in a sentence: {SECRET} <script>alert(1)</script>",
                "reference": f"Row {row} says that {SECRET}.",
                "answer": f"{name} says of row {row}: " + "word " * chance.randint(5, 120),
                "scores": {"exact": float(chance.random() < skill), "words": chance.gauss(skill, 0.1)},
            }
            for row in range(30)
        ]
        path = study / "evaluation" / "answers" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _prepared(study: Path, root: Path) -> None:
    source = {
        "name": f"{root}/secret-rows.jsonl",
        "format": "alpaca",
        "side": "mix",
        "read": 2100,
        "dropped": {"too long": 100},
        "kept": 2000,
        "prompt_tokens": 41.25,
        "response_tokens": 80.5,
    }
    side = {"distinct": 0, "tokens": 120_000, "label_tokens": 80_000, "near": 0}
    summary: dict[str, Any] = {
        "sources": [source, {**source, "name": "other.jsonl"}],
        **{
            n: {**side, "rows": 2 * r, "by_source": [r, r]}
            for n, r in (("train", 800), ("validation", 100), ("test", 25))
        },
        "mixture": "union",
        "prompt": "chat",
        "max_length": 512,
    }
    summary["test"]["near"] = 3
    (study / "data" / "manifest.json").write_text(json.dumps({"fingerprint": "ab" * 32, "summary": summary}))
