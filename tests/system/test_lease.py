"""One coordinator a study: refused while it lives, taken over when it is dead."""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from meshtune.errors import LeaseLost, StorageError, StudyBusy
from meshtune.system.lease import NAME, elsewhere, holder, lease

HOLD = "import sys, time\nfrom pathlib import Path\nfrom meshtune.system.lease import lease\n"
HOLD += "with lease(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"


def test_a_second_one_is_refused_by_name_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(StudyBusy, match=f"process {other.pid} on {platform.node()}, running since"), lease(tmp_path):
        pass
    other.send_signal(signal.SIGSTOP)
    os.waitpid(other.pid, os.WUNTRACED)
    with (
        pytest.raises(StudyBusy, match=rf"stands still \(.* `kill -CONT {other.pid}`, or end it with"),
        lease(tmp_path),
    ):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    assert holder(tmp_path) is None
    with lease(tmp_path):
        held = holder(tmp_path)
        assert held is not None
        assert held.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_was_given_to_another_process_does_not_hold(tmp_path: Path) -> None:
    with lease(tmp_path):
        fields = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**fields, "start": "1"}))
    assert holder(tmp_path) is None
    with lease(tmp_path):
        pass


def test_a_process_of_another_container_on_this_host_is_no_process_of_ours(tmp_path: Path) -> None:
    """Its number means nothing here, so that its lease counts while it is fresh."""
    with lease(tmp_path):
        fields = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**fields, "table": "another", "pid": 2**22}))
    assert holder(tmp_path) is not None
    assert elsewhere(tmp_path) == holder(tmp_path)


def foreign(folder: Path) -> Path:
    """A lease of another host, as its holder wrote it."""
    path = folder / NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "1", "since": "now"}))
    return path


def test_another_host_holds_while_it_touches_its_lease(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.3):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(StudyBusy, match="process 1 on elsewhere"), lease(tmp_path, stale=20):
            pass
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("ahead", [-7200, 0, 7200])
def test_a_dead_host_is_replaced_whatever_its_clock_said(tmp_path: Path, ahead: int) -> None:
    path = foreign(tmp_path)
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    assert (holder(tmp_path) is not None) == (ahead == 0)
    with lease(tmp_path, stale=1):
        held = holder(tmp_path)
        assert held is not None
        assert held.host == platform.node()


def test_who_lost_the_study_learns_of_it_and_leaves_the_others_lease_alone(tmp_path: Path) -> None:
    with lease(tmp_path, beat=0.05) as held:
        held.check()
        path = foreign(tmp_path)
        old = path.stat().st_mtime_ns
        time.sleep(0.3)
        assert path.stat().st_mtime_ns == old  # it does not keep another's lease alive
        with pytest.raises(LeaseLost, match="process 1 on elsewhere has taken this study over"):
            held.check()
    assert path.exists()


def test_a_lease_that_was_removed_is_lost(tmp_path: Path) -> None:
    with lease(tmp_path) as held:
        (tmp_path / NAME).unlink()
        with pytest.raises(LeaseLost):
            held.check()


IN_ANOTHER_HOST = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']


def start_on(host: str, code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [*IN_ANOTHER_HOST, host, sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def hosts_can_be_made() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_ANOTHER_HOST, "one", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not hosts_can_be_made(), reason="needs the right to give a process another host name")
def test_two_hosts_a_frozen_holder_is_replaced_and_ends_when_it_wakes(tmp_path: Path) -> None:
    hold = "import sys, time\nfrom pathlib import Path\nfrom meshtune.system.lease import lease\n"
    hold += "with lease(Path(sys.argv[1]), beat=0.2, stale=6) as held:\n    print('held', flush=True)\n"
    hold += "    while True:\n        time.sleep(0.05)\n        held.check()"
    first = start_on("node-1", hold, tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    refused = start_on("node-2", hold, tmp_path)
    assert "StudyBusy" in refused.communicate(timeout=120)[1]  # it saw the holder's touch
    first.send_signal(signal.SIGSTOP)
    second = start_on("node-2", hold, tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == "held\n"
    first.send_signal(signal.SIGCONT)
    assert "LeaseLost" in first.communicate(timeout=120)[1]
    assert second.poll() is None
    assert json.loads((tmp_path / NAME).read_text())["host"] == "node-2"
    second.kill()
    second.communicate()


NO_LINKS = """
#include <errno.h>
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int a, const char *b, int c, const char *d, int e) { errno = EPERM; return -1; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler to take hard links away")
def test_a_disk_without_hard_links(tmp_path: Path) -> None:
    source, library, folder = tmp_path / "no_links.c", tmp_path / "no_links.so", tmp_path / "study"
    source.write_text(NO_LINKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    folder.mkdir()
    code = "import os, sys\nfrom pathlib import Path\nfrom meshtune.system.lease import holder, lease\n"
    code += "folder = Path(sys.argv[1])\n"
    code += "try:\n    os.link(sys.executable, folder / 'linked')\nexcept PermissionError:\n    print('no links')\n"
    code += "for _ in range(2):\n    with lease(folder):\n        print(holder(folder).pid == os.getpid())\n"
    code += "        try:\n            lease(folder).__enter__()\n        except Exception as e:\n"
    code += "            print(type(e).__name__)\n"
    told = subprocess.run(
        [sys.executable, "-c", code, folder],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split("\n") == ["no links", *["True", "StudyBusy"] * 2, ""]
    assert list(folder.iterdir()) == []


def test_of_many_that_take_over_a_dead_lease_at_once_one_wins(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{broken")
    won: list[int] = []
    lost: list[int] = []
    together = threading.Barrier(8)
    done = threading.Event()

    def take(number: int) -> None:
        folder = tmp_path
        together.wait()
        code = "from pathlib import Path; from meshtune.system.lease import lease; import sys\n"
        code += "with lease(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        (won if process.stdout.readline() == "held\n" else lost).append(number)
        if len(won) + len(lost) == 8:
            done.set()
        done.wait(60)
        process.communicate("")

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_nothing_is_left_there(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may hold a byte
    try:
        with pytest.raises(StorageError, match=f"{tmp_path}/lease.* cannot be written: "), lease(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
