"""Instruction rows and the formats they come in.

`alpaca` (instruction, input, output) and `dolly` (instruction, context, response) rows are put into a prompt template;
`prompt-completion` and `prompt-response` rows are verbatim: they are never wrapped. Further keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.errors import nearest


@dataclass(frozen=True)
class Row:
    """One instruction and its response. `context` may be empty; `verbatim` rows are not wrapped in a template."""

    prompt: str
    context: str
    response: str
    verbatim: bool

    @property
    def key(self) -> str:
        """What must not stand on two sides of a split: the prompt, but for line ends and space around it."""
        return "\x00".join(
            "\n".join(text.split("\n")).replace("\r", "").strip() for text in (self.prompt, self.context)
        )


@dataclass(frozen=True)
class Format:
    """Keys of a format: the instruction, its optional context, the response."""

    name: str
    prompt: str
    context: str | None
    response: str
    verbatim: bool

    @property
    def required(self) -> tuple[str, str]:
        """Keys that a row must have."""
        return self.prompt, self.response


FORMATS = (
    Format("alpaca", "instruction", "input", "output", verbatim=False),
    Format("dolly", "instruction", "context", "response", verbatim=False),
    Format("prompt-completion", "prompt", None, "completion", verbatim=True),
    Format("prompt-response", "prompt", None, "response", verbatim=True),
)


def recognise(keys: Sequence[str]) -> Format | None:
    """The format that rows with these keys have, or None."""
    return next((form for form in FORMATS if set(form.required) <= set(keys)), None)


def by_name(name: str) -> Format:
    """The format of a name of the config."""
    return next(form for form in FORMATS if form.name == name)


def read_row(fields: Mapping[str, Any], form: Format) -> Row:
    """The row of a record. Raises ValueError, in words, on missing keys and on values that are no text."""
    missing = [key for key in form.required if key not in fields]
    if missing:
        hints = "".join(nearest(key, fields) for key in missing)
        raise ValueError(f"a row of format `{form.name}` needs {' and '.join(f'`{k}`' for k in missing)}.{hints}")
    texts = []
    for key in (form.prompt, form.context, form.response):
        value = fields.get(key) if key is not None else None
        if value is not None and not isinstance(value, str):
            raise ValueError(f"`{key}` is {type(value).__name__}, and must be text")
        texts.append(value or "")
    return Row(*texts, verbatim=form.verbatim)


def describe_formats() -> str:
    """The formats and their keys, for messages."""
    return "; ".join(f"{form.name} ({', '.join(form.required)})" for form in FORMATS)
