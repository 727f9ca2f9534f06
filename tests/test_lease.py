"""One coordinator a study: refused while it lives, taken over when it is dead."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from meshtune.errors import StudyBusy
from meshtune.lease import STALE_SECONDS, holder, lease

HOLD = "import sys, time\nfrom pathlib import Path\nfrom meshtune.lease import lease\n"
HOLD += "with lease(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"


def test_a_second_one_is_refused_by_name_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(StudyBusy, match=f"process {other.pid} on {platform.node()}, running since"), lease(tmp_path):
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
    fields = {"host": platform.node(), "pid": os.getpid(), "start": "1", "since": "long ago"}
    (tmp_path / "lease.json").write_text(json.dumps(fields))
    assert holder(tmp_path) is None


def test_another_host_holds_while_it_beats(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "1", "since": "now"}))
    with pytest.raises(StudyBusy, match="on elsewhere"), lease(tmp_path):
        pass
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    with lease(tmp_path):
        held = holder(tmp_path)
        assert held is not None
        assert held.host == platform.node()


def test_of_many_that_take_over_a_dead_lease_at_once_one_wins(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{broken")
    won: list[int] = []
    lost: list[int] = []
    together = threading.Barrier(8)
    done = threading.Event()

    def take(number: int) -> None:
        folder = tmp_path
        together.wait()
        code = "from pathlib import Path; from meshtune.lease import lease; import sys\n"
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
