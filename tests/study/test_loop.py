"""The loop, with a worker that answers at once: order, budgets, retries, stops, and going on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from meshtune.config import presets
from meshtune.config.sections import Interval, SamplerConfig
from meshtune.errors import LeaseLost, StorageError
from meshtune.plan.budget import Budget, Stop, StopWhen
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.samplers.interface import Sampler
from meshtune.study.loop import Finished, Proposed, Retried, Running, Started, StudyEvent, TrialFinished, run
from meshtune.trial import Ending, Event, Outcome, Progress, Request
from meshtune.workers.planner import Packing

SPACE = presets.build({"x": Interval(low=-1, high=1), "k": Interval(low=0, high=2, integer=True)}, lora=False)

Answer = Callable[[Request], Outcome]


def squared(request: Request) -> Outcome:
    return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=float(request.hyperparameters["x"]) ** 2)


class AtOnce:
    """Answers in the reverse order of submission, `places` packs at a time."""

    def __init__(self, answer: Answer = squared, places: int = 2):
        self.answer, self.places = answer, places
        self.running: list[Sequence[Request]] = []
        self.packs: list[Sequence[Request]] = []

    @property
    def submitted(self) -> list[Request]:
        return [request for pack in self.packs for request in pack]

    def free(self) -> int:
        return self.places - len(self.running)

    def submit(self, requests: Sequence[Request]) -> None:
        assert self.free() > 0
        self.running.append(requests)
        self.packs.append(requests)

    def events(self, timeout: float) -> list[Event]:
        answers: list[Event] = [self.answer(request) for pack in reversed(self.running) for request in reversed(pack)]
        self.running = []
        return answers

    def suspend(self, seconds: float) -> None:
        raise AssertionError("nothing ran that could be suspended")

    def close(self) -> None:
        self.running = []


class Suspended(AtOnce):
    """Answers nothing until it is suspended: then the first that runs ends just in time."""

    def events(self, timeout: float) -> list[Event]:
        return [] if timeout else super().events(timeout)

    def suspend(self, seconds: float) -> None:
        self.grace = seconds
        del self.running[1:]


def opened(folder: Path) -> Record:
    return Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={})


def sampler(name: str = "mads", block_size: int = 4) -> Sampler:
    space = distributions(SPACE)
    made: Sampler = build(SamplerConfig(name=name), space, x0={"x": 0.5, "k": 1}, block_size=block_size, seed=0)  # type: ignore[arg-type]
    return made


def events_of(
    record: Record,
    worker: AtOnce,
    made: Sampler,
    budget: Budget,
    *,
    attempts: int = 3,
    stop: Callable[[], Stop | None] = lambda: None,
    pack: int = 1,
    timeout: float | None = None,
) -> list[StudyEvent]:
    packing = Packing(2, pack, exact=True)
    loop = run(record, made, worker, budget, seed=0, packing=packing, attempts=attempts, timeout=timeout, stop=stop)
    events = list(loop)
    made.close()
    return events


def test_it_ends_with_the_budget_and_every_trial_is_told_once(tmp_path: Path) -> None:
    record = opened(tmp_path)
    events = events_of(record, AtOnce(), sampler(), Budget(trials=10))
    assert events[-1] == Finished("10 trials are done", complete=True)
    assert sorted(e.trial.number for e in events if isinstance(e, TrialFinished)) == list(range(10))
    assert not record.pending


def test_a_block_is_recorded_as_a_whole_before_any_of_it_starts(tmp_path: Path) -> None:
    events = events_of(opened(tmp_path), AtOnce(), sampler("random"), Budget(trials=8))
    kinds = [type(event) for event in events]
    assert kinds[:5] == [Proposed] * 4 + [Started]
    assert kinds.count(Proposed) == 8
    second = [e.trial for e in events if isinstance(e, Proposed)][4:]
    assert {trial.seen for trial in second} == {4}


def test_points_do_not_depend_on_the_number_of_places(tmp_path: Path) -> None:
    points = []
    for places in (1, 3):
        (tmp_path / str(places)).mkdir()
        record = opened(tmp_path / str(places))
        events_of(record, AtOnce(places=places), sampler(), Budget(trials=14))
        points.append([(trial.params, trial.block) for trial in record.trials])
    assert points[0] == points[1]


def test_a_crash_is_tried_again_and_then_told(tmp_path: Path) -> None:
    def crashing(request: Request) -> Outcome:
        if request.trial == 1 or (request.trial == 2 and request.attempt == 1):
            return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")
        return squared(request)

    record = opened(tmp_path)
    worker = AtOnce(crashing)
    events = events_of(record, worker, sampler(), Budget(trials=4), attempts=3)
    assert [e.outcome.trial for e in events if isinstance(e, Retried)].count(1) == 2
    assert [r.attempt for r in worker.submitted if r.trial == 2] == [1, 2]
    endings = [trial.outcome.ending for trial in record.trials if trial.outcome is not None]
    assert endings == [Ending.COMPLETE, Ending.CRASHED, Ending.COMPLETE, Ending.COMPLETE]


@pytest.mark.parametrize("pack", [1, 4])
def test_what_is_lost_with_its_node_costs_no_attempt_until_it_is_suspected(tmp_path: Path, pack: int) -> None:
    """Nodes that vanish cost nobody a trial; but one that takes each node down with it ends too."""

    def lost(request: Request) -> Outcome:
        if request.trial == 3 or (request.trial == 1 and request.attempt < 9):
            return Outcome(request.trial, request.attempt, Ending.CRASHED, message="its node is gone", lost=True)
        if request.trial == 1 and request.attempt < 11:
            return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")
        return squared(request)

    record, worker = opened(tmp_path), AtOnce(lost)
    events_of(record, worker, sampler("random"), Budget(trials=4), attempts=3, pack=pack)
    ended = [(trial.outcome.ending, trial.outcome.attempt) for trial in record.trials if trial.outcome is not None]
    assert ended[1] == (Ending.COMPLETE, 11)
    assert ended[3] == (Ending.CRASHED, 15)
    assert [trial.outcome for trial in opened(tmp_path).finished] == [trial.outcome for trial in record.finished]


def test_a_full_disk_ends_the_run_and_costs_no_trial(tmp_path: Path) -> None:
    def full(request: Request) -> Outcome:
        if request.trial == 1:
            return Outcome(1, request.attempt, Ending.CRASHED, message="No space left on device", no_room=True)
        return squared(request)

    with pytest.raises(StorageError, match=r"^trial 1: No space left on device\. Is the disk full"):
        events_of(opened(tmp_path), AtOnce(full), sampler("random"), Budget(trials=4), attempts=1)
    record = opened(tmp_path)
    assert 1 in [trial.number for trial in record.pending]
    events_of(record, AtOnce(), sampler("random"), Budget(trials=4))
    assert {trial.outcome.ending for trial in record.trials if trial.outcome is not None} == {Ending.COMPLETE}


def test_a_crash_that_would_come_again_is_told_at_once(tmp_path: Path) -> None:
    def crashing(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom", retry=False)

    record, worker = opened(tmp_path), AtOnce(crashing)
    events_of(record, worker, sampler("random"), Budget(trials=4), attempts=3)
    assert [request.trial for request in worker.submitted] == list(range(4))
    assert [trial.outcome for trial in opened(tmp_path).finished] == [trial.outcome for trial in record.finished]


def test_stop_lets_running_trials_end_and_keeps_the_rest_pending(tmp_path: Path) -> None:
    record = opened(tmp_path)

    def stop() -> Stop | None:
        return Stop("asked to stop") if len(record.finished) >= 2 else None

    events = events_of(record, AtOnce(), sampler("random"), Budget(trials=8), stop=stop)
    assert events[-1] == Finished("asked to stop", complete=False)
    assert (len(record.finished), len(record.pending)) == (2, 2)
    worker = AtOnce()
    again = opened(tmp_path)
    events_of(again, worker, sampler("random"), Budget(trials=8))
    assert [request.trial for request in worker.submitted] == list(range(2, 8))


def test_a_stop_while_the_last_trials_run_leaves_a_finished_search(tmp_path: Path) -> None:
    record = opened(tmp_path)

    def stop() -> Stop | None:
        return Stop("asked to stop") if len(record.finished) == 8 else None

    events = events_of(record, AtOnce(), sampler("random"), Budget(trials=8), stop=stop)
    assert events[-1] == Finished("8 trials are done", complete=True)


@pytest.mark.parametrize("trials", [8, 2], ids=["with more to propose", "once all are proposed"])
def test_a_suspension_tells_what_ended_in_time_and_keeps_the_rest_pending(tmp_path: Path, trials: int) -> None:
    record, worker = opened(tmp_path), Suspended()
    asked = iter([None])  # then it comes, while two run

    def stop() -> Stop | None:
        return next(asked, Stop("SIGTERM came", seconds=20))

    events = events_of(record, worker, sampler("random"), Budget(trials=trials), stop=stop)
    assert events[-1] == Finished("SIGTERM came", complete=False)
    assert worker.grace == 20
    assert [trial.number for trial in record.finished] == [0]
    again, second = opened(tmp_path), AtOnce()
    assert again.elapsed >= again.trials[0].elapsed > 0
    events_of(again, second, sampler("random"), Budget(trials=trials))
    assert [request.trial for request in second.submitted] == list(range(1, trials))


def test_nothing_is_proposed_or_told_where_another_holds_the_study(tmp_path: Path) -> None:
    record = opened(tmp_path)

    def lost() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        list(run(record, sampler("random"), AtOnce(), Budget(trials=8), seed=0, holding=lost))
    assert not opened(tmp_path).trials
    asked = iter([None] * 2)  # before the first block, and before the first answers

    def lost_later() -> None:
        if next(asked, lost) is lost:
            lost()

    with pytest.raises(LeaseLost):
        list(run(record, sampler("random", 1), AtOnce(places=1), Budget(trials=8), seed=0, holding=lost_later))
    assert len(opened(tmp_path).trials) == len(opened(tmp_path).finished) == 1


def test_tokens_and_hours_end_it(tmp_path: Path) -> None:
    def costly(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=1.0, tokens=100)

    record = opened(tmp_path)
    events = events_of(record, AtOnce(costly, places=1), sampler("random", 1), Budget(trials=50, tokens=300))
    assert len(record.finished) == 3
    assert events[-1] == Finished("the budget of 300 tokens is spent", complete=True)
    events = events_of(record, AtOnce(), sampler("random", 1), Budget(hours=record.elapsed / 3600))
    assert len(record.finished) == 3
    assert isinstance(events[-1], Finished)


def test_a_spent_space_ends_it(tmp_path: Path) -> None:
    space = presets.build({"x": (0.0, 1.0), "k": Interval(low=0, high=2, integer=True)}, lora=False)
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={})
    made = build(SamplerConfig(name="mads"), distributions(space), x0=None, block_size=4, seed=0)
    events = events_of(record, AtOnce(), made, Budget(trials=50))
    assert len(record.finished) == 6
    assert events[-1] == Finished("the space is exhausted: every point of it was tried", complete=True)


def test_closing_it_abandons_what_runs_and_the_next_run_takes_it_up(tmp_path: Path) -> None:
    record = opened(tmp_path)
    made = sampler("random")
    loop = run(record, made, AtOnce(), Budget(trials=8), seed=0)
    for event in loop:
        if isinstance(event, TrialFinished):
            break
    loop.close()  # type: ignore[attr-defined]
    again = opened(tmp_path)
    worker = AtOnce()
    events_of(again, worker, sampler("random"), Budget(trials=8))
    assert {request.trial for request in worker.submitted} == set(range(8)) - {t.number for t in record.finished}
    (tmp_path / "whole").mkdir()
    whole = opened(tmp_path / "whole")
    events_of(whole, AtOnce(), sampler("random"), Budget(trials=8))
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]


def members(worker: AtOnce) -> list[list[int]]:
    """The trials of each submission."""
    return [[request.trial for request in pack] for pack in worker.packs]


def test_a_block_is_submitted_in_packs_which_the_record_knows_before(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), AtOnce()
    events_of(record, worker, sampler("random"), Budget(trials=11), pack=3, timeout=10)
    assert members(worker) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9, 10]]
    assert [trial.pack for trial in opened(tmp_path).trials] == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 8]
    assert {len(pack): {request.timeout for request in pack} for pack in worker.packs} == {2: {20}, 3: {30}}


def test_passes_that_memory_ran_out_in_stay_small_for_the_packs_to_come(tmp_path: Path) -> None:
    """And after a resume; no point depends on them."""

    def short(request: Request) -> Outcome:
        tokens = {2: 600, 5: 300}.get(request.trial, request.pass_tokens)
        return replace(squared(request), pass_tokens=tokens)

    record, worker = opened(tmp_path), AtOnce(short, places=1)
    events_of(record, worker, sampler("random"), Budget(trials=8), pack=2)
    events_of(opened(tmp_path), worker, sampler("random"), Budget(trials=10), pack=2)
    assert [pack[0].pass_tokens for pack in worker.packs] == [None, None, 600, 300, 300]
    (tmp_path / "roomy").mkdir()
    roomy = opened(tmp_path / "roomy")
    events_of(roomy, AtOnce(places=1), sampler("random"), Budget(trials=10), pack=2)
    assert [trial.params for trial in roomy.trials] == [trial.params for trial in opened(tmp_path).trials]
    assert [trial.value for trial in roomy.trials] == [trial.value for trial in opened(tmp_path).trials]


def test_points_do_not_depend_on_packs(tmp_path: Path) -> None:
    points = []
    for pack in (1, 3):
        (tmp_path / str(pack)).mkdir()
        record = opened(tmp_path / str(pack))
        events_of(record, AtOnce(), sampler(), Budget(trials=14), pack=pack)
        points.append([(trial.params, trial.block) for trial in record.trials])
    assert points[0] == points[1]


def test_an_interrupted_pack_runs_again_as_it_was(tmp_path: Path) -> None:
    """Also the member that is told: the others' losses may depend on it. Its second answer is discarded."""
    record = opened(tmp_path)
    loop = run(record, sampler("random"), AtOnce(), Budget(trials=8), seed=0, packing=Packing(2, 4, exact=True))
    told = next(event.trial for event in loop if isinstance(event, TrialFinished))
    loop.close()  # type: ignore[attr-defined]

    def otherwise(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=5.0)

    again, worker = opened(tmp_path), AtOnce(otherwise)
    events = events_of(again, worker, sampler("random"), Budget(trials=8), pack=4)
    assert members(worker) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert again.trials[told.number].outcome == told.outcome
    started = [event.request.trial for event in events if isinstance(event, Started)]
    assert started == [trial for trial in range(8) if trial != told.number], "to the user only the others run"


