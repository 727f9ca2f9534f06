"""A process on another machine keeps its cache in bounds; what it evaluates is tested with the workers that use it."""

import os
import time
from pathlib import Path

from meshtune.objectives.build import ObjectiveSpec
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.remote_process import UNUSED_SECONDS, RemoteProcess, start_from, start_of
from tests.workers.test_local import spec


def test_what_nobody_used_for_a_month_is_taken_out_of_the_cache(tmp_path: Path) -> None:
    study, cache = tmp_path / "study", tmp_path / "cache"
    study.mkdir()
    old = time.time() - UNUSED_SECONDS - 60
    kept = [cache / "data" / "mine", cache / "data" / "of-a-week-ago", cache / "study-of-a-living-one"]
    dropped = [cache / "data" / "old", cache / "study-of-a-killed-one", cache / ".data-half"]
    for folder in (*kept, *dropped):
        folder.mkdir(parents=True)
        (folder / "rows").touch()
        os.utime(folder, (old, old) if folder not in kept[1:] else None)
    rows = {"folder": str(study / "data"), "fingerprint": "mine"}
    objective = ObjectiveSpec("command", {**spec(study).spec, "data": rows})
    start = start_of(objective, ProcessSpec("cpu", {}, 1), study, ".not-seen")
    process = RemoteProcess(start_from(start), cache)
    try:
        assert [folder.exists() for folder in kept] == [True] * 3
        assert [folder.exists() for folder in dropped] == [False] * 3
        assert time.time() - kept[0].stat().st_mtime < UNUSED_SECONDS / 2  # used now
    finally:
        process.end()
