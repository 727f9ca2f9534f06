"""What another shell sees of a run: what there is, then what comes, once; nothing of a killed one."""

import contextlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from meshtune.cli.attach import at_this_moment
from meshtune.cli.display import Display
from meshtune.cli.live import BARS
from meshtune.plan.locate import existing, locate
from meshtune.study import progress
from meshtune.study.loop import Answered, Opened, Running, StudyEvent, TrialFinished
from meshtune.study.progress import Reread, Written, follow, read
from meshtune.study.requests import ask_of_trial
from meshtune.study.rounds import tune
from meshtune.study.status import status
from meshtune.trial import Progress
from tests.kill import command_study


def test_what_comes_is_seen_once_and_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshtune.study.requests.WAIT_SECONDS", 0.0)
    path = command_study(tmp_path, sampler="random", trials=8)
    events = tune(locate(path))
    made: list[StudyEvent] = []

    def goes_on(_: float) -> None:
        """The run, as far as to the next trial that ends."""
        for event in events:
            made.append(event)
            if isinstance(event, TrialFinished):
                return

    goes_on(0)
    goes_on(0)
    study = existing(path)
    pending = next(trial["trial"] for trial in status(path, trials=True)["all"] if trial["ending"] is None)
    ask_of_trial(path, pending, "finish")
    seen = list(follow(study, goes_on))
    assert isinstance(seen[0], Reread)
    assert len(seen[0].record.finished) == 2
    assert seen[0].now["trials"] == 8
    ended = [event.trial.number for event in seen if isinstance(event, TrialFinished)]
    assert ended == [event.trial.number for event in made if isinstance(event, TrialFinished)][2:]
    assert len(ended) == 6
    (answer,) = [event.answer for event in seen if isinstance(event, Answered)]
    assert answer.words == f"trial {pending} is trained to its end, whatever the others do"
    assert read(study) is None
    assert not (study.folder / progress.FILE).exists()
    assert [type(event) for event in follow(study)] == [Reread]  # of one that does not run: where it stands


def test_a_run_that_was_killed_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="random", trials=4)
    with contextlib.closing(tune(locate(path))) as events:
        next(event for event in events if isinstance(event, TrialFinished))
        study = existing(path)
        file = study.folder / progress.FILE
        there = read(study)
        assert there is not None
        assert there["slots"] == 2
        file.write_text(json.dumps({**there, "pid": os.getpid() + 1}))  # of the run before this one
        assert read(study) is None
        now = at_this_moment(path)
        assert (now["state"], now["running"]) == ("running", [])


def test_the_view_from_outside_shows_devices_packs_and_losses(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="random", trials=4, block=4)
    with contextlib.closing(tune(locate(path))) as events:
        opened = next(event for event in events if isinstance(event, Opened))
        record = opened.record
        next(event for event in events if isinstance(event, TrialFinished))
        written = Written(clock=lambda: 0.0)
        written.show(opened)
        where = {1: "cuda:0", 2: "cuda:1", 3: "cuda:1"}
        record.trials[3:4] = [replace(record.trials[3], pack=2)]
        for step in (1, 2, 3):
            for number, place in where.items():
                at = Progress(number, 1, step=step, steps=9, training_loss=3.0 - step, place=place)
                written.show(Running(at))
        study = existing(path)
        written._write(opened)
        now = at_this_moment(path)
        assert {one["trial"]: (one["place"], one["losses"]) for one in now["running"]} == {
            number: (place, [2.0, 1.0, 0.0]) for number, place in where.items()
        }
        out = io.StringIO()
        view = Display(Console(file=out, width=140))
        seen = read(study)
        assert seen is not None
        view.read_again(record, {})  # watched before the run, which goes on after a kill, has begun to write
        assert view._panel.total is None
        view.read_again(record, seen)
        assert view._panel.total == 4
        for known in seen["running"].values():
            view.show(Running(Progress(**known["progress"])))
        Console(file=out, width=140).print(view._drawn())
        lines = {line.split("trial ")[1][0]: line for line in out.getvalue().splitlines() if "step 3 of 9" in line}
        assert lines["1"].startswith("cuda:0  ")
        assert lines["2"].startswith("cuda:1 pack 2  ")
        assert lines["3"].startswith("cuda:1 pack 2  ")
        assert f"{BARS[7]}{BARS[4]}{BARS[0]}" in lines["1"]
