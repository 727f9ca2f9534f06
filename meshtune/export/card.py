"""The model card of what is taken away: README.md as the Hugging Face Hub reads it, made from plain values.

The values are those of `training.json` beside it (`meshtune.export.chosen.describe`, and what was trained or merged);
the words stand in `card.md.j2`, the Python that loads the folder in `load.py.j2`. No row of the data and no path of
this machine stands in it, but for a base model that is a local folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.data.embedded import GGUF, PUBLISHED
from meshtune.system import yaml_file
from meshtune.system.templates import templates


def card(facts: Mapping[str, Any], name: str) -> str:
    """The card of a folder called `name`."""
    point, study, model = facts["point"], facts["study"], facts["model"]["name"]
    summary, baseline = facts["data"]["summary"], study["baseline"] or {}
    losses = [("untuned base model", study["untuned"] or {}), ("baseline", baseline)]
    if (best := study["best"]) is not None:
        losses.append((f"best (trial {best['trial']})", best))
    if not point["best"] and point["trial"] != baseline.get("trial"):
        losses.append((point["name"], point))
    trial = {name: _plain(value).replace(" ", "") for name, value in point["hyperparameters"].items()}
    # What the point names is said again where it was trained otherwise, as `--epochs` does.
    again = {n: v for n, v in facts["training"].items() if n not in trial or _plain(v).replace(" ", "") != trial[n]}
    endings = {ending: count for ending, count in study["trials"].items() if count and ending != "proposed"}
    return _filled(
        "card.md.j2",
        facts,
        name,
        head=_head(model, merged=facts.get("merged") is not None),
        embedded=model == "embedded",
        base_name=_hub_id(model) or Path(model).name,
        gguf=GGUF,
        baseline=baseline,
        is_baseline=point["trial"] == baseline.get("trial"),
        losses=losses,
        settings={name: value for name, value in again.items() if value is not None},
        summary=summary,
        sides=[summary[side] for side in ("train", "validation", "test")],
        endings=[f"{count} {ending.replace('_', ' ')}" for ending, count in endings.items()],
    )


def loading_code(facts: Mapping[str, Any], name: str) -> str:
    """Python that loads the folder `name`, with the losses that were measured."""
    return _filled("load.py.j2", facts, name).rstrip("\n")


def _filled(template: str, facts: Mapping[str, Any], name: str, **values: Any) -> str:
    environment = templates(Path(__file__).parent)
    environment.filters |= {
        "number": lambda value: "-" if value is None else f"{value:.4f}",
        "grouped": lambda value: f"{value:,}",
        "cell": lambda text: text.replace("|", "\\|"),
        "plain": _plain,
        "listed": lambda versions: ", ".join(f"{package} {version}" for package, version in versions.items()),
    }
    model = facts["model"]
    values |= {
        "name": name,
        "merged": facts.get("merged"),
        "path": Path(model["name"]),
        "bits": model.get("quantization"),
        "dtype": "float32" if model["dtype"] == "auto" else model["dtype"],
        "remote": ", trust_remote_code=True" if model["trust_remote_code"] else "",
    }
    return environment.get_template(template).render({**facts, **values})


def _head(model: str, *, merged: bool) -> str:
    """What the Hub reads, as YAML."""
    values: dict[str, Any] = {}
    if base := _hub_id(model):
        values |= {"base_model": base, "base_model_relation": "finetune" if merged else "adapter"}
    if model == "embedded":
        values["license"] = "apache-2.0"
    values |= {"library_name": "transformers" if merged else "peft", "pipeline_tag": "text-generation"}
    return yaml_file.dump({**values, "tags": ["lora", "meshtune"]})


def _hub_id(model: str) -> str | None:
    if model == "embedded":
        return PUBLISHED
    return None if Path(model).is_absolute() or model.endswith(".gguf") else model


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"  # `training.json` has all digits
    return str(value).lower() if isinstance(value, bool) else str(value)
