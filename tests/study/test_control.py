"""What people ask of single trials while a study runs: answered once, whatever is killed, and recorded."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import meshtune
from meshtune.config import presets
from meshtune.errors import Fault, InputError
from meshtune.plan.budget import EXHAUSTED, Budget, Stop
from meshtune.plan.locate import existing, locate
from meshtune.record.log import Record
from meshtune.record.requests import Action, ControlRequest
from meshtune.samplers.interface import BESIDE_BLOCKS, Sampler
from meshtune.study import requests
from meshtune.study.control import Control, refuse_left
from meshtune.study.loop import Answered, Frozen, Promoted, Started, StudyEvent, TrialFinished, run
from meshtune.study.rounds import tune
from meshtune.system.lease import lease
from meshtune.trial import AT_ONCE, Decision, Ending, Event, Outcome, Verdict
from meshtune.workers.planner import Packing
from tests.conftest import WORDS
from tests.here import trials_here
from tests.kill import command, command_study
from tests.kill import run as run_study
from tests.study.test_loop import SPACE, AtOnce, opened, sampler


class Held(AtOnce):
    """Answers a trial once it is released, or at once where it is told to stop."""

    def __init__(self, places: int = 2):
        super().__init__(places=places)
        self.decisions: list[Decision] = []
        self.released: set[int] = set()
        self.stopped: set[int] = set()

    def events(self, timeout: float) -> list[Event]:
        found: list[Event] = []
        for pack in list(self.running):
            ending = [one for one in pack if one.trial in self.released | self.stopped]
            for one in ending:
                stops = one.trial in self.stopped
                found.append(Outcome(one.trial, one.attempt, Ending.STOPPED_EARLY) if stops else self.answer(one))
            self.running.remove(pack)
            if left := [one for one in pack if one not in ending]:
                self.running.append(left)
        return found

    def decide(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.stopped |= {trial for trial, tokens, verdict in decision.verdicts if (tokens, verdict) == (0, "stops")}


def leave(folder: Path, action: Action, **fields: object) -> ControlRequest:
    """A request, as another shell leaves it."""
    made = requests._made(action, **fields)
    path = folder / requests.FOLDER / f"{made.number}.json"
    path.parent.mkdir(exist_ok=True)
    requests.whole_file.write(path, requests.json.dumps(requests.asdict(made)))
    return made


def searching(
    folder: Path,
    record: Record,
    worker: AtOnce,
    budget: Budget,
    *,
    made: Sampler | None = None,
    pack: int = 1,
    stop: Callable[[], Stop | None] = lambda: None,
) -> Iterator[StudyEvent]:
    return run(
        record,
        made or sampler("random"),
        worker,
        budget,
        seed=0,
        packing=Packing(2, pack, exact=True),
        stop=stop,
        control=Control(folder, seed=0),
    )


def until(events: Iterator[StudyEvent], kind: type, count: int = 1) -> list[StudyEvent]:
    """Events up to so many of a kind."""
    found: list[StudyEvent] = []
    for event in events:
        found.append(event)
        if sum(isinstance(each, kind) for each in found) == count:
            return found
    raise AssertionError(f"it ended before {count} of {kind.__name__}: {found}")


def answers(events: Sequence[StudyEvent]) -> list[str]:
    return [event.answer.words for event in events if isinstance(event, Answered)]


def ended(record: Record) -> dict[int, Ending | None]:
    return {trial.number: trial.outcome and trial.outcome.ending for trial in record.trials}


def test_a_running_and_a_waiting_trial_are_stopped(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), Held()
    events = searching(tmp_path, record, worker, Budget(trials=4))
    until(events, Started, 2)
    one, other = leave(tmp_path, "stop", trial=0), leave(tmp_path, "stop", trial=3)
    found = until(events, TrialFinished, 2)
    assert answers(found) == [
        "trial 0 stops at its next step, unless it ends before",
        "trial 3 is stopped: it was waiting",
    ]
    assert worker.decisions == [Decision(0, 1, ((0, AT_ONCE, Verdict.STOPS),))]
    worker.released |= {1, 2}
    list(events)
    assert ended(record) == {0: "stopped_early", 1: "complete", 2: "complete", 3: "stopped_early"}
    assert not [request for request in worker.submitted if request.trial == 3]
    again = opened(tmp_path)  # as the next run reads it
    messages = {trial.number: trial.outcome.message for trial in again.trials if trial.outcome is not None}
    assert messages == {0: "stopped on request", 1: "", 2: "", 3: "stopped on request while it waited"}
    assert [again.answers[each.number].request.by for each in (one, other)] == [one.by, other.by]
    assert not requests.waiting(tmp_path)


def test_a_member_of_a_pack_that_waits_takes_no_place_in_it(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), Held(places=1)
    events = searching(tmp_path, record, worker, Budget(trials=4), pack=2)
    until(events, Started, 2)
    leave(tmp_path, "stop", trial=3)
    until(events, TrialFinished)
    worker.released |= {0, 1, 2, 3}
    list(events)
    assert ended(record)[3] is Ending.STOPPED_EARLY
    by_trial = {request.trial: request.decided for request in worker.submitted}
    assert by_trial == {0: (), 1: (), 2: (), 3: ((AT_ONCE, Verdict.STOPS),)}  # its pack is what it was


def test_an_enqueued_point_is_a_trial_beside_the_blocks(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), Held()
    events = searching(tmp_path, record, worker, Budget(trials=6))
    until(events, Started, 2)
    request = leave(tmp_path, "enqueue", hyperparameters={"x": 0.125, "k": 2})
    found = until(events, Answered)
    assert answers(found) == ["trial 4 is enqueued, and starts once a process is free"]
    worker.released |= set(range(10))
    list(events)
    assert [trial.number for trial in record.trials] == list(range(6))  # it counts in the budget
    trial = opened(tmp_path).trials[4]
    assert (trial.origin, trial.enqueued_as, trial.loss) == ("enqueued", request.number, 0.125**2)
    # The block that was open stays whole, and none begins before all of it has ended.
    assert [trial.seen for trial in record.trials[:4]] == [0, 0, 0, 0]
    assert record.trials[5].seen >= 4
    mirrored = record.mirror.get_trials(deepcopy=False)[4]
    assert mirrored.value == 0.125**2
    assert mirrored.system_attrs[BESIDE_BLOCKS]


@pytest.mark.parametrize("name", ["mads", "batch-gp", "tpe"])
def test_every_sampler_goes_on_with_a_trial_that_it_did_not_propose(tmp_path: Path, name: str) -> None:
    record, worker = opened(tmp_path), Held()
    made = sampler(name)
    events = searching(tmp_path, record, worker, Budget(trials=11), made=made)
    until(events, Started, 2)
    leave(tmp_path, "enqueue", hyperparameters={"x": 0.01, "k": 1})
    leave(tmp_path, "stop", trial=1)
    worker.released |= set(range(2, 20)) | {0}
    rest = list(events)
    made.close()
    assert len(answers(rest)) == 2
    assert len(record.finished) == 11
    assert ended(record)[1] is Ending.STOPPED_EARLY
    points = [tuple(trial.params.items()) for trial in record.trials]
    assert len(set(points)) == len(points)


REFUSED = [
    ("stop", {"trial": 9}, "there is no trial 9: the study has the trials 0 to 3"),
    ("stop", {"trial": 0}, "trial 0 has ended as complete: only what runs or waits can be stopped"),
    ("finish", {"trial": 0}, "trial 0 has ended as complete: only what was stopped can be trained to its end"),
    ("retry", {"trial": 0}, "trial 0 has ended as complete: only what crashed is tried again"),
    ("retry", {"trial": 1}, "trial 1 has not crashed: only what crashed is tried again"),
    ("enqueue", {"hyperparameters": {"x": 4, "k": 1}}, "x: 4 is outside -1 to 1 (the space)"),
]


@pytest.mark.parametrize(("action", "fields", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(
    tmp_path: Path, action: Action, fields: dict[str, object], words: str
) -> None:
    record, worker = opened(tmp_path), Held()
    events = searching(tmp_path, record, worker, Budget(trials=9))
    until(events, Started, 2)
    worker.released = {0}
    until(events, TrialFinished)
    request = leave(tmp_path, action, **fields)
    (answer,) = [each.answer for each in until(events, Answered) if isinstance(each, Answered)]
    assert (answer.done, answer.words) == (False, words)
    assert opened(tmp_path).answers[request.number] == answer


def test_a_full_budget_has_no_room(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), Held()
    events = searching(tmp_path, record, worker, Budget(trials=4))
    until(events, Started, 2)
    leave(tmp_path, "enqueue", hyperparameters={"x": 0.5, "k": 1})
    (words,) = answers(until(events, Answered))
    assert words.startswith(
        "there is no room for another trial (the budget of 4 trials is spent): raise the budget, such as by `meshtune"
    )
    assert len(record.trials) == 4


def test_what_crashed_and_is_not_told_has_its_attempts_counted_anew(tmp_path: Path) -> None:
    class Crashing(Held):
        def events(self, timeout: float) -> list[Event]:
            found = super().events(timeout)
            return [replace(e, ending=Ending.CRASHED, loss=None) if isinstance(e, Outcome) else e for e in found]

    record, worker = opened(tmp_path), Crashing(places=1)
    events = searching(tmp_path, record, worker, Budget(trials=1))
    until(events, Started)
    worker.released = {0}
    until(events, Started)  # of three attempts the second runs
    leave(tmp_path, "retry", trial=0)
    rest = list(events)
    assert answers(rest) == ["trial 0 crashed and is tried again: its attempts are counted from the beginning"]
    assert [request.attempt for request in worker.submitted] == [1, 2, 3, 4, 5]
    assert ended(record) == {0: "crashed"}
    refused = requests.refusal(record, requests._made("retry", trial=0), "my-study")
    assert refused == (
        "trial 0 has ended as crashed after 5 attempts, and how a trial ended never changes. Its point can be tried"
        " once more, as a new trial: `meshtune enqueue my-study --like 0`"
    )
    assert requests.refusal(record, requests._made("enqueue", hyperparameters=record.trials[0].hyperparameters)) is None


class Killed(BaseException):
    """The coordinator ends here."""


KILLS: list[tuple[str, str]] = [("answer", "before"), ("answer", "after"), ("tell", "before"), ("enqueue", "after")]


@pytest.mark.parametrize(("method", "when"), KILLS)
def test_killed_at_any_line_each_is_done_once(
    tmp_path: Path, method: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after what is made durable; the next run finds what is left to do."""
    record = opened(tmp_path)
    events = searching(tmp_path, record, Held(), Budget(trials=9))
    until(events, Started, 2)
    leave(tmp_path, "enqueue", hyperparameters={"x": 0.125, "k": 2})
    leave(tmp_path, "stop", trial=3)
    own = getattr(Record, method)

    def killing(self: Record, *given: object, **named: object) -> object:
        if when == "after":
            own(self, *given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Record, method, killing)
        with pytest.raises(Killed):
            list(events)
    record, worker = opened(tmp_path), Held()
    worker.released |= set(range(20))
    list(searching(tmp_path, record, worker, Budget(trials=9)))
    assert [trial.hyperparameters for trial in record.trials].count({"x": 0.125, "k": 2}) == 1
    assert ended(record)[3] is Ending.STOPPED_EARLY
    assert [answer.done for answer in record.answers.values()] == [True, True]
    assert not requests.waiting(tmp_path)


