"""What is wrong with a config, in words: places and messages. Lines and files are added by `meshtune.config.file`.

`of_values` checks what one section's types cannot see, on the values as they stand in the file, so that it reports
together with `of_types`, which translates pydantic's findings.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from meshtune.config import goals
from meshtune.config.budget import of_rule
from meshtune.config.presets import BASELINES, PRESETS
from meshtune.config.sections import PLACEHOLDERS, StudyConfig, is_command, is_trainer
from meshtune.errors import nearest
from meshtune.space import hyperparameters
from meshtune.space.samplers import that_can
from meshtune.system import storage_url
from meshtune.system.yaml_file import Place

_ALLOWED = {
    "bool_type": "true or false is",
    "int_type": "a whole number is",
    "int_from_float": "a whole number is",
    "float_type": "a number is",
    "finite_number": "a finite number is",
    "string_type": "text is (in quotes, where it looks like a number)",
    "tuple_type": "a list is",
    "dict_type": "a mapping of keys is",
    "model_type": "a mapping of keys is",
    "too_short": "at least one is",
}
_BOUNDS = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least")}
_BOUNDS |= {"less_than": ("lt", "below"), "less_than_equal": ("le", "at most")}


def of_values(values: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Faults that join sections: what the objective needs, and the names and values of hyperparameters."""
    space, baseline = values.get("space", "recommended"), values.get("baseline", {})
    own, given = (section if isinstance(section, Mapping) else {} for section in (space, baseline))
    if isinstance(baseline, str) and (is_command(values.get("objective")) or baseline not in BASELINES):
        words = (
            "a mapping such as {x: 1}"
            if is_command(values.get("objective"))
            else f"{', '.join(BASELINES)}, or a mapping"
        )
        return [(("baseline",), f"`{baseline}` is not allowed; {words} is.{nearest(baseline, BASELINES)}")]
    if is_trainer(values.get("objective")):
        found = _of_trainer(space, own, given)
    elif is_command(values.get("objective")):
        found = _of_command(space, own, given)
    else:
        found = _of_lora(values, space, own, given)
    for name, value in own.items():
        if isinstance(value, list):
            twice = [item for index, item in enumerate(value) if item in value[:index]]
            found += [(("space", name), f"`{item}` stands twice: remove one") for item in twice]
    if own and not _searched(own):
        found.append((("space",), "nothing is searched: give at least one interval or list of choices"))
    found += _of_warm_start(values.get("warm_start"), values.get("sampler", "auto"))
    worker = values.get("worker")
    plain = is_command(values.get("objective")) and not is_trainer(values.get("objective"))
    if plain and isinstance(worker, Mapping) and worker.get("devices_per_trial", 1) != 1:
        text = "a program chooses its devices itself: leave it out"
        found.append((("worker", "devices_per_trial"), text))
    storage = values.get("storage")
    if isinstance(storage, str) and (wrong := storage_url.fault(storage)):
        found.append((("storage",), wrong))
    return found + goals.faults(values) + _of_budget(values)


