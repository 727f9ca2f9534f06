"""Further parts of `gpu.py`, which runs them: a base in few bits, measuring, a whole study, processes, others' kernels.

- nf4: a pack of 4 against Trainer with PEFT, one adapter after the other, over the same base in nf4 (bitsandbytes).
- scoring: rows a second that are measured, of 8 adapters in packed passes against one after the other, padded, by PEFT.
- processes: a pack of 4 against as many processes side by side on the card, each with Trainer and PEFT.
- kernels: a pack of 4 against Trainer with PEFT on Liger's kernels, and by Unsloth, where these are installed.
- study: a small study of 8 trials by `meshtune tune`, in packs of 8 against trial by trial. Needs meshtune's own
  dependencies, such as Optuna.
What is not installed gives one line that says so. Not covered: several GPUs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu import ROOT, Bench, Clock, fitting, llama, made_recipe, made_rows, time_pack, time_trainer

TOGETHER = 4  # adapters of a pack, and processes
SCORED = 8
LONGEST, BEAT = 210.0, 20.0  # seconds of a study at most, and between signs of life
NEEDED = ("optuna", "pydantic", "sqlalchemy", "typer", "tokenizers")  # of a study


def missing(bench: Bench, part: str, *packages: str) -> str | None:
    """The first of these packages that is not installed; a line says so."""
    absent = next((name for name in packages if importlib.util.find_spec(name) is None), None)
    if absent is not None and bench.results.of(f"{part} {absent}") is None:
        bench.results.add(part, {"cell": f"{part} {absent}", "skipped": absent}, shown=False)
        bench.compared(part, f"skipped: {absent} is not installed", None, None, ())
    return absent


def against(
    bench: Bench, late: Callable[[], bool], part: str, setting: str, sides: Sequence[Callable[[], dict[str, Any]]]
) -> None:
    """Measure ours and theirs, each once, and compare their rates."""
    if bench.results.of(f"{part} {setting} told") is not None:
        return
    lines = []
    for who, work in zip(("ours", "theirs"), sides, strict=True):
        if late():
            return
        lines.append(bench.cell(part, f"{part} {setting} {who}", work))
    bench.results.add(part, {"cell": f"{part} {setting} told"}, shown=False)
    fault = next((f"{who}: {x['fault']}" for who, x in zip(("ours", "theirs"), lines, strict=True) if "fault" in x), "")
    ours, theirs = (line.get("rate") for line in lines)
    ratios = () if fault or not ours or not theirs else (ours / theirs,)
    more = {
        f"{name}_{who}": x[name] for who, x in zip(("ours", "theirs"), lines, strict=True) for name in x.keys() & KEPT
    }
    bench.compared(part, f"{setting}: {fault}" if fault else setting, ours, theirs, ratios, **more)


KEPT = {"peak", "seconds", "losses"}


def _clock(bench: Bench) -> Clock:
    return Clock(bench, 1, 2, 0.0) if bench.options.tiny else Clock(bench, 2, 4, 4.0)


def _rows(bench: Bench, base: Any) -> list[Any]:
    return made_rows(40 if bench.options.tiny else 1000, base.config.vocab_size, tiny=bench.options.tiny)


def _rate(bench: Bench, base: Any, count: int, batch: int, quantization: str | None = None) -> dict[str, Any]:
    """Tokens a second of a pack of so many, or of Trainer (0)."""
    from meshtune.training.memory.formula import full_batch

    clock, rows, recipe = _clock(bench), _rows(bench, base), made_recipe(batch, "bfloat16")
    bench.machine.reset_peak(bench.options.device)
    if count:
        longest = full_batch(batch, max(len(tokens) for tokens, _ in rows))
        dtype = str(base.dtype).removeprefix("torch.")
        time_pack(base, rows, fitting(bench, base.name_or_path, dtype, [recipe] * count, longest), clock)
    else:
        time_trainer(base, rows, recipe, clock)
    parameters = sum(weight.numel() for weight in base.parameters())
    line = clock.line(parameters) | {"peak": bench.machine.peak(bench.options.device)}
    bench.machine.free(bench.options.device)
    return line


# ---- nf4


def nf4(bench: Bench, late: Callable[[], bool]) -> None:
    if late() or missing(bench, "nf4", "bitsandbytes"):
        return
    batch = 2 if bench.options.tiny else 4
    for shape in bench.options.shapes:
        setting = f"{shape} in nf4 and bf16, batches of {batch}, real tokens/s: pack of {TOGETHER} | Trainer and PEFT"
        sides = [functools.partial(_quantized_rate, bench, shape, count, batch) for count in (TOGETHER, 0)]
        against(bench, late, "nf4", setting, sides)


def _quantized_rate(bench: Bench, shape: str, count: int, batch: int) -> dict[str, Any]:
    return _rate(bench, bench.base(shape, "bfloat16", "nf4"), count, batch)


# ---- scoring


def scoring(bench: Bench, late: Callable[[], bool]) -> None:
    for shape in bench.options.shapes:
        setting = f"{shape} in bf16, rows/s measured: {SCORED} adapters packed | one after the other by PEFT"
        sides = [functools.partial(work, bench, shape) for work in (_scored_together, _scored_alone)]
        against(bench, late, "scoring", setting, sides)


def _adapters(bench: Bench) -> list[Any]:
    return [made_recipe(4, "bfloat16", dropout=0.0, seed=seed) for seed in range(2 if bench.options.tiny else SCORED)]


def _scored_together(bench: Bench, shape: str) -> dict[str, Any]:
    from meshtune.training.loss import batch_limit
    from meshtune.training.packed.base import packed
    from meshtune.training.packed.flat_adapter import FlatAdapter
    from meshtune.training.packed.rows import Portion, gathered, in_portions, lay_out

    base = bench.base(shape, "bfloat16")
    rows, limit = _rows(bench, base)[: 8 if bench.options.tiny else 400], batch_limit(base.device)
    lengths = [len(tokens) for tokens, _ in rows]
    adapters = [FlatAdapter(base, recipe, base.dtype) for recipe in _adapters(bench)]
    parts = list(in_portions(range(len(rows)), lengths, len(rows), limit))
    portions = [Portion(adapter, [rows[row] for row in part]) for adapter in adapters for part in parts]
    with packed(base, base.dtype) as pack:
        passes = gathered(portions, limit)
        pack.row_losses(lay_out(passes[0], base.device))  # warms up
        bench.wait()
        begun = time.perf_counter()
        for together in passes:
            pack.row_losses(lay_out(together, base.device))
        bench.wait()
        return {"rate": round(len(rows) * len(adapters) / (time.perf_counter() - begun), 2)}


def _scored_alone(bench: Bench, shape: str) -> dict[str, Any]:
    from meshtune.training.adapter_config import lora_config
    from meshtune.training.checkpoints import adapted
    from meshtune.training.loss import row_losses

    base = bench.base(shape, "bfloat16")
    rows = _rows(bench, base)[: 8 if bench.options.tiny else 400]
    row_losses(base, rows[:8])
    took, recipes = 0.0, _adapters(bench)
    for recipe in recipes:
        with adapted(base, lora_config(base, recipe), recipe.seed):
            bench.wait()
            begun = time.perf_counter()
            row_losses(base, rows)
            bench.wait()
            took += time.perf_counter() - begun
    return {"rate": round(len(rows) * len(recipes) / took, 2)}


# ---- processes


def processes(bench: Bench, late: Callable[[], bool]) -> None:
    count, batch = (2, 2) if bench.options.tiny else (TOGETHER, 4)
    for shape in bench.options.shapes:
        setting = (
            f"{shape} in bf16, batches of {batch}, real tokens/s: pack of {count} | {count} processes with Trainer"
        )
        ours = functools.partial(_pack_rate, bench, shape, count, batch)
        against(bench, late, "processes", setting, (ours, functools.partial(_side_by_side, bench, shape, count, batch)))


def _pack_rate(bench: Bench, shape: str, count: int, batch: int) -> dict[str, Any]:
    return _rate(bench, bench.base(shape, "bfloat16"), count, batch)


def _side_by_side(bench: Bench, shape: str, count: int, batch: int) -> dict[str, Any]:
    """The rates of all processes together, which begin their timed steps at once."""
    bench.forget()  # the card's memory is theirs
    options = bench.options
    told = {"shape": shape, "batch": batch, "device": options.device, "tiny": options.tiny}
    command = [sys.executable, __file__, json.dumps(told)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if options.device == "cpu" else None
    with contextlib.ExitStack() as stack:
        sides = []
        for _ in range(count):
            side = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            stack.enter_context(side)
            stack.callback(side.kill)
            sides.append(side)
        for side in sides:
            if side.stdout is None or side.stdout.readline() != "ready\n":
                raise RuntimeError("out of memory" if side.wait() == NO_ROOM_CODE else "a process ended")
        for side in sides:
            assert side.stdin is not None
            side.stdin.write("go\n")
            side.stdin.flush()
        rates = [json.loads(side.stdout.readline())["rate"] for side in sides if side.stdout is not None]
    return {"rate": round(sum(rates), 1)}


NO_ROOM_CODE = 4


def side(told: dict[str, Any]) -> None:
    """One of several processes: ready after its warm-up, it waits for all."""
    from meshtune.training import machine

    def wait() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    bench = Bench.of_device(told["device"], tiny=told["tiny"])
    try:
        base = llama(told["shape"], "bfloat16", told["device"])
        clock = _clock(bench)
        clock.gate = wait
        time_trainer(base, _rows(bench, base), made_recipe(told["batch"], "bfloat16"), clock)
    except Exception as error:
        if machine.is_out_of_memory(error):
            sys.exit(NO_ROOM_CODE)
        raise
    print(json.dumps(clock.line(1)), flush=True)


# ---- kernels


def kernels(bench: Bench, late: Callable[[], bool]) -> None:
    batch = 2 if bench.options.tiny else 4
    for package, theirs in (("liger_kernel", _liger), ("unsloth", _unsloth)):
        if late() or missing(bench, "kernels", package):
            continue
        for shape in bench.options.shapes:
            setting = f"{shape} in bf16, batches of {batch}, real tokens/s: pack of {TOGETHER} | Trainer with {package}"
            ours = functools.partial(_pack_rate, bench, shape, TOGETHER, batch)
            against(bench, late, "kernels", setting, (ours, functools.partial(theirs, bench, shape, batch)))


def _liger(bench: Bench, shape: str, batch: int) -> dict[str, Any]:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    bench.forget()  # its forwards stay replaced
    base = bench.base(shape, "bfloat16")
    try:
        _apply_liger_kernel_to_instance(model=base)
        return _rate(bench, base, 0, batch)
    finally:
        bench.forget()


def _unsloth(bench: Bench, shape: str, batch: int) -> dict[str, Any]:
    """In a process of its own: it replaces parts of Transformers when it is imported."""
    bench.forget()
    told = {"shape": shape, "batch": batch, "device": bench.options.device, "tiny": bench.options.tiny, "by": "unsloth"}
    done = subprocess.run([sys.executable, __file__, json.dumps(told)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def by_unsloth(told: dict[str, Any]) -> None:
    """Its own loading and adapter, in Trainer as everywhere here."""
    from unsloth import FastLanguageModel

    bench = Bench.of_device(told["device"], tiny=told["tiny"])
    with tempfile.TemporaryDirectory() as folder:
        made = llama(told["shape"], "bfloat16", "cpu")
        rows = _rows(bench, made)
        made.save_pretrained(folder)
        _tokenizer(made.config.vocab_size).save_pretrained(folder)
        del made
        base, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=1024, dtype=None, load_in_4bit=False)
    recipe = made_recipe(told["batch"], "bfloat16")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        base, r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules=targets
    )
    clock = _clock(bench)
    time_trainer(base, rows, recipe, clock, model=model)
    print(json.dumps(clock.line(1)), flush=True)


def _tokenizer(words: int) -> Any:
    """Of bytes, as far as the vocabulary goes, and made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<{number}>" for number in range(len(names), words)]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    template = "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )


