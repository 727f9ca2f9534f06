"""Tasks of lm-evaluation-harness (Gao et al., Apache-2.0), asked by our answerer over one loaded base.

The harness makes the prompts, its filters and metrics judge; what it asks the model for, likelihoods and greedy text,
is computed with shared shots and stored as it arrives, so that a killed run goes on. What it samples or searches with
beams is left to its own model class. Tasks that run code which a model wrote are refused: `instruct-eval` has one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from meshtune.data.hub import explain, hushed
from meshtune.errors import Fault, InputError, MissingExtra, extra, nearest
from meshtune.evaluation import adapters, layout, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.answers import Answerer, Decoding, sizes, sound
from meshtune.evaluation.layout import Ask
from meshtune.evaluation.run import AnswerProgress
from meshtune.evaluation.scoring import Score, Scores
from meshtune.system import whole_file, yaml_file

if importlib.util.find_spec("lm_eval") is None:
    raise MissingExtra("the protocol `harness`", "lm-eval", extra("train,eval"))

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager

HARNESS = "harness"
SEED = 1234  # of the harness's own runs: which shots are drawn


@dataclass(frozen=True)
class Tasks:
    """Named tasks or groups of the harness: which documents of each are asked, as `evaluate` takes them; None: all.

    `new_tokens`: of an answer at most, by task that asks for text.
    """

    manager: Any
    names: tuple[str, ...]
    chosen: Mapping[str, Mapping[str, list[int]] | None]
    new_tokens: Mapping[str, int]


def tasks(names: Sequence[str], folder: Path | None, limit: int | None, seed: int) -> Tasks:
    """Find tasks by name, in the user's own folder of YAML files first. Loads their data. Raises InputError."""
    if not names:
        raise InputError("the harness has thousands of tasks: name some with `benchmarks`, such as mmlu or hellaswag")
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of tasks")
    with _quiet():
        manager = TaskManager(include_defaults=False, include_path=None if folder is None else str(folder))
        if any(name not in manager.all_tasks for name in names):
            manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        what = "the harness has no task called"
        faults = [Fault(f"{what} `{name}`.{nearest(name, manager.all_tasks)}") for name in unknown]
        raise InputError([*faults, *_malformed(folder)])
    chosen: dict[str, Mapping[str, list[int]] | None] = {}
    new_tokens: dict[str, int] = {}
    for name in names:
        loaded = _loaded(manager, name)
        new_tokens |= {key: _new_tokens(task) for key, task in loaded.items() if task.OUTPUT_TYPE == "generate_until"}
        if unsafe := [key for key, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)]:
            what = f"`{unsafe[0]}` runs code that the models wrote, without a sandbox; `instruct-eval` has humaneval"
            raise InputError(what)
        counts = {key: len(task.eval_docs) for key, task in loaded.items()}
        chosen[name] = None if limit is None or limit >= sum(counts.values()) else _subset(counts, limit, seed)
        if empty := [key for key, numbers in (chosen[name] or {}).items() if not numbers]:
            what = f"the limit leaves {len(empty)} of the tasks of `{name}` without an item, such as `{empty[0]}`"
            raise InputError(f"{what}: raise it to {len(loaded)} at least, or name fewer tasks")
    return Tasks(manager, tuple(names), chosen, new_tokens)


def place_of(folder: Path, task: str, candidate: Candidate, asked: Mapping[str, Any], model: str) -> store.AnswerFile:
    """Where a candidate's answers to a task stand; `asked`: how many items, chosen how."""
    by = {"model": model, "adapter": candidate.identity}
    return store.AnswerFile(folder, HARNESS, task, asked, candidate.name, by)


def run(
    base: Any,
    tokenizer: Any,
    candidates: Sequence[Candidate],
    found: Tasks,
    place: Callable[[str, Candidate], store.AnswerFile],
    report: Callable[[AnswerProgress], None],
) -> dict[str, dict[str, tuple[Scores, str]]]:
    """Ask all candidates all tasks; by candidate and task, the result and a hash of what was asked.

    `place(task, candidate)` is where its answers stand. Raises InputError; StorageError.
    """
    adapters.check(candidates, base)
    _check_room(found, base, tokenizer)
    alone = not sound(base, tokenizer)
    results: dict[str, dict[str, tuple[Scores, str]]] = {}
    for candidate in candidates:
        with adapters.on(base, candidate) as model:
            for name in found.names:
                at = place(name, candidate)
                with store.writing(at) as (known, writer):
                    asking = _Asking(Answerer(model, tokenizer, alone=alone), known, writer, at, report)
                    with _quiet():
                        output = _evaluated(_Model(model, tokenizer, asking), found, name)
                _write_samples(at.path.with_suffix(".samples.jsonl"), output["samples"])
                results.setdefault(candidate.name, {})[name] = _result(output, name), _hash(output)
    return results


