"""Ask candidates over one loaded base all items of some benchmarks, judge and store the answers.

What is stored is not asked again. Batches depend on the items alone: one that a kill cut short is answered whole again,
and what it lacks is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.evaluation import adapters, layout, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.answers import Answerer, Decoding, Said, sizes, sound
from meshtune.evaluation.benchmarks.items import Benchmark, JudgedAnswer
from meshtune.evaluation.layout import Ask, Batch

INSTRUCT_EVAL = "instruct-eval"
TOO_LONG = "the prompt does not fit the model even without shots"
Only = Mapping[str, Collection[int]]  # by benchmark, the numbers of the items that are asked


@dataclass(frozen=True)
class AnswerSettings:
    """How all items are asked.

    Attributes:
        temperature: 0 decodes greedily. seed: of sampled answers. samples: answers an item, where they are code.
        model: what names the base in the files of answers.
    """

    model: str
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1

    def of(self, benchmark: Benchmark) -> Mapping[str, Any]:
        """What a file of answers says about how its benchmark was asked."""
        greedy = self.temperature == 0
        return {
            "set": benchmark.set_name,
            "digest": benchmark.digest,
            "new_tokens": benchmark.new_tokens,
            "prompt_tokens": benchmark.prompt_tokens,
            "temperature": self.temperature,
            "seed": None if greedy else self.seed,
            "samples": self.samples_of(benchmark),
        }

    def samples_of(self, benchmark: Benchmark) -> int:
        """Answers to each of its items."""
        return self.samples if benchmark.runs_code else 1


@dataclass(frozen=True)
class AnswerProgress:
    """How far it is: answers of a candidate to a benchmark that are stored, of how many."""

    candidate: str
    benchmark: str
    done: int
    total: int


def place_of(folder: Path, benchmark: Benchmark, candidate: Candidate, how: AnswerSettings) -> store.AnswerFile:
    """Where the answers stand."""
    by = {"model": how.model, "adapter": candidate.identity}
    return store.AnswerFile(folder, INSTRUCT_EVAL, benchmark.name, how.of(benchmark), candidate.name, by)


def missing(
    candidates: Sequence[Candidate],
    benchmarks: Sequence[Benchmark],
    folder: Path,
    how: AnswerSettings,
    only: Only | None = None,
) -> bool:
    """Whether any answer is not stored."""
    return any(
        not _wanted(benchmark, how, only) <= store.read(place_of(folder, benchmark, candidate, how)).keys()
        for candidate in candidates
        for benchmark in benchmarks
    )


@dataclass(frozen=True)
class BenchmarkRunner:
    """Asks candidates over a base, several times with other items; what it needs for that is made once.

    Attributes:
        window: tokens that the model takes at most. folder: of all answers.
    """

    base: Any
    tokenizer: Any
    window: int | None
    benchmarks: Sequence[Benchmark]
    folder: Path
    how: AnswerSettings

    @functools.cached_property
    def _alone(self) -> bool:
        return not sound(self.base, self.tokenizer)

    @functools.cached_property
    def _asks(self) -> dict[str, list[Ask]]:
        return {
            one.name: layout.asks(one, self.tokenizer, window=self.window, samples=self.how.samples_of(one))
            for one in self.benchmarks
        }

    def ask(self, candidates: Sequence[Candidate], only: Only | None = None) -> Iterator[AnswerProgress]:
        """Ask what is not stored yet, of the items in `only` or of all; yields after each batch.

        Closing it leaves the base as it was. Raises InputError where an adapter is of another base; StorageError;
        SandboxError.
        """
        adapters.check(candidates, self.base)
        plans = {}
        for benchmark in self.benchmarks:
            asked = [ask for ask in self._asks[benchmark.name] if only is None or ask.number in only[benchmark.name]]
            plans[benchmark.name] = asked, layout.batches(asked, **sizes(self.base))
        for candidate in candidates:
            wanted = list[Benchmark]()
            for benchmark in self.benchmarks:
                keys = _wanted(benchmark, self.how, only)
                known = keys & store.read(place_of(self.folder, benchmark, candidate, self.how)).keys()
                if len(known) < len(keys):
                    wanted.append(benchmark)
                yield AnswerProgress(candidate.name, benchmark.name, len(known), len(keys))
            if not wanted:
                continue
            with adapters.on(self.base, candidate) as model:
                answerer = Answerer(model, self.tokenizer, alone=self._alone)
                for benchmark in wanted:
                    place = place_of(self.folder, benchmark, candidate, self.how)
                    decoding = Decoding(self.how.temperature, self.how.seed)
                    yield from _ask(answerer, benchmark, *plans[benchmark.name], place, decoding)


def _wanted(benchmark: Benchmark, how: AnswerSettings, only: Only | None) -> set[store.Key]:
    """What identifies the answers that are asked for."""
    samples = how.samples_of(benchmark)
    return {
        (item.id, sample)
        for number, item in enumerate(benchmark.items)
        if only is None or number in only[benchmark.name]
        for sample in range(samples)
    }


def _ask(
    answerer: Answerer,
    benchmark: Benchmark,
    asked: Sequence[Ask],
    batches: Sequence[Batch],
    place: store.AnswerFile,
    decoding: Decoding,
) -> Iterator[AnswerProgress]:
    items = benchmark.items

    def key(ask: Ask) -> store.Key:
        return items[ask.number].id, ask.sample

    def decided(ask: Ask, text: str) -> bool:
        return benchmark.decided(items[ask.number], text)

    keys = set(map(key, asked))
    with store.writing(place) as (known, writer):
        done = set(known) & keys

        def add(asks: Sequence[Ask], said: Sequence[Said | None], judged: Sequence[JudgedAnswer]) -> AnswerProgress:
            lines = {
                key(ask): _line(benchmark, ask, answer, verdict)
                for ask, answer, verdict in zip(asks, said, judged, strict=True)
            }
            writer.add([line for name, line in lines.items() if name not in done])
            done.update(lines)
            return AnswerProgress(place.candidate, benchmark.name, len(done), len(asked))

        long = [ask for ask in asked if ask.shots is None]
        yield add(long, [None] * len(long), [JudgedAnswer(False, reason=TOO_LONG)] * len(long))
        for batch in batches:
            if all(key(ask) in done for ask in batch.asks):
                continue
            said = answerer.answer(batch, decoding, decided)
            pairs = [(items[ask.number], answer.text) for ask, answer in zip(batch.asks, said, strict=True)]
            yield add(batch.asks, said, benchmark.judge(pairs))


def _line(benchmark: Benchmark, ask: Ask, said: Said | None, judged: JudgedAnswer) -> store.Line:
    item = benchmark.items[ask.number]
    likelihoods = None
    if said is not None and said.log_likelihoods:
        likelihoods = dict(zip(item.choices or (item.gold,), said.log_likelihoods, strict=True))
    return {
        "item": item.id,
        "sample": ask.sample,
        "shots": ask.shots,
        "prompt": benchmark.prompt(item, ask.shots or 0),
        "right": item.gold,
        "answer": None if said is None else said.text,
        "cut": said is not None and said.cut,
        "correct": judged.correct,
        "scores": dict(judged.others),
        "reason": judged.reason,
        "log_likelihoods": likelihoods,
    }