def test_progress_of_a_member_that_runs_again_is_not_shown(tmp_path: Path) -> None:
    class Slow(AtOnce):
        def events(self, timeout: float) -> list[Event]:
            progress: list[Event] = [
                Progress(request.trial, request.attempt) for pack in self.running for request in pack
            ]
            return progress + super().events(timeout)

    record = opened(tmp_path)
    loop = run(record, sampler("random"), AtOnce(), Budget(trials=4), seed=0, packing=Packing(2, 4, exact=True))
    told = next(event.trial.number for event in loop if isinstance(event, TrialFinished))
    loop.close()  # type: ignore[attr-defined]
    events = events_of(opened(tmp_path), Slow(), sampler("random"), Budget(trials=4), pack=4)
    shown = {event.progress.trial for event in events if isinstance(event, Running)}
    assert shown == set(range(4)) - {told}


def test_a_block_that_a_kill_cut_is_completed_to_the_same_packs(tmp_path: Path) -> None:
    record = opened(tmp_path)
    loop = run(record, sampler("random", 8), AtOnce(), Budget(trials=8), seed=0, packing=Packing(2, 3, exact=True))
    for event in loop:
        if isinstance(event, Proposed) and event.trial.number == 3:
            break
    loop.close()  # type: ignore[attr-defined]
    again, worker = opened(tmp_path), AtOnce()
    events_of(again, worker, sampler("random", 8), Budget(trials=8), pack=3)
    assert members(worker) == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_pack_that_crashes_is_tried_again_as_it_was_and_at_last_one_by_one(tmp_path: Path) -> None:
    def crashing(request: Request) -> Outcome:
        with_two = any(member.trial == 2 for pack in worker.running for member in pack)
        if request.trial in (1, 2, 3) and with_two:
            return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")
        return squared(request)

    record, worker = opened(tmp_path), AtOnce(crashing, places=1)
    events = events_of(record, worker, sampler("random"), Budget(trials=4), pack=4, attempts=3)
    assert members(worker) == [[0, 1, 2, 3], [0, 1, 2, 3], [1], [2], [3]]
    assert [pack[0].attempt for pack in worker.packs] == [1, 2, 3, 3, 3]
    assert [event.outcome.trial for event in events if isinstance(event, Retried)] == [3, 2, 1, 3, 2, 1]
    endings = [trial.outcome.ending for trial in record.trials if trial.outcome is not None]
    assert endings == [Ending.COMPLETE, Ending.COMPLETE, Ending.CRASHED, Ending.COMPLETE]


