"""`meshtune dashboard`: optuna-dashboard over a study's record. It shows, and writes nothing.

optuna-dashboard can rename, tell and delete. A record has one writer, the study's coordinator, so whatever would write
is refused here. Not kept from the page: who can reach its address reads all of the record.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from meshtune.errors import InputError, need
from meshtune.plan.locate import existing, seen_from_here
from meshtune.record.storage import open_storage, quiet, storage_errors

LOCAL = ("127.0.0.1", "::1", "localhost")
_REFUSED = b"This page only shows: act on the study by `meshtune trial` and `meshtune enqueue`."


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: who looks at it is nobody's concern."""


def dashboard(path: Path, *, folder: Path | None = None, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve it until Ctrl-C. `say` is given the address once it takes requests.

    Raises InputError where there is no such study, or the address cannot be had; MissingExtra without optuna-dashboard.
    """
    study = existing(path, folder=folder).latest
    need("`meshtune dashboard`", "optuna_dashboard", extras="dashboard")
    from optuna_dashboard import wsgi

    with storage_errors(study.url), quiet():
        app = wsgi(open_storage(study.url))
    kind = _ServerV6 if ":" in host else _Server
    try:
        server = make_server(host, port, _reading(app), server_class=kind, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        what = "choose another --port, or 0 for any free one; --host is an address of this machine"
        raise InputError(f"{host}:{port} cannot be listened on ({error}): {what}") from error
    shown = f"[{host}]" if ":" in host else host
    with server:
        say(f"{seen_from_here(study.folder)}: http://{shown}:{server.server_port}/dashboard  (Ctrl-C ends it)")
        if host not in LOCAL:
            say("warning: whoever reaches this address can read the whole record: it asks for no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # the usual end of a server
            return


def _reading(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application, for what reads alone."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [_REFUSED]

    return answer