def test_asked_to_stop_the_run_still_stops_trials_and_leaves_points_for_the_next(tmp_path: Path) -> None:
    record, worker = opened(tmp_path), Held()
    stops: list[Stop] = []
    events = searching(tmp_path, record, worker, Budget(trials=9), stop=lambda: stops[0] if stops else None)
    until(events, Started, 2)
    stops.append(Stop("asked to stop"))
    leave(tmp_path, "enqueue", hyperparameters={"x": 0.125, "k": 2})
    leave(tmp_path, "stop", trial=0)
    until(events, TrialFinished)
    worker.released |= {1}
    assert answers(list(events)) == []
    assert len(requests.waiting(tmp_path)) == 1
    worker = Held()
    worker.released |= set(range(20))
    (words,) = answers(list(searching(tmp_path, opened(tmp_path), worker, Budget(trials=9))))
    assert words == "trial 4 is enqueued, and starts once a process is free"


def test_what_is_left_for_a_round_that_has_ended_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    request = leave(tmp_path, "stop", trial=3)
    reader = Record(f"sqlite:///{tmp_path / 'study.db'}", "study")  # as the rounds after it open it
    refuse_left(tmp_path, reader, "round 1 has ended")
    answer = opened(tmp_path).answers[request.number]
    assert (answer.done, answer.words, answer.trial) == (False, "round 1 has ended", 3)
    assert not requests.waiting(tmp_path)


