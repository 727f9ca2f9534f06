"""`meshtune prepare`: on a machine with network, everything that a study needs from it, so that `tune` needs none.

Fetches the model, the data sets and the benchmarks that `evaluation` names, converts the embedded model, and tokenizes
the rows, and the text that guides the search, into the study's folder. Trains nothing, needs no GPU, and fixes nothing
that depends on the device: the precision is the affair of the node that trains. A second call finds everything there;
rows whose files were damaged it makes again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshtune.config import presets
from meshtune.config.evaluation import EvaluationConfig
from meshtune.config.sections import DataConfig, ModelConfig, is_command
from meshtune.errors import InputError, need_training
from meshtune.plan.locate import Located, locate
from meshtune.study.rounds import of_each


def prepare(path: Path, *, folder: Path | None = None, overrides: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Fetch and tokenize; returns what there is now, for people and as plain values. Raises InputError."""
    study = locate(path, overrides=overrides, folder=folder)
    if study.config.rounds:
        found = of_each(study, lambda each: _of_one(each, path))
        return found[-1][0], {"folder": str(study.folder), "rounds": [facts for _, facts in found]}
    return _of_one(study, path)


def _of_one(study: Located, path: Path) -> tuple[str, dict[str, Any]]:
    config = study.config
    command = is_command(config.objective)
    presets.build(config.space, lora=not command)  # a fault of the space is better known before the queue
    if command:
        nothing: dict[str, Any] = dict.fromkeys(("model", "data", "benchmarks"))
        nothing = {"folder": str(study.folder), **nothing, "caches": {}}
        return "nothing to prepare: the objective is a command", nothing
    if config.model is None or config.data is None:
        raise InputError("a study of LoRA hyperparameters needs `model` and `data`")
    facts = _facts(study, config.model, config.data)
    return _lines(facts, path), facts


def _facts(study: Located, model: ModelConfig, data: DataConfig) -> dict[str, Any]:
    """Everything here, and where; imports torch."""
    need_training()
    from meshtune.data.embedded import cache_folder
    from meshtune.plan.training import answered, measurements_of, rows
    from meshtune.training.fetch import fetch, hub_folder, size_of
    from meshtune.training.models import check_model

    check_model(model)
    fetched = fetch(model)
    benchmarks = _benchmarks(study.config.evaluation)
    prepared = rows(study, data, model)
    summary, place = prepared.summary, Path(prepared.ref.folder)
    measured = measurements_of(study, model, answered(study.config, summary.validation.rows))
    return {
        "folder": str(study.folder),
        "model": {"name": model.name, "place": str(fetched.place), "bytes": fetched.size},
        "data": {
            "place": str(place),
            "bytes": size_of(place),
            "fingerprint": prepared.ref.fingerprint,
            "rows": {
                "train": summary.train.rows,
                "validation": summary.validation.rows,
                "test": summary.test.rows,
            },
            "damage": prepared.damage,
        },
        "guides": [] if measured is None else measured.chosen.lines(),
        "benchmarks": benchmarks,
        "caches": {"HF_HOME": str(hub_folder()), "MESHTUNE_CACHE": str(cache_folder())},
    }


def _benchmarks(settings: EvaluationConfig) -> list[str] | None:
    """What `meshtune evaluate` will ask, fetched or read where it lies; None where the study names nothing."""
    if not settings.benchmarks and settings.data is None:
        return None
    if settings.protocol == "harness":
        from meshtune.evaluation import harness

        own_tasks = None if settings.tasks is None else Path(settings.tasks)
        return list(harness.tasks(settings.benchmarks, own_tasks, settings.limit, settings.seed).names)
    from meshtune.evaluation.benchmarks import registry

    data = None if settings.data is None else Path(settings.data)
    found = registry.load(settings.benchmarks, data, lambda _: ())  # no code is run here
    return [benchmark.set_name for benchmark in found]


def _lines(facts: dict[str, Any], path: Path) -> str:
    model, data, caches = facts["model"], facts["data"], facts["caches"]
    counts = ", ".join(f"{count:,} {side}" for side, count in data["rows"].items())
    return "\n".join(
        [
            f"model      {model['name']}, {_size(model['bytes'])} in {model['place']}",
            f"data       rows: {counts}; {_size(data['bytes'])} in {data['place']}",
            *([f"           made again, since {data['damage']}"] if data["damage"] else []),
            *(f"{'' if index else 'guided by':<10} {text}" for index, text in enumerate(facts["guides"])),
            *(f"{'' if number else 'benchmarks':<10} {name}" for number, name in enumerate(facts["benchmarks"] or ())),
            *(f"{'caches' if name == 'HF_HOME' else '':<10} {name}={place}" for name, place in caches.items()),
            f"next       HF_HUB_OFFLINE=1 meshtune tune {path}",
            "           on a node that sees these folders; give it the same HF_HOME and MESHTUNE_CACHE.",
        ]
    )


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.0f} kB"
