"""What stands before every request: security headers, a limit on size, and a limit on the rate of each sender.

A sender is the signed link in the cookie, or the address where there is none. Plain ASGI, so that it costs next to
nothing. It is not a defence against many addresses at once: that is the work of what stands before the server.
"""

from __future__ import annotations

import contextlib
import http.cookies
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from meshtune.preference.private import read_link

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "annotator"
LONGEST_BODY = 16_384  # bytes; a comment of 2,000 characters fits, whatever its script
RATE, BURST = 20.0, 120.0  # requests a second in the long run, and at once
_SENDERS = 20_000  # remembered

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-robots-tag": "noindex, nofollow",
}


class Limits:
    """Wraps an ASGI application. `key` is what links are signed with; `clock` counts seconds."""

    def __init__(self, app: App, *, key: bytes, clock: Callable[[], float] = time.monotonic):
        self.app, self.key, self.clock = app, key, clock
        self._left: dict[str, tuple[float, float]] = {}  # sender: what it has left, and when that was so

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get("content-length", "0")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                held = {name for name, _ in message["headers"]}
                more = {"cache-control": "no-store", **HEADERS}
                new = [(n.encode(), v.encode()) for n, v in more.items() if n.encode() not in held]
                message = {**message, "headers": [*message["headers"], *new]}
            await send(message)

        if not self._allowed(self._sender(scope, headers)):
            await _refuse(guarded, 429, "Too many requests: wait a moment, then load the page again.")
        elif not length.isdecimal() or "transfer-encoding" in headers:
            await _refuse(guarded, 411, "The length of what is sent must be given.")
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            await _refuse(guarded, 413, "That is too long.")
        else:
            with contextlib.suppress(Exception):  # its page was sent and its words printed: nobody needs the trace
                await self.app(scope, receive, guarded)

    def _sender(self, scope: Scope, headers: dict[str, str]) -> str:
        token = cookie(headers.get("cookie", ""), COOKIE)
        if token and read_link(self.key, token) is not None:
            return token
        return str((scope.get("client") or ("",))[0])

    def _allowed(self, sender: str) -> bool:
        now = self.clock()
        if len(self._left) > _SENDERS:
            self._left = {name: held for name, held in self._left.items() if now - held[1] < BURST / RATE}
        left, then = self._left.get(sender, (BURST, now))
        left = min(BURST, left + RATE * (now - then)) - 1
        self._left[sender] = (max(left, 0.0), now)
        return left >= 0


def cookie(header: str, name: str) -> str:
    """A cookie's value out of a `Cookie` header, "" where there is none."""
    try:
        morsel = http.cookies.SimpleCookie(header).get(name)
    except http.cookies.CookieError:
        return ""
    return morsel.value if morsel is not None else ""


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
