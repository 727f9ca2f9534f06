"""The server as a running program, until it is interrupted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from meshtune.errors import InputError
from meshtune.preference import private
from meshtune.preference.private import read_secrets
from meshtune.preference.server import build
from meshtune.preference.store import Store

BACKLOG = 512
AT_ONCE = 1024  # connections; more are told to come back
LOCAL = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")  # all addresses of this machine, and none that could be opened


def serve(folder: Path, host: str, port: int, url: str | None, report: Callable[[dict[str, object]], None]) -> None:
    """Serve the study in `folder` until Ctrl-C or SIGTERM.

    Args:
        port: 0 for any free one. url: what people reach it by, such as https://study.example.org; by default host and
            port, with this machine's name for a host that means all of its addresses. report: called once it takes
            requests, with `url`, `admin` and `links` (by annotator's name).

    Raises InputError: no study there, secrets that others can read, an address that cannot be had.
    """
    secrets = read_secrets(folder)
    with contextlib.closing(Store(folder)) as store, _listening(host, port) as listener:
        shown = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        reached = (url or f"http://{shown}:{listener.getsockname()[1]}").rstrip("/")
        config = uvicorn.Config(
            build(store, secrets, secure=reached.startswith("https://")),
            log_level="warning",
            access_log=False,  # addresses of people and their links are not kept
            server_header=False,
            lifespan="off",
            limit_concurrency=AT_ONCE,
            timeout_keep_alive=75,  # people read for longer than the 5 s that are usual
            timeout_graceful_shutdown=5,
        )
        people = {
            annotator.name: f"{reached}/a/{private.link(secrets.key, annotator.id, annotator.version)}"
            for annotator in store.annotators()
            if not annotator.revoked
        }
        facts: dict[str, object] = {"url": reached, "admin": f"{reached}/admin/{secrets.admin}", "links": people}
        with contextlib.suppress(KeyboardInterrupt):  # the usual end of a server
            _Server(config, lambda: report(facts)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Calls `ready` once it takes requests and Ctrl-C.

    Before that Ctrl-C is an exception, and Python drops one that comes while it cleans up an object: the server stayed.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            what = "choose another --port, or 0 for any free one; --host is an address of this machine"
            raise InputError(f"{host}:{port} cannot be listened on ({error}): {what}") from error
        listener.listen(BACKLOG)
        yield listener
