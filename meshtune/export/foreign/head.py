"""What a file for another tool says at its head: where it comes from, and what is different over there."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune._version import __version__
from meshtune.config.sections import RowsFile
from meshtune.export.foreign.training import ForeignStudy
from meshtune.training.recipe import DECAY, schedule, steps_of, warmup_steps

WIDTH = 100
OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "muon": "adamw_torch"}  # by Transformers' names


def origin(study: ForeignStudy) -> list[str]:
    """Lines about the study, the trial and its losses, as far as they are known."""
    facts = study.facts
    name = " ".join(str(facts.get("study", "")).split())
    trial = f", trial {facts['trial']}" if facts.get("trial") is not None else ""
    lines = [f"Written by meshtune {__version__}" + (f" from the study {name}{trial}." if name else f"{trial}.")]
    words = {"loss": "validation loss", "test_loss": "test loss"}
    words |= {"baseline_loss": "validation loss of the baseline"}
    words |= {"untuned_loss": "validation loss of the untuned model"}
    losses = [f"{word} {facts[key]:.6g}" for key, word in words.items() if facts.get(key) is not None]
    if losses:
        text = ", ".join(losses)
        lines.append(f"{text[0].upper()}{text[1:]} (mean over the label tokens).")
    return lines


def rounded(study: ForeignStudy, notes: list[str], tool: str) -> int:
    """Alpha as a whole number, at least 1, with a note where that is not the alpha that was found."""
    alpha = study.recipe.alpha
    whole = max(1, math.floor(alpha + 0.5))
    if whole != alpha:
        change = f"{100 * (whole / alpha - 1):+z.3g} %"
        notes.append(
            f"alpha: {tool} takes whole numbers: {alpha:.6g} is rounded to {whole}; the scale changes {change}."
        )
    return whole


def targets(study: ForeignStudy) -> list[str] | None:
    """The target modules by name; None for all linear ones."""
    modules = study.recipe.target_modules
    return None if isinstance(modules, str) else list(modules)


def scheduler(study: ForeignStudy, notes: list[str], key: str = "lr_scheduler_type", tool: str = "") -> dict[str, Any]:
    """The scheduler by the name of Transformers, whose `constant` knows no warm-up, and its arguments, if it has any.

    The decay of `wsd` is a number of steps there. Where the rows are not known, nor so the steps, a note says how many.
    """
    recipe, rows = study.recipe, study.facts.get("train_rows")
    if recipe.lr_scheduler == "constant" and not recipe.warmup_ratio:
        return {key: "constant"}
    steps = steps_of(recipe, rows) if rows else 100
    name, arguments = schedule(recipe, steps)
    if recipe.lr_scheduler != "wsd":
        return {key: name}
    counted = f"those of {rows:,} training rows" if rows else "an example, for the number of rows is not known"
    notes.append(
        f"lr_scheduler_kwargs: the rate falls in the last {100 * DECAY:g} % of the steps, which must be given as a "
        f"number; these are {counted}. Where there are more or fewer than {steps:,} steps, change what is given."
    )
    if tool == "LLaMA-Factory":  # it takes a third of the steps for stable ones where they are not given
        arguments["num_stable_steps"] = steps - warmup_steps(recipe, steps) - arguments["num_decay_steps"]
    return {key: name, "lr_scheduler_kwargs": arguments}


def mixed_precision(study: ForeignStudy, notes: list[str]) -> tuple[bool, bool]:
    """`bf16` and `fp16`; a precision that is not resolved becomes bf16, with a note."""
    precision = study.recipe.precision
    if precision == "auto":
        notes.append("precision: auto is written as bf16; on a device that has no bfloat16 change it.")
    return precision in ("auto", "bfloat16"), precision == "float16"


def trainer(
    study: ForeignStudy, notes: list[str], warmup: Mapping[str, Any] | None = None, tool: str = ""
) -> dict[str, Any]:
    """Arguments of Transformers' trainer: batches, epochs, the optimizer and its schedule, with `warmup`, precision."""
    recipe = study.recipe
    values: dict[str, Any] = {"per_device_train_batch_size": recipe.batch_size}
    values |= {"gradient_accumulation_steps": recipe.gradient_accumulation, "num_train_epochs": recipe.epochs}
    values |= {
        "optim": OPTIMIZERS[recipe.optimizer],
        "learning_rate": recipe.learning_rate,
        **scheduler(study, notes, tool=tool),
    }
    values |= {**(warmup or {}), "weight_decay": recipe.weight_decay, "max_grad_norm": recipe.max_grad_norm}
    values |= {"neftune_noise_alpha": recipe.neftune_alpha} if recipe.neftune_alpha else {}
    bf16, fp16 = mixed_precision(study, notes)
    return {**values, "bf16": bf16, "fp16": fp16}


