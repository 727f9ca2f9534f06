"""Jinja templates that stand as files beside the code that fills them in. A name that is not given is an error."""

from __future__ import annotations

from pathlib import Path

import jinja2


def templates(*folders: Path, html: bool = False) -> jinja2.Environment:
    """The templates of these folders; `html`: what is filled in is escaped. They are read once."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