def test_nothing_better_ends_it_with_the_same_words_after_a_resume_and_more_patience_goes_on(tmp_path: Path) -> None:
    def flat(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=1.0 - 0.01 * (request.trial == 2))

    def searched(patience: int, noise: float = 0.0) -> tuple[StudyEvent, AtOnce]:
        worker = AtOnce(flat)
        when = StopWhen(no_improvement=patience, noise=noise)
        return events_of(opened(tmp_path), worker, sampler("random"), Budget(trials=40, stop_when=when))[-1], worker

    ended, worker = searched(4)
    assert ended == Finished("no trial of the last 4 bettered the best", complete=True)
    told = len(worker.submitted)
    assert told == 8  # trial 2 is the last that was better; those that ran with the last of them have ended too
    assert not opened(tmp_path).pending
    ended_again, worker = searched(4)
    assert (ended_again, worker.submitted) == (ended, [])
    ended, worker = searched(12)
    assert ended == Finished("no trial of the last 12 bettered the best", complete=True)
    assert len(opened(tmp_path).finished) == 16
    ended, worker = searched(12, noise=0.05)
    assert ended == Finished("no trial of the last 12 bettered the best by more than 0.05", complete=True)
    assert not worker.submitted


def test_a_target_ends_it(tmp_path: Path) -> None:
    events = events_of(opened(tmp_path), AtOnce(), sampler(), Budget(trials=60, stop_when=StopWhen(target=0.05)))
    assert events[-1] == Finished("the target is reached: a loss of 0.05", complete=True)
    record = opened(tmp_path)
    assert record.best is not None
    assert record.best.loss <= 0.05
    assert len(record.finished) < 60