def base(study: ForeignStudy) -> dict[str, Any]:
    """The base model by the names of Transformers' command lines."""
    values: dict[str, Any] = {"model_name_or_path": study.model_name}
    values |= {} if study.model.revision is None else {"model_revision": study.model.revision}
    return values | ({"trust_remote_code": True} if study.model.trust_remote_code else {})


def of_start(study: ForeignStudy) -> list[str]:
    """A note where the start weights have no key."""
    start = study.recipe.init_lora_weights
    return [] if start is True else [f"init_lora_weights: {start} has no key here; PEFT's usual start is taken."]


def of_rates(study: ForeignStudy) -> list[str]:
    """Notes where B's rate, or the optimizer, has no key."""
    ratio = study.recipe.lora_plus_ratio
    note = f"lora_plus_ratio: B was trained at {ratio:g} times the rate, which has no key here; one rate is taken."
    return [note] * (ratio != 1) + of_muon(study)


def of_muon(study: ForeignStudy) -> list[str]:
    """A note where Muon has no key."""
    if study.recipe.optimizer != "muon":
        return []
    return ["optimizer: muon has no counterpart here that does the same; AdamW is written, which wants another rate."]


def of_model(study: ForeignStudy) -> list[str]:
    """Notes about the base model."""
    found = []
    if study.model.name == "embedded":
        found.append(
            "model: the study trained over the weights that meshtune dequantizes from a GGUF file; the published "
            "ones, which are named here, differ a little."
        )
    if study.model.quantization is not None:
        found.append(
            f"model: the study trained and measured over weights in {study.model.quantization}, written out for each "
            "product; bitsandbytes' own layers, which other tools compute with, round a little more."
        )
    if study.model.name.endswith(".gguf"):
        found.append("model: a .gguf file, which this tool does not train: name the same model in another format.")
    return found


def of_data(study: ForeignStudy, *, cut: bool, shares: bool, files: bool) -> list[str]:
    """Notes about rows that are chosen or split in another way.

    Args:
        cut: whether the tool cuts long rows, which meshtune drops. shares: whether it mixes by shares.
        files: whether it takes validation rows from a file of their own.
    """
    data, found = study.data, []
    embedded = [source.embedded for source in data.sources if source.embedded]
    if embedded:
        found.append(
            f"data: the rows of {' and '.join(embedded)} come with meshtune; write them to the file that is named here "
            "(JSON lines with instruction, input and output), for instance out of `meshtune.data.embedded.rows`."
        )
    assumed = [source.path or source.dataset for source in study.sources if source.assumed]
    if assumed:
        found.append(f"data: the format of {' and '.join(assumed)} is not known; it is written as alpaca.")
    if not shares and any(source.share is not None for source in study.sources):
        listed = ", ".join(f"{source.share:g}" for source in study.sources if source.share is not None)
        found.append(f"data: all rows are taken here; the study mixed the sources by the shares {listed}.")
    if data.rows is not None:
        found.append(f"data: the study took at most {data.rows} rows, drawn by its seed; here all are taken.")
    if isinstance(data.validation, RowsFile) and not files:
        found.append("data: the validation rows had a file of their own; here a share of the rows is taken.")
    if data.test and not isinstance(data.test, RowsFile):
        found.append("data: the study held test rows back; here they are trained on.")
    if data.split_by is not None:
        found.append(f"data: rows that share `{data.split_by}` stayed on one side of the split; here they do not.")
    if cut:
        found.append("data: rows longer than the length are cut here; meshtune drops them.")
    found.append(
        "loss: this tool validates on rows that it draws itself and averages in its own way; its losses cannot be "
        "compared with the study's."
    )
    return found


def of_calls(study: ForeignStudy) -> list[str]:
    """A note where ShareGPT rows may call tools."""
    if all(source.format != "sharegpt" for source in study.sources):
        return []
    return [
        "data: what a `function_call` turn says is learned as its text here; meshtune gives it to the chat template as "
        "a tool call."
    ]


def of_epochs(study: ForeignStudy) -> list[str]:
    """A note where the adapter of an earlier epoch was kept."""
    epoch, epochs = study.facts.get("epoch"), study.recipe.epochs
    if epoch is None or epoch >= epochs:
        return []
    return [
        f"epochs: the loss was lowest after epoch {epoch} of {epochs}, and that adapter was kept; here all epochs are "
        "trained, with the schedule of the study."
    ]


def comment(study: ForeignStudy, notes: Sequence[str]) -> str:
    """The head of a file, every line a comment."""
    lines = [line for text in origin(study) for line in textwrap.wrap(text, WIDTH - 2)]
    if notes:
        lines.append("Different from the study, or not carried over:")
    for note in notes:
        lines += textwrap.wrap(
            " ".join(note.split()), WIDTH - 2, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
        )
    return "".join(f"# {_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    """No character that would end a comment, or that a file of settings may not hold."""
    return "".join(character if character.isprintable() else " " for character in line)