def test_a_file_that_holds_no_request_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / requests.FOLDER).mkdir()
    (tmp_path / requests.FOLDER / "0.json").write_text('{"action": "explode"}')
    worker = Held()
    worker.released |= set(range(20))
    assert answers(list(searching(tmp_path, opened(tmp_path), worker, Budget(trials=4)))) == []
    assert not requests.waiting(tmp_path)


def test_faults_of_values_come_at_once() -> None:
    faults = list[Fault]()
    given = requests.values_of(["rank", "=3", "k=7", "lr=[1", "xx=1"], faults)
    with pytest.raises(InputError) as refused:
        requests.point(SPACE, given, None, faults)
    texts = [str(fault) for fault in refused.value.faults]
    assert texts[:2] == [f"--set {text}: must be NAME=VALUE, such as rank=64" for text in ("rank", "=3")]
    assert texts[2].startswith("--set lr=[1: ")
    assert texts[3:] == [
        "xx: is not part of the space, which has x, k. Did you mean `x`?",
        "x: is searched and not given: set it too, or begin with `--like N`",
        f"k: 7 is outside 0 to 2 {requests.THE_SPACE}",
    ]


LORA = presets.recommended()
BASE = {"rank": 8, "alpha": 16, "dropout": 0.05, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"rank": 16}, {"rank": 16, "alpha": 32, "learning_rate": 0.005}),  # what is searched stays
        ({"learning_rate": 1e-3}, {"rank": 8, "alpha": 16, "learning_rate": 1e-3}),
        ({"alpha": 32, "learning_rate": 1e-3}, {"rank": 8, "alpha": 32, "learning_rate": 1e-3}),
        ({"scale": 1, "step": 0.02}, {"rank": 8, "alpha": 8, "learning_rate": 0.02 / 8}),
    ],
)
def test_a_clone_is_changed_by_the_names_that_people_know(given: dict[str, float], found: dict[str, float]) -> None:
    made = requests.point(LORA, given, BASE)
    assert {name: made[name] for name in found} == pytest.approx(found)
    assert LORA.contains(made)


