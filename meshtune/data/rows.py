"""One row of instruction data, and where it stands.

Guarantees: a row holds text that can be encoded. Does not know how a row is read (`formats`, `conversations`) or how it
becomes tokens (`prompts`, `chat`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshtune.errors import Fault

SHOWN_FAULTS = 10
SURROGATE = re.compile("[\ud800-\udfff]")
NO_TEXT = "holds half of a surrogate pair, which is no text; remove it"


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answer.

    Attributes:
        prompt: the instruction or, of a verbatim row, the whole prompt as the model is to read it.
        context: what the instruction works on, or "".
        response: the answer that is learned.
        verbatim: the prompt is used as it is, never wrapped in a template.
        line: where it stands in its source, from 1.
        item: the row as the source has it; None where it was made here.
    """

    prompt: str
    context: str
    response: str
    verbatim: bool
    line: int
    item: Any = field(default=None, compare=False, repr=False)

    @property
    def question(self) -> str:
        """The instruction with what it works on."""
        return f"{self.prompt}\n\n{self.context}" if self.context.strip() else self.prompt

    def text(self) -> str:
        """What a person wrote: question and answer, without a template."""
        return f"{self.question}\n\n{self.response}"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a chat, as a chat template takes them.

    Attributes:
        turns: mappings with `role` (system, user, assistant or tool), `content` (text), and what else the row gives.
        tools: descriptions of the tools that the assistant may call, or None.
        unlearned: numbers of the assistant turns with `weight: 0`.
        line, item: as of `Row`.
    """

    turns: tuple[Mapping[str, Any], ...]
    tools: list[Any] | None
    unlearned: frozenset[int]
    line: int
    item: Any = field(default=None, compare=False, repr=False)

    def question(self, shown: int) -> str:
        """What others than the assistant said in the first `shown` turns."""
        return "\n\n".join(turn["content"] for turn in self.turns[:shown] if turn["role"] != "assistant")

    def text(self, shown: int) -> str:
        """What was said in the first `shown` turns, without system turns: they are often the same in all rows."""
        return "\n\n".join(turn["content"] for turn in self.turns[:shown] if turn["role"] != "system")


@dataclass(frozen=True)
class Place:
    """Where rows stand: a file or the name of a data set, and what its numbers count (`line` or `row`)."""

    name: Path | str
    unit: str = "line"

    def fault(self, number: int | None, message: str) -> Fault:
        """A fault at that line, or at that row where the source has no lines."""
        if number is not None and self.unit == "row":
            return Fault(f"row {number}: {message}", self.name)
        return Fault(message, self.name, number)


def capped(faults: list[Fault], place: Place) -> list[Fault]:
    """The first faults, and how many more there are: a readable number of a source's."""
    more = len(faults) - SHOWN_FAULTS
    return faults if more <= 0 else [*faults[:SHOWN_FAULTS], place.fault(None, f"and {more} more faults like these")]


def kind(value: object) -> str:
    """What a value is, in the words of JSON."""
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def listed(keys: Iterable[object]) -> str:
    """Keys for a message."""
    return ", ".join(f"`{key}`" for key in keys)
