"""Scoring adapters on MMLU-shaped prompts with 5 shots, against lm-eval's HFLM once a candidate: items a second.

Both have the base loaded (the harness would load it for each candidate, which is not counted), the same adapters, the
same prompts and threads, in float32, a candidate by the one and then by the other. HFLM gives the likelihood of the
four letters, one pass a prompt, in batches of the size that is fastest here on some of the items; ours gives these and
the decoded answer. One JSON line: ratio above 1: ours is faster; low and high over candidates. Its setting says how far
the likelihoods are apart, and of how many items the likeliest letter differs; such items are listed on standard error
with the margin between the letters. Takes six minutes on two cores.

    python benchmarks/scoring.py [--data DIR] [--candidates 8] [--subjects 2] [--items 20]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data import embedded
from meshtune.data.tokenizer import load_tokenizer, window
from meshtune.evaluation import adapters, layout
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.answers import Answerer, Decoding, sizes
from meshtune.evaluation.benchmarks import mmlu
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.system.machine import cores
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, save_adapter, tensors
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe

BATCHES = (1, 4, 8, 16)  # of HFLM; the fastest one is taken
TRIED = 16  # items that they are tried on
MARGIN = 1e-3  # nats between the two likeliest letters, above which both sides must agree
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 2e-4}


@dataclass(frozen=True)
class Sides:
    """Seconds of a candidate by both sides, and the likelihoods of the letters by item."""

    ours: float
    theirs: float
    mine: list[tuple[float, ...]]
    other: list[tuple[float, ...]]


def made(subjects: int, items: int) -> Benchmark:
    """Questions on functions of the standard library, in MMLU's form."""
    rows = embedded.rows(embedded.DESCRIBE)
    chance = random.Random(0)
    sides: dict[str, list[Any]] = {"dev": [], "test": []}
    for number in range(subjects):
        for side, count in (("dev", mmlu.SHOTS), ("test", items)):
            for line in range(count):
                four = chance.sample(rows, 4)
                answer = chance.randrange(4)
                asked = f"{four[answer].prompt}\n{four[answer].context}"
                choices = [row.response for row in four]
                subject = f"library_{number}"
                row = {"question": asked, "subject": subject, "choices": choices, "answer": answer}
                sides[side].append(("made", line, row))
    return mmlu.from_rows(sides["dev"], sides["test"], "made")


def of_folder(folder: Path, subjects: int, items: int) -> Benchmark:
    """The first items of some subjects of MMLU that have as many."""
    whole = mmlu.read_folder(folder)
    numbers: dict[str, list[int]] = {}
    for number, item in enumerate(whole.all_items):
        numbers.setdefault(item.group, []).append(number)
    taken = [held[:items] for held in numbers.values() if len(held) >= items][:subjects]
    return replace(whole, chosen=tuple(number for held in taken for number in held))


def made_candidates(base: Any, folder: Path, count: int) -> list[Candidate]:
    """Adapters over all linear layers with random weights that change the answers."""
    found = []
    for seed in range(count):
        config = lora_config(base, recipe(TrainingConfig(), LORA, seed))
        with new_adapter(base, config, seed) as adapter:
            torch.manual_seed(seed)
            weights = {
                name: weight + 0.01 * torch.randn_like(weight) for name, weight in tensors(adapter.model).items()
            }
            save_adapter(folder / str(seed), weights, adapter.saved_config, base.name_or_path)
        found.append(Candidate(f"candidate-{seed}", folder / str(seed)))
    return found


def ours(model: Any, tokenizer: Any, benchmark: Benchmark, room: int | None) -> list[tuple[float, ...]]:
    answerer = Answerer(model, tokenizer)
    found: dict[int, tuple[float, ...]] = {}
    items = benchmark.items
    asked = layout.asks(benchmark, tokenizer, window=room)
    for batch in layout.batches(asked, **sizes(model)):
        said = answerer.answer(batch, Decoding(), lambda ask, text: benchmark.decided(items[ask.number], text))
        found |= {ask.number: answer.log_likelihoods for ask, answer in zip(batch.asks, said, strict=True)}
    return [found[number] for number in range(len(items))]


