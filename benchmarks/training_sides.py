"""The sides of the training benchmarks: Hugging Face's Trainer with PEFT as users set it up, and the packed trainer.

A side is a program of its own (`python benchmarks/training_sides.py SPEC`): it loads the model once, makes so many
optimizer steps as each line of its input says, answers with real tokens, padded tokens and seconds, and waits, without
using a core, while others are measured. Both sides train the same batches in the same order, except where Trainer
groups rows by length.

Rows are made up: speed does not depend on what is said. Their lengths are lognormal, with the means of two instruction
sets (`short`: 26 tokens of prompt and 45 of answer, `long`: 106 and 31), and rounds of the whole set's padding.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data.store import epoch_order
from meshtune.training.loss import Row
from meshtune.training.models import embedded_folder, load_model, quiet
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.steps import Step

BATCH = 4
SETS = {"short": ((26, 0.45), (45, 0.72)), "long": ((106, 0.25), (31, 0.72))}  # (mean, spread of the logarithm) each
LONGEST = 256  # tokens of an answer
COUNT = 1000  # rows: Trainer then groups 50 batches by length, as it does with any larger set
LORA = {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-4}


@dataclass(frozen=True)
class Spec:
    """One process of a side.

    Attributes:
        side: `ours` or `trainer`. model: `embedded` or a folder. rows: a name of `SETS`. steps: to be made in all.
        precision: `float32` or `bfloat16`. adapters: trained together (ours). quantization: of the base (ours).
        grouped: rows by length (Trainer).
    """

    side: str
    model: str = "embedded"
    rows: str = "short"
    precision: str = "float32"
    threads: int = 1
    adapters: int = 1
    grouped: bool = False
    steps: int = 60
    quantization: Literal["int8", "nf4"] | None = None


def folder_of(model: str) -> str:
    return str(embedded_folder()) if model == "embedded" else model


@functools.cache
def made_rows(name: str, words: int, steps: int, batch: int = BATCH) -> tuple[Row, ...]:
    """Rows in the order of training, whose first `steps` batches have the padding of the whole set."""
    numbers = np.random.default_rng(0)
    count = max(COUNT, batch * (steps + 1))
    parts = []
    for mean, spread in SETS[name]:
        drawn = np.clip(numbers.lognormal(0.0, spread, count), None, LONGEST / mean)
        parts.append(np.maximum(2, np.rint(mean * drawn / drawn.mean())).astype(np.int64))
    prompts, answers = parts
    lengths = prompts + answers
    orders = [epoch_order(count, seed, 0) for seed in range(200)]
    whole = statistics.mean(padding(lengths[order], batch) for order in orders)
    order = min(orders, key=lambda order: abs(padding(lengths[order][: batch * steps], batch) - whole))
    return tuple(
        (
            numbers.integers(0, words, lengths[row], dtype=np.int32),
            np.arange(lengths[row]) >= prompts[row],
        )
        for row in order
    )


def padding(lengths: NDArray[np.int64], batch: int) -> float:
    """Padded tokens a real one, in batches of rows as they come."""
    batches = lengths[: len(lengths) // batch * batch].reshape(-1, batch)
    return float(batch * batches.max(1).sum() / batches.sum())


def our_recipe(precision: str) -> Recipe:
    training = TrainingConfig(batch_size=BATCH, epochs=1, precision=precision, lr_scheduler="linear")
    return recipe(training, LORA, seed=0)


def our_order(rows: Sequence[Row]) -> list[Row]:
    """Rows such that the order of an epoch gives them back as they were."""
    placed: list[Row] = list(rows)
    for row, place in zip(rows, epoch_order(len(rows), 0, 0).tolist(), strict=True):
        placed[place] = row
    return placed


Tick = Callable[[int, int], None]  # after each step: its real and its padded tokens


def train_ours(spec: Spec, rows: Sequence[Row], tick: Tick) -> None:
    base = load_model(ModelConfig(name=spec.model, quantization=spec.quantization), "cpu")
    recipes = [our_recipe(spec.precision)] * spec.adapters
    before = 0
    for number, event in train_pack(base, our_order(rows), rows[:1], recipes, at="last"):
        if isinstance(event, Step) and event.training_loss is not None and number == spec.adapters - 1:
            tokens, before = spec.adapters * (event.tokens - before), event.tokens
            tick(tokens, tokens)


def trainer_for(spec: Spec, rows: Sequence[Row], folder: str, callbacks: Sequence[Any], **arguments: Any) -> Any:
    """Trainer over a PEFT model, padded to the longest row of a batch: what tutorials set up."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    found = folder_of(spec.model)
    base = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules="all-linear",
    )
    given = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        learning_rate=LORA["learning_rate"],
        num_train_epochs=1,
        bf16=spec.precision == "bfloat16",
        use_cpu=True,
        # The rows are shuffled already: the same batches as ours.
        train_sampling_strategy="group_by_length" if spec.grouped else "sequential",
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    return Trainer(
        get_peft_model(base, lora),
        given,
        DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(found)),
        train_dataset=[as_item(row) for row in rows],
        callbacks=list(callbacks),
    )


def as_item(row: Row) -> dict[str, list[int]]:
    """A row as Trainer's data sets have it."""
    tokens, trained = row
    labels = np.where(trained, tokens, -100)
    return {"input_ids": tokens.tolist(), "attention_mask": [1] * len(tokens), "labels": labels.tolist()}


