"""Texts as they may be shown and stored: no passwords of URLs, no control characters. Standard library only."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/?]*):(?!\$\{\w+\}@)\S*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)(?!\$\{\w+\})[^&\s]+", re.IGNORECASE)

# What a terminal acts on, or a reader is misled by: C0 and C1 but for tab and line feed, DEL, line and paragraph
# separators, marks that turn the direction of writing, and halves of characters, which cannot be written.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def masked(text: str) -> str:
    """The passwords of URLs are starred out; the name of a variable, `${NAME}`, is none."""
    return _IN_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def escaped(text: str) -> str:
    r"""Control characters are spelled, as `\x1b`; a carriage return before a line feed goes."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def clean(text: str) -> str:
    """Both of it."""
    return escaped(masked(text))