def theirs(model: Any, tokenizer: Any, benchmark: Benchmark, batch: int) -> list[tuple[float, ...]]:
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(benchmark.prompt(item), letter), idx=0)
        for item in benchmark.items
        for letter in item.choices
    ]
    values = [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    count = len(mmlu.LETTERS)
    return [tuple(values[place : place + count]) for place in range(0, len(values), count)]


def fastest(model: Any, tokenizer: Any, benchmark: Benchmark) -> int:
    """The size of batches with which HFLM is fastest."""
    seconds = {}
    few = benchmark.limited(TRIED, 0)
    for batch in BATCHES:
        begun = time.perf_counter()
        theirs(model, tokenizer, few, batch)
        seconds[batch] = time.perf_counter() - begun
    told = ", ".join(f"{batch}: {spent:.1f} s" for batch, spent in seconds.items())
    print(f"HFLM on {len(few.items)} items by size of batches: {told}", file=sys.stderr, flush=True)
    return min(seconds, key=seconds.__getitem__)


def measure(model: str, benchmark: Benchmark, count: int) -> tuple[list[Sides], int]:
    config = ModelConfig(name=model)
    base, tokenizer = load_model(config, "cpu"), load_tokenizer(config)
    room = window(config, tokenizer)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        candidates = made_candidates(base, Path(folder), count)
        with adapters.on(base, candidates[0]) as adapted:
            batch = fastest(adapted, tokenizer, benchmark)
        for number, candidate in enumerate(candidates):
            with adapters.on(base, candidate) as adapted:
                seconds, values = {}, {}
                for side in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
                    begun = time.perf_counter()
                    if side == "ours":
                        values[side] = ours(adapted, tokenizer, benchmark, room)
                    else:
                        values[side] = theirs(adapted, tokenizer, benchmark, batch)
                    seconds[side] = time.perf_counter() - begun
            found.append(Sides(seconds["ours"], seconds["theirs"], values["ours"], values["theirs"]))
            print(f"{candidate.name}: {seconds['ours']:.1f} s | {seconds['theirs']:.1f} s", file=sys.stderr, flush=True)
    return found, batch


def report(sides: list[Sides], batch: int, benchmark: Benchmark) -> None:
    count = len(benchmark.items)
    furthest, differ, total = 0.0, 0, 0
    for number, side in enumerate(sides):
        for item, mine, other in zip(benchmark.items, side.mine, side.other, strict=True):
            furthest = max(furthest, *(abs(a - b) for a, b in zip(mine, other, strict=True)))
            total += 1
            if mine.index(max(mine)) != other.index(max(other)):
                first, second = sorted(other, reverse=True)[:2]
                differ += first - second > MARGIN
                print(f"candidate {number}, {item.id}: {mine} | {other}, margin {first - second:.2g}", file=sys.stderr)
    ratios = [side.theirs / side.ours for side in sides]
    mine, other = (len(sides) * count / sum(getattr(side, name) for side in sides) for name in ("ours", "theirs"))
    setting = (
        f"{len(sides)} candidates, {count} items of {benchmark.set_name}, float32, {torch.get_num_threads()} threads, "
        f"items/s: meshtune | HFLM in batches of {batch}; likelihoods within {furthest:.1e} nats; "
        f"another letter beyond a margin of {MARGIN:g} nats: {differ} of {total}"
    )
    line = {"name": "scoring", "ours": round(mine, 3), "theirs": round(other, 3), "ratio": round(mine / other, 3)}
    line |= {"low": round(min(ratios), 3), "high": round(max(ratios), 3), "setting": setting}
    print(f"median over candidates: {statistics.median(ratios):.2f}", file=sys.stderr)
    print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="`embedded` or a folder")
    parser.add_argument("--data", type=Path, help="a folder of MMLU (dev/, test/); else questions are made up")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--items", type=int, default=20, help="of a subject")
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    sizes_of = (arguments.subjects, arguments.items)
    benchmark = made(*sizes_of) if arguments.data is None else of_folder(arguments.data, *sizes_of)
    report(*measure(arguments.model, benchmark, arguments.candidates), benchmark)


if __name__ == "__main__":
    main()
