"""`rounds`: several studies in one study.yaml, each with its own fidelity, as plain values before they are read.

A round is what stands outside `rounds` with the round's own keys in place of it: mappings are joined key by key,
anything else is replaced. A short form (`sampler: tpe`) replaces the whole section, and so does another `name` or
`import` what names the kind. Each round but the first starts from the one before it, through `warm_start`.

The rounds share what would make their results unfit for each other: model, seed, and the rows and their split. A round
with fewer `data.rows` has smaller parts of the same sides, so that no round reads another one's test rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.system.yaml_file import Place

Values = Mapping[str, Any]
Found = list[tuple[Place, str]]

AGAIN = 4  # of the last round's best, evaluated again where the round does not say how many
_FOR_ALL = {
    "folder": "the folder is that of all rounds: write it outside `rounds`",
    "storage": "one storage holds all rounds: write it outside `rounds`",
    "seed": "one seed splits the rows and starts the adapters of all rounds: write it outside `rounds`",
    "model": "the model is that of all rounds: write it outside `rounds`",
    "rounds": "a round has no rounds inside",
}


def name(number: int) -> str:
    """The name of a round's folder, by its number from 1."""
    return f"round{number}"


def merged(base: Values, own: Values, short_forms: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`base` with the values of `own` in place of its own. `short_forms`: the keys for which `key: text` is short."""
    values = dict(base)
    for key, value in own.items():
        before = values.get(key)
        if isinstance(before, str) and isinstance(value, Mapping) and key in (short_forms or {}):
            before = {(short_forms or {})[key]: before}
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            kind = ("name", "import")
            kept = {k: v for k, v in before.items() if k not in kind} if any(k in value for k in kind) else before
            values[key] = merged(kept, value)
        else:
            values[key] = value
    return values


def all_merged(values: Values, short_forms: Mapping[str, str], folder: Path) -> list[dict[str, Any]]:
    """The values of every round, in order; `folder` holds the rounds' own folders.

    What is no mapping among the rounds is taken as an empty one.
    """
    shared = {key: value for key, value in values.items() if key not in ("rounds", "folder")}
    found = []
    for index, own in enumerate(values["rounds"]):
        mapping = own if isinstance(own, Mapping) else {}
        base = {key: value for key, value in shared.items() if index == 0 or key != "warm_start"}
        none_yet = base.get("early_stopping") == "none" or _section(base, "early_stopping").get("rule") == "none"
        if none_yet and _section(mapping, "early_stopping"):
            base["early_stopping"] = {k: v for k, v in _section(base, "early_stopping").items() if k != "rule"}
        made = {key: value for key, value in merged(base, mapping, short_forms).items() if value is not None}
        if index:
            made["warm_start"] = {
                "again": AGAIN,
                **(made["warm_start"] if isinstance(made.get("warm_start"), Mapping) else {}),
                "study": str(folder / name(index)),
            }
        found.append(made)
    _nest(found)
    return found


def place(values: Values, index: int, at: Place) -> Place:
    """Where a value of a round stands in the file: among the round's own keys, or outside `rounds`."""
    own: Any = values["rounds"][index]
    shared: Any = values
    for depth, part in enumerate(at):
        if not isinstance(own, Mapping):
            break
        if part not in own:
            outside = isinstance(shared, Mapping) and part in shared
            if outside or (depth == 0 and not (index and part == "warm_start")):  # which every round but the first has
                return at
            break
        own = own[part]
        shared = shared.get(part) if isinstance(shared, Mapping) else None
    return ("rounds", index, *at)


def not_own(values: Values) -> Found:
    """What cannot be a round's own."""
    found: Found = []
    for index, own in enumerate(values["rounds"]):
        if isinstance(own, Mapping):
            found += [(("rounds", index, *at), message) for at, message in _of_round(own, index, values)]
    return found


def without(values: Values, places: Iterable[Place]) -> dict[str, Any]:
    """The values without what stands at some places."""
    left: dict[str, Any] = copy.deepcopy(dict(values))
    for *around, last in places:
        inside: Any = left
        for part in around:
            inside = inside[part]
        inside.pop(last)
    return left


def endless(values: Values) -> Found:
    """Rounds that would not end by themselves, and so keep the next one waiting; limits that would not hold."""
    found: Found = []
    rounds: Sequence[Any] = values["rounds"]
    shared = _section(values, "budget").get("trials", 30)
    for index, own in enumerate(rounds[:-1]):
        budget = _section(own, "budget")
        limits = [budget.get("trials", shared), *(budget.get(key) for key in ("hours", "tokens", "kilowatt_hours"))]
        if isinstance(own, Mapping) and not any(limits):
            what = "there is no limit after which the next round begins: give `trials`, `hours` or `tokens`"
            found.append((("rounds", index, "budget"), what))
    if _section(values, "budget").get("kilowatt_hours"):
        what = "the energy of all rounds together is not counted: give it as limits of single rounds"
        found.append((("budget", "kilowatt_hours"), what))
    return found


def _of_round(own: Values, index: int, values: Values) -> Found:
    found: Found = []
    for key, why in _FOR_ALL.items():
        if key in own:
            found.append(((key,), f"cannot be a round's own: {why}"))
    why = "cannot be a round's own: the rounds share the rows and their split, and may differ in `rows` alone"
    found += [(("data", key), why) for key in _section(own, "data") if key != "rows"]
    for kind in ("command", "trainer"):
        if kind in _section(own, "objective") and not {"command", "trainer"} & _section(values, "objective").keys():
            what = f"the objective is of one kind in all rounds: give a {kind} outside `rounds` too"
            found.append((("objective", kind), what))
    warm = own.get("warm_start")
    if index and warm is not None:
        if not isinstance(warm, Mapping):
            what = f"this round starts from round {index}: only its `values` and `again` can be given"
            found.append((("warm_start",), what))
        elif "study" in warm:
            found.append((("warm_start", "study"), f"this round starts from round {index}: leave it out"))
    return found


def _section(values: Any, key: str) -> Values:
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _nest(rounds: Sequence[dict[str, Any]]) -> None:
    """Let rounds with fewer rows than others have parts of the others' sides."""
    data = [made["data"] for made in rounds if isinstance(made.get("data"), dict)]
    rows = [section.get("rows") for section in data]
    if len(set(map(str, rows))) < 2 or not all(isinstance(count, int | None) for count in rows):
        return
    most = max((count for count in rows if count is not None), default=0)
    for made in rounds:
        if made["data"].get("split_rows") is None:
            made["data"] = {**made["data"], "split_rows": "all" if None in rows else most}
