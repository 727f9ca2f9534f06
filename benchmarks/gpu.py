"""The packed trainer on a GPU: whether it trains right, how fast, and in the memory foretold. For an hour with a card.

Models are Llama shapes of 135M, 1B and 8B parameters with random weights: nothing is downloaded, and no tokenizer is
read. It needs torch, Transformers and PEFT of about the versions that are pinned. Parts that need more say so, and are
left out where that is not installed.
- losses: ten steps of a pack against Trainer with PEFT, adapter by adapter, in float32 and bf16; and the pack against
  itself, run once more and one adapter alone.
- speed: real tokens a second of packs of 1, 4, 8 and 16 against Trainer with PEFT, one adapter after the other (bf16,
  SDPA, rows grouped by length), in batches of 4 and 16, in turn, so many rounds as there is time for.
- memory: what is predicted against the peak of torch's allocator, of packs and of the trainer `transformers`.
- launches: kernels of a pass of eight adapters, forward and backward, as the counter of the tests counts them, against
  torch's profiler, and which attention was taken.
- nf4, scoring, processes, kernels, study: see `gpu_more.py`.
One JSON line a result as soon as it is known, with the name of the card; ratio above 1: ours is better (of losses,
memory and launches: theirs, or measured, over ours, or predicted). The file of results holds them.

    python benchmarks/gpu.py [PART ...] [--shapes 135M 1B 8B] [--seconds 420] [--results FILE]
    python benchmarks/gpu.py --device cpu --tiny

A part begins nothing after its `--seconds`. Started again, it goes on: what the file of results holds is not measured
anew. What ends a measurement (no memory, a fault, a crash of the process, no answer for `--patience` seconds) is its
result, and the next one begins, in a new process where the device may be broken; `--retry` tries such anew later. Not
covered: several GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LLAMAS: dict[str, dict[str, Any]] = {
    "tiny": dict(hidden=64, inner=160, layers=2, heads=4, key_heads=2, words=300, tied=True),
    "135M": dict(hidden=576, inner=1536, layers=30, heads=9, key_heads=3, words=49152, tied=True),
    "1B": dict(hidden=2048, inner=8192, layers=16, heads=32, key_heads=8, words=128256, tied=True),
    "8B": dict(hidden=4096, inner=14336, layers=32, heads=32, key_heads=8, words=128256, tied=False),
}
PARTS = ("losses", "speed", "memory", "launches", "nf4", "scoring", "processes", "kernels", "study")
FINISHED = 3  # rounds with which a race is not gone on with
ROUNDS = 5
AGAIN = 3  # the exit code of a child whose device may be broken
ROOM = 0.9  # of the card's memory that packs are planned for
NO_ROOM = "out of memory"


@dataclass(frozen=True)
class Options:
    """What a child is told."""

    parts: tuple[str, ...]
    shapes: tuple[str, ...]
    device: str
    seconds: float
    results: str
    tiny: bool
    retry: bool
    call: float  # when this call began: parts count their seconds from their first line in it


class Results:
    """The file of results: what was measured, appended as it is known. Lines that are not whole are not counted."""

    def __init__(self, path: Path, card: str, call: float, retry: bool = False):
        self.path, self.card, self.call, self.retry = path, card, call, retry

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for text in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(text))
        return found

    def of(self, cell: str) -> dict[str, Any] | None:
        """What is known of a measurement on this card; the last word counts."""
        own = [x for x in self.lines() if x.get("cell") == cell and x["card"] == self.card and not x.get("begun")]
        if not own or (self.retry and "fault" in own[-1] and own[-1]["call"] != self.call):
            return None
        return own[-1]

    def begun(self, part: str) -> float:
        """When a part began in this call: now, where it has not."""
        return min((x["at"] for x in self.lines() if x.get("part") == part and x["call"] == self.call), default=now())

    def add(self, part: str, line: dict[str, Any], *, shown: bool = True) -> None:
        text = json.dumps({**line, "card": self.card, "part": part, "call": self.call, "at": now()})
        with self.path.open("a", encoding="utf-8") as file:
            print(text, file=file, flush=True)
            os.fsync(file.fileno())
        if shown:
            shown_keys = {
                name: x for name, x in json.loads(text).items() if name not in ("part", "call", "at", "group")
            }
            print(json.dumps(shown_keys), flush=True)


def now() -> float:
    return round(time.time(), 2)


# ---- The parent: it loads nothing heavy, so that a broken child or device cannot break it.


def supervise(command: Sequence[str], results: Results, patience: float) -> int:
    """Start the child until it has ended by itself; what ends it otherwise is the result of the cell it was in.

    Gives how many measurements ended with a fault, those that had no room not counted.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    while True:
        before = len(results.lines())
        code = _wait(subprocess.Popen(command, env=environment), results, patience)
        lines = results.lines()
        if code == 0:
            return sum(x["call"] == results.call and x.get("fault", NO_ROOM) != NO_ROOM for x in lines)
        last = lines[-1] if len(lines) > before else {}
        if last.get("begun"):
            results.card = last["card"]
            why = f"no answer in {patience:g} s" if code is None else f"the process ended with {code}"
            results.add(last["part"], {"cell": last["cell"], "fault": why})
        elif code != AGAIN:
            print(f"the child ended with {code} outside of a measurement; its message is above", file=sys.stderr)
            return 1


