"""Freezing and thawing in a search: what a rule has stopped is told at once, and goes on later where it looks good."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from meshtune.record.log import Record
from meshtune.stopping.decisions import EarlyStopping
from meshtune.stopping.rules import Curve, Stopping
from meshtune.study.loop import Dropped, Finished, Frozen, Promoted, StudyEvent, Thawed, TrialFinished
from meshtune.study.promotion import tidy_states
from meshtune.trial import Ending, Event, Outcome, Rung, Verdict
from meshtune.workers.planner import Packing
from tests.stopping.test_decisions import TOKENS, early, log_of, opened
from tests.stopping.test_in_pack import PAIRS, AtRungs, Killed, searched

ALONE = Packing(1)
EIGHT, FOUR = Packing(1, 8, uneven=True), Packing(1, 4, uneven=True)
TRIALS = 25
ASHA = early(rule="asha", keep=0.3, freeze=True)
MODEL = early(rule="model", confidence=0.8)


def crossing(hyperparameters: Mapping[str, Any], share: float) -> float:
    """Curves of which some that end low are high for most of the way."""
    x, y = hyperparameters["x"] - 0.3, hyperparameters["y"] + 0.2
    return float(1 + 0.1 * (x**2 + y**2) + (1 - share) * 0.5 * (1 + math.sin(3 * x)))


def worker(places: int = 1, **given: Any) -> AtRungs:
    return AtRungs(places, loss_at=crossing, **given)


def freezing(folder: Path, worker: AtRungs, trials: int = TRIALS, **given: Any) -> Record:
    """A study in which stopped trials may thaw, or gone on with."""
    folder.mkdir(exist_ok=True)
    given = {"sampler": "tpe", "packing": ALONE, "rules": ASHA, **given}
    return searched(folder, trials, worker, **given)


def course(record: Record) -> list[tuple[Any, ...]]:
    """What became of trials after they had been stopped, without numbers of attempts."""
    stood = [t.promoted or t.frozen for t in record.trials]
    return [*record.thaws, *(each and dataclasses.replace(each, attempt=1) for each in stood)]


def assert_whole(record: Record, count: int = TRIALS) -> None:
    """Each was told once, and what thawed went on along its own curve."""
    assert sorted(trial.order for trial in record.trials if trial.order is not None) == list(range(count))
    assert not record.thawing
    for trial in record.trials:
        assert trial.final is not None
        assert all(loss == crossing(trial.hyperparameters, at / TOKENS) for at, loss in trial.final.rungs)
    for thaw in record.thaws:
        trial = record.trials[thaw.trial]
        assert trial.outcome is not None
        assert trial.final is not None
        assert trial.outcome.ending is Ending.STOPPED_EARLY
        assert trial.final.tokens > thaw.tokens
        assert len(trial.final.rungs) > len(trial.outcome.rungs) or trial.final.ending is Ending.COMPLETE


@pytest.mark.parametrize(
    ("rules", "packing", "asynchronous"),
    [
        (ASHA, ALONE, False),
        (ASHA, PAIRS, False),
        (ASHA, Packing(2), True),
        (MODEL, ALONE, False),
        (MODEL, PAIRS, False),
        (ASHA, EIGHT, False),
    ],
)
def test_what_froze_goes_on_where_it_promises_more(
    tmp_path: Path, rules: EarlyStopping, packing: Packing, asynchronous: bool
) -> None:
    """Blocks do not wait for it; samplers see how it stands; all of it is there when the record is opened again."""
    record = freezing(tmp_path, worker(packing.processes), rules=rules, packing=packing, asynchronous=asynchronous)
    assert_whole(record)
    assert record.thaws
    for number in {thaw.trial for thaw in record.thaws}:
        trial, seen = record.trials[number], record.mirror.trials[number]
        assert trial.final is not None
        assert trial.value is not None
        assert seen.intermediate_values == dict(trial.final.rungs)
        if trial.promoted is None:
            assert seen.state is TrialState.PRUNED
            assert seen.value == record.decided[number, trial.final.rungs[-1][0]].value
        else:
            assert (seen.state, seen.value) == (TrialState.COMPLETE, trial.promoted.loss)
    again = opened(tmp_path)
    assert course(again) == course(record)
    assert [trial.learnt for trial in again.trials] == [trial.learnt for trial in record.trials]
    assert (again.tokens, again.losses_in_search) == (record.tokens, record.losses_in_search)
    assert record.best is not None
    assert record.best.loss == min(record.losses_in_search)


def test_some_end_and_some_are_stopped_again(tmp_path: Path) -> None:
    record = freezing(tmp_path, worker())
    assert any(trial.promoted for trial in record.trials)
    assert any(trial.frozen for trial in record.trials)
    number = next(thaw.trial for thaw in record.thaws if record.trials[thaw.trial].promoted)
    before = freezing(tmp_path, worker())  # nothing is left to do
    assert course(before) == course(record)
    assert before.trials[number].outcome == record.trials[number].outcome, "what was told never changes"


def test_a_study_without_it_thaws_nothing(tmp_path: Path) -> None:
    record = searched(tmp_path, TRIALS, worker(), rules=early(rule="asha", keep=0.3), packing=ALONE)
    assert not record.thaws
    assert "freeze" not in early(rule="asha").described()
    assert early(rule="asha", freeze=True).described()["freeze"] is True


@pytest.mark.slow
def test_mads_keeps_what_it_was_told(tmp_path: Path) -> None:
    """It replays what it was told on a resume, so that goes on where values have changed."""
    for trials in (13, 21, TRIALS):
        record = freezing(tmp_path, worker(), trials, sampler="mads")
    assert_whole(record)
    for thaw in record.thaws:
        assert record.mirror.trials[thaw.trial].value == record.trials[thaw.trial].value


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "how"), [*((ASHA, how) for how in ("unsent", "sent", "worker")), (MODEL, "sent")])
def test_killed_at_any_question_with_one_process_the_record_is_that_of_an_undisturbed_study(
    tmp_path: Path, rules: EarlyStopping, how: str
) -> None:
    running = worker()
    whole = freezing(tmp_path / "whole", running, rules=rules)
    thawed = {thaw.trial for thaw in whole.thaws}
    of_thawed = [n for n, rung in enumerate(running.asked) if len(rung.losses) == 1 and rung.losses[0][0] in thawed]
    for number in of_thawed[-4:]:
        folder = tmp_path / str(number)
        try:
            record = freezing(folder, worker(number=number, how=how), rules=rules)
        except Killed:
            record = freezing(folder, worker(), rules=again(rules))
        assert log_of(record, attempts=False) == log_of(whole, attempts=False)
        assert course(record) == course(whole)


@pytest.mark.parametrize(("packing", "asynchronous", "count"), [(EIGHT, False, 33), (FOUR, True, 49)])
def test_where_trials_are_packed_what_froze_takes_a_place_that_comes_free(
    tmp_path: Path, packing: Packing, asynchronous: bool, count: int
) -> None:
    """None trains alone while there are further points; its pack stays the one that it began in."""
    running = worker()
    record = freezing(tmp_path, running, count, packing=packing, asynchronous=asynchronous)
    assert_whole(record, count)
    thawed = [joined for joined in record.joined if joined.thaw is not None]
    assert thawed
    assert [(each.trial, each.tokens) for each in record.thaws] == [
        (each.trial, record.thaws[each.thaw].tokens) for each in thawed
    ]
    requests = [request for request in running.joined if request.thaws]
    assert [(r.trial, r.joins, r.pack) for r in requests] == [(j.trial, j.after, j.pack) for j in thawed]
    for request, joined in zip(requests, thawed, strict=True):
        trial = record.trials[joined.trial]
        assert trial.pack < joined.pack
        assert record.decided[joined.after].verdict is not None
        assert all(verdict is Verdict.GOES_ON for _, verdict in request.decided)
        assert trial.outcome is not None
        assert [tokens for tokens, _ in request.decided] == [tokens for tokens, _ in trial.outcome.rungs]
    assert sum(map(len, running.submitted)) + len(running.joined) == count + len(thawed)
    assert opened(tmp_path).joined == record.joined


def test_what_froze_gets_no_place_where_a_trial_waits_or_memory_is_short(tmp_path: Path) -> None:
    fits = early(rule="asha", keep=0.3, freeze=True)
    tight = Packing(1, 8, uneven=True, fits=lambda points: len(points) < 2)
    record = freezing(tmp_path, worker(), 33, packing=tight, rules=fits)
    assert_whole(record, 33)
    assert not any(joined.thaw is not None for joined in record.joined)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "packing"), [(ASHA, EIGHT), (early(rule="model", confidence=0.95), FOUR)])
def test_killed_at_any_write_while_what_froze_takes_a_place(
    tmp_path: Path, rules: EarlyStopping, packing: Packing
) -> None:
    """Before the decision is written, between its notes, and after: the record is that of an undisturbed study."""
    count, marks = 0, list[int]()

    def fence(_: Any) -> None:
        nonlocal count
        count += 1
        if count == killed_at:
            raise Killed

    def watch(record: Record, event: StudyEvent | None) -> None:
        if isinstance(event, Thawed) and record.thawing_in:
            marks.append(count)

    killed_at = 0
    whole = freezing(tmp_path / "whole", worker(), 33, rules=rules, packing=packing, fence=fence, watch=watch)
    assert marks
    for killed_at in sorted({mark + by for mark in (marks[0], marks[-1]) for by in range(-4, 3)}):
        count, folder = 0, tmp_path / str(killed_at)
        with pytest.raises(Killed):
            freezing(folder, worker(), 33, rules=again(rules), packing=packing, fence=fence)
        record = freezing(folder, worker(), 33, rules=again(rules), packing=packing)
        assert log_of(record, attempts=False) == log_of(whole, attempts=False)
        assert course(record) == course(whole)
        assert record.joined == whole.joined


def again(rules: EarlyStopping) -> EarlyStopping:
    """With nothing fitted yet."""
    return dataclasses.replace(rules, _fitted={}, _last={})


def test_a_thawed_trial_that_keeps_crashing_is_no_other_s_fault(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.enqueue({"x": 0.0, "y": 0.0}, origin="search", seed=0)
    stopped = Outcome(0, 1, Ending.STOPPED_EARLY, 1.5, rungs=((100, 1.5),), tokens=100)
    record.tell(stopped, elapsed=0.0, value=1.2)
    record.thaw(0)
    assert list(opened(tmp_path).thawing) == [0]
    record.promote(Outcome(0, 4, Ending.CRASHED, message="no", tokens=100), learnt=True)
    again = opened(tmp_path)
    again.learn(0)
    assert not again.thawing
    assert not again.frozen
    assert again.trials[0].outcome == record.trials[0].outcome
    assert again.mirror.trials[0].state is TrialState.FAIL


def test_only_what_promises_more_for_its_tokens_than_a_new_point_is_worth_more() -> None:
    rules = Stopping("asha", (0.1, 0.5), startup=3, keep=0.3)
    done = [Curve((2.0 + 0.01 * n, 1.5 + 0.01 * n), 1.0 + 0.01 * n) for n in range(8)]
    near, far = Curve((1.995,)), Curve((2.5,))
    assert rules.worth_more([*done, far, near]) == [9]
    assert rules.worth_more(done) == []


def test_the_same_rung_is_not_asked_of_again_and_a_later_one_is(tmp_path: Path) -> None:
    record, rules = opened(tmp_path), early(rule="asha", keep=0.3, freeze=True)
    for number in range(5):
        record.enqueue({"x": number / 10, "y": 0.0}, origin="search", seed=0)
    for number in range(4):
        rungs = ((100, 2.0 + number), (150, 1.5 + number))
        record.tell(Outcome(number, 1, Ending.COMPLETE, 1.0 + number, rungs=rungs, tokens=TOKENS), elapsed=0.0)
    record.decide(rules.decide(record, Rung(4, 1, ((4, 100, 9.0),))))
    assert record.decided[4, 100].verdict is Verdict.STOPS
    record.tell(Outcome(4, 1, Ending.STOPPED_EARLY, 9.0, rungs=((100, 9.0),), tokens=100), elapsed=0.0, value=8.0)
    assert rules.decide(record, Rung(4, 1, ((4, 150, 1.4),))) == []
    record.thaw(4)
    assert rules.decide(record, Rung(4, 2, ((4, 100, 9.0),))) == []
    (decided,) = rules.decide(record, Rung(4, 2, ((4, 150, 1.4),)))
    assert decided.verdict is Verdict.GOES_ON


STATE = 100  # bytes that each of these trials keeps


class Keeping(AtRungs):
    """Keeps a file for each trial that stops, as an objective does."""

    def __init__(self, folder: Path):
        super().__init__(loss_at=crossing)
        self.folder = folder

    def events(self, timeout: float) -> list[Event]:
        said = super().events(timeout)
        for event in said:
            if isinstance(event, Outcome) and event.ending is Ending.STOPPED_EARLY:
                (self.folder / str(event.trial)).mkdir(parents=True, exist_ok=True)
        return said


def with_disk(states: int) -> EarlyStopping:
    rules = early(rule="asha", keep=0.3, freeze=True, disk=states * STATE)
    return dataclasses.replace(rules, state=lambda point, validated: STATE)


def limited(folder: Path, moment: str = "", number: int = 0) -> Record:
    """A study with room for three states, or gone on with; killed by a real SIGKILL at so manieth drop.

    `moment`: "before" the drop is recorded, or "after" that and before the state is removed.
    """
    folder.mkdir(exist_ok=True)
    rules, states, drops = with_disk(3), folder / "stopped", 0

    def watch(record: Record, event: StudyEvent | None) -> None:
        nonlocal drops
        before = event is None and bool(rules.drops(record))
        if (moment == "before" and before) or (moment == "after" and isinstance(event, Dropped)):
            drops += 1
            if drops == number:
                os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(event, Dropped | Frozen | TrialFinished | Promoted | Finished):
            tidy_states(record, rules, states)
            assert len(list(states.glob("*"))) <= 3

    return searched(folder, TRIALS, Keeping(states), rules=rules, packing=ALONE, watch=watch)


def kept(folder: Path) -> set[int]:
    return {int(place.name) for place in (folder / "stopped").glob("*")}


def test_the_least_promising_states_are_dropped_and_never_thaw(tmp_path: Path) -> None:
    """As many are kept as there is room for, of those that are frozen at the end."""
    record = limited(tmp_path)
    assert_whole(record)
    assert record.drops
    assert record.thaws
    for dropped in record.drops:
        assert not any(thaw.trial == dropped.trial and thaw.seen > dropped.seen for thaw in record.thaws)
    assert len({dropped.trial for dropped in record.drops}) == len(record.drops)
    assert kept(tmp_path) == {trial.number for trial in record.frozen}
    assert 0 < len(kept(tmp_path)) <= 3
    again = opened(tmp_path)
    assert (again.drops, again.dropped) == (record.drops, record.dropped)


def test_what_is_dropped_is_least_likely_to_win_for_its_tokens(tmp_path: Path) -> None:
    """One that a person wants finished stays; nothing is dropped where there is room, or no limit."""
    record = opened(tmp_path)
    for number in range(8):
        record.enqueue({"x": number / 10, "y": 0.0}, origin="search", seed=0)
    for number in range(4):
        rungs = ((100, 2.0 + number), (150, 1.5 + number))
        record.tell(Outcome(number, 1, Ending.COMPLETE, 1.0 + number, rungs=rungs, tokens=TOKENS), elapsed=0.0)
    for number, loss in ((4, 5.0), (5, 9.0), (6, 2.2)):
        outcome = Outcome(number, 1, Ending.STOPPED_EARLY, loss, rungs=((100, loss),), tokens=100)
        record.tell(outcome, elapsed=0.0, value=8.0)
    assert with_disk(3).drops(record) == []
    assert with_disk(2).drops(record) == [5]
    assert with_disk(1).drops(record) == [5, 4]
    record.decide(with_disk(2).decide(record, Rung(7, 1, ((7, 100, 7.0),))))
    assert record.decided[7, 100].verdict is Verdict.STOPS
    assert with_disk(2).drops(record) == [5, 7], "one that stops now is compared with the others"
    record.drop(5)
    record.drop(7)
    assert with_disk(2).drops(record) == []
    assert (record.drops[1].tokens, opened(tmp_path).dropped) == (100, {5, 7})
    assert [trial.number for trial in record.frozen] == [4, 6]
    record.thaw(6)
    assert with_disk(1).drops(record) == [4], "what trains on keeps its state"
    assert early(rule="asha", keep=0.3, freeze=True).drops(record) == []
    assert "disk" not in with_disk(2).described(), "a study may go on with another limit"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_a_state_is_dropped(tmp_path: Path, moment: str) -> None:
    """Before that is recorded, and between that and the removal: nothing is lost, and nothing is dropped twice."""
    whole = limited(tmp_path / "whole")
    for number in (1, len(whole.drops)):
        folder = tmp_path / str(number)
        code = f"import pathlib, {__name__} as test; test.limited(pathlib.Path({str(folder)!r}), {moment!r}, {number})"
        killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(opened(folder).drops) == number - (moment == "before")
        record = limited(folder)
        assert log_of(record, attempts=False) == log_of(whole, attempts=False)
        assert course(record) == course(whole)
        assert record.drops == whole.drops
        assert kept(folder) == kept(tmp_path / "whole")
