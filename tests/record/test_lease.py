"""The lease in a database: two hosts without a common folder, a frozen holder, a server that restarts."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from meshtune.errors import LeaseLost, StudyBusy
from meshtune.record.lease import TABLE, Lease
from meshtune.record.log import Record
from tests.postgresql import Server, server
from tests.study.test_loop import SPACE
from tests.system.test_lease import hosts_can_be_made, start_on

HOLD = """
import sys
from meshtune.config import presets
from meshtune.config.sections import Interval
from meshtune.record.lease import Lease
from meshtune.record.log import Record
SPACE = presets.build({"x": Interval(low=-1, high=1)}, lora=False)
lease = Lease(sys.argv[1], "study", beat=0.5)  # 4 seconds of silence are a death
with lease.held():
    record = Record(sys.argv[1], "study", SPACE, fixed={}, fence=lease.fence)
    print("held", flush=True)
    for line in sys.stdin:
        record.note("by", line)
        print("written", flush=True)
"""
another_host = pytest.mark.skipif(not hosts_can_be_made(), reason="needs the right to give a process another host name")


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


def begin(host: str, url: str) -> "subprocess.Popen[str]":
    return start_on(host, HOLD, url)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@contextlib.contextmanager
def statements(url: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        yield connection


def test_a_second_one_of_this_host_is_refused_by_name_and_a_dead_one_is_replaced_at_once(database: Server) -> None:
    code = HOLD.replace('"study"', '"here"')
    command, pipe = [sys.executable, "-c", code, database.url], subprocess.PIPE
    other = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert line_of(other) == "held"
    who = rf"the study `here` is held by process {other.pid} on {platform.node()}, since .* `meshtune stop`"
    with pytest.raises(StudyBusy, match=who), Lease(database.url, "here").held():
        pass
    with Lease(database.url, "another study").held():
        pass
    end(other)
    with Lease(database.url, "here").held(), statements(database.url) as connection:
        held = connection.execute(sqlalchemy.text(f"SELECT study, holder FROM {TABLE}")).all()
        assert [study for study, _ in held] == ["here"]
        assert f'"pid": {os.getpid()},' in held[0].holder
    with statements(database.url) as connection:
        assert connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {TABLE}")).scalar() == 0


@another_host
def test_of_two_hosts_a_frozen_holder_is_replaced_and_cannot_write_when_it_wakes(database: Server) -> None:
    first = begin("node-1", database.url)
    assert line_of(first) == "held"
    refused = begin("node-2", database.url)
    assert f"is held by process {first.pid} on node-1, since" in refused.communicate(timeout=120)[1]
    first.send_signal(signal.SIGSTOP)
    write(first, "node-1")
    second = begin("node-2", database.url)
    assert line_of(second) == "held"
    write(second, "node-2")
    assert line_of(second) == "written"
    first.send_signal(signal.SIGCONT)
    lost = first.communicate(timeout=120)[1]
    assert f"process {second.pid} on node-2 has taken the study `study` over" in lost
    assert "LeaseLost" in lost
    assert Record(database.url, "study").notes["by"] == "node-2\n"
    end(second)


@another_host
def test_a_server_that_is_down_costs_no_holder_its_study(database: Server) -> None:
    first = begin("node-1", database.url)
    assert line_of(first) == "held"
    first.send_signal(signal.SIGSTOP)
    with statements(database.url) as connection:  # as though it was silent for longer than a living one is
        connection.execute(sqlalchemy.text(f"UPDATE {TABLE} SET beat = beat - interval '1 hour'"))
    database.stop()
    database.start()
    first.send_signal(signal.SIGCONT)
    refused = begin("node-2", database.url)
    assert f"is held by process {first.pid} on node-1" in refused.communicate(timeout=120)[1]
    database.restart()
    write(first, "again")
    assert line_of(first) == "written"
    end(first)


def test_a_holder_in_the_middle_of_a_write_is_not_replaced_before_its_end(database: Server) -> None:
    """As one that is frozen between its look at the lease and its commit; the server ends such a transaction itself."""
    url, name = database.url, "middle"
    first, second = Lease(url, name), Lease(url, name)
    began, taken = threading.Event(), threading.Event()
    record = Record(url, name, SPACE, fixed={})

    def take() -> None:
        began.set()
        with statements(url) as connection:
            row = {"study": name, "token": second._mine["token"]}
            connection.execute(sqlalchemy.text(f"UPDATE {TABLE} SET token = :token WHERE study = :study"), row)
        taken.set()

    with first.held():
        other = threading.Thread(target=take)

        def in_the_middle(connection: sqlalchemy.Connection) -> None:
            first.fence(connection)
            if not began.is_set() and connection.execute(sqlalchemy.text("SELECT txid_current_if_assigned()")).scalar():
                other.start()
                began.wait()
                assert not taken.wait(0.5)

        sqlalchemy.event.listen(record._backend.engine, "commit", in_the_middle)
        record.note("by", "first")
        other.join()
        with pytest.raises(LeaseLost, match=r"has taken the study `middle` over"):
            record.note("by", "first, late")
        with pytest.raises(LeaseLost):
            first.check()
    assert Record(url, name).notes["by"] == "first"


def test_many_that_begin_on_an_empty_database_at_once_make_its_tables_once(tmp_path: Path) -> None:
    code = HOLD.replace('"study"', "sys.argv[2]")
    with server() as fresh:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, fresh.url, f"study-{number}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(4)
        ]
        words = [process.communicate(timeout=120)[0] for process in started]
        assert ["held" in each for each in words] == [True] * 4, words
