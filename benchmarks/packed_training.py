"""Training by the packed trainer against Hugging Face's Trainer with PEFT: real tokens a second, interleaved rounds.

Trainer as users set it up: batches of 4, padded to their longest row, AdamW fused, bf16 or float32; also with rows
grouped by length. Ours: the same rows in the same batches; rank 16, dropout .05, all linear layers on both sides.
- block: 8 trials on 2 cores; ours in two processes of one thread, as packs of 4 and one after the other, against
  Trainer one trial after the other on 2 threads in float32, and two Trainers in bf16 side by side on a thread each.
- one: one trial on one thread, both sides in float32, both in bf16.
One JSON line a setting; ratio above 1: ours is faster; low and high over rounds. `--scaling` and `--profile` say
instead how a step's time grows and where it goes. On CPUs; for cards there is `gpu.py`.

    python benchmarks/packed_training.py [block] [one] [--rows short long] [--rounds 5] [--steps 10]
    python benchmarks/packed_training.py --scaling plot.svg
    python benchmarks/packed_training.py --profile
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from training_profile import profile
from training_scaling import scaling
from training_sides import SETS, Spec, compare, processor, race

NAME = "packed_training"


def block(model: str, rows: str, rounds: int, steps: int, warm_up: int) -> None:
    """8 trials on 2 cores. Three races, so that no more than five processes wait in memory."""
    ours = Spec("ours", model, rows, "bfloat16")
    packs, singles = [Spec("ours", model, rows, "bfloat16", adapters=4)] * 2, [ours] * 2

    def sequential(grouped: bool) -> list[Spec]:
        return [Spec("trainer", model, rows, threads=2, grouped=grouped)]

    def side_by_side(grouped: bool) -> list[Spec]:
        return [Spec("trainer", model, rows, "bfloat16", grouped=grouped)] * 2

    what = f"block of 8 on 2 cores, {rows} rows, tokens/s"
    usual = {"float32, one after the other on 2 threads": sequential, "bf16, two side by side": side_by_side}
    for grouped in (False, True):
        sides = {"packs of 4": packs, "one after the other": singles}
        found = race(sides | {name: make(grouped) for name, make in usual.items()}, rounds, steps, warm_up)
        for name in usual:
            for mine in sides:
                how = f"Trainer {name}{', grouped by length' if grouped else ''}"
                compare(NAME, f"{what}: two processes, {mine}, base in bf16 | {how}", found[mine], found[name])


def one(model: str, rows: str, rounds: int, steps: int, warm_up: int) -> None:
    """One trial on one thread."""
    for precision in ("float32", "bfloat16"):
        found = race(
            {
                "ours": [Spec("ours", model, rows, precision)],
                "Trainer": [Spec("trainer", model, rows, precision)],
                "Trainer, grouped by length": [Spec("trainer", model, rows, precision, grouped=True)],
            },
            rounds,
            steps,
            warm_up,
        )
        for name, theirs in list(found.items())[1:]:
            setting = f"one trial, one thread, {rows} rows, {precision} both, tokens/s: alone | {name}"
            compare(NAME, setting, found["ours"], theirs)


SETTINGS = {"block": block, "one": one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)}; all")
    parser.add_argument("--model", default="embedded", help="`embedded` or a folder")
    parser.add_argument("--rows", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before the first round")
    parser.add_argument("--scaling", type=Path, metavar="SVG", help="seconds of a step by adapters and by tokens")
    parser.add_argument("--profile", action="store_true", help="where a step's time goes")
    arguments = parser.parse_args()
    unknown = set(arguments.settings) - SETTINGS.keys()
    if unknown:
        parser.error(f"unknown setting {sorted(unknown)[0]}: allowed are {', '.join(SETTINGS)}")
    if arguments.scaling:
        scaling(arguments.model, arguments.scaling, arguments.steps)
        return
    if arguments.profile:
        for rows in arguments.rows:
            profile(arguments.model, rows, arguments.steps, arguments.warm_up)
        return
    print(f"{processor()}, torch {torch.__version__}", file=sys.stderr)
    for name in arguments.settings or SETTINGS:
        for rows in arguments.rows:
            SETTINGS[name](arguments.model, rows, arguments.rounds, arguments.steps, arguments.warm_up)


if __name__ == "__main__":
    main()
