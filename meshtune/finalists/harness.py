"""`meshtune evaluate --protocol harness`: candidates scored on tasks of lm-evaluation-harness, or of one's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meshtune.config.evaluation import EvaluationConfig
from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError
from meshtune.finalists.ask import Report, candidate_of, load_base
from meshtune.finalists.candidates import ListedCandidate
from meshtune.selection.candidates import Column
from meshtune.space.goals import BENCHMARKS
from meshtune.system.text import counted

if TYPE_CHECKING:
    from meshtune.evaluation.scoring import Scores


def scored(
    answers: Path,
    model: ModelConfig,
    listed: Sequence[ListedCandidate],
    settings: EvaluationConfig,
    guided: Collection[str],
    report: Report,
) -> tuple[list[Column], dict[str, dict[str, Scores]]]:
    """Columns of the table, and results by candidate and task. Answers are stored in `answers`.

    `guided`: benchmarks of which some items guided the search; the harness's tasks cannot leave these out.

    Raises InputError, MissingExtra without the harness, StorageError.
    """
    from meshtune.evaluation import harness  # says so where lm-eval is not installed

    if settings.temperature or settings.samples > 1:
        raise InputError("the harness's tasks say how they are decoded: `temperature` and `samples` are not of them")
    if settings.guided is not None:
        raise InputError(f"`guided` names items of {', '.join(BENCHMARKS)}: the harness's tasks know none of them")
    from meshtune.data.tokenizer import identity_of_base, load_tokenizer

    if guided:
        names = ", ".join(guided)
        report(f"items of {names} guided the search, and the harness's tasks of the same data hold them too")
    if settings.data is not None:
        report("the harness's tasks name their data themselves: `data` is not read")
    own_tasks = None if settings.tasks is None else Path(settings.tasks)
    found = harness.tasks(settings.benchmarks, own_tasks, settings.limit, settings.seed)
    asked = [candidate_of(one, report) for one in listed]
    base = load_base(model, report)
    named = identity_of_base(model)
    found_scores = harness.run(
        base,
        load_tokenizer(model),
        asked,
        found,
        lambda task, one: harness.place_of(answers, task, one, {"limit": settings.limit, "seed": settings.seed}, named),
        report,
    )
    results = {
        one.name: {name: result for name, (result, _) in found_scores[candidate.name].items()}
        for one, candidate in zip(listed, asked, strict=True)
    }
    columns = []
    for name in found.names:
        first, digest = found_scores[asked[0].name][name]
        subset = "" if found.chosen[name] is None else f", chosen with seed {settings.seed}"
        measured = f"{name}: {counted(first.items, 'item')} asked{subset} ({digest})"
        columns.append(Column(name, name, first.items, measured, 100 * first.chance))
    return columns, results
