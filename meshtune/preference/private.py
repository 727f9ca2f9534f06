"""What nobody else may read or forge: the secrets of the server, the seal, signed links and tokens of forms.

The seal says which answer is which model's, and how answers were made. The server never opens it, so that nothing it
sends can tell; its digest stands in the database from the beginning, so that it cannot be changed after the votes.

A link holds no secret of others: who it is for, its version, and a signature; a new version makes the links before it
void. All comparisons take the same time wherever two texts differ. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, StorageError

SECRETS = "secrets.json"
SEAL = "sealed.json"
DATABASE = "preference.db"


@dataclass(frozen=True)
class Secrets:
    """What signs links and forms, and what opens the admin page."""

    key: bytes
    admin: str


@dataclass(frozen=True)
class Seal:
    """What is not known to the server.

    Attributes:
        models: names, in the order in which they were given. answers: answer id to model name.
        made: how the answers came about (decoding, study, trials); plain values.
    """

    models: tuple[str, ...]
    answers: Mapping[str, str]
    made: Mapping[str, Any]


def write_secrets(folder: Path) -> None:
    """Draw new secrets. Raises StorageError."""
    _write(folder / SECRETS, json.dumps({"key": secrets.token_hex(32), "admin": secrets.token_urlsafe(24)}))


def read_secrets(folder: Path) -> Secrets:
    """The server's secrets. Raises InputError where they are damaged, or where others may read them."""
    path = folder / SECRETS
    try:
        values = json.loads(_read(path))
        return Secrets(bytes.fromhex(values["key"]), str(values["admin"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(Fault("is damaged: put back a copy of it; without it no link can be read", path)) from error


def write_seal(folder: Path, seal: Seal) -> str:
    """Write the seal; returns its digest. Raises StorageError."""
    values = {"models": list(seal.models), "answers": dict(seal.answers), "made": seal.made}
    text = json.dumps({**values, "salt": secrets.token_hex(16)}, indent=1)
    _write(folder / SEAL, text)
    return hashlib.sha256(text.encode()).hexdigest()


def open_seal(folder: Path, digest: str) -> Seal:
    """Read the seal. Raises InputError where it is not the one that the votes were given under."""
    path = folder / SEAL
    text = _read(path)
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise InputError(Fault("was changed since the study was made: whose answers were judged is not known", path))
    values = json.loads(text)
    return Seal(tuple(values["models"]), values["answers"], values["made"])


def _write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _read(path: Path) -> str:
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(Fault(f"may be read by others than its owner: `chmod 600 {path}`", path))
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Fault(f"cannot be read ({error.strerror})", path)) from error


_LINK = re.compile(r"([1-9][0-9]{0,5})\.([1-9][0-9]{0,5})\.([A-Za-z0-9_-]{22})")


def link(key: bytes, annotator: int, version: int) -> str:
    """The token of an annotator's link, to stand in a URL."""
    return f"{annotator}.{version}.{_sign(key, 'link', annotator, version)}"


def read_link(key: bytes, token: str) -> tuple[int, int] | None:
    """The annotator and the version that a token was signed for; None for any other text."""
    match = _LINK.fullmatch(token)
    if match is None:
        return None
    annotator, version = int(match[1]), int(match[2])
    return (annotator, version) if same(match[3], _sign(key, "link", annotator, version)) else None


def form_token(key: bytes, owner: str) -> str:
    """What a form of that owner (a link's token, or `admin`) carries, so that no other page can send it."""
    return _sign(key, "form", owner)


def admin_cookie(key: bytes) -> str:
    """What a browser keeps that has shown the admin token."""
    return _sign(key, "admin")


def same(given: str, right: str) -> bool:
    """Whether two texts are equal, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _sign(key: bytes, *parts: object) -> str:
    digest = hmac.digest(key, "\0".join(str(part) for part in parts).encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")