def train_theirs(spec: Spec, rows: Sequence[Row], tick: Tick) -> None:
    import tempfile

    from transformers import PrinterCallback, TrainerCallback

    batches: list[tuple[int, int]] = []  # Trainer fetches one ahead, so that they are counted where they are made

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tick(*batches[state.global_step - 1])

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(spec, rows, folder, [Ticks()])
        trainer.remove_callback(PrinterCallback)
        collate = trainer.data_collator

        def counted(items: list[Any]) -> Any:
            made = collate(items)
            batches.append((int(made["attention_mask"].sum()), made["attention_mask"].numel()))
            return made

        trainer.data_collator = counted
        trainer.train()


class _Over(Exception):
    """Nobody wants further steps."""


def serve(spec: Spec) -> None:
    """Make the steps that are asked for on standard input; the answers have standard output to themselves."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(spec.threads)
    words = AutoConfig.from_pretrained(folder_of(spec.model)).vocab_size
    rows = made_rows(spec.rows, words, spec.steps)
    left = real = padded = 0
    begun = time.perf_counter()

    def asked() -> None:
        nonlocal left, real, padded, begun
        line = sys.stdin.readline()
        if not line.strip():
            raise _Over
        left, real, padded, begun = int(line), 0, 0, time.perf_counter()

    def tick(tokens: int, with_padding: int) -> None:
        nonlocal left, real, padded
        left, real, padded = left - 1, real + tokens, padded + with_padding
        if left == 0:
            print(json.dumps([real, padded, time.perf_counter() - begun]), file=answers, flush=True)
            asked()

    try:
        asked()
        with quiet():
            (train_ours if spec.side == "ours" else train_theirs)(spec, rows, tick)
    except _Over:
        return
    raise SystemExit("there are no more rows")


class Process:
    """A side that runs. `begin` a round, then fetch its `answer`: real tokens, padded tokens, seconds."""

    def __init__(self, spec: Spec):
        quiet_pools = {"OMP_NUM_THREADS": str(spec.threads), "OMP_WAIT_POLICY": "passive"}
        environment = {**os.environ, **quiet_pools, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        root = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        command = [sys.executable, __file__, json.dumps(dataclasses.asdict(spec))]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True, env=environment
        )

    def begin(self, steps: int) -> None:
        assert self._child.stdin is not None
        print(steps, file=self._child.stdin, flush=True)

    def answer(self) -> tuple[int, int, float]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended early, with {self._child.wait()}; its message is above")
        real, padded, seconds = json.loads(line)
        return real, padded, seconds

    def close(self) -> None:
        self._child.communicate()  # closes its input, at which it ends


@dataclass(frozen=True)
class Rounds:
    """What a side did, round by round: real tokens, padded tokens, seconds until the last of its processes was done."""

    tokens: tuple[int, ...]
    padded: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Real tokens a second, of all rounds."""
        return sum(self.tokens) / sum(self.seconds)

    @property
    def rates(self) -> list[float]:
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


def race(sides: Mapping[str, Sequence[Spec]], rounds: int, steps: int, warm_up: int) -> dict[str, Rounds]:
    """Each side in turn, its processes side by side, so many rounds of so many steps after the warm-up."""
    sides = {
        name: [dataclasses.replace(spec, steps=warm_up + rounds * steps) for spec in specs]
        for name, specs in sides.items()
    }
    running: dict[str, list[Process]] = {}
    found: dict[str, list[tuple[int, int, float]]] = {name: [] for name in sides}
    try:
        for number in range(rounds + 1):
            for name, specs in sides.items():
                if number == 0:
                    running[name] = [Process(spec) for spec in specs]
                for process in running[name]:
                    process.begin(steps if number else warm_up)
                answers = [process.answer() for process in running[name]]
                if number:
                    real, padded, seconds = zip(*answers, strict=True)
                    found[name].append((sum(real), sum(padded), max(seconds)))
    finally:
        for process in (process for processes in running.values() for process in processes):
            process.close()
    return {name: Rounds(*zip(*answers, strict=True)) for name, answers in found.items()}


def compare(name: str, setting: str, ours: Rounds, theirs: Rounds) -> None:
    """Print the JSON line of two sides: the ratio is the median of the rounds' ratios, low and high are their ends."""
    ratios = [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]
    pad = sum(theirs.padded) / sum(theirs.tokens)
    print_line(name, f"{setting}; {pad:.2f} padded tokens a real one there", ours.rate, theirs.rate, ratios)


def print_line(name: str, setting: str, ours: float | None, theirs: float | None, ratios: Sequence[float] = ()) -> None:
    if not ratios and ours is not None and theirs is not None:
        ratio = ours / theirs
    else:
        ratio = statistics.median(ratios) if ratios else None
    line = {
        "name": name,
        "ours": None if ours is None else round(ours, 1),
        "theirs": None if theirs is None else round(theirs, 1),
        "ratio": None if ratio is None else round(ratio, 2),
        "low": round(min(ratios), 2) if ratios else None,
        "high": round(max(ratios), 2) if ratios else None,
        "setting": setting,
    }
    print(json.dumps(line), flush=True)


def processor() -> str:
    """The processor's name, and what it has for bfloat16."""
    try:
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    except OSError:
        names = []
    units = "AMX" if torch.cpu._is_amx_tile_supported() else "AVX-512"
    if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        units = "no"
    return f"{names[0].partition(':')[2].strip() if names else 'unknown processor'}, {units} bf16 units"


if __name__ == "__main__":
    serve(Spec(**json.loads(sys.argv[1])))
