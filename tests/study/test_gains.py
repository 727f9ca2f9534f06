"""A search that ends once little is to be gained: at a block's end, noted first, and the same after a resume."""

from pathlib import Path

from meshtune.plan.budget import Budget
from meshtune.record.log import Record
from meshtune.study.gains import NOTE, Gains
from meshtune.study.loop import Finished, StudyEvent, run
from meshtune.trial import Ending, Outcome, Request
from meshtune.workers.planner import Packing
from tests.study.test_loop import SPACE, AtOnce, sampler


def bowl(request: Request) -> Outcome:
    loss = 1.0 + float(request.hyperparameters["x"]) ** 2
    return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=loss)


def record_in(folder: Path) -> Record:
    fixed = {"space": SPACE.describe(), "objective": {"command": ["run"]}, "sampler": {"name": "batch-gp"}}
    return Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed=fixed)


def searched(folder: Path, least: float | None, *, trials: int = 48, worker: AtOnce | None = None) -> list[StudyEvent]:
    record, made = record_in(folder), sampler("batch-gp")
    gains, budget = Gains(record, lambda _: True, least), Budget(trials=trials)
    events = list(run(record, made, worker or AtOnce(bowl), budget, seed=0, packing=Packing(2), gains=gains))
    made.close()
    return events


def log(folder: Path) -> list[object]:
    return [(trial.params, trial.block, trial.seen) for trial in record_in(folder).trials]


def test_it_ends_between_blocks_says_why_and_ends_again_at_once(tmp_path: Path) -> None:
    worker = AtOnce(bowl)
    ended = searched(tmp_path, 0.03, worker=worker)[-1]
    assert isinstance(ended, Finished)
    assert ended.complete
    assert ended.reason.startswith("another 20 trials are expected to gain ")
    assert ended.reason.endswith(" % of the loss, less than 3 %")
    told = len(worker.submitted)
    assert 8 <= told < 48
    assert told % 4 == 0
    noted = record_in(tmp_path).notes[NOTE]
    assert (noted["told"], noted["trials"]) == (told, 20)
    again = AtOnce()
    assert searched(tmp_path, 0.03, worker=again) == [ended]
    assert again.submitted == []
    further = searched(tmp_path, noted["mean"] / 2, trials=told + 4)
    assert isinstance(further[-1], Finished)
    assert len(log(tmp_path)) == told + 4


def test_points_do_not_depend_on_it_and_a_search_that_was_cut_ends_alike(tmp_path: Path) -> None:
    for name in ("whole", "cut", "without"):
        (tmp_path / name).mkdir()
    searched(tmp_path / "whole", 0.03)
    searched(tmp_path / "without", None)
    for trials in (8, 48):
        searched(tmp_path / "cut", 0.03, trials=trials)
    whole = log(tmp_path / "whole")
    assert log(tmp_path / "cut") == whole == log(tmp_path / "without")[: len(whole)]
    assert record_in(tmp_path / "cut").notes[NOTE] == record_in(tmp_path / "whole").notes[NOTE]
    assert NOTE not in record_in(tmp_path / "without").notes


def test_it_is_noted_before_the_search_heeds_it(tmp_path: Path) -> None:
    searched(tmp_path, None, trials=16)
    record = record_in(tmp_path)
    gains = Gains(record, lambda _: True, 0.9)
    assert gains.reached(waits=True) is None  # in the midst of a block
    assert NOTE not in record.notes
    assert gains.reached(waits=False) is not None
    assert record_in(tmp_path).notes[NOTE] == record.notes[NOTE]
    assert gains.reached(waits=True) is not None  # it stands


def test_without_a_limit_nothing_is_asked_until_the_end(tmp_path: Path) -> None:
    searched(tmp_path, None, trials=16)
    gains = Gains(record_in(tmp_path), lambda _: True)
    assert gains.reached(waits=False) is None
    assert gains.noted() == gains.noted() is not None
