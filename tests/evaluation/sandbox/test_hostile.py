"""Completions that attack: none passes, each is held where it should be, and the next candidate does not notice.

As the user that runs the tests, and as an ordinary one where that is root.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshtune.evaluation.sandbox import bubblewrap
from meshtune.evaluation.sandbox.judge import check
from tests.evaluation.sandbox import hostile

ROOT = Path(__file__).parents[3]
IS_ROOT = os.geteuid() == 0
USERS = ["root", "ordinary"] if IS_ROOT else ["ordinary"]


@dataclass(frozen=True)
class Attacked:
    """What was attacked, and the verdicts by user and name."""

    places: dict[str, str]
    servers: list[socket.socket]
    verdicts: dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def attacked() -> Iterator[Attacked]:
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        writable = folder / "writable"
        writable.mkdir()
        writable.chmod(0o777)
        (folder / "secret").write_text(hostile.SECRET)
        inet = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = held.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "unix"))
        unix.listen()
        places = {
            "marker": f"mt-{uuid.uuid4().hex[:8]}",
            "port": str(inet.getsockname()[1]),
            "unix": str(folder / "unix"),
            "secret_file": str(folder / "secret"),
            "writable": str(writable),
        }
        verdicts = {}
        other = as_nobody(folder, places) if IS_ROOT else None
        verdicts[USERS[0]] = hostile.verdicts(places)
        if other is not None:
            said, complaint = other.communicate()
            assert other.returncode == 0, complaint
            verdicts["ordinary"] = json.loads(said)
        yield Attacked(places, [inet, unix], verdicts)


def as_nobody(folder: Path, places: dict[str, str]) -> subprocess.Popen[str]:
    """The same completions judged by a user without rights: with the system's Python, from a copy that it can read."""
    package = folder / "meshtune"
    for room in ("evaluation", "system"):
        shutil.copytree(ROOT / "meshtune" / room, package / room, ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("__init__.py", "_version.py", "errors.py", "plain_text.py"):
        shutil.copy(ROOT / "meshtune" / name, package)
    shutil.copy(hostile.__file__, folder)
    (folder / "places.json").write_text(json.dumps(places))
    return subprocess.Popen(
        [str(bubblewrap.interpreter()), "hostile.py", "places.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "SECRET": hostile.SECRET},
        user=bubblewrap.NOBODY,
        group=bubblewrap.NOBODY,
        extra_groups=(),
    )


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", hostile.ALL)
def test_it_is_held_and_does_not_pass(attacked: Attacked, name: str, user: str) -> None:
    verdict = attacked.verdicts[user][name]
    assert not verdict["passed"]
    assert re.search(hostile.ALL[name].reason, verdict["reason"]), verdict["reason"]
    assert verdict["reason"].isprintable()


@pytest.mark.parametrize("user", USERS)
def test_the_next_candidate_does_not_notice(attacked: Attacked, user: str) -> None:
    after = {name: verdict for name, verdict in attacked.verdicts[user].items() if name.startswith("after ")}
    assert len(after) > 50
    assert {name: verdict["reason"] for name, verdict in after.items() if not verdict["passed"]} == {}


def test_nothing_was_written(attacked: Attacked) -> None:
    marker = attacked.places["marker"]
    for folder in (
        Path.home(),
        Path("/"),
        Path("/tmp"),
        Path("/usr"),
        Path("/usr/lib"),
        Path("/dev"),
        Path("/dev/shm"),
    ):
        assert not os.path.lexists(folder / marker)
    assert os.listdir(attacked.places["writable"]) == []


def test_nobody_connected(attacked: Attacked) -> None:
    for server in attacked.servers:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_process_is_left(attacked: Attacked) -> None:
    names = set()
    for process in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            names.add(process.read_text().strip())
    assert attacked.places["marker"] not in names


def test_the_attacks_would_work_on_a_machine_without_a_sandbox(tmp_path: Path) -> None:
    """A limiting case: without it the same code reads the file, and a right answer given by an attack does pass."""
    (tmp_path / "secret").write_text(hostile.SECRET)
    code = f"    return open({str(tmp_path / 'secret')!r}).read() if x == 1 else [2]\n"
    bare, held = (check(hostile.PROBLEM, code, unsafe=unsafe) for unsafe in (True, False))
    assert bare.passed
    assert not held.passed
