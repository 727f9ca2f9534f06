"""Measures quantities beside the loss, of one adapter at a time over the base that is loaded.

Perplexity is exp of the mean loss a token over windows of a text, in the base's own type. Benchmarks are asked as
`meshtune evaluate` asks them (protocol `instruct-eval`, greedily), on the items that `measurements.py` chose; their
answers are kept in `<study>/guides/answers/` until all are there, so that what is interrupted goes on. The user's
metrics are those of the answers to validation rows that `tune` gives at its end, in the same files. What was measured
of the same adapter in the same way is not measured again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meshtune.data import answers
from meshtune.data.tokenizer import identity_of_base, load_tokenizer, window
from meshtune.errors import InputError
from meshtune.evaluation import run, scoring, store
from meshtune.evaluation.adapters import Candidate, on
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.objectives import measurement_files, measurements
from meshtune.objectives.answers import Answering
from meshtune.objectives.measurement_files import FOLDER, Items, Measured
from meshtune.space.goals import GOLD, PERPLEXITY
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.steps import Diverged

Found = Iterator[tuple[str, float, Items | None]]


class Measurer:
    """Measures over a base.

    Args:
        spec: what. base: the model, without an adapter. answering: how the user's metrics are had. folder: the study's.
    """

    def __init__(self, spec: measurements.MeasurementSpec, base: Any, answering: Answering, folder: Path):
        self.spec, self.base, self.answering, self.folder = spec, base, answering, folder
        self.model = answering.model
        self.chosen = measurements.choose(spec, self.model, folder)

    def measure(self, name: str, adapter: str | None, tick: Callable[[], None]) -> dict[str, float]:
        """The quantities of an adapter, its folder relative to the study's; None is the untuned model.

        `name` is that of its file. `tick` is called now and then; what it raises ends the measurement.

        Raises:
            InputError: a metric fails. Diverged: a quantity is not finite. StorageError, SandboxError.
        """
        candidate = Candidate(name, None if adapter is None else self.folder / adapter)
        measured = measurement_files.read(self.folder, name)
        if measured is None or (measured.made, measured.adapter) != (self.made, candidate.identity):
            found = [*self._perplexity(candidate, tick), *self._benchmarks(candidate, tick)]
            found += self._metrics(candidate, adapter, tick)
            for quantity, value, _ in found:
                if not math.isfinite(value):
                    raise Diverged(f"{quantity} was {value}")
            values = {quantity: value for quantity, value, _ in found}
            if missing := [quantity for quantity in self.spec.quantities if quantity not in values]:
                what = f"{', '.join(missing)} cannot be measured: nothing that is asked fits into the model's window"
                raise InputError(what)
            items = {quantity: one for quantity, _, one in found if one is not None}
            measured = Measured(self.made, candidate.identity, values, items)
            measurement_files.write(self.folder, name, measured)
            shutil.rmtree(self._answers(name), ignore_errors=True)
        return {quantity: measured.quantities[quantity] for quantity in self.spec.quantities}

    @functools.cached_property
    def made(self) -> str:
        """Changes with all that decides how quantities are measured, the base apart."""
        parts: list[Any] = [self.spec.quantities, self.chosen.windows, [one.digest for one in self.chosen.benchmarks]]
        if self.spec.metrics:
            parts.append(self.answering.made)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.model)

    @functools.cached_property
    def _how(self) -> run.AnswerSettings:
        return run.AnswerSettings(identity_of_base(self.model))  # reads parts of the weights: once, not with each trial

    def _answers(self, name: str) -> Path:
        return self.folder / FOLDER / "answers" / name

    def _perplexity(self, candidate: Candidate, tick: Callable[[], None]) -> Found:
        if PERPLEXITY not in self.spec.quantities:
            return
        rows = [_row(tokens) for tokens in self.chosen.windows]
        with on(self.base, candidate) as model:
            loss = mean_loss(row_losses(model, rows, tick=tick))
        yield PERPLEXITY, math.exp(loss) if loss < 700 else math.inf, None

    def _benchmarks(self, candidate: Candidate, tick: Callable[[], None]) -> Found:
        benchmarks = self.chosen.benchmarks
        if not benchmarks:
            return
        folder, how = self._answers(candidate.name), self._how
        limit = window(self.model, self._tokenizer)
        for _ in run.BenchmarkRunner(self.base, self._tokenizer, limit, benchmarks, folder, how).ask([candidate]):
            tick()
        for benchmark in benchmarks:
            lines = store.read(run.place_of(folder, benchmark, candidate, how))
            for quantity, items in _by_item(benchmark, lines).items():
                if quantity in self.spec.quantities:
                    yield quantity, items.mean, items

    def _metrics(self, candidate: Candidate, adapter: str | None, tick: Callable[[], None]) -> Found:
        if not self.spec.metrics:
            return
        path = self.folder / answers.file_of(adapter)
        with on(self.base, candidate) as model:
            self.answering.answer(model, path, tick)
        lines = answers.read(path)
        names = tuple(str(line["row"]) for line in lines)
        for metric in self.spec.metrics:
            values = tuple(line["scores"][metric] for line in lines)
            items = Items(names, values, _alike(len(values)))
            yield metric, items.mean, items


def _row(tokens: tuple[int, ...]) -> Row:
    """A window of text as a row of which every token but the first counts."""
    trained = np.ones(len(tokens), dtype=np.bool_)
    trained[0] = False
    return np.array(tokens, dtype=np.int32), trained


def _by_item(benchmark: Benchmark, lines: Mapping[store.Key, store.Line]) -> dict[str, Items]:
    """The benchmark's two quantities, item by item; what did not fit the model has no likelihood.

    One that was asked and has none was not finite.
    """
    items = benchmark.items
    groups = Counter(item.group for item in items)
    asked = [(item.id, lines[item.id, 0]) for item in items]
    names = tuple(name for name, _ in asked)
    right = tuple(float(line["correct"]) for _, line in asked)
    weights = _alike(len(items))
    if benchmark.average == "macro":
        weights = tuple(1 / (len(groups) * groups[item.group]) for item in items)
    found = {benchmark.name: Items(names, right, weights)}
    likelihoods = {
        name: math.nan if line["log_likelihoods"] is None else scoring.likelihood(benchmark, line)
        for name, line in asked
        if line["shots"] is not None
    }
    if likelihoods:
        found[benchmark.name + GOLD] = Items(tuple(likelihoods), tuple(likelihoods.values()), _alike(len(likelihoods)))
    return found


def _alike(count: int) -> tuple[float, ...]:
    return (1 / count,) * count
