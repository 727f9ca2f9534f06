"""The benchmarks of an evaluation, and the base that candidates are asked over, loaded when something is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config.evaluation import EvaluationConfig
from meshtune.config.sections import ModelConfig
from meshtune.errors import Fault, InputError, nearest
from meshtune.finalists.candidates import ListedCandidate, adapter_of, file_name
from meshtune.plan.locate import Located
from meshtune.space.goals import BENCHMARKS
from meshtune.system.machine import cores

if TYPE_CHECKING:
    from meshtune.evaluation.adapters import Candidate
    from meshtune.evaluation.benchmarks.items import Benchmark
    from meshtune.evaluation.run import AnswerProgress, BenchmarkRunner, Only
    from meshtune.evaluation.scoring import Scores
    from meshtune.evaluation.store import Key, Line

Report = Callable[["AnswerProgress | str"], None]  # how far it is, or a line to show


class BenchmarkScorer:
    """Asks candidates the items of the settings' benchmarks, and reads what they answered.

    Args:
        answers: the folder of all answers. guided: items that guided a search, by benchmark, see `searched_items`.
        unsafe: run the code that models write without a sandbox.

    Raises InputError on unknown benchmarks, missing data, or a missing sandbox.
    """

    def __init__(
        self,
        model: ModelConfig,
        settings: EvaluationConfig,
        answers: Path,
        guided: Mapping[str, Collection[str]],
        unsafe: bool,
        report: Report,
    ):
        from meshtune.data.tokenizer import identity_of_base
        from meshtune.evaluation import run
        from meshtune.evaluation.benchmarks import registry
        from meshtune.evaluation.sandbox import judge

        data = Path(settings.data) if settings.data is not None else None
        found = registry.load(settings.benchmarks, data, judge.code_check(cores(), unsafe))
        run_code = [one.title for one in found if one.runs_code]
        if run_code and not unsafe and (why := judge.available()) is not None:
            raise InputError(
                f"{' and '.join(run_code)} runs code that the models wrote, in a sandbox that this machine does not"
                f" have: {why}. Or leave it out (`--benchmarks`), or run that code with all your rights:"
                " `--unsafe-no-sandbox`"
            )
        if settings.samples > 1 and not run_code:
            titles = ", ".join(one.title for one in registry.ALL if one.runs_code)
            raise InputError(f"`samples` and `pass_at` are of {titles}, which is not among the benchmarks")
        named = _named(settings.guided)
        for one in found:
            strange = sorted(named.get(one.name, set()) - {item.id for item in one.all_items})
            if strange:
                report(f"evaluation.guided names {len(strange):,} items that {one.name} has not, such as {strange[0]}")
        left = [one.without({*guided.get(one.name, ()), *named.get(one.name, ())}) for one in found]
        if none := [benchmark.name for benchmark in left if not benchmark.items]:
            raise InputError(f"all items of {', '.join(none)} guided the search, so none can score it: leave it out")
        self.benchmarks = [benchmark.limited(settings.limit, settings.seed) for benchmark in left]
        self.how = run.AnswerSettings(identity_of_base(model), settings.temperature, settings.seed, settings.samples)
        self._model, self._settings, self._answers, self._report = model, settings, answers, report
        self._asker: BenchmarkRunner | None = None

    def ask(self, candidates: Sequence[Candidate], only: Only | None = None) -> None:
        """Ask what is not stored: all items, or those in `only`."""
        from meshtune.evaluation import run

        if not run.missing(candidates, self.benchmarks, self._answers, self.how, only):
            return
        if self._asker is None:
            self._asker = self._loaded()
        for event in self._asker.ask(candidates, only):
            self._report(event)

    def shares(self, candidate: Candidate, benchmark: str) -> dict[str, float]:
        """The share of right ones among the stored answers to each item."""
        from meshtune.evaluation import scoring

        (found,) = (one for one in self.benchmarks if one.name == benchmark)
        return scoring.shares(self._lines(candidate, found))

    def _lines(self, candidate: Candidate, benchmark: Benchmark) -> dict[Key, Line]:
        """The stored answers."""
        from meshtune.evaluation import run, store

        return store.read(run.place_of(self._answers, benchmark, candidate, self.how))

    def results(self, candidate: Candidate, only: Only | None = None) -> dict[str, Scores]:
        """Scores by benchmark, on all items or those in `only`, which have been answered."""
        from meshtune.evaluation import scoring

        return {
            benchmark.name: scoring.score(
                benchmark if only is None else benchmark.part(only[benchmark.name]),
                self._lines(candidate, benchmark),
                samples=self.how.samples_of(benchmark),
                ks=[k for k in self._settings.pass_at if k > 1 and benchmark.runs_code],
            )
            for benchmark in self.benchmarks
        }

    def _loaded(self) -> BenchmarkRunner:
        from meshtune.data.tokenizer import load_tokenizer, window
        from meshtune.evaluation import run

        tokenizer = load_tokenizer(self._model)
        base = load_base(self._model, self._report)
        return run.BenchmarkRunner(
            base, tokenizer, window(self._model, tokenizer), self.benchmarks, self._answers, self.how
        )


def load_base(model: ModelConfig, report: Report, purpose: str = "") -> Any:
    """The base model on its device, for a `purpose` that is reported."""
    from meshtune.training import machine
    from meshtune.training.models import load_model, resolve_device

    report(f"loading the model{purpose}")
    machine.use_threads(cores())
    return load_model(model, resolve_device(model))


def candidate_of(listed: ListedCandidate, report: Report) -> Candidate:
    """The candidate with its adapter, which is trained again where it was not kept."""
    from meshtune.evaluation.adapters import Candidate

    return Candidate(file_name(listed), adapter_of(listed, report))


def searched_items(studies: Sequence[Located]) -> dict[str, set[str]]:
    """The items that guided any of these studies, or a round of one, by benchmark: all are scored on the same."""
    from meshtune.objectives import measurements

    found: dict[str, set[str]] = {}
    for each in (one for study in studies for one in study.rounds or (study,)):
        for name, items in measurements.items(each.folder).items():
            found.setdefault(name, set()).update(items)
    return found


def _named(path: str | None) -> dict[str, set[str]]:
    """The items that a file says to have guided the search, by benchmark."""
    from meshtune.evaluation.benchmarks import files

    found: dict[str, set[str]] = {}
    faults = list[Fault]()
    for line, row in files.read_rows(Path(path)) if path is not None else ():
        missing = files.texts(row, ("benchmark", "item"), path or "", line)
        faults += missing
        if not missing and (name := row["benchmark"]) not in BENCHMARKS:
            what = f"no benchmark is called `{name}`; there are {', '.join(BENCHMARKS)}.{nearest(name, BENCHMARKS)}"
            faults.append(Fault(what, path, line))
        elif not missing:
            found.setdefault(row["benchmark"], set()).add(row["item"])
    files.refuse(faults)
    return found