@dataclass(frozen=True)
class _Asking:
    """Asks what is not stored yet, and stores it."""

    answerer: Answerer
    known: dict[store.Key, store.Line]
    writer: store.Writer
    place: store.AnswerFile
    report: Callable[[AnswerProgress], None]
    stderr: TextIO = field(default_factory=lambda: sys.stderr)  # which is shut while the harness talks

    def lines(self, asked: Sequence[tuple[str, Ask]], stop: Sequence[str] = ()) -> list[store.Line]:
        """The answer to each ask, whose key stands before it."""
        total = len({key for key, _ in asked})
        missing = {key: ask for key, ask in asked if (key, 0) not in self.known}
        keys = {ask.number: key for key, ask in missing.items()}
        self._tell(total - len(missing), total)
        for batch in layout.batches(list(missing.values()), **sizes(self.answerer.model)):
            said = self.answerer.answer(batch, Decoding(), lambda _, text: any(end in text for end in stop))
            lines = []
            for ask, answer in zip(batch.asks, said, strict=True):
                line = {
                    "item": keys[ask.number],
                    "sample": 0,
                    "prompt": self.answerer.tokenizer.decode(ask.prompt),
                    "answer": answer.text,
                    "cut": answer.cut,
                    "log_likelihoods": list(answer.log_likelihoods),
                    "greedy": list(answer.greedy),
                }
                self.known[line["item"], 0] = line
                lines.append(line)
            self.writer.add(lines)
            missing = {key: ask for key, ask in missing.items() if (key, 0) not in self.known}
            self._tell(total - len(missing), total)
        return [self.known[key, 0] for key, _ in asked]

    def _tell(self, done: int, total: int) -> None:
        with contextlib.redirect_stderr(self.stderr):
            self.report(AnswerProgress(self.place.candidate, self.place.benchmark, done, total))


class _Model(HFLM):  # type: ignore[misc]  # untyped
    """The harness's model class, whose tokens, limits and templates stay; likelihoods and greedy text are ours."""

    def __init__(self, model: Any, tokenizer: Any, asking: _Asking):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=1)
        self.asking = asking

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        contexts: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        pairs = []
        for _, before, after in requests:
            before, after = tuple(before)[-(self.max_length + 1 - len(after)) :], tuple(after)
            pairs.append((before, after))
            contexts.setdefault(before, [])
            if after not in contexts[before]:
                contexts[before].append(after)
        asked = [
            (_key(before, after), Ask(number, 0, 0, before, tuple(after)))
            for number, (before, after) in enumerate(contexts.items())
        ]
        lines = dict(zip(contexts, self.asking.lines(asked), strict=True))
        found = []
        for before, after in pairs:
            place = contexts[before].index(after)
            found.append((lines[before]["log_likelihoods"][place], lines[before]["greedy"][place]))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        found: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        for members in groups.values():
            given = requests[members[0]].args[1]
            settings = normalize_gen_kwargs(given, self.max_gen_toks)
            stop = handle_stop_sequences(settings.pop("until", None), eos=eos)
            most = settings.pop("max_gen_toks")
            if settings.pop("do_sample", False) or {name for name in settings if name != "temperature"}:
                texts = super().generate_until([requests[number] for number in members], disable_tqdm=True)
            else:
                texts = self._greedy([requests[number].args[0] for number in members], stop, most)
            for number, text in zip(members, texts, strict=True):
                found[number] = text
        return found

    def _greedy(self, contexts: Sequence[str], stop: Sequence[str], most: int) -> list[str]:
        asked = []
        for number, context in enumerate(contexts):
            ids, _ = self.tok_batch_encode(
                [context], left_truncate_len=self.max_length - most, truncation=self.truncation
            )
            prompt = tuple(ids[0].tolist())
            asked.append((_key(prompt, (tuple(stop), most)), Ask(number, 0, 0, prompt, (), most)))
        lines = self.asking.lines(asked, [text for text in stop if text])
        return [postprocess_generated_text(line["answer"], list(stop), None) for line in lines]


