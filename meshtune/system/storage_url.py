"""The URL of a study's storage: what of it may come from the environment, and who may read it. Standard library only.

`${NAME}` stands for an environment variable, which is read where the URL is used and written nowhere: a password needs
to stand in no file. PostgreSQL's own ways, PGPASSWORD and ~/.pgpass, need no word in the URL at all.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from meshtune.errors import Fault, InputError
from meshtune.plain_text import clean

_REFERENCE = re.compile(r"\$\{(\w+)\}")
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://(?:(?P<user>[^:/?]*)(?::(?P<password>.*))?@)?(?P<rest>.*)", re.DOTALL
)
_PORT = re.compile(r"(?P<host>\[[^]/?]*\]|[^:/?[]*):(?P<port>[^/?]*)")  # of the rest


def resolved(url: str, place: Path | str | None = None) -> str:
    """The URL with the variables' values. Raises InputError where there is no such variable.

    `place` is where it was given. Before the `@`, where a value may hold any character, it is encoded as URLs have it.
    """

    def value(found: re.Match[str]) -> str:
        if not (text := os.environ.get(found[1])):
            what = f"the environment variable `{found[1]}` is not set: export it, or leave the password to ~/.pgpass"
            raise InputError(Fault(what, place, key="storage"))
        return quote(text, safe="") if found.end() <= url.rfind("@") else text

    return _REFERENCE.sub(value, url)


def shown(url: str) -> str:
    """The URL without its passwords, whatever characters they have; names of variables stay.

    What stands in the place of a port and is none may be a password, where the host was forgotten.
    """
    parts = _PARTS.fullmatch(url)
    if parts and parts["password"] and not _REFERENCE.fullmatch(parts["password"]):
        url = f"{parts['scheme']}://{parts['user']}:***@{parts['rest']}"
    elif parts and (port := _no_port(parts["rest"])):
        user = "" if parts["user"] is None else f"{parts['user']}@"
        url = f"{parts['scheme']}://{user}{port['host']}:***"
    return clean(url)


def hidden(text: str) -> str:
    """As `shown`, for what a user gave as a URL: all of it, where it is none, so that nobody knows what is secret."""
    return shown(text) if _PARTS.fullmatch(text) or _REFERENCE.fullmatch(text) else "***"


def _no_port(rest: str) -> re.Match[str] | None:
    """The host, and what follows it in the place of a port and is none."""
    found = _PORT.match(rest)
    known = found and (
        found["port"] == "" or _REFERENCE.fullmatch(found["port"]) or re.fullmatch("[0-9]{1,5}", found["port"])
    )
    return None if known else found


def secret(url: str | None) -> bool:
    """Whether a password stands in the URL itself."""
    return url is not None and shown(url) != url


def fault(url: str) -> str | None:
    """What is wrong with a URL, in words that show no password; None: nothing that can be seen here."""
    if _REFERENCE.fullmatch(url):
        return None
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return "this is no URL of a database; one such as postgresql://user@host/name is needed, or null"
    if "@" in (parts["password"] or ""):
        what = "a password with an @ cannot stand in a URL as it is"
        instead = f"{parts['scheme']}://{parts['user']}:${{MY_PASSWORD}}@.."
        return f"{what}: write %40 for it, or export the password as MY_PASSWORD and write `{instead}`"
    if _no_port(parts["rest"]):
        return "behind the host's colon is no port; a URL such as postgresql://user@host:5432/name is needed"
    return None