def _of_budget(values: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """What a program that meshtune knows nothing of cannot give."""
    objective = values.get("objective")
    if not isinstance(objective, Mapping) or not is_command(objective) or is_trainer(objective):
        return []
    found: list[tuple[Place, str]] = []
    stopping = of_rule(values.get("early_stopping", "none"))
    if not isinstance(stopping, Mapping) or stopping.get("rule") != "none":
        text = "a program has no rungs, so its trials cannot end early: write `none`, or leave it out"
        found.append((("early_stopping",), text))
    command = objective["command"] if isinstance(objective["command"], list) else []
    if values.get("replicates") and not any("{seed}" in str(part) for part in command):
        text = "the command must hold {seed}, such as `--seed={seed}`: without it all replicates are one and the same"
        found.append((("replicates",), text))
    return found


def _of_warm_start(given: Any, sampler: Any) -> list[tuple[Place, str]]:
    """What only some samplers can use."""
    section = sampler if isinstance(sampler, Mapping) else {"name": sampler}
    name = section.get("import") or section.get("name", "auto")
    if given is None or not isinstance(name, str) or name in that_can("shifted"):
        return []
    if name not in that_can("earlier"):
        words = f"the sampler `{name}` cannot start from earlier trials; {', '.join(that_can('earlier'))} can"
        return [(("warm_start",), words)]
    if isinstance(given, Mapping) and given.get("values") == "shifted":
        words = f"`shifted` is for the samplers {', '.join(that_can('shifted'))}; {name} takes values as_is"
        return [(("warm_start", "values"), words)]
    return []


def _of_lora(
    values: Mapping[str, Any], space: Any, own: Mapping[str, Any], given: Mapping[str, Any]
) -> list[tuple[Place, str]]:
    examples = (("model", "model: embedded"), ("data", "data: {sources: [{path: rows.jsonl}]}"))
    found: list[tuple[Place, str]] = [
        ((name,), f"must be given: a LoRA objective needs it, such as `{example}`")
        for name, example in examples
        if name not in values
    ]
    found += _of_preset(space)
    for key, section in (("space", own), ("baseline", given)):
        found += [((key, name), message) for name, message in hyperparameters.faults(section)]
    return found


def _of_preset(space: Any) -> list[tuple[Place, str]]:
    if not isinstance(space, str) or space in PRESETS:
        return []
    words = f"there are {', '.join(PRESETS)}, or a mapping of hyperparameters"
    return [(("space",), f"unknown preset `{space}`; {words}.{nearest(space, PRESETS)}")]


def _of_trainer(space: Any, own: Mapping[str, Any], given: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Names that are none of a LoRA fine-tuning are keys of the tool; whether its file has them is seen in the plan."""
    found = _of_preset(space)
    for key, section in (("space", own), ("baseline", given)):
        known = {name: value for name, value in section.items() if name in hyperparameters.LORA}
        found += [((key, name), message) for name, message in hyperparameters.faults(known)]
        for name, value in section.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
                found.append(((key, name), "a name is made of letters, digits and _: it is a key of the tool's file"))
            elif name == "lr_scheduler" and "wsd" in (value if isinstance(value, list) else [value]):
                found.append(((key, name), "`wsd` needs a number of steps there: choose constant, linear or cosine"))
    unknown = [name for name in given if name not in (*own, *hyperparameters.LORA)]
    return found + [(("baseline", n), f"unknown; the space has {', '.join(own)}.{nearest(n, own)}") for n in unknown]


def _of_command(space: Any, own: Mapping[str, Any], given: Mapping[str, Any]) -> list[tuple[Place, str]]:
    found: list[tuple[Place, str]] = []
    if isinstance(space, str):
        found.append((("space",), "a command's space must be given, a mapping such as {x: {low: 0, high: 1}}"))
    for name in own:
        if name in PLACEHOLDERS:
            found.append((("space", name), f"`{name}` is filled in by meshtune: choose another name"))
        elif not re.fullmatch(r"[A-Za-z_]\w*", name):
            found.append(
                (("space", name), "a name is made of letters, digits and _: it is a placeholder of the command")
            )
    unknown = [name for name in given if name not in own]
    found += [(("baseline", n), f"unknown; the space has {', '.join(own)}.{nearest(n, own)}") for n in unknown]
    if given:
        missing = [name for name in _searched(own) if name not in given]
        found += [(("baseline",), f"`{name}` is missing: it is searched") for name in missing]
    return found


def _searched(own: Mapping[str, Any]) -> list[str]:
    return [name for name, v in own.items() if isinstance(v, Mapping) or (isinstance(v, list) and len(v) > 1)]


def of_types(error: ValidationError) -> list[tuple[Place, str]]:
    """Faults inside sections."""
    return [
        (_place(details["loc"]), _message(details))
        for details in error.errors(include_url=False)
        if not (details["type"] == "too_short" and details["input"])  # short because its items have faults of their own
    ]


def _place(location: Iterable[str | int]) -> Place:
    """A pydantic location without the tags of unions."""
    return tuple(part for part in location if not (isinstance(part, str) and part.startswith("<")))


def _message(details: Any) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        known, word = _known_keys(details["loc"][:-1]), str(details["loc"][-1])
        return f"unknown key; there are {', '.join(known)}.{nearest(word, known)}"
    if kind == "missing":
        return "must be given"
    if kind == "value_error":
        return str(context["error"])
    shown = f"`{_short(given)}` is not allowed; "
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        union = str(details["loc"][-1])
        words = union.strip("<>") if " or " in union else ", ".join(allowed)
        return shown + f"allowed are {words}.{nearest(str(given), allowed)}"
    if kind in _BOUNDS:
        name, relation = _BOUNDS[kind]
        return shown + f"it must be {relation} {context[name]:g}"
    return shown + _ALLOWED.get(kind, str(details["msg"]))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(location: Iterable[str | int]) -> list[str]:
    """The keys of the section at a location; its tags tell which variant of a union it is."""
    sections: list[type[BaseModel]] = [StudyConfig]
    for part in location:
        if isinstance(part, str) and part.startswith("<"):
            sections = [section for section in sections if f"<{section.__name__}>" == part] or sections
        elif isinstance(part, str):
            fields = [section.model_fields[part] for section in sections if part in section.model_fields]
            annotations = [item for field in fields for item in (field.annotation, *field.metadata)]
            sections = [found for item in annotations for found in _sections(item)] or sections
    return [field.alias or name for section in sections for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _sections(argument)