def test_points_do_not_depend_on_what_ends_the_search(tmp_path: Path) -> None:
    logs = []
    for name, when in (("patient", StopWhen()), ("not", StopWhen(no_improvement=3, target=1e-3))):
        (tmp_path / name).mkdir()
        record = opened(tmp_path / name)
        events_of(record, AtOnce(), sampler(), Budget(trials=16, stop_when=when))
        logs.append([(trial.params, trial.block, trial.seen) for trial in record.trials])
    assert 0 < len(logs[1]) <= len(logs[0])
    assert logs[1] == logs[0][: len(logs[1])]


def test_kilowatt_hours_end_it(tmp_path: Path) -> None:
    record = opened(tmp_path)
    made = sampler("random")
    joules = iter(range(0, 10**9, 10**6))  # a million each time it is asked
    loop = run(record, made, AtOnce(), Budget(kilowatt_hours=1.0), seed=0, joules=lambda: next(joules))
    assert list(loop)[-1] == Finished("the budget of 1 kilowatt-hour is spent", complete=True)
    made.close()


class OneByOne(AtOnce):
    """The packs end one at a time, in an order of its own: the shorter ones first."""

    def __init__(self, places: int = 3, seconds: Callable[[int], float] = lambda trial: 1.0 + trial * 7 % 5):
        super().__init__(places=places)
        self.seconds, self.now = seconds, 0.0
        self.ends: dict[int, float] = {}  # of a running pack, by its first trial

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        self.ends[requests[0].trial] = self.now + max(self.seconds(request.trial) for request in requests)

    def events(self, timeout: float) -> list[Event]:
        if not timeout or not self.running:  # it is not waited for: there may be more to submit
            return []
        pack = min(self.running, key=lambda pack: self.ends[pack[0].trial])
        self.running.remove(pack)
        self.now = self.ends.pop(pack[0].trial)
        return [self.answer(request) for request in pack]


