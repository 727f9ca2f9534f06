"""The table of LoRA runs: one JSON object a line, which is one task, with what is known of it and its runs.

A task is one model, one data set and one length of training: losses are compared inside it only. docs/priors.md says
what each key means. The table that ships, `runs.jsonl`, and a team's own files have this format. No library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, nearest, refuse

SHIPPED = Path(__file__).with_name("runs.jsonl")
# Families that a model may be said to be of; of those with generations, the generation may follow (qwen3.5).
FAMILIES = (
    *("bloom", "command", "deepseek", "ernie", "falcon", "gemma", "glm", "gpt-neox", "gpt-oss", "granite", "hunyuan"),
    *("kimi", "lfm", "llama", "minimax", "ministral", "mistral", "mixtral", "nemotron", "olmo", "phi", "qwen", "seed"),
    *("smollm", "starcoder", "yi", "other"),
)
_ALIASES = {
    "gpt_oss": "gpt-oss",
    "moonshotai": "kimi",
    "seed_oss": "seed",
    "cohere": "command",
    "gpt_neox": "gpt-neox",
    "stablelm": "other",
}
_GENERATION = re.compile(r"v?\d+(?:\.\d+)?(?![\d.]*[bm](?![a-z]))|k\d+")  # 3.5, v3, k2; not the 7 of 7b
FACTS = ("model", "family", "hidden_size", "rows", "steps", "batch_size", "data", "source", "licence")
MAY = ("layers", "parameters", "instruct", "tokens")  # further facts, where they are known
RUN = ("rank", "alpha", "dropout", "learning_rate", "loss")
MOST = {"hidden_size": 131_072, "rank": 65_536}
BETWEEN = {"learning_rate": (1e-12, 1e3), "alpha": (1e-6, 1e6), "loss": (1e-9, 1e6)}  # more or less is a slip
MOST_OF_ANY = 10**15  # rows, steps, parameters and tokens: more is a slip, and far more no float can hold
FEWEST_RUNS = 2
LONGEST = 60  # characters of a value in a message


@dataclass(frozen=True)
class Facts:
    """What is known of a training before it is run.

    Attributes:
        family: as `family_of` gives it. steps: of the optimizer. batch_size: rows a step.
    """

    family: str
    hidden_size: int
    rows: int | None
    steps: int
    batch_size: int

    @property
    def root(self) -> str:
        """The family without its generation."""
        return root(self.family)


@dataclass(frozen=True)
class Run:
    """A trained point and its loss."""

    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    loss: float


@dataclass(frozen=True)
class Task:
    """Runs whose losses can be compared, and where they are from."""

    facts: Facts
    model: str
    data: str
    source: str
    licence: str
    runs: tuple[Run, ...]
    more: Mapping[str, Any]

    def line(self) -> str:
        """The task as a line of a table."""
        facts = {"model": self.model, **asdict(self.facts), **self.more}
        where = {"data": self.data, "source": self.source, "licence": self.licence}
        return json.dumps({**facts, **where, "runs": [asdict(run) for run in self.runs]})


def root(family: str) -> str:
    """The family without its generation: `qwen3.5` is of `qwen`."""
    return re.sub(r"[\d.]*(-k\d.*)?$", "", family)


def family_of(name: str) -> str | None:
    """The family that a word names, such as `qwen3.5` or a config's `qwen3_5_moe`; None where there is no such one."""
    word = name.strip().lower()
    for alias, family in _ALIASES.items():
        word = family + word[len(alias) :] if word.startswith(alias) else word
    for family in sorted(FAMILIES, key=len, reverse=True):
        if word.startswith(family):
            rest = word[len(family) :].replace("_", ".")
            generation = _GENERATION.match(rest.lstrip("-."))
            if generation is None and rest[:1].isalnum():
                continue  # another word that begins alike
            return family if family == "other" or generation is None else _joined(family, generation[0].lstrip("v"))
    return None


def _joined(family: str, generation: str) -> str:
    return f"{family}-{generation}" if generation.startswith("k") else f"{family}{generation}"


def unknown_family(name: str) -> str:
    """The message for a family that is none."""
    return (
        f"unknown family `{_shown(name)}`; there are {', '.join(FAMILIES)}, or with a generation, such as qwen3."
        f"{nearest(name.lower(), FAMILIES)}"
    )


