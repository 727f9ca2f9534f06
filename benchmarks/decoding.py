"""Long answers in batches as large as memory allows, against batches bounded by what the first pass computes.

Both sides answer the same prompts (functions of the standard library, to be continued) with an adapter of rank 16 on
all linear layers, in float32 on one thread, one after the other. Processor seconds are compared, since a machine is
seldom quiet. One JSON line: ratio theirs / ours (above 1: large batches are faster), low and high over repeats; its
setting says how many answers differ, which rounding can do.

    python benchmarks/decoding.py [--model embedded] [--prompts 24] [--tokens 128] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scoring import made_candidates

from meshtune.config import ModelConfig
from meshtune.data import embedded
from meshtune.data.tokenizer import load_tokenizer
from meshtune.evaluation import adapters, layout
from meshtune.evaluation.answers import Answerer, Decoding, sizes
from meshtune.evaluation.layout import Ask, Batch
from meshtune.training.models import load_model


def timed(answerer: Answerer, batches: Sequence[Batch]) -> tuple[float, dict[int, str]]:
    """Processor seconds, and the answers by number."""
    begun = time.process_time()
    said = {
        ask.number: one.text
        for batch in batches
        for ask, one in zip(batch.asks, answerer.answer(batch, Decoding(), lambda *_: False), strict=True)
    }
    return time.process_time() - begun, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="`embedded` or a folder")
    for name, count in (("prompts", 24), ("tokens", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=count)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = ModelConfig(name=arguments.model)
    base, tokenizer = load_model(model, "cpu"), load_tokenizer(model)
    texts = [row.context for row in embedded.rows(embedded.DESCRIBE)[: arguments.prompts]]
    bounded_asks = [Ask(n, 0, 0, tuple(tokens)) for n, tokens in enumerate(layout.encode(tokenizer, texts))]
    size = sizes(base)

    def long(asks: Sequence[Ask]) -> list[Ask]:
        return [replace(ask, new_tokens=arguments.tokens) for ask in asks]

    bounded = [Batch(batch.prefix, tuple(long(batch.asks))) for batch in layout.batches(bounded_asks, **size)]
    large = layout.batches(long(bounded_asks), **size)
    with tempfile.TemporaryDirectory() as folder:
        (candidate,) = made_candidates(base, Path(folder), 1)
        with adapters.on(base, candidate) as adapted:
            answerer = Answerer(adapted, tokenizer)
            runs = [(timed(answerer, large), timed(answerer, bounded)) for _ in range(arguments.repeats)]
    (_, mine), (_, other) = runs[0]
    ratios = [theirs / ours for (ours, _), (theirs, _) in runs]
    rows = [statistics.mean(len(batch.asks) for batch in batches) for batches in (large, bounded)]
    differ = sum(mine[number] != other[number] for number in mine)
    sides = f"in batches of {rows[0]:.1f} against {rows[1]:.1f}"
    line = {
        "name": "decoding",
        "ours": round(statistics.median(ours for (ours, _), _ in runs), 2),
        "theirs": round(statistics.median(theirs for _, (theirs, _) in runs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "setting": f"{len(texts)} answers of {arguments.tokens} tokens {sides}; {differ} differ; processor seconds",
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