def without_blocks(name: str = "batch-gp", block_size: int = 3) -> Sampler:
    config = SamplerConfig(name=name, asynchronous=True)  # type: ignore[arg-type]
    return build(config, distributions(SPACE), x0={"x": 0.5, "k": 1}, block_size=block_size, seed=0)


def asynchronously(
    record: Record, worker: AtOnce, made: Sampler, trials: int, packing: Packing, share: int = 1
) -> list[StudyEvent]:
    events = list(run(record, made, worker, Budget(trials=trials), seed=0, packing=packing, share=share))
    made.close()
    return events


def test_of_a_block_the_longest_trials_start_first(tmp_path: Path) -> None:
    """What is tried again comes before them; points and packs are as they were."""
    space = presets.build({"x": Interval(low=-1, high=1), "epochs": Interval(low=1, high=4, integer=True)}, lora=False)
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={})
    crashed = []

    def once(request: Request) -> Outcome:
        if not crashed:
            crashed.append(request.trial)
            return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")
        return squared(request)

    made = build(SamplerConfig(name="random"), distributions(space), x0=None, block_size=8, seed=0)
    worker = AtOnce(once, places=1)
    events = events_of(record, worker, made, Budget(trials=8))
    assert [e.trial.number for e in events if isinstance(e, Proposed)] == list(range(8))
    epochs = [int(request.hyperparameters["epochs"]) for request in worker.submitted]
    assert worker.submitted[0].trial == worker.submitted[1].trial
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(epochs)) > 1