def _key(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _loaded(manager: Any, name: str) -> dict[str, Any]:
    """The tasks of a name, with their data. Raises InputError."""
    try:
        with _quiet(), hushed():
            found: dict[str, Any] = manager.load([name])["tasks"]
    # The harness and what it loads data with raise errors of many families; all become one message.
    except Exception as error:
        raise InputError(explain(error, name, "data set", key="benchmarks")) from error
    return found


def _new_tokens(task: Any) -> int:
    with _quiet():
        return int(normalize_gen_kwargs(task.get_config("generation_kwargs") or {})["max_gen_toks"])


def _check_room(found: Tasks, base: Any, tokenizer: Any) -> None:
    """Raises InputError where answers may be so long that the model has no room for a prompt."""
    with _quiet():
        length = HFLM(pretrained=base, tokenizer=tokenizer, batch_size=1).max_length
    what = "asks for answers of up to {} tokens, and the model takes {} in all: lower `generation_kwargs.max_gen_toks`"
    most = {name: tokens for name, tokens in found.new_tokens.items() if tokens >= length}
    if most:
        raise InputError([Fault(f"`{name}` {what.format(tokens, length)}") for name, tokens in most.items()])


def _malformed(folder: Path | None) -> Iterator[Fault]:
    """The user's files that are no YAML, which the harness passes over."""
    for path in sorted(folder.rglob("*.yaml")) if folder is not None else ():
        try:
            yaml_file.check(path)
        except InputError as error:
            yield from error.faults


def _subset(counts: Mapping[str, int], limit: int, seed: int) -> dict[str, list[int]]:
    """Documents of each task: `limit` in all, spread evenly over the tasks."""
    chance = random.Random(f"{seed}")
    mixed = [(name, number) for name in counts for number in chance.sample(range(counts[name]), counts[name])]
    chosen = {mixed[place * len(mixed) // limit] for place in range(limit)}
    return {name: sorted(number for task, number in chosen if task == name) for name in counts}


def _evaluated(model: _Model, found: Tasks, name: str) -> dict[str, Any]:
    """As the harness's `simple_evaluate`, with its seeds, but without the survey of the machine that it ends with."""
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    loaded = found.manager.load([name])
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    chosen = found.chosen[name]
    samples = None if chosen is None else {key: list(numbers) for key, numbers in chosen.items()}
    output: dict[str, Any] = evaluate(
        lm=model, task_dict=loaded, samples=samples, bootstrap_iters=1000, log_samples=True
    )
    return output


def _result(output: Mapping[str, Any], name: str) -> Scores:
    """The scores of a task, or of a group: its own mean, or that of its tasks where the harness has none."""
    tasks = {key: output["results"][key] for key in output["samples"]}
    own = {**output.get("groups", {}), **output["results"]}.get(name, {})
    metric, filtered = _metric(output, next(iter(tasks)))
    if other := [key for key, scores in tasks.items() if f"{metric},{filtered}" not in scores]:
        what = f"the tasks of `{name}` are scored by different metrics: `{other[0]}` has no `{metric}`"
        raise InputError(f"{what}; name them one by one")
    values = {key: float(scores[f"{metric},{filtered}"]) for key, scores in tasks.items()}
    value = own.get(f"{metric},{filtered}")
    value = statistics.fmean(values.values()) if value is None else float(value)
    error = own.get(f"{metric}_stderr,{filtered}")
    if not 0 <= value <= 1:
        raise InputError(
            f"the metric `{metric}` of `{name}` is {value:g}: only shares from 0 to 1 are scored in tables"
        )
    if not isinstance(error, float):
        errors = [scores.get(f"{metric}_stderr,{filtered}") for scores in tasks.values()]
        known = [each for each in errors if isinstance(each, float)]
        error = sum(each**2 for each in known) ** 0.5 / len(errors) if len(known) == len(errors) else None
    # A document stands there once for each filter.
    samples = [sample for of in output["samples"].values() for sample in of if sample["filter"] == filtered]
    choices = [_choices(sample) for sample in samples]
    return Scores(
        verdict=Score(value, error),
        chance=statistics.fmean(1 / count if count > 1 else 0.0 for count in choices),
        others={},
        likelihood=None,
        items=len(samples),
        too_long=0,
        cut=0,
        groups=values,
    )


def _choices(sample: Mapping[str, Any]) -> int:
    """How many choices a document has, 0 where the answer is text; `acc_mutual_info` asks each twice."""
    count = len(sample["resps"]) if isinstance(sample["resps"][0][0], list | tuple) else 0
    return count // 2 if "acc_mutual_info" in sample["metrics"] else count


def _metric(output: Mapping[str, Any], task: str) -> tuple[str, str]:
    """The first metric of a task that is better the higher it is, and its filter."""
    higher = output["higher_is_better"][task]
    for name in output["results"][task]:
        metric, _, filtered = name.partition(",")
        if filtered and not metric.endswith("_stderr") and higher.get(metric):
            return metric, filtered
    raise InputError(f"`{task}` has no metric that is better the higher it is")


def _hash(output: Mapping[str, Any]) -> str:
    """A hash of what was asked: documents, prompts and targets of all tasks."""
    content = hashlib.sha256()
    for name in sorted(output["samples"]):
        for sample in output["samples"][name]:
            content.update(
                json.dumps([name, sample["doc_hash"], sample["prompt_hash"], sample["target_hash"]]).encode()
            )
    return content.hexdigest()[:12]


def _write_samples(path: Path, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Every document with its prompt, answer and verdict, as the harness has them."""
    lines = [
        json.dumps({"task": name, **sample}, default=str, ensure_ascii=False)
        for name, of in samples.items()
        for sample in of
    ]
    with whole_file.writing(path):
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness without its bars and log."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