def read(path: Path) -> list[Task]:
    """The tasks of a table. Raises InputError that holds every fault of the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        refuse([Fault(f"the table of runs cannot be read: {why}", path)])
    lines = {number: _parsed(line) for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not any(isinstance(value, dict) for value in lines.values()) and (len(lines) != 1 or text.lstrip()[0] != "{"):
        refuse([Fault("holds no task; a line is one, a JSON object, as `meshtune contribute STUDY` prints it", path)])
    faults, tasks = list[Fault](), list[Task]()
    for number, value in lines.items():
        if isinstance(value, Exception):
            faults.append(Fault(f"is no JSON object ({value}); a line holds one task", path, number))
        elif wrong := _faults(value):
            faults += [Fault(message, path, number, key) for key, message in wrong]
        else:
            tasks.append(_task(value))
    refuse(faults)
    return tasks


def _parsed(line: str) -> Any:
    """The value of a line, or why it has none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def read_all(paths: Iterable[Path]) -> list[Task]:
    """The tasks of several tables. Raises InputError that holds every fault of all of them."""
    from meshtune.errors import noting

    faults, tasks = list[Fault](), list[Task]()
    for path in paths:
        with noting(faults):
            tasks += read(path)
    refuse(faults)
    return tasks


def _task(value: Mapping[str, Any]) -> Task:
    family = family_of(value["family"])
    assert family is not None
    facts = Facts(family, *(value[key] for key in ("hidden_size", "rows", "steps", "batch_size")))
    runs = tuple(Run(*(run[key] for key in RUN)) for run in value["runs"])
    more = {key: value[key] for key in MAY if value.get(key) is not None}
    return Task(facts, value["model"], value["data"], value["source"], value["licence"], runs, more)


def _faults(value: Any) -> list[tuple[str, str]]:
    """Places and messages of all that is wrong with a task."""
    if not isinstance(value, dict):
        return [("", "is no JSON object; a line holds one task")]
    known = (*FACTS, *MAY, "runs")
    found = [
        (_shown(key), f"is no key of a task; there are {', '.join(known)}.{nearest(str(key), known)}")
        for key in value
        if key not in known
    ]
    found += [(key, "is missing") for key in (*FACTS, "runs") if key not in value]
    for key in ("model", "data", "source", "licence"):
        if key in value and not (isinstance(value[key], str) and value[key].strip()):
            found.append((key, f"`{_shown(value[key])}` is not allowed; text is"))
    if not isinstance(value.get("instruct"), bool | None):
        found.append(("instruct", f"`{_shown(value['instruct'])}` is not allowed; true or false is"))
    if "family" in value and (not isinstance(value["family"], str) or family_of(value["family"]) is None):
        found.append(("family", unknown_family(str(value["family"]))))
    sizes = ("hidden_size", "rows", "steps", "batch_size", "layers", "parameters", "tokens")
    optional = {"rows", *MAY}
    given = [(key, value[key]) for key in sizes if key in value and not (key in optional and value[key] is None)]
    found += [(key, message) for key, number in given if (message := size_fault(key, number)) is not None]
    if "runs" in value:
        found += _run_faults(value["runs"])
    return found


def size_fault(key: str, value: Any) -> str | None:
    """What is wrong with a size, or None."""
    most = MOST.get(key, MOST_OF_ANY)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return None
    up_to = f" and at most {most:,}" if key in MOST or (isinstance(value, int) and value > most) else ""
    return f"`{_shown(value)}` is not allowed; a whole number of at least 1{up_to} is"


def _shown(value: Any) -> str:
    """A value in a message: its beginning, where it is long."""
    if isinstance(value, int) and abs(value) >= 10**LONGEST:  # Python writes none of more than 4,300 digits
        return f"a number of more than {LONGEST} digits"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}.."


def _run_faults(runs: Any) -> list[tuple[str, str]]:
    found = list[tuple[str, str]]()
    if not isinstance(runs, list) or len(runs) < FEWEST_RUNS:
        found.append(("runs", f"a list of at least {FEWEST_RUNS} runs is needed: they are compared with each other"))
    for index, run in enumerate(runs if isinstance(runs, list) else []):
        if not isinstance(run, dict) or run.keys() != set(RUN):
            found.append((f"runs.{index}", f"a run has exactly the keys {', '.join(RUN)}"))
            continue
        found += [(f"runs.{index}.{key}", message) for key in RUN if (message := _run_fault(key, run[key]))]
    return found


def _run_fault(key: str, value: Any) -> str | None:
    if key == "rank":
        return size_fault(key, value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "dropout":
        return None if number and 0 <= value <= 1 else f"`{_shown(value)}` is not allowed; a number from 0 to 1 is"
    low, high = BETWEEN[key]
    if number and low <= value <= high:
        return None
    return f"`{_shown(value)}` is not allowed; a number from {low:g} to {high:g} is"


def sources(tasks: Sequence[Task]) -> list[str]:
    """Where tasks are from, each once, with its licence."""
    return list(dict.fromkeys(f"{task.source} ({task.licence})" for task in tasks))
