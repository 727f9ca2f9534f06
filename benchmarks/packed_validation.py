"""Validation by the packed trainer against `Trainer.evaluate`, both in float32: real tokens a second, interleaved.

Trainer over a PEFT model evaluates batches of 8 rows, padded to their longest; ours has no padding and computes the
head at labels only. The same rows on one thread. One JSON line a set of rows; ratio above 1: ours is faster; low and
high over rounds.

    python benchmarks/packed_validation.py [--rows short long] [--rounds 5] [--batches 8]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from training_sides import SETS, Rounds, Spec, compare, folder_of, made_rows, our_recipe, processor, trainer_for
from transformers import AutoConfig, PrinterCallback

from meshtune.config.sections import ModelConfig
from meshtune.training.loss import CPU_TOKENS, Row, RowLoss, mean_loss
from meshtune.training.models import load_model, quiet
from meshtune.training.packed.base import PackedBase, packed
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.rows import Portion, in_portions, lay_out

EVALUATED = 8  # rows of a batch of Trainer's


def ours(pack: PackedBase, adapter: FlatAdapter, rows: Sequence[Row]) -> float:
    """The validation loss, as the packed trainer computes it."""
    found: list[RowLoss] = []
    lengths = [len(tokens) for tokens, _ in rows]
    for part in in_portions(range(len(rows)), lengths, len(rows), CPU_TOKENS):
        found += pack.row_losses(lay_out([Portion(adapter, [rows[row] for row in part])], pack.base.device))
    return mean_loss(found)


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(model: str, name: str, rounds: int, batches: int) -> None:
    size = EVALUATED * batches
    words = AutoConfig.from_pretrained(folder_of(model)).vocab_size
    rows = made_rows(name, words, rounds * batches, EVALUATED)
    chunks = [rows[size * number : size * (number + 1)] for number in range(rounds)]
    tokens = [sum(len(row) for row, _ in chunk) for chunk in chunks]
    longest = [np.array([len(row) for row, _ in chunk]).reshape(-1, EVALUATED).max(1) for chunk in chunks]
    padded = [EVALUATED * int(most.sum()) for most in longest]
    base = load_model(ModelConfig(name=model), "cpu")
    adapter = FlatAdapter(base, our_recipe("float32"), torch.float32)
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    with quiet(), tempfile.TemporaryDirectory() as folder, packed(base, torch.float32) as pack:
        trainer = trainer_for(Spec("trainer", model), rows, folder, [], per_device_eval_batch_size=EVALUATED)
        trainer.remove_callback(PrinterCallback)
        for number in (0, *range(rounds)):  # the first once more, to warm up
            items = [trainer.train_dataset[row] for row in range(size * number, size * (number + 1))]
            taken["ours"].append(seconds_of(lambda n=number: ours(pack, adapter, chunks[n])))
            taken["theirs"].append(seconds_of(lambda items=items: trainer.evaluate(items)))
    sides = {side: Rounds(tuple(tokens), tuple(padded), tuple(found[1:])) for side, found in taken.items()}
    setting = f"{name} rows, float32 both, one thread, tokens/s: packed | Trainer.evaluate, batches of {EVALUATED}"
    compare("packed_validation", setting, sides["ours"], sides["theirs"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="`embedded` or a folder")
    parser.add_argument("--rows", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="of 8 rows, a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, torch {torch.__version__}", file=sys.stderr)
    for name in arguments.rows:
        measure(arguments.model, name, arguments.rounds, arguments.batches)


if __name__ == "__main__":
    main()
