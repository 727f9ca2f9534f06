"""A throw-away PostgreSQL server, on a Unix socket in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Server:
    """A server that can be stopped and started again; `url` is that of its empty database."""

    def __init__(self, folder: Path, arguments: dict[str, Any]):
        self.url = f"postgresql://optuna@/postgres?host={folder}"
        self._folder, self._arguments = folder, arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder, postgres, ready = self._folder, binary("postgres"), binary("pg_isready")
        command = [postgres, "-D", folder / "data", "-k", folder, "-h", "", "-F"]
        self._process = subprocess.Popen(command, **self._arguments)
        deadline = time.monotonic() + 60
        while subprocess.run([ready, "-q", "-h", folder], check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("PostgreSQL does not start:\n" + (folder / "log").read_text(encoding="utf-8"))
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, also with clients connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()


@contextlib.contextmanager
def server(password: str | None = None) -> Iterator[Server]:
    """A server that runs. It refuses root, so there it runs as `nobody`.

    `password`: that it asks for; the URL does not hold it.
    """
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a short path that `nobody` may enter, unlike pytest's
    if user:
        shutil.chown(folder, user["user"], user["group"])
    log = (folder / "log").open("w+b")
    arguments: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, **user}
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
            running.stop()
    finally:
        log.close()
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
