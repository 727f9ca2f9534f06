"""The URL of a study's storage: what of it may come from the environment, and who may read it. Standard library only.

`${NAME}` stands for an environment variable, which is read where the URL is used and written nowhere: a password needs
to stand in no file. PostgreSQL's own ways, PGPASSWORD and ~/.pgpass, need no word in the URL at all.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from meshtune.errors import Fault, InputError
from meshtune.plain_text import clean

_REFERENCE = re.compile(r"\$\{(\w+)\}")
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://(?:(?P<user>[^:/?]*)(?::(?P<password>.*))?@)?(?P<rest>.*)", re.DOTALL
)


def resolved(url: str) -> str:
    """The URL with the variables' values. Raises InputError where there is no such variable.

    Before the `@`, where a value may hold any character, it is encoded as URLs have it.
    """

    def value(found: re.Match[str]) -> str:
        if not (text := os.environ.get(found[1])):
            what = f"the environment variable `{found[1]}` is not set: export it, or leave the password to ~/.pgpass"
            raise InputError(Fault(what, key="storage"))
        return quote(text, safe="") if found.end() <= url.rfind("@") else text

    return _REFERENCE.sub(value, url)


def shown(url: str) -> str:
    """The URL without its passwords, whatever characters they have; names of variables stay."""
    parts = _PARTS.fullmatch(url)
    if parts and parts["password"] and not _REFERENCE.fullmatch(parts["password"]):
        url = f"{parts['scheme']}://{parts['user']}:***@{parts['rest']}"
    return clean(url)


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
    return None
