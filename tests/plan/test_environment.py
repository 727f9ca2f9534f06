"""What a study is run with is noted once, and again where it changes."""

import socket
from pathlib import Path

from meshtune import __version__
from meshtune.config import presets
from meshtune.plan import environment
from meshtune.record.log import Record


def test_versions_and_machine_name_nobody() -> None:
    assert environment.versions()["meshtune"] == __version__
    assert {"Python", "optuna", "numpy"} <= set(environment.versions())
    machine = environment.machine(["cpu"], 2)
    assert machine["processor"]
    assert machine["cores"] >= 1
    assert socket.gethostname() not in str(machine)


def test_only_what_is_new_is_noted(tmp_path: Path) -> None:
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", presets.recommended(), fixed={})
    for threads in (2, 2, 4):
        environment.note_in(record, ["cpu"], threads)
    assert [ran["machine"]["threads"] for ran in record.notes["ran_on"]] == [2, 4]
