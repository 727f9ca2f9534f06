"""`objectives`, `constraints` and `guide` of study.yaml: their section, their faults, and what they come to.

`faults` joins them with the other sections as these stand in the file: which quantities there are depends on the
objective, the space and the metrics, and what several objectives allow on the sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt

from meshtune.config.budget import of_rule
from meshtune.config.values import Section
from meshtune.errors import nearest
from meshtune.space.goals import (
    BENCHMARKS,
    GOLD,
    LOSS,
    MEMORY,
    PARAMETERS,
    PERPLEXITY,
    REFERENCES,
    Constraint,
    Goals,
    Names,
    Objective,
    constraint,
)
from meshtune.space.samplers import that_can

DECODED = ("rank", "alpha", "dropout", "learning_rate")  # hyperparameters that every point of a LoRA space has
SEVERAL, MEASURED = that_can("several"), that_can("constraints")

Found = list[tuple[tuple[str | int, ...], str]]


class GuideConfig(Section):
    """How quantities are measured that guide the search.

    Attributes:
        measure: quantities that are measured and shown, beside those of objectives and constraints.
        benchmarks: a folder of their files (absolute once read). limit: items of each, at most.
        text: general text for the perplexity: `embedded`, or a file (absolute once read).
    """

    measure: tuple[str, ...] = ()
    benchmarks: str | None = None
    limit: PositiveInt = 40
    text: str = "embedded"


def names_of(values: Mapping[str, Any]) -> Names:
    """The quantities that a study has, from its config as plain values."""
    objective, space = values.get("objective"), values.get("space")
    own = tuple(str(name) for name, entry in space.items() if _numeric(entry)) if isinstance(space, Mapping) else ()
    if isinstance(objective, Mapping) and "trainer" in objective:
        known = (*DECODED, *(name for name in own if name not in (*DECODED, "scale", "step")))
        return Names(known, (LOSS,), "eval_loss", other=True)
    if isinstance(objective, Mapping) and "command" in objective:
        return Names(own, (LOSS,), str(objective.get("result", "loss")), other=True)
    metrics = values.get("metrics")
    scored = tuple(str(name) for name in metrics) if isinstance(metrics, Mapping) else ()
    benchmarks = tuple(name for each in BENCHMARKS for name in (each, each + GOLD))
    searched = tuple(name for name in own if name not in (*DECODED, "scale", "step"))
    return Names((PARAMETERS, MEMORY, *DECODED, *searched), (LOSS, PERPLEXITY, *benchmarks, *scored))


def goals(values: Mapping[str, Any]) -> Goals:
    """The objectives and constraints of a config without faults, as plain values."""
    names, metrics = names_of(values), values.get("metrics") or {}
    objectives = []
    for name in values.get("objectives") or (LOSS,):
        quantity = names.quantity(name)
        bare = quantity.removesuffix(GOLD)
        higher = not names.other and bare in BENCHMARKS
        if quantity in metrics:
            higher = metrics[quantity].get("direction", "maximize") == "maximize"
        objectives.append(Objective(quantity, higher))
    return Goals(tuple(objectives), tuple(constraint(text, names) for text in values.get("constraints") or ()))


def wanted(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Measured quantities that each trial of a config without faults is asked for, the validation loss left out."""
    names, found = names_of(values), goals(values)
    also = (values.get("guide") or {}).get("measure", ())
    asked = dict.fromkeys([*found.quantities, *map(names.quantity, also)])
    return tuple(name for name in asked if name not in names.known and name != LOSS)


def faults(values: Mapping[str, Any]) -> Found:
    """What is wrong with the three keys, beside what other sections say."""
    names = names_of(values)
    found: Found = []
    objectives = _list(values.get("objectives"), [LOSS])
    quantities: dict[str, str] = {}
    for index, name in enumerate(objectives):
        try:
            quantity = names.quantity(name)
        except ValueError as error:
            found.append((("objectives", index), str(error)))
            continue
        if quantity in quantities:
            found.append((("objectives", index), f"`{name}` stands twice: remove one"))
        quantities[quantity] = name
    constraints = list[Constraint]()
    for index, text in enumerate(_list(values.get("constraints"), [])):
        try:
            constraints.append(constraint(text, names))
        except ValueError as error:
            found.append((("constraints", index), str(error)))
    found += _of_guide(values.get("guide"), names)
    several = len(objectives) > 1
    alone = list(quantities) == [LOSS] or not quantities
    measured = [each for each in constraints if not each.known]
    return found + _of_samplers(values, several, measured) + _of_others(values, names, several, alone, measured)


