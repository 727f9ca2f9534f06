"""`meshtune select`: one model of those that were scored, with the evidence, from stored answers or a file of scores.

Of a study, the decision is written to `<study>/selection/`: `selection.json` with everything, `selection.md` with the
sentences, `candidates.csv` with a row a candidate. Nothing is trained and nothing is asked, but with `--replicates`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.finalists import sentences
from meshtune.finalists.ask import Report
from meshtune.finalists.replicates import replicated
from meshtune.finalists.stored_scores import Evidence, of_file, of_study
from meshtune.plan.locate import existing
from meshtune.record.log import Record
from meshtune.report.sentences import recommendation
from meshtune.selection import feasible
from meshtune.selection.decide import Decision, Settings, decide
from meshtune.selection.rules import Rule
from meshtune.study.status import of_record
from meshtune.system import whole_file

FOLDER = "selection"


@dataclass(frozen=True)
class Selected:
    """A decision in all its forms. `values`: everything, as plain values. `folder`: where it is written, or None."""

    decision: Decision
    evidence: Evidence
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    values: Mapping[str, Any]
    folder: Path | None


def select(
    path: Path | None,
    settings: Settings,
    *,
    scores: Path | None = None,
    items: Mapping[str, int] | None = None,
    benchmarks: Sequence[str] = (),
    protocol: str | None = None,
    common_items: bool = False,
    folder: Path | None = None,
    replicates: int = 0,
    unsafe: bool = False,
    report: Report | None = None,
) -> Selected:
    """Choose a model of a study, or of a file of scores.

    Args:
        scores: a file, in place of a study. items: how many each of its benchmarks has. benchmarks: that count.
        protocol: of the study's scores, where there are several. common_items: pair on the items that all answered.
        replicates: seeds with which the leading candidates and the baseline are trained again and scored.
        unsafe: run code that models write without a sandbox. report: is told how far that is.

    Raises InputError with what is missing; StorageError where the decision cannot be written; of replicates also
    Interrupted, StudyBusy and WorkerError.
    """
    of_study_only = protocol is not None or common_items or folder is not None or replicates > 0
    _check_source(path, scores, bool(items), of_study_only)
    kept: dict[str, list[feasible.Chance]] = {}
    study, recommended = None, ""
    if scores is not None:
        evidence, out = of_file(scores, benchmarks, items or {}), None
    else:
        study = existing(path or Path(), folder=folder).latest
        evidence, out = of_study(study, protocol, benchmarks, common=common_items), study.folder / FOLDER
        _check_race(evidence, settings, benchmarks)
        trials = {name: fact.trial for name, fact in evidence.facts.items() if fact.trial is not None}
        record = Record(study.url, study.name)
        kept = feasible.chances(record, study.folder, evidence.measured, trials)
        recommended = recommendation(of_record(study, record))
        settings = replace(settings, barred=feasible.barred(kept))
    decision = _decided(evidence, settings)
    failed: Mapping[str, str] = {}
    say = report or (lambda _: None)
    if replicates and decision.chosen is None:
        say("nothing can be chosen, so nothing is trained with other seeds")
    elif replicates and study is not None:
        evidence, failed = replicated(study, evidence, decision, replicates, unsafe=unsafe, report=say)
        decision = replace(_decided(evidence, settings), left_out=decision.left_out)
    said = sentences.sentences(decision, evidence.facts, evidence.titles)
    notes = sentences.notes(decision, evidence.titles, race=evidence.race, failed=failed)
    notes += [*evidence.notes, *feasible.notes(kept, decision.chosen), *filter(None, [recommended])]
    values = {
        **sentences.as_values(decision, evidence.facts, said, notes),
        "scores": _scores(evidence),
        "race": evidence.race,
        "constraints": {name: [asdict(one) for one in each] for name, each in kept.items() if each},
    }
    values = json.loads(json.dumps(values))
    if out is not None:
        _write(out, values)
    return Selected(decision, evidence, tuple(said), tuple(notes), values, out)


def _check_source(path: Path | None, scores: Path | None, items: bool, of_study_only: bool) -> None:
    """Refuse neither or both of a study and a file, and what is given of the other one."""
    if (path is None) == (scores is None):
        raise InputError("name a study, or a file of scores with `--scores`: one of the two")
    if scores is not None and of_study_only:
        what = "`--protocol`, `--common-items`, `--folder` and `--replicates`"
        raise InputError(f"{what} are of a study, not of a file of scores")
    if scores is None and items:
        raise InputError("`--items` is of a file of scores: a study knows its own")


def _decided(evidence: Evidence, settings: Settings) -> Decision:
    return decide(
        evidence.measured,
        evidence.facts,
        settings,
        references=evidence.references,
        silent=evidence.silent,
        seeds=evidence.seeds,
    )


def _check_race(evidence: Evidence, settings: Settings, benchmarks: Sequence[str]) -> None:
    """Refuse what makes the chances void with which candidates left a race."""
    race = evidence.race
    if race is None or not race["left"]:
        return
    other = {
        f"--rule {settings.rule.name}": settings.rule.name != race["rule"],
        "--weight, --order or --tolerance": replace(settings.rule, name=race["rule"]) != Rule(race["rule"]),
        "--best": settings.best is not None,
        "--benchmarks": bool(benchmarks) and set(benchmarks) != set(race["total"]),
    }
    gone = ", ".join(race["left"])
    what = (
        f"the candidates were raced by {race['rule']} over all, and so chosen one that left ({gone}) may be the best:"
        " score everybody with `meshtune evaluate` without `--race`, or leave it out"
    )
    if any(other.values()):
        raise InputError([Fault(f"{option}: {what}") for option, given in other.items() if given])


def _scores(evidence: Evidence) -> dict[str, dict[str, float]]:
    measures = evidence.measured.measures
    return {
        name: {measure.name: round(float(measure.scores[row]), 6) for measure in measures}
        for row, name in enumerate(evidence.measured.names)
    }


def _write(folder: Path, values: Mapping[str, Any]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = ("name", "trial", "rank", "loss", "cost", "left")
    keys = [*known, "verdict", "merit", "chance_best", "chance_pareto", "may_be_best"]
    benchmarks = list(next(iter(values["scores"].values())))
    writer.writerow([*keys, *benchmarks])
    for one in values["candidates"]:
        writer.writerow([*(one[key] for key in keys), *(values["scores"][one["name"]][name] for name in benchmarks)])
    page = "\n\n".join([" ".join(values["sentences"]), *(f"- {note}" for note in values["notes"])])
    files = {"selection.json": json.dumps(values, indent=2), "candidates.csv": text.getvalue(), "selection.md": page}
    texts = {name: content.rstrip("\n") + "\n" for name, content in files.items()}
    whole_file.write_all(folder, texts, "the decision")
