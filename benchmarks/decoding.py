"""What makes long answers quick: large batches, and a cache of keys and values that is not copied with every token.

With an adapter of rank 16 on all linear layers, in float32 on one thread, both sides one after the other. Processor
seconds are compared, since a machine is seldom quiet. Two JSON lines, ratio theirs / ours (above 1: ours is faster),
low and high over repeats:

- answers to the same prompts (functions of the standard library, to be continued) in batches as large as memory allows,
  against batches bounded by what the first pass computes; how many answers differ, which rounding can do;
- steps that decode one token more, behind 500, with the growing cache against Transformers' `DynamicCache`.

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
from typing import Any

import torch
from scoring import made_candidates
from transformers import DynamicCache

from meshtune.config.sections import ModelConfig
from meshtune.data import embedded
from meshtune.data.tokenizer import load_tokenizer
from meshtune.evaluation import adapters, layout
from meshtune.evaluation.answers import Answerer, Decoding, sizes
from meshtune.evaluation.growing_cache import growing
from meshtune.evaluation.layout import Ask, Batch
from meshtune.training.models import load_model

PLACES, STEPS = 500, 10


def timed(answerer: Answerer, batches: Sequence[Batch]) -> tuple[float, dict[int, str]]:
    """Processor seconds, and the answers by number."""
    begun = time.process_time()
    said = {
        ask.number: one.text
        for batch in batches
        for ask, one in zip(batch.asks, answerer.answer(batch, Decoding(), lambda *_: False), strict=True)
    }
    return time.process_time() - begun, said


@torch.inference_mode()
def stepped(model: Any, cache: Any, rows: int) -> float:
    """Processor seconds of a step, behind the cache's `PLACES` random ones."""
    generator, config = torch.Generator().manual_seed(0), model.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        cache.update(*torch.randn(2, rows, heads, PLACES, width, generator=generator), layer)
    begun = time.process_time()
    for step in range(STEPS):
        seen = torch.ones(rows, PLACES + step + 1, dtype=torch.long)
        positions = torch.full((rows, 1), PLACES + step)
        tokens = torch.zeros_like(positions)
        model(tokens, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True)
    return (time.process_time() - begun) / STEPS


def line(ours: Sequence[float], theirs: Sequence[float], setting: str) -> str:
    ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    values = {"ours": ours, "theirs": theirs, "ratio": ratios}
    medians = {name: round(statistics.median(numbers), 3) for name, numbers in values.items()}
    spread = {"low": round(min(ratios), 3), "high": round(max(ratios), 3)}
    return json.dumps({"name": "decoding", **medians, **spread, "setting": f"{setting}; processor seconds"})


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
            repeats = range(arguments.repeats)
            runs = [(timed(answerer, large), timed(answerer, bounded)) for _ in repeats]
            caches = [(growing(base.config), DynamicCache(config=base.config)) for _ in repeats]
            steps = [tuple(stepped(adapted, cache, len(texts)) for cache in pair) for pair in caches]
    (_, mine), (_, other) = runs[0]
    differ = sum(mine[number] != other[number] for number in mine)
    rows = [statistics.mean(len(batch.asks) for batch in batches) for batches in (large, bounded)]
    sides = f"in batches of {rows[0]:.1f} against {rows[1]:.1f}"
    answers = f"{len(texts)} answers of {arguments.tokens} tokens {sides}; {differ} differ"
    print(line([ours for (ours, _), _ in runs], [theirs for _, (theirs, _) in runs], answers), flush=True)
    ours, theirs = zip(*steps, strict=True)
    print(line(ours, theirs, f"a step of {len(texts)} rows behind {PLACES} places, growing cache"), flush=True)


if __name__ == "__main__":
    main()
