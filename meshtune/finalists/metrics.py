"""The user's own metrics of the candidates, on their answers to validation rows, beside the benchmarks' scores.

Most candidates were asked at the end of the search; those whose answers are missing, or were made in another way, are
asked now. Higher and lower are the metric's own affair: these columns take part in no Pareto set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshtune.config.sections import ModelConfig
from meshtune.data import answers
from meshtune.finalists.ask import Report, candidate_of, load_base
from meshtune.finalists.candidates import ListedCandidate, file_name
from meshtune.objectives import metrics
from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.selection.candidates import Column
from meshtune.selection.statistics import Mean
from meshtune.study import finals
from meshtune.system.text import counted
from meshtune.trial import DataRef

ROWS = 64  # validation rows, where the config does not say


def scored(
    study: Located, model: ModelConfig, listed: Sequence[ListedCandidate], report: Report
) -> tuple[list[Column], dict[str, dict[str, Mean]]]:
    """A column for each metric, named `metrics:<name>`, and its means by candidate; nothing where there are none.

    Raises InputError where a metric fails, StorageError where answers cannot be written.
    """
    config = study.config
    if not config.metrics:
        return [], {}
    metrics.load(config.metrics)
    ref = DataRef(str(study.folder / "data"), Record(study.url, study.name).notes["fixed"]["data"])
    rows = min(ROWS if config.generation.rows is None else config.generation.rows, _validation_rows(ref))
    if not rows:
        return [], {}
    made = metrics.stamp(config.metrics, rows, config.generation.max_new_tokens)
    missing = [one for one in listed if not answers.are_made(_file(study, one), made)]
    if missing:
        _answer(study, model, ref, missing, rows, report)
    found = finals.scores(study.folder)
    means = {one.name: {f"metrics:{name}": mean for name, mean in found[file_name(one)].items()} for one in listed}
    return [Column(f"metrics:{name}", name, rows, digits=4) for name in config.metrics], means


def _answer(
    study: Located,
    model: ModelConfig,
    ref: DataRef,
    missing: Sequence[ListedCandidate],
    rows: int,
    report: Report,
) -> None:
    from meshtune.evaluation.adapters import check, on
    from meshtune.objectives.answers import Answering

    candidates = [candidate_of(one, report) for one in missing]
    base = load_base(model, report, " for your metrics")
    check(candidates, base)
    answering = Answering(model, ref, study.config.metrics, rows, study.config.generation.max_new_tokens)
    for one, candidate in zip(missing, candidates, strict=True):
        report(f"{candidate.name}: answering {counted(rows, 'validation row')}")
        with on(base, candidate) as adapted:
            answering.answer(adapted, _file(study, one), lambda: None)


def _file(study: Located, one: ListedCandidate) -> Path:
    return study.folder / answers.FOLDER / f"{file_name(one)}.jsonl"


def _validation_rows(ref: DataRef) -> int:
    from meshtune.data.store import Rows

    return len(Rows.open(ref, "validation"))
