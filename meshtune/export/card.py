"""The model card of what is taken away: README.md as the Hugging Face Hub reads it, made from plain values.

The values are those of `training.json` beside it (`meshtune.export.chosen.describe`, and what was trained or merged).
No row of the data and no path of this machine stands in it, but for a base model that is a local folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.data.embedded import GGUF
from meshtune.system import yaml_file

ORIGINAL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of which the embedded model is a 4-bit copy
_CONFIG = {
    "int8": "BitsAndBytesConfig(load_in_8bit=True)",
    "nf4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
}
_METHOD = (
    "Method: Tribes, Benarroch-Lelong, Lu and Kobyzev, Hyperparameter Optimization for Large Language Model"
    " Instruction-Tuning (2023)."
)


def card(facts: Mapping[str, Any], name: str) -> str:
    """The card of a folder called `name`."""
    sections = [_head(facts), _introduction(facts), _loading(facts, name), _losses(facts), _hyperparameters(facts)]
    sections += [_training(facts), _data(facts), _choice(facts), _licence(facts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def loading_code(facts: Mapping[str, Any], name: str) -> str:
    """Python that loads the folder `name`, with the losses that were measured."""
    model = facts["model"]
    dtype = "float32" if model["dtype"] == "auto" else model["dtype"]
    remote = ", trust_remote_code=True" if model["trust_remote_code"] else ""
    if facts.get("merged") is not None:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f'model = AutoModelForCausalLM.from_pretrained("{name}"{remote})\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
        )
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    if model["name"].endswith(".gguf"):
        file = Path(model["name"])
        return (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig\n"
            f'base = AutoModelForCausalLM.from_pretrained("{file.parent}", gguf_file="{file.name}", dtype="{dtype}",\n'
            "                                            quantization_config=GgufConfig(dequantize=True))\n"
            f'model = PeftModel.from_pretrained(base, "{name}")\n{tokenizer}'
        )
    if model.get("quantization"):
        return (
            "from peft import AutoPeftModelForCausalLM\n"
            "from transformers import AutoTokenizer, BitsAndBytesConfig\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{name}", dtype="{dtype}"{remote},\n'
            f"    quantization_config={_CONFIG[model['quantization']]})\n{tokenizer}"
        )
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        "from transformers import AutoTokenizer\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{name}", dtype="{dtype}"{remote})\n{tokenizer}'
    )


def _head(facts: Mapping[str, Any]) -> str:
    merged = facts.get("merged") is not None
    model = facts["model"]["name"]
    values: dict[str, Any] = {}
    if base := (ORIGINAL if model == "embedded" else _hub_id(model)):
        values["base_model"] = base
        values["base_model_relation"] = "finetune" if merged else "adapter"
    if model == "embedded":
        values["license"] = "apache-2.0"
    values["library_name"] = "transformers" if merged else "peft"
    values["pipeline_tag"] = "text-generation"
    values["tags"] = ["lora", "meshtune"]
    return f"---\n{yaml_file.dump(values)}---"


def _introduction(facts: Mapping[str, Any]) -> str:
    point, study = facts["point"], facts["study"]
    rank = point["hyperparameters"]["rank"]
    what = (
        f"A full model: {_model(facts)} with a LoRA adapter of rank {rank} merged into its weights."
        if facts.get("merged") is not None
        else f"A LoRA adapter of rank {rank} for {_model(facts)}."
    )
    if point["trial"] is None:
        which = "the baseline, which the study was to beat"
    elif point["best"]:
        which = f"{point['name']}, the best of {study['trials']['complete']} complete trials"
    else:
        is_baseline = point["trial"] == (study["baseline"] or {}).get("trial")
        which = f"{point['name']}, {'the baseline' if is_baseline else 'one'} of {study['trials']['proposed']} trials"
    again = f"Its hyperparameters are those of {which}; it was trained once more"
    how = f"It is {which}" if facts["made"] == "export" else again
    title = Path(_model_name(facts)).name
    return f"# {title}, tuned with meshtune\n\n{what} {how} (study `{study['name']}`, meshtune {facts['meshtune']})."


def _loading(facts: Mapping[str, Any], name: str) -> str:
    text = f"## Load it\n\n```python\n{loading_code(facts, name)}\n```"
    style = facts["data"]["summary"]["prompt"]
    if style == "chat":
        text += "\n\nAsk it through the tokenizer's chat template (`tokenizer.apply_chat_template`), as it was trained."
    elif style == "alpaca":
        text += "\n\nIt was trained on prompts in Stanford Alpaca's template, and is to be asked in the same."
    bits = facts["model"].get("quantization")
    if facts.get("merged") is not None:
        if bits:
            text += (
                f"\n\nIts weights were {bits} while the adapter was trained, and are written out: this is the model"
                " that was measured, not the published one with the adapter."
            )
        return text
    if bits:
        text += (
            f"\n\nIt was trained and measured over weights in {bits}. Over the base as it is published it works too,"
            " with slightly other losses."
        )
    if Path(facts["model"]["name"]).is_absolute():
        text += (
            "\n\nThe base model was a folder or file of the machine that trained this: elsewhere, write where yours is"
            " as `base_model_name_or_path` in `adapter_config.json`."
        )
    if facts["model"]["name"] == "embedded":
        text += (
            "\n\n`adapter_config.json` names the dequantized base as meshtune unpacks it on this machine"
            " (`meshtune.training.models.embedded_folder()` on another)."
            f" `{ORIGINAL}` can stand in its place: its weights differ by the rounding to 4 bits, and so do losses."
        )
    return text


def _losses(facts: Mapping[str, Any]) -> str:
    point, study, run = facts["point"], facts["study"], facts["run"]
    rows = [("untuned base model", study["untuned"] or {}), ("baseline", study["baseline"] or {})]
    if (best := study["best"]) is not None:
        rows.append((f"best (trial {best['trial']})", best))
    if not point["best"] and point["trial"] != (study["baseline"] or {}).get("trial"):
        rows.append((point["name"], point))
    lines = [(name, _number(entry.get("loss")), _number(entry.get("test_loss"))) for name, entry in rows]
    if facts["made"] == "train":
        lines.append(("**this adapter**", "not measured" if run["all_data"] else _number(run["loss"]), ""))
    if (merged := facts.get("merged")) is not None:
        seen = " (rows that it was trained on)" if run["all_data"] else ""
        lines.append(("**this model, merged**", _number(merged["loss"]) + seen, ""))
    text = "## Losses\n\n" + _table(("", "validation loss", "test loss"), lines)
    text += "\n\nCross-entropy in nats a label token, the mean over all label tokens of the rows."
    for other, name in (("best_against_baseline", "the baseline"), ("best_against_untuned", "the untuned model")):
        if (gap := study.get(other)) is not None:
            unseen, interval = "1 test row", "one row is too few for an interval"
            if gap["low"] is not None:
                unseen = f"{gap['rows']} test rows"
                interval = f"95 % interval {-gap['high']:+.4f} to {-gap['low']:+.4f}, paired by row"
            gain = f"the gain of the best over {name} is {-gap['mean']:+.4f}"
            text += f"\nOn {unseen}, which the search never saw, {gain} ({interval})."
    if best is not None and best["trial"] == (study["baseline"] or {}).get("trial"):
        text += "\nThe baseline itself is the best point that was found."
    if merged is not None and merged["loss"] is not None:
        text += f"\nMeasured again after merging; before it, the adapter's loss was {_number(merged['adapter_loss'])}."
    if run["all_data"]:
        text += (
            "\n**This adapter was trained on the validation and test rows too: nothing was held out, so its own loss"
            " cannot be told.** The losses above are of the trials, which were trained on the training rows alone."
        )
    return text


def _hyperparameters(facts: Mapping[str, Any]) -> str:
    searched = [(name, f"`{_plain(value)}`") for name, value in facts["point"]["hyperparameters"].items()]
    point = {name: _plain(value).replace(" ", "") for name, value in facts["point"]["hyperparameters"].items()}
    # What the point names is told again where it was trained otherwise, as `--epochs` does.
    rest = {n: v for n, v in facts["training"].items() if n not in point or _plain(v).replace(" ", "") != point[n]}
    fixed = [(name, f"`{_plain(value)}`") for name, value in rest.items() if value is not None]
    return (
        "## Hyperparameters\n\n"
        + _table(("of the trial", ""), searched)
        + "\n\n"
        + _table(("and for the whole study" if facts["made"] == "export" else "and of this training", ""), fixed)
    )


def _training(facts: Mapping[str, Any]) -> str:
    run = facts["run"]
    at = "the last" if run["at"] == "last" else "the best by validation loss"
    lines = [(str(e["epoch"]), _number(e["training_loss"]), _number(e["validation_loss"])) for e in run["epochs"]]
    which = " of all three sides (training, validation and test)" if run["all_data"] else ""
    text = (
        f"## Training\n\n{run['rows']:,} rows{which}, {run['tokens']:,} tokens in {run['seconds']:.0f} s,"
        f" seed {run['seed']}. The epoch that is kept: {run['epoch']}, {at}."
    )
    if run.get("note"):
        text += f" {run['note']}."
    if facts["made"] == "train" and facts["versions"] != facts["study"]["versions"]:
        text += f" Trained with {_versions(facts['versions'])}, not with the study's versions."
    return text + "\n\n" + _table(("epoch", "training loss", "validation loss"), lines)


def _data(facts: Mapping[str, Any]) -> str:
    data, summary = facts["data"], facts["data"]["summary"]
    sides = [summary[side] for side in ("train", "validation", "test")]
    lines = []
    for number, source in enumerate(summary["sources"]):
        counts = [f"{side['by_source'][number]:,}" for side in sides]
        lines.append((f"`{source['name']}`", source["format"], f"{source['kept']:,} of {source['read']:,}", *counts))
    lines.append(("label tokens", "", "", *(f"{side['label_tokens']:,}" for side in sides)))
    head = ("source", "format", "rows kept", "training", "validation", "test")
    return (
        "## Data\n\n"
        + _table(head, lines)
        + f"\n\nMixture {summary['mixture']}, prompt style {summary['prompt']}, at most {summary['max_length']:,}"
        f" tokens a row, loss on {_train_on(data['train_on'])}. Fingerprint (sha256 of the tokens of all sides):"
        f" `{data['fingerprint']}`."
    )


def _choice(facts: Mapping[str, Any]) -> str:
    study = facts["study"]
    ended = {name: count for name, count in study["trials"].items() if count and name != "proposed"}
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in ended.items())
    unfinished = "" if study["state"] == "finished" else " The search was not finished when this was written."
    return (
        f"## How it was chosen\n\nBy black-box optimization of the validation loss: sampler `{study['sampler']}`, seed"
        f" {study['seed']}; trials: {counts}. The best is the complete trial with the lowest validation loss, at the"
        f" {study['at']} epoch.{unfinished}\n\nVersions: {_versions(study['versions'])}. {_METHOD}"
    )


def _licence(facts: Mapping[str, Any]) -> str:
    if facts["model"]["name"] != "embedded":
        return (
            "## Licence\n\nThe licence of the base model holds for what is made of it; that of the data may set limits"
            " too. Name your own in the head of this file."
        )
    contained = (
        "This model contains these weights" if facts.get("merged") is not None else "They are not in this folder"
    )
    return (
        f"## Licence\n\nThe base is `{GGUF}`: `{ORIGINAL}` (Apache-2.0) with weights of 4 bits, written out in float32."
        f" They are as exact as that file, not as the original. {contained}. The data may set limits of their own."
    )


def _model(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    if model["name"] == "embedded":
        return f"`{ORIGINAL}` (its 4-bit copy, dequantized)"
    revision = f" at revision `{model['revision']}`" if model["revision"] else ""
    return f"`{_model_name(facts)}`{revision}"


def _model_name(facts: Mapping[str, Any]) -> str:
    name = facts["model"]["name"]
    return ORIGINAL if name == "embedded" else (_hub_id(name) or Path(name).name)


def _hub_id(name: str) -> str | None:
    local = Path(name).is_absolute() or name.endswith(".gguf") or name == "embedded"
    return None if local else name


def _train_on(what: str | None) -> str:
    turns = {"last": "the last answer of a conversation", "everything": "every token"}
    return turns.get(what or "", "the answers alone")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(head) - 1)
    return "\n".join([line(head), rule, *map(line, lines)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"  # `training.json` has all digits
    return str(value).lower() if isinstance(value, bool) else str(value)
