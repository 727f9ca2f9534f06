"""A base in int8 or nf4 against the same base in float32: speed, bytes, and losses. Adapters are trained by packs.

`speed`: real tokens a second of a pack, sides in turn, as in `packed_training.py` (ratio below 1: few bits cost time).
`bytes`: of the base's tensors, with the copy that training in bfloat16 makes of its weights; and the process at its
peak over some steps (Linux). `losses`: of the untuned model and of an adapter after some steps, on rows of Python's
standard library. One JSON line each.

    python benchmarks/quantized_base.py [speed|bytes|losses ..] [--rounds 3] [--steps 6] [--adapters 1 4]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from training_sides import Spec, compare, made_rows, our_order, our_recipe, print_line, processor, race

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig
from meshtune.data.build import prepare
from meshtune.data.store import Rows
from meshtune.training import machine
from meshtune.training.loss import mean_loss, row_losses
from meshtune.training.models import load_model
from meshtune.training.packed.trainer import train, train_pack
from meshtune.training.steps import Trained

NAME = "quantized_base"
KINDS: tuple[Literal["int8", "nf4"], ...] = ("int8", "nf4")
PRECISIONS = ("float32", "bfloat16")


def speed(options: argparse.Namespace) -> None:
    for precision in PRECISIONS:
        for adapters in options.adapters:
            sides = {
                str(kind): [Spec("ours", options.model, precision=precision, adapters=adapters, quantization=kind)]
                for kind in (None, *KINDS)
            }
            found = race(sides, options.rounds, options.steps, warm_up=2)
            for kind in KINDS:
                setting = f"{kind} against float32 base, pack of {adapters}, {precision}, one thread, {processor()}"
                compare(NAME, setting, found[kind], found["None"])


def memory(options: argparse.Namespace) -> None:
    for precision in PRECISIONS:
        found = {kind: _child(options, precision, kind) for kind in ("none", *KINDS)}
        for kind in KINDS:
            for what in ("base", "peak"):
                ours, theirs = found[kind][what], found["none"][what]
                setting = f"{what} in MiB: {kind} against float32 base, pack of {options.adapters[-1]}, {precision}"
                print_line(NAME, setting, ours, theirs, [ours / theirs])


def _child(options: argparse.Namespace, precision: str, kind: str) -> dict[str, float]:
    """MiB of one, in a process of its own."""
    command = [sys.executable, __file__, "child", "--model", options.model, "--steps", str(options.steps)]
    command += ["--precision", precision, "--quantization", kind, "--adapters", str(options.adapters[-1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    kind = None if options.quantization == "none" else options.quantization
    base = load_model(ModelConfig(name=options.model, quantization=kind), "cpu")
    tensors = {id(x): x for x in (*base.parameters(), *base.buffers())}.values()
    held = sum(x.numel() * x.element_size() for x in tensors)
    if options.precision == "bfloat16" and kind is None:
        held += sum(2 * part.weight.numel() for part in base.modules() if type(part) is torch.nn.Linear)
    machine.free("cpu")
    machine.reset_peak("cpu")
    rows = made_rows("short", base.config.vocab_size, options.steps)[: 4 * options.steps]
    recipes = [our_recipe(options.precision)] * options.adapters[-1]
    for _ in train_pack(base, our_order(rows), rows[:4], recipes, at="last"):
        pass
    print(json.dumps({"base": held / 2**20, "peak": (machine.peak("cpu") or 0) / 2**20}))


def losses(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sources = tuple(SourceConfig(embedded=name) for name in ("python-stdlib-describe", "python-stdlib-signature"))
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(name=options.model)
        data = prepare(DataConfig(sources=sources, rows=400, validation=40, test=0), model, 0, Path(folder)).ref
        sides = [Rows.open(data, side) for side in ("train", "validation")]
        trained = [sides[0][index] for index in range(4 * options.loss_steps)]
        validated = [sides[1][index] for index in range(len(sides[1]))]
    found = {str(kind): _losses(options.model, kind, trained, validated) for kind in (None, *KINDS)}
    for kind in KINDS:
        for what, ours, theirs in zip(("untuned", "adapted"), found[kind], found["None"], strict=True):
            line = {"name": NAME, "ours": round(ours, 4), "theirs": round(theirs, 4), "ratio": round(theirs / ours, 4)}
            of = "" if what == "untuned" else f" after {options.loss_steps} steps"
            print(json.dumps({**line, "low": None, "high": None, "setting": f"{what} loss{of}, {kind} | float32"}))


def _losses(model: str, kind: Any, trained: Any, validated: Any) -> tuple[float, float]:
    base = load_model(ModelConfig(name=model, quantization=kind), "cpu")
    untuned = mean_loss(row_losses(base, validated))
    *_, last = train(base, trained, validated, our_recipe("float32"), at="last")
    assert isinstance(last, Trained)
    return untuned, last.loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed", "bytes", "losses"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--loss-steps", type=int, default=30)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precision", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--quantization", default="none", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for what in options.what:
        {"speed": speed, "bytes": memory, "losses": losses, "child": child}[what](options)


if __name__ == "__main__":
    main()
