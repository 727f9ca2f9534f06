"""`meshtune evaluate`: the candidates of a study scored on benchmarks, and the paper's tables of their scores.

Answers stand in `<study>/evaluation/benchmarks/`, as JSON lines for each candidate and benchmark, and the tables beside
them. Run again after an interruption, it asks only what is not stored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config.evaluation import EvaluationConfig, changed
from meshtune.errors import Fault, InputError, Interrupted, StudyBusy, need_training, noting, refuse
from meshtune.finalists import harness, metrics, score_tables
from meshtune.finalists import race as evaluate_race
from meshtune.finalists.ask import BenchmarkScorer, Report, candidate_of, searched_items
from meshtune.finalists.candidates import ListedCandidate, candidates
from meshtune.finalists.race import Race
from meshtune.plan.locate import existing
from meshtune.record.log import Record
from meshtune.report import score_files
from meshtune.report.sentences import recommendation
from meshtune.selection.candidates import Column, ScoreTable, check_comparable
from meshtune.selection.rules import Rule
from meshtune.study.status import of_record
from meshtune.system import whole_file
from meshtune.system.lease import holder, lease

if TYPE_CHECKING:
    from meshtune.evaluation.scoring import Scores

FOLDER = Path("evaluation") / "benchmarks"
BEST_OF_FILES = 10  # candidates that the statistics of a file of scores are of, unless it is said


@dataclass(frozen=True)
class Evaluated:
    """The tables of one or several studies or files. `folder`: where they were written; None: nowhere.

    `results`: of a single study, by candidate and benchmark. `notes`: what is to be known of them besides.
    """

    tables: tuple[ScoreTable, ...]
    best: int
    folder: Path | None
    results: Mapping[str, Mapping[str, Scores]]
    race: Race | None = None
    notes: tuple[str, ...] = ()


def evaluate(
    paths: Sequence[Path],
    *,
    given: Mapping[str, Any] | None = None,
    trials: Sequence[int] = (),
    scores: Sequence[Path] = (),
    folder: Path | None = None,
    race: Rule | None = None,
    unsafe: bool = False,
    out: Path | None = None,
    report: Report | None = None,
) -> Evaluated:
    """Score the candidates of studies, or read files of scores, and compare them.

    Args:
        paths: of studies. given: keys of the section `evaluation` in place of what the study says.
        trials: that are scored in place of the best and worst ones. scores: files of scores, in place of studies.
        race: ask in rounds, and leave out who cannot be the best by this rule any more.
        unsafe: run the code that models write without a sandbox. report: is told how far it is.
        out: a folder for the tables of several studies, or of files; those of one study are put there too.

    Raises InputError; Interrupted on Ctrl-C (what is stored stays); StudyBusy; StorageError; SandboxError.
    """
    if scores:
        asking = {"trials": trials, "folder": folder, "race": race, "unsafe_no_sandbox": unsafe}
        _refuse_beside_scores(paths, [*(given or {}), *(name for name, value in asking.items() if value)])
        done = Evaluated(_of_files(scores), (given or {}).get("best", BEST_OF_FILES), None, {})
    elif not paths:
        raise InputError("name a study, or files of scores with --scores")
    else:
        how = _How(given or {}, trials, folder, race, unsafe, report or (lambda _: None))
        done = _of_studies(paths, how)
    if out is None:
        return done
    whole_file.write_all(out, score_tables.as_files(done.tables, done.best, done.notes), "the tables")
    return replace(done, folder=out)


@dataclass(frozen=True)
class _How:
    """How studies are scored, as `evaluate` is told."""

    given: Mapping[str, Any]
    trials: Sequence[int]
    folder: Path | None
    rule: Rule | None
    unsafe: bool
    report: Report


def _of_studies(paths: Sequence[Path], how: _How) -> Evaluated:
    if len(paths) > 1 and (how.folder is not None or how.trials):
        raise InputError("`--folder` and `--trials` are of one study")
    if len(paths) > 1 and how.rule is not None:
        raise InputError("`--race` is of one study: its candidates answer different items than another one's")
    guided = searched_items([existing(path, folder=how.folder) for path in paths])
    done = [_of_study(path, how, guided) for path in paths]
    if len(done) == 1:
        return done[0]
    tables = _compared(paths, [table for one in done for table in one.tables])
    return Evaluated(tables, max(one.best for one in done), None, {})


def _compared(paths: Sequence[Path], tables: Sequence[ScoreTable]) -> tuple[ScoreTable, ...]:
    """Comparable tables that are called apart. Raises InputError where they are not comparable."""
    if len({table.label for table in tables}) < len(tables):  # folders or files of one name
        tables = [replace(table, label=str(path)) for path, table in zip(paths, tables, strict=True)]
    check_comparable(tables)
    return tuple(tables)


def _refuse_beside_scores(paths: Sequence[Path], options: Sequence[str]) -> None:
    """Raise InputError where files of scores are given with what is of a study."""
    if paths:
        raise InputError("`--scores` reads files in place of a study: leave one of them out")
    if wrong := [f"--{name.replace('_', '-')}" for name in options if name != "best"]:
        raise InputError(f"{', '.join(wrong)}: of a study; files of scores (--scores) are shown as they are")


def _of_files(scores: Sequence[Path]) -> tuple[ScoreTable, ...]:
    tables, faults = list[ScoreTable](), list[Fault]()
    for path in scores:
        with noting(faults):
            tables.append(score_files.read(path))
    refuse(faults)
    return _compared(scores, tables)


def _of_study(path: Path, how: _How, guided: Mapping[str, Collection[str]]) -> Evaluated:
    study = existing(path, folder=how.folder).latest
    need_training()
    settings = changed(study.config.evaluation, how.given)
    record = Record(study.url, study.name)
    listed = candidates(path, study, record, settings.best, settings.worst, how.trials)
    model = study.config.model
    if model is None:  # `candidates` has refused such a study
        raise InputError(f"{path}: the study has no model")
    race, barred, asked = None, dict[str, tuple[str, ...]](), dict[str, Mapping[str, Any]]()
    if how.rule is not None:
        barred = evaluate_race.cannot_win(listed)
        listed = evaluate_race.admitted(listed, barred, how.report)
    with alone(study.folder / "evaluation"), stored_on_interrupt():
        answers = study.folder / FOLDER
        if settings.protocol == "harness":
            if how.rule is not None:
                raise InputError("the harness scores whole tasks: `--race` is of the protocol instruct-eval")
            columns, results = harness.scored(answers, model, listed, settings, guided, how.report)
        else:
            scorer = BenchmarkScorer(model, settings, answers, guided, how.unsafe, how.report)
            columns, results, race = _by_instruct_eval(scorer, listed, how, barred)
            asked = {benchmark.name: scorer.how.of(benchmark) for benchmark in scorer.benchmarks}
        own, means = metrics.scored(study, model, listed, how.report)
    left = {} if race is None else {name: sum(gone.items.values()) for name, gone in race.left.items()}
    table = score_tables.table(study.name, settings.protocol, [*columns, *own], listed, results, means, left)
    best = max((one.rank or 0 for one in listed), default=0) if how.trials else settings.best
    notes = (*score_tables.notes(results), *filter(None, [recommendation(of_record(study, record))]))
    done = Evaluated((table,), best, answers / settings.protocol, results, race, notes)
    _write(done, settings, guided, asked)
    return done


def _by_instruct_eval(
    scorer: BenchmarkScorer, listed: Sequence[ListedCandidate], how: _How, barred: Mapping[str, Sequence[str]]
) -> tuple[list[Column], dict[str, dict[str, Scores]], Race | None]:
    """Columns of the table, results by candidate and benchmark, and the race if there is one."""
    asked = [candidate_of(one, how.report) for one in listed]
    race = None
    if how.rule is None:
        scorer.ask(asked)
    else:
        race = evaluate_race.run(scorer, listed, asked, how.rule, how.report, barred)
    results = {
        one.name: scorer.results(candidate, None if race is None else race.of(one.name))
        for one, candidate in zip(listed, asked, strict=True)
    }
    staying = [result for name, result in results.items() if race is None or name not in race.left]
    columns = list[Column]()
    for benchmark in scorer.benchmarks:
        part = "" if race is None else race.note_of(benchmark.name)
        columns += score_tables.columns(benchmark, scorer.how, [one[benchmark.name] for one in staying], part)
    return columns, results, race


def _write(
    done: Evaluated,
    settings: EvaluationConfig,
    guided: Mapping[str, Collection[str]],
    asked: Mapping[str, Mapping[str, Any]],
) -> None:
    """The tables of a study as files, and `scores.json`. Raises StorageError.

    Args:
        guided: the items that guided a search, of all studies that are scored together, by benchmark.
        asked: by benchmark, what was asked and how, as the files of its answers say.
    """
    assert done.folder is not None
    values = {
        "protocol": settings.protocol,
        "best": done.best,
        "settings": settings.model_dump(mode="json"),
        "notes": done.notes,
        "answers": asked,
        "guided": {name: sorted(items) for name, items in guided.items()},
        "race": None if done.race is None else {**done.race.values, "ids": done.race.ids},
        "results": {name: {key: asdict(value) for key, value in of.items()} for name, of in done.results.items()},
    }
    texts = score_tables.as_files(done.tables, done.best, done.notes)
    texts["scores.json"] = json.dumps(values, indent=2) + "\n"
    whole_file.write_all(done.folder, texts, "the tables")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One evaluation of a study at a time. Raises StudyBusy; StorageError where the folder cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            with whole_file.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lease(folder))
        except StudyBusy as error:
            other = holder(folder)
            who = f"process {other.pid} on {other.host}" if other is not None else "another process"
            raise StudyBusy(f"{folder.parent}: {who} evaluates this study; wait for it, or end it") from error
        yield


@contextlib.contextmanager
def stored_on_interrupt() -> Iterator[None]:
    """A Ctrl-C as Interrupted, which says that what there is stays."""
    try:
        yield
    except KeyboardInterrupt:
        what = "interrupted: all answers up to here are stored; run the same command again to go on"
        raise Interrupted(what) from None


def as_json(done: Evaluated) -> dict[str, Any]:
    """Everything as plain values."""
    values = {
        "folder": None if done.folder is None else str(done.folder),
        "studies": [score_tables.as_json(table) for table in done.tables],
        "statistics": score_tables.statistics_as_json(done.tables, done.best),
        "notes": list(done.notes),
        "race": None if done.race is None else done.race.values,
    }
    return dict(json.loads(json.dumps(values)))
