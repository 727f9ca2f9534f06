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


@contextlib.contextmanager
def postgresql(password: str | None = None) -> Iterator[str]:
    """Start a server; gives the URL of its empty database. It refuses root, so there it runs as `nobody`.

    `password`: that it asks for; the URL does not hold it.
    """
    initdb, postgres, ready = (binary(name) for name in ("initdb", "postgres", "pg_isready"))
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a short path that `nobody` may enter, unlike pytest's
    if user:
        shutil.chown(folder, user["user"], user["group"])
    log = (folder / "log").open("w+b")
    arguments: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, **user}
    try:
        make = [initdb, "-D", folder / "data", "-U", "optuna", "--no-sync", "--locale=C", "-E", "UTF8"]
        (folder / "password").write_text(password or "none", encoding="utf-8")
        make += ["--auth=trust" if password is None else "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(make, check=True, **arguments)
        server = subprocess.Popen([postgres, "-D", folder / "data", "-k", folder, "-h", "", "-F"], **arguments)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([ready, "-q", "-h", folder], check=False).returncode != 0:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("PostgreSQL does not start:\n" + (folder / "log").read_text(encoding="utf-8"))
                time.sleep(0.05)
            yield f"postgresql://optuna@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # end at once, also with clients connected
            server.wait()
    finally:
        log.close()
        shutil.rmtree(folder)


def binary(name: str) -> str:
    """A program of PostgreSQL; Debian keeps those of the server off the path."""
    found = [str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    path = shutil.which(name) or max(found, default=None)
    if path is None:
        pytest.fail(f"PostgreSQL's {name} is missing: apt-get install postgresql")
    return path