# ---- study


def study(bench: Bench, late: Callable[[], bool]) -> None:
    if late() or missing(bench, "study", *NEEDED):
        return
    trials = 2 if bench.options.tiny else SCORED
    for shape in bench.options.shapes:
        setting = f"{shape}, a study of {trials} trials of one epoch, trials an hour: in packs of {trials} | one by one"
        sides = [functools.partial(_tuned, bench, shape, trials, pack) for pack in (trials, 1)]
        against(bench, late, "study", setting, sides)


def _tuned(bench: Bench, shape: str, trials: int, pack: int) -> dict[str, Any]:
    """Trials an hour of a study, loading and all, and their losses."""
    bench.forget()
    tiny = bench.options.tiny
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = llama(shape, "bfloat16", "cpu")
        made.save_pretrained(folder / "model")
        _tokenizer(made.config.vocab_size).save_pretrained(folder / "model")
        del made
        (folder / "rows.json").write_text(json.dumps(list(_questions(24 if tiny else 500))))
        config = {
            "model": {"name": "./model", "device": bench.options.device, "dtype": "bfloat16"},
            "data": {"sources": [{"path": "rows.json"}], "validation": 8 if tiny else 100, "test": 0},
            "training": {"epochs": 1, "batch_size": 4},
            "space": {"rank": 8, "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}, "dropout": 0.05},
            "sampler": {"name": "random"},
            "generation": {"rows": 0},
            "budget": {"trials": trials},
            "worker": {"pack": pack, "processes": 1},
        }
        (folder / "study.yaml").write_text(json.dumps(config))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        command, path = [sys.executable, "-m", "meshtune.cli"], str(folder / "study.yaml")
        begun = time.perf_counter()
        _ended(bench, [*command, "tune", path], environment)
        took = time.perf_counter() - begun
        done = subprocess.run(
            [*command, "status", path, "--json", "--trials"], capture_output=True, env=environment, check=True
        )
        losses = [trial["loss"] for trial in json.loads(done.stdout)["all"]]
    return {"rate": round(3600 * trials / took, 2), "losses": losses}


def _ended(bench: Bench, command: list[str], environment: dict[str, str]) -> None:
    """Run it to its end, with a sign of life now and then. Raises RuntimeError where it fails, or takes too long."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment) as running,
    ):
        for _ in range(round(LONGEST / BEAT)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if running.wait(BEAT) == 0:
                    return
                said.seek(0)
                raise RuntimeError(said.read().decode(errors="replace").strip()[-300:])
            bench.alive()
        running.terminate()
        raise RuntimeError(f"not done in {LONGEST:g} s")


def _questions(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        words = " ".join(str(number + step) for step in range(4 + number % 12))
        yield {"instruction": f"count from {number}", "input": "", "output": words}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    by_unsloth(given) if given.get("by") == "unsloth" else side(given)
