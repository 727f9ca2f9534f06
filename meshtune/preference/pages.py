"""The pages as Jinja templates (in `templates/`), filled in and sent; and the forms that they send back.

Guarantees: everything that is filled in is escaped, but for the answers, which `markdown` has made harmless.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from meshtune.preference.limits import LONGEST_BODY
from meshtune.system.templates import templates

FOLDER = Path(__file__).parent / "templates"
STATIC = {"prefer.css": "text/css; charset=utf-8", "prefer.js": "text/javascript; charset=utf-8"}
_WORDS = {
    400: "This form cannot be read",
    401: "Open your link",
    403: "This page is not yours any more",
    404: "There is no such page",
    409: "This pair was judged in another tab",
    413: "That is too long",
    500: "Something went wrong",
    503: "Your answer could not be saved",
}


class Refused(Exception):
    """A request that is answered with a page of this status; `text` says what to do."""

    def __init__(self, status: int, text: str, *, onward: str = ""):
        super().__init__(text)
        self.status, self.text, self.onward = status, text, onward


class Pages:
    """The templates, read once."""

    def __init__(self) -> None:
        self._templates = templates(FOLDER, html=True)
        self._static = {name: (FOLDER / name).read_bytes() for name in STATIC}

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """A page, never kept by a cache: going back in the browser asks again."""
        text = self._templates.get_template(f"{name}.html").render(**values)
        return HTMLResponse(text, status_code=status)

    def refused(self, refused: Refused) -> Response:
        """The page of an error."""
        title = _WORDS.get(refused.status, "This cannot be done")
        return self.page("error", refused.status, title=title, text=refused.text, onward=refused.onward)

    def static(self, name: str) -> Response:
        """A style sheet or script. Raises Refused."""
        if name not in self._static:
            raise Refused(404, "Check the address.")
        return Response(self._static[name], media_type=STATIC[name], headers={"cache-control": "max-age=3600"})


def onward(path: str) -> Response:
    """Send the browser on to a page of this server."""
    return RedirectResponse(path, status_code=303)


async def form(request: Request) -> dict[str, str]:
    """The fields of a form, the first value of each. Raises Refused for what no page of this server sends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(400, "Only the forms of these pages are read.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise Refused(413, "Shorten your comment.")
    try:
        fields = urllib.parse.parse_qs(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=40, encoding="utf-8", errors="strict"
        )
    except ValueError as error:
        raise Refused(400, "Only the forms of these pages are read.") from error
    return {name: values[0] for name, values in fields.items()}


def whole(text: str | None, low: int, high: int) -> int | None:
    """A whole number in a range, None for anything else."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > 15:
        return None
    return int(text) if low <= int(text) <= high else None


def words(text: str, longest: int) -> str:
    """What a person wrote, without control characters, cut at a length."""
    kept = "".join(char for char in text.replace("\r\n", "\n") if char == "\n" or char.isprintable() or char == "\t")
    return kept.strip()[:longest]
