"""The memory of a pack of 8 against eight runs of Hugging Face's Trainer with PEFT side by side.

Both sides train the same rows of an instruction set's lengths (26 tokens of prompt and 45 of answer in the mean) in
batches of 4 at rank 16, dropout .05, on one thread a process, for some steps, and measure the loss on a few rows. What
counts is the most that all processes of a side hold at one moment: anonymous memory of each, and what is mapped from
files, such as libraries and a float32 base, once for all of them. One JSON line a precision, in MiB; ratio above 1:
ours takes less; low and high over repeats. Linux only; the other side needs 16 GB.

    python benchmarks/pack_memory.py [--members 8] [--steps 8] [--repeats 2] [--precision float32 bfloat16]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from meshtune.config.sections import Precision

BATCH, RANK, DROPOUT, RATE = 4, 16, 0.05, 2e-4
MEANS, SPREADS = (26, 45), (0.45, 0.72)  # of prompts and answers, lognormal
Row = tuple[np.ndarray, np.ndarray]


def made_rows(count: int) -> list[Row]:
    """Rows of (tokens, trained); what they say does not matter."""
    numbers = np.random.default_rng(0)
    parts = [
        np.maximum(2, np.rint(mean * np.exp(numbers.normal(0, spread, count) - spread**2 / 2))).astype(int)
        for mean, spread in zip(MEANS, SPREADS, strict=True)
    ]
    return [
        (numbers.integers(3, 49000, prompt + answer, dtype=np.int32), np.arange(prompt + answer) >= prompt)
        for prompt, answer in zip(*parts, strict=True)
    ]


def train_ours(rows: list[Row], validation: list[Row], members: int, precision: Precision) -> None:
    """One pack."""
    from meshtune.config.sections import ModelConfig, TrainingConfig
    from meshtune.training.models import load_model
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.recipe import recipe

    training = TrainingConfig(batch_size=BATCH, epochs=1, precision=precision)
    point = {"rank": RANK, "alpha": 2 * RANK, "dropout": DROPOUT, "learning_rate": RATE}
    base = load_model(ModelConfig(name="embedded"), "cpu")
    recipes = [recipe(training, point, seed) for seed in range(members)]
    for _ in train_pack(base, rows, validation, recipes, at="best"):
        pass


def train_theirs(rows: list[Row], validation: list[Row], precision: str) -> None:
    """One run of Trainer, as tutorials set it up."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from meshtune.training.models import embedded_folder

    folder = embedded_folder()
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, lora_dropout=DROPOUT, target_modules="all-linear"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token

    def examples(rows: list[Row]) -> list[dict[str, list[int]]]:
        return [
            {
                "input_ids": tokens.tolist(),
                "attention_mask": [1] * len(tokens),
                "labels": np.where(trained, tokens, -100).tolist(),
            }
            for tokens, trained in rows
        ]

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            bf16=precision == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=get_peft_model(base, lora),
            args=arguments,
            train_dataset=examples(rows),
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        )
        trainer.train()
        trainer.evaluate(examples(validation))


def peak(side: str, processes: int, options: argparse.Namespace, precision: str) -> float:
    """MiB that these processes hold at most, all together."""
    command = [sys.executable, __file__, "--side", side, "--members", str(options.members)]
    command += ["--steps", str(options.steps), "--precision", precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(processes)]
    most = 0
    try:
        while any(process.poll() is None for process in running):
            found = [held(process.pid) for process in running]
            most = max(most, sum(own for own, _ in found) + max(mapped for _, mapped in found))
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of side {side} failed")
    return most / 1024


def held(process: int) -> tuple[int, int]:
    """Anonymous and mapped memory of a process in KiB; (0, 0) once it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    found = {name: int(size) for name, size in re.findall(r"^Rss(Anon|File|Shmem):\s+(\d+) kB", text, re.M)}
    return found.get("Anon", 0), found.get("File", 0) + found.get("Shmem", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = made_rows(options.steps * BATCH + BATCH)
    trained, validation = rows[:-BATCH], rows[-BATCH:]
    if options.side == "ours":
        return train_ours(trained, validation, options.members, options.precision[0])
    if options.side == "theirs":
        return train_theirs(trained, validation, options.precision[0])
    for precision in options.precision:
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(peak("ours", 1, options, precision))
            theirs.append(peak("theirs", options.members, options, precision))
        ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
        line = {
            "name": "pack_memory",
            "ours": round(statistics.median(ours)),
            "theirs": round(statistics.median(theirs)),
            "ratio": round(statistics.median(ratios), 2),
            "low": round(min(ratios), 2),
            "high": round(max(ratios), 2),
            "setting": f"pack of {options.members} | as many Trainers side by side, rank {RANK}, {precision}, MiB",
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