def test_what_lies_outside_is_said_by_the_name_that_was_set() -> None:
    with pytest.raises(InputError) as refused:
        requests.point(LORA, {"rank": 300, "alpha": 9600.5, "learning_rate": 9.0, "dropout": 2}, BASE)
    assert [str(fault) for fault in refused.value.faults] == [
        "dropout: `2` is not allowed; a number at least 0 and at most 1 is",
        f"rank: 300 is outside 4 to 256 {requests.THE_SPACE}",
        f"alpha: `9600.5` is not allowed: its scale 32.0017 is outside 0.25 to 32 {requests.THE_SPACE}",
        f"learning_rate: `9.0` is not allowed: its step 86404.5 is outside 0.001 to 1 {requests.THE_SPACE}",
    ]


def test_from_the_command_line_and_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no coordinator runs a request is noted, and the next run does it; a finished study goes on for it."""
    path = command_study(tmp_path, sampler="random", trials=4)
    assert run_study(path).returncode == 0
    refused = command("trial", path, 0, "stop")
    assert refused.returncode == 2
    assert refused.stderr == "meshtune: trial 0 has ended as complete: only what runs or waits can be stopped\n"
    refused = command("enqueue", path, "--like", 99, "--set", "x=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("meshtune: --like 99: there is no such trial; the study has the trials 0 to 3; ")
    noted = command("enqueue", path, "--like", "baseline", "--set", "x=1.25", "k=2", "--json")
    reply = json.loads(noted.stdout)
    assert (noted.returncode, reply["state"], reply["action"], reply["trial"]) == (0, "noted", "enqueue", None)
    said = command("enqueue", path, "--like", 0, "--set", "x=1.75")
    assert said.stderr == (
        "noted, but the search has ended (4 trials are done), so that there is no room for another trial:"
        f" `meshtune tune {requests.typed(path.parent / 'study')} --trials 6` tries it\n"
    )
    study = meshtune.load(path)
    assert study.enqueue({"x": 2.5}, like="best")["state"] == "noted"
    with pytest.raises(InputError, match="only what was stopped can be trained to its end"):
        study.trial(0).finish()
    with pytest.raises(InputError, match="x: 9 is outside -5 to 5"):
        study.enqueue(like=0, x=9)
    twice = command("enqueue", path, "--like", 0, "--set", "x=1.75")
    name = requests.typed(path.parent / "study")
    assert twice.stderr == f"meshtune: this point is noted already: `meshtune tune {name} --trials 7` tries it\n"
    with lease(path.parent / "study"), pytest.raises(InputError, match="noted already: the running study tries it"):
        study.enqueue(like=0, x=1.75)
    shown = command("status", path).stdout.splitlines()[-1]
    assert shown == f"noted: 3 requests (3 enqueue): `meshtune tune {name} --trials 7` has the answers"
    assert [one["action"] for one in study.status()["noted"]["requests"]] == ["enqueue"] * 3
    went_on = run_study(path, "--trials", 6)
    assert went_on.returncode == 0
    lines = [line for line in went_on.stderr.splitlines() if line.startswith("enqueue, asked by ")]
    assert [line.partition(": ")[2][:33] for line in lines] == [
        "trial 4 is enqueued, and starts o",
        "trial 5 is enqueued, and starts o",
        "refused: there is no room for ano",
    ]
    enqueued = {trial["trial"]: trial for trial in study.status()["all"] if trial["origin"] == "enqueued"}
    assert {number: trial["hyperparameters"]["x"] for number, trial in enqueued.items()} == {4: 1.25, 5: 1.75}
    assert study.status()["noted"] is None
    assert "noted" not in command("status", path).stdout


@pytest.mark.slow
def test_in_a_pack_one_is_stopped_and_later_trained_to_its_end(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real study: the others of the pack end complete, and it goes on from the step at which it left."""
    monkeypatch.setattr(requests, "WAIT_SECONDS", 0.0)
    rows = [{"instruction": f"{n}: repeat", "output": " ".join(WORDS[: 1 + n % len(WORDS)])} for n in range(60)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    path = tmp_path / "study.yaml"
    path.write_text(
        f"model: {tiny_model_folder}\n"
        "data: {sources: [{path: rows.json}], validation: 10, test: 10}\n"
        "training: {batch_size: 8, epochs: 1, precision: float32}\n"
        "sampler: {name: random, block_size: 3}\n"
        "early_stopping: {rule: asha, rungs: [0.4, 0.7], rows: 10, startup: 9}\n"
        "budget: {trials: 6}\n"
        "worker: {pack: 3}\n"
    )
    wished, promoted = False, list[int]()
    with trials_here():
        for event in tune(locate(path)):
            if isinstance(event, Started) and event.request.trial == 4 and not wished:
                wished = True
                requests.ask_of_trial(path, 4, "stop")
            if isinstance(event, TrialFinished) and event.trial.number == 4:
                stopped = event.trial
                assert (tmp_path / "study" / "stopped" / "4").is_dir()
                requests.ask_of_trial(path, 4, "finish")
            if isinstance(event, Promoted):
                promoted.append(event.trial.number)
    assert wished
    assert stopped.outcome is not None
    assert (stopped.outcome.ending, len(stopped.outcome.rungs)) == (Ending.STOPPED_EARLY, 1)
    assert stopped.outcome.message == "stopped on request"
    study = existing(path)
    record = Record(study.url, study.name)
    assert promoted == [4]
    assert {trial.number: trial.final and trial.final.ending for trial in record.trials} == dict.fromkeys(
        range(6), Ending.COMPLETE
    )
    again = record.trials[4]
    assert again.outcome == stopped.outcome  # how it ended never changes
    assert again.promoted is not None
    assert again.promoted.rungs[0] == stopped.outcome.rungs[0]  # it went on, and did not begin anew
    assert again.promoted.tokens == record.trials[3].final.tokens  # type: ignore[union-attr]
    assert not (tmp_path / "study" / "stopped" / "4").exists()


@pytest.mark.parametrize("runs", [False, True])
def test_a_trial_that_has_thawed_is_stopped_and_stays_so(tmp_path: Path, runs: bool) -> None:
    """It had ended once, as stopped by a rule: it was taken for over, and trained on to its end."""
    record, worker = opened(tmp_path), Held()
    record.enqueue({"x": 0.0, "k": 0}, origin="search", seed=0)
    stood = Outcome(0, 1, Ending.STOPPED_EARLY, 1.5, rungs=((100, 1.5),), tokens=100)
    record.tell(stood, elapsed=0.0, value=1.2)
    record.thaw(0)
    events = searching(tmp_path, record, worker, Budget(trials=2))
    if runs:
        until(events, Started)
    leave(tmp_path, "stop", trial=0)
    found = until(events, Frozen)
    words = "stops at its next step, unless it ends before" if runs else "is stopped: it was waiting"
    assert answers(found) == [f"trial 0 {words}"]
    assert bool(worker.decisions) == runs
    worker.released = {1}
    list(events)
    again = opened(tmp_path)
    assert not again.thawing
    assert not again.frozen
    assert again.trials[0].outcome == stood
    frozen = again.trials[0].frozen
    assert frozen is not None
    assert frozen.message == ("stopped on request" if runs else "stopped on request while it waited")


@pytest.mark.parametrize(
    "fields",
    [{"trial": 1.5}, {"trial": "1"}, {"trial": True}, {}, {"action": "enqueue", "hyperparameters": [1]}, {"number": 1}],
)
def test_a_file_that_is_no_request_ends_no_run(tmp_path: Path, fields: dict[str, object]) -> None:
    """It is taken away; each run of the study would end at it."""
    whole = {"number": "1", "action": "stop", "by": "x", "at": "y", **fields}
    (tmp_path / requests.FOLDER).mkdir()
    path = tmp_path / requests.FOLDER / "1.json"
    path.write_text(json.dumps(whole))
    record = opened(tmp_path)
    list(searching(tmp_path, record, AtOnce(), Budget(trials=2)))
    assert len(record.finished) == 2
    assert not path.exists()
    assert not record.answers


def test_an_exhausted_space_has_room_for_a_point_of_one_s_own(tmp_path: Path) -> None:
    """Its budget is not spent: one that crashed, say, is tried again by the next run."""
    study, record, request = locate(command_study(tmp_path)), opened(tmp_path), requests._made("enqueue")
    record.note("finished", "20 trials are done")
    assert "no room for another trial" in requests._needs(study, record, request)
    record.note("finished", EXHAUSTED)
    assert requests._needs(study, record, request) == ""