def _wait(child: subprocess.Popen[bytes], results: Results, patience: float) -> int | None:
    """Its exit code; None where it said nothing for so long, and was killed."""
    seen, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        size = results.path.stat().st_size if results.path.exists() else 0
        if size != seen:
            seen, since = size, time.monotonic()
        if time.monotonic() - since > patience:
            child.kill()
            child.wait()
            return None
    return child.returncode


# ---- The child.


class Bench:
    """The card, one base at a time on it, and where results go."""

    def __init__(self, options: Options):
        import torch

        from meshtune.training import machine

        self.torch, self.machine, self.options = torch, machine, options
        self.cuda = options.device == "cuda"
        card = torch.cuda.get_device_name() if self.cuda else "CPU"
        self.bytes = torch.cuda.get_device_properties(0).total_memory if self.cuda else 8 << 30
        self.results = Results(Path(options.results), card, options.call, options.retry)
        self._base: Any = None
        self._at = "", ""  # part and cell that are measured
        self._key: tuple[str, str, str | None] | None = None

    @classmethod
    def of_device(cls, device: str, *, tiny: bool) -> Bench:
        """For one measurement in a process of its own, which writes no results."""
        return cls(Options((), (), device, 0.0, os.devnull, tiny, False, 0.0))

    def base(self, shape: str, dtype: str, quantization: str | None = None) -> Any:
        """The model, frozen; the one before it is forgotten where it is another."""
        if self._key != (shape, dtype, quantization):
            self.forget()
            self._base = llama(shape, dtype, self.options.device)
            if quantization is not None:
                from meshtune.training.quantized import quantize

                kind = getattr(self.torch, dtype)
                self._base = quantize(self._base, quantization, device=self.options.device, dtype=kind)
            self._key = shape, dtype, quantization
        return self._base

    def forget(self) -> None:
        """Hold no model any more."""
        self._base, self._key = None, None
        self.machine.free(self.options.device)

    def wait(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def cell(self, part: str, cell: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Measure, or take what is known. A measurement that fails gives a line with its `fault`."""
        known = self.results.of(cell)
        if known is not None:
            return known
        self._at = part, cell
        self.alive()
        begun = time.monotonic()
        line: dict[str, Any] = {}
        broken = False
        try:
            line = work()
        except Exception as error:
            short = self.machine.is_out_of_memory(error)
            broken = self.cuda and not short
            first = str(error).strip().partition("\n")[0][:300]
            line = {"fault": NO_ROOM if short else f"{type(error).__name__}: {first}"}
            if not short:
                import traceback

                traceback.print_exc()
        if "fault" in line:  # here, where the error's frames no longer hold tensors; the base may not be as it was
            self.forget()
        line = {"cell": cell, **line, "seconds": round(time.monotonic() - begun, 1)}
        self.results.add(part, line, shown="fault" in line)
        if broken:
            sys.exit(AGAIN)
        return line

    def alive(self) -> None:
        """What is measured now has begun, or takes long: whoever waits is patient again."""
        part, cell = self._at
        self.results.add(part, {"cell": cell, "begun": True}, shown=False)

    def compared(
        self, part: str, setting: str, ours: float | None, theirs: float | None, ratios: Sequence[float], **more: Any
    ) -> None:
        """One result, as all benchmarks print it."""
        low, high = (round(min(ratios), 4), round(max(ratios), 4)) if ratios else (None, None)
        ratio = round(statistics.median(ratios), 4) if ratios else None
        line = {"name": f"gpu_{part}", "ours": ours, "theirs": theirs, "ratio": ratio, "low": low, "high": high}
        self.results.add(part, {**line, "setting": f"{self.results.card}, {setting}", **more})


def llama(shape: str, dtype: str, device: str) -> Any:
    """A Llama with random weights, made on the device, with the attention that Transformers takes by itself."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = LLAMAS[shape]
    config = LlamaConfig(
        vocab_size=size["words"],
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["key_heads"],
        tie_word_embeddings=size["tied"],
        max_position_embeddings=16384,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    base.name_or_path = shape
    return base.to(device).requires_grad_(False).eval()


def made_rows(count: int, words: int, *, length: int | None = None, tiny: bool = False) -> list[Any]:
    """Rows of (tokens, trained): counting upwards, so that there is something to learn.

    Lengths are those of an instruction set, 120 tokens of prompt and 80 of answer in the mean, lognormal, up to 1,024;
    or all the same, two fifths of it answer.
    """
    import numpy as np

    numbers = np.random.default_rng(0)
    scale = 0.1 if tiny else 1.0
    rows = []
    for _ in range(count):
        if length is None:
            drawn = [mean * scale * math.exp(numbers.normal(0, 0.5) - 0.125) for mean in (120, 80)]
            prompt, answer = (min(max(2, round(x)), round(512 * scale)) for x in drawn)
        else:
            answer = max(1, 2 * length // 5)
            prompt = length - answer
        tokens = (int(numbers.integers(words)) + np.arange(prompt + answer)) % words
        rows.append((tokens.astype(np.int32), np.arange(prompt + answer) >= prompt))
    return rows


def made_recipe(batch: int, precision: str, **changes: Any) -> Any:
    """Rank 16 on all linear layers, one epoch, linear schedule."""
    from meshtune.training.recipe import Recipe

    usual = Recipe(
        rank=16,
        alpha=32.0,
        dropout=0.05,
        learning_rate=2e-4,
        epochs=1,
        batch_size=batch,
        gradient_accumulation=1,
        lr_scheduler="linear",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        target_modules="all-linear",
        use_rslora=False,
        use_dora=False,
        init_lora_weights=True,
        gradient_checkpointing=False,
        precision=precision,
        seed=0,
    )
    return dataclasses.replace(usual, **changes)


@functools.cache
def numbers_of(shape: str, dtype: str) -> Any:
    """What the formulas of memory know a model by; without its weights."""
    from meshtune.training.memory.shape import measure

    return measure(llama(shape, dtype, "meta"))


def pack_setting(bench: Bench, shape: str, dtype: str, batch: Any) -> Any:
    from meshtune.training.memory.packs import PackSetting

    return PackSetting(numbers_of(shape, dtype), batch, bench.options.device, dtype)


def fitting(bench: Bench, shape: str, dtype: str, recipes: Sequence[Any], batch: Any) -> list[Any]:
    """A pack's recipes, with so many tokens a pass as there is room for: what a study on this card would have."""
    from meshtune.training.packed.limits import token_limit

    tokens = pack_setting(bench, shape, dtype, batch).pass_tokens(recipes, int(ROOM * bench.bytes))
    wanted = tokens if tokens < token_limit(bench.options.device) else None
    return [dataclasses.replace(recipe, pass_tokens=wanted) for recipe in recipes]


# ---- losses


def losses(bench: Bench, late: Callable[[], bool]) -> None:
    steps, batch = (4, 2) if bench.options.tiny else (10, 4)
    for shape in bench.options.shapes:
        for dtype, precision in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
            if late():
                return
            cell = f"losses {shape} base {dtype} precision {precision}"
            if bench.results.of(cell) is None:
                work = functools.partial(_losses, bench, shape, dtype, precision, steps, batch)
                line = bench.cell("losses", cell, work)
                _compare_losses(bench, line, f"{shape}, base in {dtype}, training in {precision}, batches of {batch}")


def _losses(bench: Bench, shape: str, dtype: str, precision: str, steps: int, batch: int) -> dict[str, Any]:
    """Losses of each step, of four adapters together, each by Trainer, and of the pack in two other ways."""
    from meshtune.training.memory.formula import full_batch

    base = bench.base(shape, dtype)
    rows = made_rows(steps * batch, base.config.vocab_size, tiny=bench.options.tiny)
    points = [(4, 1e-3, 0), (16, 1e-3, 1), (16, 3e-4, 2), (64, 1e-4, 3)]
    recipes = [
        made_recipe(batch, precision, rank=rank, alpha=2.0 * rank, learning_rate=rate, seed=seed, dropout=0.0)
        for rank, rate, seed in points
    ]
    recipes = fitting(bench, shape, dtype, recipes, full_batch(batch, max(len(tokens) for tokens, _ in rows)))
    dropping = [dataclasses.replace(recipe, dropout=0.1) for recipe in recipes]
    pack = _pack_losses(base, rows, recipes)
    dropped = _pack_losses(base, rows, dropping)
    return {
        "pack": pack,
        "trainer": [_trainer_losses(base, rows, recipe) for recipe in recipes],
        "again": _pack_losses(base, rows, recipes) == pack,
        "dropped": dropped[:1],
        "dropped_alone": _pack_losses(base, rows, dropping[:1]),
    }


def _pack_losses(base: Any, rows: list[Any], recipes: Sequence[Any]) -> list[list[float]]:
    """By adapter, the loss of each step and at last that of the validation."""
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.steps import Diverged, Step, Trained

    found: list[list[float]] = [[] for _ in recipes]
    for number, event in train_pack(base, rows, rows[:4], recipes, at="last"):
        if isinstance(event, Diverged):
            raise event
        if isinstance(event, Step) and event.training_loss is not None and event.validation_loss is None:
            found[number].append(event.training_loss)
        elif isinstance(event, Trained):
            found[number].append(event.loss)
    return found


def _trainer_losses(base: Any, rows: list[Any], recipe: Any) -> list[float]:
    from meshtune.training.steps import Trained
    from meshtune.training.trainer import train

    found: list[float] = []
    for event in train(base, rows, rows[:4], recipe, at="last"):
        if isinstance(event, Trained):
            found.append(event.loss)
        elif event.training_loss is not None and event.validation_loss is None:
            found.append(event.training_loss)
    return found


def _compare_losses(bench: Bench, line: dict[str, Any], setting: str) -> None:
    if "fault" in line:
        bench.compared("losses", f"{setting}: {line['fault']}", None, None, ())
        return
    pairs = {
        "pack of 4 | Trainer and PEFT, no dropout": (line["pack"], line["trainer"]),
        "an adapter in a pack | alone, dropout .1": (line["dropped"], line["dropped_alone"]),
    }
    for name, (ours, theirs) in pairs.items():
        flat = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
        far = max(abs(a - b) for a, b in flat)
        what = f"{setting}: loss after {len(ours[0]) - 1} steps, {name}; low and high over steps and adapters"
        ratios = [b / a for a, b in flat]
        more = {"largest_difference": far, "first": ours[0][0], "repeats_bitwise": line["again"]}
        bench.compared("losses", what, round(ours[0][-1], 6), round(theirs[0][-1], 6), ratios, **more)


# ---- speed


@dataclass
class Clock:
    """Real and padded tokens of the steps after those that warm up, until there are enough."""

    bench: Bench
    warm_up: int
    least: int
    seconds: float
    most: int = 24
    steps: int = 0
    real: int = 0
    padded: int = 0
    begun: float = 0.0
    took: float = 0.0
    gate: Callable[[], None] | None = None  # waited at between the warm-up and the first timed step

    def tick(self, real: int, padded: int) -> bool:
        """After each step; whether it was the last that is wanted."""
        self.steps += 1
        if self.steps > self.warm_up:
            self.real, self.padded = self.real + real, self.padded + padded
        elif self.steps == self.warm_up:
            self.bench.wait()
            if self.gate is not None:
                self.gate()
            self.begun = time.perf_counter()
        timed = self.steps - self.warm_up
        if timed < self.least or (timed < self.most and time.perf_counter() - self.begun < self.seconds):
            return False
        self.bench.wait()
        self.took = time.perf_counter() - self.begun
        return True

    def line(self, parameters: int) -> dict[str, Any]:
        rate = self.real / self.took
        return {
            "rate": round(rate, 1),
            "step": round(self.took / (self.steps - self.warm_up), 4),
            "steps": self.steps - self.warm_up,
            "padding": round(self.padded / self.real, 3),
            "tflops": round(4e-12 * parameters * rate, 3),  # forward, and the gradient of the input: what is useful
        }


def speed(bench: Bench, late: Callable[[], bool]) -> None:
    tiny = bench.options.tiny
    batches, packs = ((2,), (1, 2)) if tiny else ((4, 16), (1, 4, 8, 16))
    if late():
        return
    peak = bench.cell("speed", f"product {bench.options.device}", lambda: {"tflops": _product(bench)})
    groups = [(shape, batch) for shape in bench.options.shapes for batch in batches]
    rounds = 2 if tiny else ROUNDS
    for left, (shape, batch) in zip(range(len(groups), 0, -1), groups, strict=True):
        share = (bench.options.seconds - (now() - bench.results.begun("speed"))) / left
        begun, measured = time.monotonic(), 0
        for number in range(rounds):
            sides = _sides(bench, shape, batch, packs, number)
            spent = time.monotonic() - begun
            # Another round only where the group's share of the time is likely to hold it.
            no_time = measured > 0 and spent + spent / measured > share
            if no_time or (measured == 0 and number >= FINISHED):
                break
            for count in sides:
                if not late():
                    bench.cell(
                        "speed",
                        _cell(shape, batch, count, number),
                        functools.partial(_round, bench, shape, batch, count),
                    )
            measured += bool(sides)
        if _news(bench, _group(shape, batch)):
            _compare_speed(bench, shape, batch, packs, rounds, peak.get("tflops"))


def _group(shape: str, batch: int) -> str:
    return f"speed {shape} batch {batch} "


def _cell(shape: str, batch: int, count: int, number: int) -> str:
    return f"{_group(shape, batch)}{f'pack {count}' if count else 'Trainer'} round {number}"


def _sides(bench: Bench, shape: str, batch: int, packs: Sequence[int], number: int) -> list[int]:
    """What is to be measured yet in a round: 0 is Trainer. A side that failed at first is not tried again."""
    first = {side: bench.results.of(_cell(shape, batch, side, 0)) or {} for side in (0, *packs)}
    if number and "fault" in first[0]:
        return []
    able = [side for side in first if number == 0 or "fault" not in first[side]]
    return [side for side in able if bench.results.of(_cell(shape, batch, side, number)) is None]


def _news(bench: Bench, group: str) -> bool:
    """Whether something was measured that no comparison has told yet."""
    own = [x for x in bench.results.lines() if x["card"] == bench.results.card and not x.get("begun")]
    cells = [at for at, x in enumerate(own) if x.get("cell", "").startswith(group)]
    told = [at for at, x in enumerate(own) if x.get("group") == group]
    return max(cells, default=-1) > max(told, default=-1)


def _product(bench: Bench) -> float:
    """The device's rate on a large product in bf16, in TFLOP/s: what shares of its peak are counted against."""
    torch, size = bench.torch, 8192 if bench.cuda else 512
    left = torch.randn(size, size, device=bench.options.device, dtype=torch.bfloat16)
    found = []
    for _ in range(13):
        bench.wait()
        begun = time.perf_counter()
        left @ left
        bench.wait()
        found.append(time.perf_counter() - begun)
    return round(2e-12 * size**3 / statistics.median(found[3:]), 2)


def _round(bench: Bench, shape: str, batch: int, count: int) -> dict[str, Any]:
    """One side once, its warm-up before it: a pack of so many, or Trainer."""
    from meshtune.training.memory.formula import full_batch

    base = bench.base(shape, "bfloat16")
    clock = Clock(bench, 1, 2, 0.0) if bench.options.tiny else Clock(bench, 2, 4, 2.5)
    rows = made_rows(40 if bench.options.tiny else 1000, base.config.vocab_size, tiny=bench.options.tiny)
    recipe, more = made_recipe(batch, "bfloat16"), {}
    if count:
        longest = full_batch(batch, max(len(tokens) for tokens, _ in rows))
        members = fitting(bench, shape, "bfloat16", [recipe] * count, longest)
        time_pack(base, rows, members, clock)
        more["pass_tokens"] = members[0].pass_tokens
    else:
        time_trainer(base, rows, recipe, clock)
    line = clock.line(sum(weight.numel() for weight in base.parameters())) | more
    bench.machine.free(bench.options.device)
    return line


def time_pack(base: Any, rows: list[Any], recipes: Sequence[Any], clock: Clock) -> None:
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.steps import Step

    before = 0
    with contextlib.closing(train_pack(base, rows, rows[:1], recipes, at="last")) as events:
        for number, event in events:
            if number == len(recipes) - 1 and isinstance(event, Step) and event.training_loss is not None:
                real, before = len(recipes) * (event.tokens - before), event.tokens
                if clock.tick(real, real):
                    return
    raise RuntimeError("there are no more rows")


def time_trainer(base: Any, rows: list[Any], recipe: Any, clock: Clock, model: Any = None) -> None:
    """Trainer and PEFT as they are set up by hand: padded, grouped by length, its own loss.

    `model`: with an adapter that somebody else has put on the base.
    """
    import tempfile

    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    from meshtune.training.adapter_config import lora_config
    from meshtune.training.checkpoints import adapted
    from meshtune.training.loss import collate
    from meshtune.training.models import quiet

    batches: list[tuple[int, int]] = []  # Trainer fetches one ahead, so that they are counted where they are made

    def counted(items: list[dict[str, Any]]) -> dict[str, Any]:
        made = collate([item["row"] for item in items])
        batches.append((int(made["attention_mask"].sum()), made["attention_mask"].numel()))
        return made

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = clock.tick(*batches[state.global_step - 1])

    own = adapted(base, lora_config(base, recipe), 0) if model is None else contextlib.nullcontext(model)
    with tempfile.TemporaryDirectory() as folder, quiet(), own as model:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            num_train_epochs=1,
            bf16=True,
            use_cpu=base.device.type == "cpu",
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
            dataloader_pin_memory=base.device.type == "cuda",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else batches would be split over all GPUs
        items = [{"input_ids": row[0], "row": row} for row in rows]  # `input_ids`: what lengths are read from
        trainer = Trainer(model, arguments, counted, train_dataset=items, callbacks=[Ticks()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if not clock.took:
        raise RuntimeError("there are no more rows")


def _compare_speed(bench: Bench, shape: str, batch: int, packs: Sequence[int], rounds: int, peak: float | None) -> None:
    for count in packs:
        pairs, faults = [], []
        for number in range(rounds):
            sides = [bench.results.of(_cell(shape, batch, side, number)) for side in (count, 0)]
            faults += [
                f"{who}: {x['fault']}" for who, x in zip(("pack", "Trainer"), sides, strict=True) if x and "fault" in x
            ]
            if all(x is not None and "rate" in x for x in sides):
                pairs.append([x for x in sides if x is not None])
        setting = f"{shape} in bf16, batches of {batch}, real tokens/s: pack of {count} | Trainer and PEFT one by one"
        group = _group(shape, batch)
        if not pairs:
            if faults:
                bench.compared("speed", f"{setting}: {faults[0]}", None, None, (), group=group)
            continue
        ours, theirs = (statistics.median(pair[side]["rate"] for pair in pairs) for side in (0, 1))
        own, other = pairs[-1]
        more = {
            "group": group,
            "rounds": len(pairs),
            "pass_tokens": own["pass_tokens"],
            "step": own["step"],
            "step_trainer": other["step"],
            "padding_trainer": other["padding"],
            "tflops": own["tflops"],
            "share_of_peak": round(own["tflops"] / peak, 4) if peak else None,
        }
        bench.compared(
            "speed", setting, round(ours, 1), round(theirs, 1), [a["rate"] / b["rate"] for a, b in pairs], **more
        )


# ---- memory


def memory(bench: Bench, late: Callable[[], bool]) -> None:
    if bench.options.tiny:
        cells = [(2, 32, count, {}) for count in (0, 1, 2)]
    else:
        cells = [(4, 256, count, {}) for count in (0, 1, 4, 8, 16)]
        cells += [(16, 256, count, {}) for count in (0, 1, 8)]
        cells += [(4, 256, 8, {"rank": 128}), (4, 256, 8, {"dropout": 0.0})]
        cells += [(16, 256, 8, {"gradient_checkpointing": True}), (1, 8192, 1, {}), (2, 2048, 4, {}), (2, 2048, 0, {})]
    for shape in bench.options.shapes:
        for dtype in ("bfloat16", "float32"):
            for batch, length, count, changes in cells if dtype == "bfloat16" else cells[:3]:
                if late():
                    return
                who = f"pack of {count}" if count else "Trainer"
                extra = "".join(f", {name} {value}" for name, value in changes.items())
                setting = f"{shape} in {dtype}, training in bf16, {batch} rows of {length} tokens, {who}{extra}"
                cell = f"memory {setting}"
                if bench.results.of(cell) is not None:
                    continue
                recipe = made_recipe(batch, "bfloat16", **{"dropout": 0.05, **changes})
                members, predicted = _predicted(bench, shape, dtype, recipe, length, count)
                line = bench.cell(
                    "memory", cell, functools.partial(_memory, bench, shape, dtype, members or [recipe], length, count)
                )
                _compare_memory(bench, line, predicted, setting, members[0].pass_tokens if members else None)


def _predicted(
    bench: Bench, shape: str, dtype: str, recipe: Any, length: int, count: int
) -> tuple[list[Any], dict[str, int]]:
    """The members of a pack, none for Trainer; and the bytes that are predicted."""
    from meshtune.training.memory.formula import Batch, of_recipe

    rows = made_rows(recipe.batch_size, 100, length=length)
    batch = Batch(recipe.batch_size, length, sum(int(trained[1:].sum()) for _, trained in rows))
    if not count:
        device = bench.options.device
        return [], of_recipe(numbers_of(shape, dtype), recipe, batch, device=device, dtype=dtype).to_dict()
    members = [dataclasses.replace(recipe, seed=seed) for seed in range(count)]
    members = fitting(bench, shape, dtype, members, batch)
    return members, pack_setting(bench, shape, dtype, batch).memory(members).to_dict()


def _memory(bench: Bench, shape: str, dtype: str, recipes: Sequence[Any], length: int, count: int) -> dict[str, Any]:
    """Bytes at the peak of two steps and a validation of as many tokens as one ever has."""
    from meshtune.training.loss import batch_limit
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.steps import Diverged
    from meshtune.training.trainer import train

    base, device = bench.base(shape, dtype), bench.options.device
    rows = made_rows(2 * recipes[0].batch_size, base.config.vocab_size, length=length)
    validation = made_rows(max(1, batch_limit(base.device) // length), base.config.vocab_size, length=length)
    bench.machine.free(device)
    bench.machine.reset_peak(device)
    if count:
        events: Any = (event for _, event in train_pack(base, rows, validation, recipes, at="last"))
    else:
        events = train(base, rows, validation, recipes[0], at="last")
    for event in events:
        if isinstance(event, Diverged):
            raise event
    line: dict[str, Any] = {"peak": bench.machine.peak(device)}
    if bench.cuda:
        there, whole = bench.torch.cuda.mem_get_info()
        line["reserved"] = bench.torch.cuda.max_memory_reserved()
        line["outside"] = whole - there - bench.torch.cuda.memory_reserved()  # the context, and other processes
    bench.machine.free(device)
    return line


def _compare_memory(
    bench: Bench, line: dict[str, Any], predicted: dict[str, int], setting: str, pass_tokens: int | None
) -> None:
    # Torch's allocator knows nothing of the context; a CPU's peak is the whole process.
    told = predicted["total"] - (predicted["overhead"] if bench.cuda else 0)
    more: dict[str, Any] = {"pass_tokens": pass_tokens, "activations_predicted": mib(predicted["activations"])}
    what = f"{setting}: MiB, predicted | measured"
    if line.get("peak") is None:
        why = line.get("fault", "the peak cannot be measured")
        bench.compared("memory", f"{what}: {why}", mib(told), None, (), **more)
        return
    more["activations"] = mib(line["peak"] - told + predicted["activations"])
    more |= {name: mib(line[name]) for name in ("reserved", "outside") if name in line}
    bench.compared("memory", what, mib(told), mib(line["peak"]), [line["peak"] / told], **more)


# ---- launches


def launches(bench: Bench, late: Callable[[], bool]) -> None:
    adapters, batch = (2, 2) if bench.options.tiny else (8, 8)
    for shape in bench.options.shapes:
        for dtype in ("bfloat16", "float32"):
            for dropout in (0.05, 0.0):
                cell = f"launches {shape} {dtype} dropout {dropout}"
                if late():
                    return
                if bench.results.of(cell) is not None:
                    continue
                work = functools.partial(_launches, bench, shape, dtype, dropout, adapters, batch)
                line = bench.cell("launches", cell, work)
                what = f"{shape} in {dtype}, {adapters} adapters x {batch} rows, dropout {dropout}: launches of a pass"
                ours, theirs = line.get("counted"), line.get("profiled")
                more = {name: line[name] for name in ("layers", "attention", "kernels") if name in line}
                told = f"{what}, counted | by the profiler{': ' + line['fault'] if 'fault' in line else ''}"
                bench.compared("launches", told, ours, theirs, [theirs / ours] if ours and theirs else (), **more)


def _launches(bench: Bench, shape: str, dtype: str, dropout: float, adapters: int, batch: int) -> dict[str, Any]:
    """Of one pass, after another by which what is compiled was compiled."""
    from torch.profiler import ProfilerActivity, profile

    from meshtune.training.packed.base import packed
    from meshtune.training.packed.flat_adapter import FlatAdapter
    from meshtune.training.packed.launches import count
    from meshtune.training.packed.rows import Portion, lay_out

    base, kind = bench.base(shape, dtype), getattr(bench.torch, dtype)
    rows = made_rows(batch, base.config.vocab_size, tiny=bench.options.tiny)
    with packed(base, kind) as pack:
        made = [FlatAdapter(base, made_recipe(batch, dtype, dropout=dropout, seed=n), kind) for n in range(adapters)]
        laid = lay_out([Portion(adapter, rows, 0.01, 0) for adapter in made], base.device, 8)

        def once() -> None:
            pack.losses(laid, train=True)[1].backward()
            bench.wait()

        once()
        counted = count(once)
        line = {
            "counted": counted.total,
            "kernels": dict(counted.kernels.most_common(12)),
            "layers": base.config.num_hidden_layers,
            "attention": pack.now.path,
        }
        if bench.cuda:
            once()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                once()
            names = [x.name for x in seen.events() if x.device_type == bench.torch.autograd.DeviceType.CUDA]
            line["profiled"] = len([name for name in names if not name.startswith("Memcpy HtoD")])
        return line


def mib(count: int) -> float:
    return round(count / 2**20, 1)


def more() -> Any:
    """The module with the further parts."""
    sys.path.insert(0, str(Path(__file__).parent))
    import gpu_more

    return gpu_more


def child(options: Options) -> None:
    """Measure what is not known yet, part by part."""
    bench = Bench(options)
    import peft
    import transformers

    versions = {"torch": bench.torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    bench.results.add("", {**versions, "bytes": bench.bytes})
    for part in options.parts:
        begun = bench.results.begun(part)
        bench.results.add(part, {"cell": part, "entered": True}, shown=False)

        def late(begun: float = begun) -> bool:
            return now() - begun > options.seconds

        own = {"losses": losses, "speed": speed, "memory": memory, "launches": launches}
        (own[part] if part in own else getattr(more(), part))(bench, late)
        if late():
            print(f"{part}: its {options.seconds:g} s are over; run it again to go on", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--shapes", nargs="+", choices=LLAMAS, help="135M 1B 8B")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="one tiny shape, for a test: it measures nothing")
    parser.add_argument("--seconds", type=float, default=420.0, help="of a part; it begins nothing later")
    parser.add_argument("--patience", type=float, default=150.0, help="seconds until a measurement is given up")
    parser.add_argument("--results", type=Path, default=Path("build/gpu.jsonl"), help="what was measured so far")
    parser.add_argument("--retry", action="store_true", help="measure anew what ended with a fault in earlier calls")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]}: allowed are {', '.join(PARTS)}")
    return given


def main() -> None:
    given = parsed()
    if given.child:
        told = json.loads(given.child)
        child(Options(**{name: tuple(x) if isinstance(x, list) else x for name, x in told.items()}))
        return
    given.results.parent.mkdir(parents=True, exist_ok=True)
    shapes = tuple(given.shapes or (("tiny",) if given.tiny else ("135M", "1B", "8B")))
    parts = tuple(given.parts) or PARTS
    options = Options(parts, shapes, given.device, given.seconds, str(given.results), given.tiny, given.retry, now())
    command = [sys.executable, __file__, "--child", json.dumps(dataclasses.asdict(options))]
    sys.exit(min(1, supervise(command, Results(given.results, "", options.call), given.patience)))


if __name__ == "__main__":
    main()
