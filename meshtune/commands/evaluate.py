"""`meshtune evaluate`: the candidates of a study scored on benchmarks, and the paper's tables of their scores.

Answers stand in `<study>/evaluation/benchmarks/`, as JSON lines for each candidate and benchmark, and the tables beside
them. Run again after an interruption, it asks only what is not stored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.commands import evaluate_harness, evaluate_metrics, score_tables
from meshtune.commands.candidates import Listed, adapter_of, candidates, file_name
from meshtune.commands.locate import Located, existing
from meshtune.commands.prepared import need_training
from meshtune.config import ModelConfig
from meshtune.config_evaluation import EvaluationConfig, changed
from meshtune.errors import Fault, InputError, Interrupted, StudyBusy
from meshtune.lease import holder, lease
from meshtune.selection.candidates import Column, ScoreTable, check_comparable
from meshtune.workers.places import cores

if TYPE_CHECKING:
    from meshtune.evaluation.adapters import Candidate
    from meshtune.evaluation.items import Benchmark
    from meshtune.evaluation.run import Asked, How
    from meshtune.evaluation.scoring import Result

FOLDER = Path("evaluation") / "benchmarks"
BEST_OF_FILES = 10  # candidates that the statistics of a file of scores are of, unless it is said
Report = Callable[["Asked | str"], None]  # how far it is, or a line to show


@dataclass(frozen=True)
class Evaluated:
    """The tables of one or several studies or files. `folder`: where they were written; None: nowhere."""

    tables: tuple[ScoreTable, ...]
    best: int
    folder: Path | None
    results: Mapping[str, Mapping[str, Result]]  # of a single study, by candidate and benchmark


def evaluate(
    paths: Sequence[Path],
    *,
    given: Mapping[str, Any] | None = None,
    trials: Sequence[int] = (),
    scores: Sequence[Path] = (),
    folder: Path | None = None,
    unsafe: bool = False,
    report: Report | None = None,
) -> Evaluated:
    """Score the candidates of studies, or read files of scores, and compare them.

    Args:
        paths: of studies. given: keys of the section `evaluation` in place of what the study says.
        trials: that are scored in place of the best and worst ones. scores: files of scores, in place of studies.
        unsafe: run the code that models write without a sandbox. report: is told how far it is.

    Raises InputError; Interrupted on Ctrl-C (what is stored stays); StudyBusy; StorageError; SandboxError.
    """
    if scores:
        return _of_files(paths, scores, given or {})
    if not paths:
        raise InputError("name a study, or files of scores with --scores")
    if len(paths) > 1 and (folder is not None or trials):
        raise InputError("`--folder` and `--trials` are of one study")
    say = report or (lambda _: None)
    guided = _guided([existing(path, folder=folder) for path in paths])
    done = [_of_study(path, given or {}, trials, folder, guided, unsafe, say) for path in paths]
    if len(done) == 1:
        return done[0]
    tables = tuple(table for one in done for table in one.tables)
    if len({table.label for table in tables}) < len(tables):  # folders of one name
        tables = tuple(replace(table, label=str(path)) for path, table in zip(paths, tables, strict=True))
    check_comparable(tables)
    return Evaluated(tables, max(one.best for one in done), None, {})


def _of_files(paths: Sequence[Path], scores: Sequence[Path], given: Mapping[str, Any]) -> Evaluated:
    from meshtune.report import score_files

    if paths:
        raise InputError("`--scores` reads files in place of a study: leave one of them out")
    tables, faults = list[ScoreTable](), list[Fault]()
    for path in scores:
        try:
            tables.append(score_files.read(path))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    check_comparable(tables)
    return Evaluated(tuple(tables), given.get("best", BEST_OF_FILES), None, {})


def _of_study(
    path: Path,
    given: Mapping[str, Any],
    trials: Sequence[int],
    folder: Path | None,
    guided: Mapping[str, Collection[str]],
    unsafe: bool,
    report: Report,
) -> Evaluated:
    study = existing(path, folder=folder)
    need_training()
    settings = changed(study.config.evaluation, given)
    listed = candidates(study.folder, settings.best, settings.worst, trials)
    model = study.config.model
    if model is None:  # `candidates` has refused such a study
        raise InputError(f"{path}: the study has no model")
    with _alone(study.folder / "evaluation"), _stored_on_interrupt():
        answers = study.folder / FOLDER
        if settings.protocol == "harness":
            columns, results = evaluate_harness.scored(answers, model, listed, settings, guided, report)
        else:
            columns, results = _by_instruct_eval(answers, model, listed, settings, guided, unsafe, report)
        own, means = evaluate_metrics.scored(study, model, listed, report)
    table = score_tables.table(study.folder.name, settings.protocol, [*columns, *own], listed, results, means)
    best = max((one.rank or 0 for one in listed), default=0) if trials else settings.best
    written = study.folder / FOLDER / settings.protocol
    score_tables.write(written, table, best, results)
    return Evaluated((table,), best, written, results)


def _by_instruct_eval(
    answers: Path,
    model: ModelConfig,
    listed: Sequence[Listed],
    settings: EvaluationConfig,
    guided: Mapping[str, Collection[str]],
    unsafe: bool,
    report: Report,
) -> tuple[list[Column], dict[str, dict[str, Result]]]:
    """Columns of the table, and results by candidate and benchmark, without the items that guided the search."""
    from meshtune.data.tokenizer import identity
    from meshtune.evaluation import run, scoring, sources, store

    data = Path(settings.data) if settings.data is not None else None
    found = sources.load(settings.benchmarks, data, _check(unsafe))
    if not unsafe and any(benchmark.name == "humaneval" for benchmark in found):
        _need_sandbox()
    if settings.samples > 1 and all(benchmark.name != "humaneval" for benchmark in found):
        raise InputError("`samples` and `pass_at` are of HumanEval, which is not among the benchmarks")
    named = _named(settings.guided)
    left = [one.without({*guided.get(one.name, ()), *named.get(one.name, ())}) for one in found]
    if none := [benchmark.name for benchmark in left if not benchmark.items]:
        raise InputError(f"all items of {', '.join(none)} guided the search, so none can score it: leave it out")
    benchmarks = [benchmark.limited(settings.limit, settings.seed) for benchmark in left]
    asked = [_candidate(one, report) for one in listed]
    how = run.How(f"{identity(model)} {model.dtype}", settings.temperature, settings.seed, settings.samples)
    if run.missing(asked, benchmarks, answers, how):
        _run(model, asked, benchmarks, answers, how, report)
    results: dict[str, dict[str, Result]] = {
        one.name: {
            benchmark.name: scoring.score(
                benchmark,
                store.read(run.place_of(answers, benchmark, candidate, how)),
                samples=how.samples_of(benchmark),
                ks=settings.pass_at if benchmark.name == "humaneval" else (),
            )
            for benchmark in benchmarks
        }
        for one, candidate in zip(listed, asked, strict=True)
    }
    columns = list[Column]()
    for benchmark in benchmarks:
        columns += score_tables.columns(benchmark, how, [result[benchmark.name] for result in results.values()])
    return columns, results


def _candidate(listed: Listed, report: Report) -> Candidate:
    from meshtune.evaluation.adapters import Candidate

    return Candidate(file_name(listed), adapter_of(listed, report))


def _run(
    model: ModelConfig,
    asked: Sequence[Candidate],
    benchmarks: Sequence[Benchmark],
    answers: Path,
    how: How,
    report: Report,
) -> None:
    """Load the model and ask what is not stored."""
    from meshtune.data.tokenizer import load_tokenizer, window
    from meshtune.evaluation import run
    from meshtune.training import machine
    from meshtune.training.models import load_model, resolve_device

    tokenizer = load_tokenizer(model)
    report("loading the model")
    machine.use_threads(cores())
    base = load_model(model, resolve_device(model))
    for event in run.run(base, tokenizer, window(model, tokenizer), asked, benchmarks, answers, how):
        report(event)


def _check(unsafe: bool) -> Callable[[Sequence[tuple[Mapping[str, str], str]]], Iterable[tuple[bool, str]]]:
    """Runs code that a model wrote, one process a core."""

    def check(pairs: Sequence[tuple[Mapping[str, str], str]]) -> Iterator[tuple[bool, str]]:
        from meshtune.evaluation.sandbox import Problem, check_many

        for verdict in check_many([(Problem(**problem), code) for problem, code in pairs], cores(), unsafe=unsafe):
            yield verdict.passed, verdict.reason

    return check


def _need_sandbox() -> None:
    from meshtune.evaluation.sandbox import available

    if (why := available()) is not None:
        raise InputError(
            f"HumanEval runs code that the models wrote, in a sandbox that this machine does not have: {why}. Or leave"
            " it out (`--benchmarks`), or run that code with all your rights: `--unsafe-no-sandbox`"
        )


def _guided(studies: Sequence[Located]) -> dict[str, set[str]]:
    """The items that guided any of these studies, or a round of one, by benchmark: all are scored on the same."""
    from meshtune.objectives import guides

    found: dict[str, set[str]] = {}
    for each in (one for study in studies for one in study.rounds or (study,)):
        for name, items in guides.items(each.folder).items():
            found.setdefault(name, set()).update(items)
    return found


def _named(path: str | None) -> dict[str, set[str]]:
    """The items that a file says to have guided the search, by benchmark."""
    from meshtune.evaluation import files

    found: dict[str, set[str]] = {}
    faults = list[Fault]()
    for line, row in files.read_rows(Path(path)) if path is not None else ():
        missing = files.texts(row, ("benchmark", "item"), path or "", line)
        faults += missing
        if not missing:
            found.setdefault(row["benchmark"], set()).add(row["item"])
    files.refuse(faults)
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One evaluation of a study at a time. Raises StudyBusy."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease(folder))
        except StudyBusy as error:
            other = holder(folder)
            who = f"process {other.pid} on {other.host}" if other is not None else "another process"
            raise StudyBusy(f"{folder.parent}: {who} evaluates this study; wait for it, or end it") from error
        yield


@contextlib.contextmanager
def _stored_on_interrupt() -> Iterator[None]:
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
    }
    return dict(json.loads(json.dumps(values)))