def _of_guide(given: Any, names: Names) -> Found:
    found: Found = []
    section = given if isinstance(given, Mapping) else {}
    if given is not None and names.other:
        found.append((("guide",), "a program measures by itself what it prints: leave `guide` out"))
        return found
    for index, name in enumerate(_list(section.get("measure"), [])):
        if name not in names.measured:
            what = f"`{name}` is nothing that is measured; there are {', '.join(names.measured)}"
            found.append((("guide", "measure", index), what + f".{nearest(name, names.measured)}"))
    return found


def _of_samplers(values: Mapping[str, Any], several: bool, measured: list[Constraint]) -> Found:
    """Samplers that cannot search so."""
    given = values.get("sampler", "auto")
    section = given if isinstance(given, Mapping) else {"name": given}
    name = section.get("name", "auto")
    if section.get("import") or not isinstance(name, str):
        return []
    if several and name not in SEVERAL:
        what = f"the sampler `{name}` has one objective; {', '.join(SEVERAL)} have several"
        return [(("objectives",), f"{what}: name one of them, or give one objective")]
    if measured and name not in MEASURED:
        what = f"the sampler `{name}` cannot use `{measured[0].text}`, which is measured; {', '.join(MEASURED)} can"
        return [(("constraints",), what)]
    return []


def _of_others(
    values: Mapping[str, Any], names: Names, several: bool, alone: bool, measured: list[Constraint]
) -> Found:
    """Other sections that go with one objective, or without measured constraints, alone."""
    found: Found = []
    why = "several objectives" if several else "an objective other than the validation loss"
    also = f"constraints on what is measured (`{measured[0].text}`)" if measured else ""
    stopping = of_rule(values.get("early_stopping", "none"))
    stops = isinstance(stopping, Mapping) and stopping.get("rule", "default") != "none"
    if stops and (not alone or measured):
        what = "its rules compare losses alone, and a trial that is stopped has no other quantity"
        found.append((("early_stopping",), f"cannot be had with {also if alone else why}: {what}; write `none`"))
    if values.get("warm_start") is not None and (not alone or measured):
        what = "earlier trials have a loss and no other quantity"
        text = f"cannot be had with {also if alone else why}, in `rounds` neither: {what}; leave it out"
        found.append((("warm_start",), text))
    if values.get("stop_when") is not None and not alone:
        found.append((("stop_when",), f"cannot be had with {why}: it goes by the loss alone; leave it out"))
    stop = values.get("stop_when")
    if isinstance(stop, Mapping) and stop.get("expected_gain") is not None and alone and measured:
        what = f"cannot be had with {also}: what is expected is of the loss alone; leave it out"
        found.append((("stop_when", "expected_gain"), what))
    if names.other:
        refers = [each for each in measured if each.reference == REFERENCES[0]]
        found += [
            (("constraints",), f"`{each.text}`: a program has no untuned model; compare with `baseline` or a number")
            for each in refers
        ]
        if not values.get("baseline") and any(each.reference == REFERENCES[1] for each in measured):
            found.append((("baseline",), "must be given: a constraint compares with it"))
    return found


def _numeric(entry: Any) -> bool:
    """Whether what a space holds of a hyperparameter is numbers."""
    if isinstance(entry, list | tuple):
        return all(map(_numeric, entry))
    return isinstance(entry, Mapping | int | float) and not isinstance(entry, bool)


def _list(value: Any, default: list[str]) -> list[str]:
    """The texts of a list; what is no list, or no text, is a fault of its type."""
    return default if not isinstance(value, list | tuple) else [each for each in value if isinstance(each, str)]
