"""Signed links, and tokens of forms. A link holds no secret of others: who it is for, its version, and a signature.

A new version makes the links before it void. All comparisons take the same time wherever two texts differ.
"""

from __future__ import annotations

import base64
import hmac
import re

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