def test_asynchronously_a_free_process_gets_its_next_trial_while_others_run(tmp_path: Path) -> None:
    """A straggler of many times the others' length holds none of them; in blocks it holds all."""
    ended = {}
    for name in ("random", "mads"):  # of which `mads` proposes whole blocks, whatever it is told
        (tmp_path / name).mkdir()
        record, worker = opened(tmp_path / name), OneByOne(seconds=lambda trial: 50.0 if trial == 1 else 1.0)
        asynchronously(record, worker, without_blocks(name), 40, Packing(3))
        assert len(record.finished) == 40
        ended[name] = [trial.number for trial in record.finished].index(1)
        assert {trial.seen for trial in record.trials[:3]} == {0}
    assert ended["mads"] == 2
    assert ended["random"] == 39


def test_asynchronously_no_more_are_pending_than_a_block_has(tmp_path: Path) -> None:
    """And with a block that is larger than the processes one is proposed ahead."""
    for block_size in (3, 5):
        (tmp_path / str(block_size)).mkdir()
        record = opened(tmp_path / str(block_size))
        asynchronously(record, OneByOne(), without_blocks("random", block_size), 20, Packing(3))
        assert [trial.number - trial.seen for trial in record.trials][block_size:] == [block_size - 1] * (
            20 - block_size
        )


@pytest.mark.parametrize(
    "name",
    [
        *("batch-gp", "tpe"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("random", "qmc", "nsga2", "cma-es", "nni-tpe")),
    ],
)
def test_an_asynchronous_study_follows_exactly_from_its_record(tmp_path: Path, name: str) -> None:
    """Each proposal from what it had seen and what was pending, by a fresh sampler on a record that is opened anew."""
    pytest.importorskip({"cma-es": "cmaes", "nni-tpe": "nni"}.get(name, "optuna"))
    whole = opened(tmp_path)
    asynchronously(whole, OneByOne(), without_blocks(name), 22, Packing(3))
    outcomes = [trial.outcome for trial in whole.finished]
    assert [trial.number for trial in whole.finished] != list(range(22))
    (tmp_path / "again").mkdir()
    for trial in whole.trials:
        again, made = opened(tmp_path / "again"), without_blocks(name)
        for outcome in outcomes[len(again.finished) : trial.seen]:
            assert outcome is not None
            again.tell(outcome, elapsed=0)
        assert made.available(again.mirror) > 0
        assert again.propose(made, seed=0).params == trial.params
        made.close()


def test_asynchronously_a_killed_study_goes_on_and_ends_with_every_trial_once(tmp_path: Path) -> None:
    worker = OneByOne()
    for stop_after in (2, 7, 11):
        record = opened(tmp_path)
        loop = run(record, without_blocks(), worker, Budget(trials=16), seed=0, packing=Packing(3))
        for event in loop:
            if isinstance(event, TrialFinished) and len(record.finished) == stop_after:
                break
        loop.close()  # type: ignore[attr-defined]
        worker = OneByOne()
    record = opened(tmp_path)
    assert asynchronously(record, worker, without_blocks(), 16, Packing(3))[-1] == Finished("16 trials are done", True)
    assert len({trial.params["x"] for trial in record.trials}) == 16


def test_asynchronously_a_free_process_gets_a_pack(tmp_path: Path) -> None:
    """Which is not filled up once it runs, and is made for one process alone."""
    packing = Packing(2, 3, exact=True)
    record, worker = opened(tmp_path), OneByOne(places=2)
    asynchronously(record, worker, without_blocks("random", 6), 14, packing, packing.share(6))
    assert members(worker) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13]]
    assert [trial.seen for trial in record.trials] == [0] * 6 + [3] * 3 + [6] * 3 + [9] * 2


def test_asynchronously_a_spent_space_ends_it(tmp_path: Path) -> None:
    space = presets.build({"x": (0.0, 1.0), "k": Interval(low=0, high=2, integer=True)}, lora=False)
    record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={})
    config = SamplerConfig(name="batch-gp", asynchronous=True)
    made = build(config, distributions(space), x0=None, block_size=4, seed=0)
    events = asynchronously(record, OneByOne(), made, 50, Packing(4))
    assert len(record.finished) == 6
    assert events[-1] == Finished("the space is exhausted: every point of it was tried", complete=True)
