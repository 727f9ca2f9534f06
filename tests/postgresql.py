"""A throw-away PostgreSQL server, on a Unix socket in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtune.testing.processes import descendants


class Server:
    """A server that can be stopped, started and restarted; `url` is that of its empty database."""

    def __init__(self, folder: Path, arguments: dict[str, Any]):
        self.url = f"postgresql://optuna@/postgres?host={folder}"
        self.socket = folder / ".s.PGSQL.5432"
        self._folder, self._arguments = folder, arguments

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._control("start", "-o", f"-k {self._folder} -h '' -F -c max_connections=50")

    def stop(self) -> None:
        """End it at once, also with clients connected."""
        self._control("stop", "-m", "fast")

    def restart(self) -> None:
        """End it as a crash does, and start it: it recovers from its log."""
        self._control("restart", "-m", "immediate")

    def freeze(self) -> None:
        """Stop all of its processes where they are; clients stay connected."""
        postmaster = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # it starts no other from here on
        self._frozen = [postmaster, *descendants(postmaster)]
        for process in self._frozen[1:]:
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for process in reversed(self._frozen):
            os.kill(process, signal.SIGCONT)

    def _control(self, *arguments: str) -> None:
        command = [binary("pg_ctl"), *arguments, "-w", "-s", "-t", "120", "-D", self._folder / "data"]
        command += [] if arguments[0] == "stop" else ["-l", self._folder / "log"]
        if subprocess.run(command, **self._arguments, check=False).returncode:
            words = (self._folder / "log").read_text(encoding="utf-8")
            pytest.fail(f"PostgreSQL does not {arguments[0]}:\n{words}")


@contextlib.contextmanager
def server(password: str | None = None) -> Iterator[Server]:
    """A server that runs. It refuses root, so there it runs as `nobody`.

    `password`: that it asks for; the URL does not hold it.
    """
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a short path that `nobody` may enter, unlike pytest's
    if user:
        shutil.chown(folder, user["user"], user["group"])
    arguments: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    try:
        make = [binary("initdb"), "-D", folder / "data", "-U", "optuna", "--no-sync", "--locale=C", "-E", "UTF8"]
        (folder / "password").write_text(password or "none", encoding="utf-8")
        make += ["--auth=trust" if password is None else "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(make, check=True, **arguments)
        running = Server(folder, arguments)
        try:
            running.start()
            yield running
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                running.stop()
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def postgresql(password: str | None = None) -> Iterator[str]:
    """As `server`; gives the URL of its empty database."""
    with server(password) as running:
        yield running.url


def binary(name: str) -> str:
    """A program of PostgreSQL; Debian keeps those of the server off the path."""
    found = [str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    path = shutil.which(name) or max(found, default=None)
    if path is None:
        pytest.fail(f"PostgreSQL's {name} is missing: apt-get install postgresql")
    return path
