"""What is measured beside the trials ends early where it is asked to, and is made up for by the next run."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import pytest

from meshtune.errors import InputError, MeshtuneError
from meshtune.finalists.evaluate import evaluate
from meshtune.plan.budget import Stop
from meshtune.plan.locate import Located, locate
from meshtune.plan.plan import build
from meshtune.record.log import Record
from meshtune.report.write import report
from meshtune.study import finals
from meshtune.study.finals import Runner
from meshtune.study.loop import Finished, Running, StudyEvent
from meshtune.study.progress import read, written
from meshtune.study.status import of_record
from meshtune.study.tune import tune
from meshtune.trial import Ending, Outcome, Request
from tests.conftest import WORDS
from tests.evaluation.made import make_drop
from tests.here import trials_here
from tests.study.test_loop import AtOnce, Suspended

REQUESTS = [Request(number, {"x": 0.5}, seed=0, measure="test") for number in (-1, -2, -3)]


def outcomes(events: list[StudyEvent | Outcome]) -> list[int]:
    assert all(isinstance(event, Outcome | Running) for event in events)
    return [event.trial for event in events if isinstance(event, Outcome)]


def test_all_are_measured() -> None:
    assert sorted(outcomes(list(Runner(AtOnce(), 0, None, 3).gather(REQUESTS)))) == [-3, -2, -1]


def test_packs_are_submitted_together_and_what_crashes_in_one_alone() -> None:
    def crashing_together(request: Request) -> Outcome:
        alone = request.attempt > 1 or request.trial == -3
        return Outcome(request.trial, request.attempt, Ending.COMPLETE if alone else Ending.CRASHED, 0.5)

    worker = AtOnce(crashing_together)
    events = [
        event for event in Runner(worker, 0, None, 3).gather(REQUESTS, sizes=[2, 1]) if isinstance(event, Outcome)
    ]
    assert sorted(outcomes(list(events))) == [-3, -2, -1]
    assert [[request.trial for request in pack] for pack in worker.packs] == [[-1, -2], [-3], [-2], [-1]]


@pytest.mark.parametrize(
    ("retry", "lost", "attempts", "error", "words"),
    [
        (True, False, 3, MeshtuneError, "measuring on the test rows ended as crashed: boom. The evaluation failed"),
        (True, True, 15, MeshtuneError, "measuring on the test rows ended as crashed: boom. The evaluation failed"),
        (False, False, 1, InputError, "measuring on the test rows: boom$"),
    ],
)
def test_a_crash_is_tried_again_where_that_may_help(
    retry: bool, lost: bool, attempts: int, error: type[MeshtuneError], words: str
) -> None:
    def crashing(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom", retry=retry, lost=lost)

    worker = AtOnce(crashing)
    with pytest.raises(error, match=words) as caught:
        list(Runner(worker, 0, None, 3).gather(REQUESTS[:1]))
    assert type(caught.value) is error
    assert len(worker.submitted) == attempts


def test_asked_to_stop_it_lets_what_runs_finish() -> None:
    asked = iter([None])
    worker = AtOnce()
    ended = outcomes(list(Runner(worker, 0, None, 3, lambda: next(asked, Stop("asked to stop"))).gather(REQUESTS)))
    assert sorted(ended) == [-2, -1]
    assert len(worker.submitted) == 2
    assert not list(Runner(AtOnce(), 0, None, 3, lambda: Stop("asked to stop")).gather(REQUESTS))


def test_suspended_it_keeps_what_ended_in_time() -> None:
    asked = iter([None])
    worker = Suspended()
    assert outcomes(
        list(Runner(worker, 0, None, 3, lambda: next(asked, Stop("SIGTERM came", 20))).gather(REQUESTS))
    ) == [-1]
    assert worker.grace == 20


LOSSES = (2.6, 2.2, 2.3, 2.0, 2.1, 2.0, 2.2, 1.97, 2.5, 2.7)  # of rates from low to high, with noise: 7 had luck


@pytest.fixture
def searched(tiny_model_folder: Path, tmp_path: Path) -> Located:
    """A study of the tiny model whose trials have all ended, with these losses; nothing else is measured yet."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    rows = [{"instruction": f"{n}: repeat", "input": "", "output": WORDS[n % len(WORDS)]} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        f"model: {tiny_model_folder}\n"
        "data: {sources: [{path: rows.jsonl}], validation: 4, test: 8}\n"
        "training: {precision: float32, trainer: transformers, keep_adapters: 1}\n"
        "space: {learning_rate: {low: 1e-4, high: 1e-1, log: true}}\n"
        "baseline: {learning_rate: 1e-4}\n"
        "sampler: random\n"
        f"budget: {{trials: {len(LOSSES)}}}\n"
        "generation: {rows: 0}\n"
        "worker: {name: local, processes: 1, threads: 1}\n",
        encoding="utf-8",
    )
    study = locate(tmp_path / "study.yaml")
    study.folder.mkdir()
    plan = build(study)
    record = Record(study.url, study.name, plan.space, plan.fixed, plan.goals.known)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_folder), LoraConfig(r=2))
    for number, loss in enumerate(LOSSES):
        rate = 10 ** (-4 + 3 * number / (len(LOSSES) - 1))
        assert plan.baseline is not None
        record.enqueue({**plan.baseline, "learning_rate": rate}, origin="search" if number else "baseline", seed=0)
        model.save_pretrained(study.folder / "adapters" / str(number))
        ended = Outcome(number, 1, Ending.COMPLETE, loss=loss, losses=(loss,), adapter=f"adapters/{number}")
        record.tell(ended, elapsed=1.0)
    return study


def run(study: Located) -> None:
    with trials_here():
        list(tune(study))


def test_what_was_measured_is_not_shown_while_the_search_runs(searched: Located) -> None:
    with trials_here(), contextlib.closing(written(tune(searched))) as events:
        before = list(itertools.takewhile(lambda event: not isinstance(event, Finished), events))
        now = read(searched)
    assert {event.progress.trial for event in before if isinstance(event, Running)}
    assert now is not None
    assert (now["stage"], now["running"]) == ("searching", {})


def test_the_recommended_trial_is_measured_on_the_test_rows_too(searched: Located) -> None:
    """Its adapter is kept for that; what was measured is not measured again, and what is gone is left out."""
    path = searched.folder / "evaluation" / "test.json"
    run(searched)
    status = of_record(searched, Record(searched.url, searched.name))
    assert [status[name]["trial"] for name in ("baseline", "best", "recommended")] == [0, 7, 5]
    assert {adapter.name for adapter in (searched.folder / "adapters").iterdir()} == {"0", "5", "7"}
    measured = finals.read(searched.folder)
    assert set(measured) == {"untuned", "trial-0", "trial-5", "trial-7"}
    loss = measured.pop("trial-5")["loss"]
    assert loss == status["recommended"]["test_loss"]
    assert status["best_against_recommended"]["rows"] == 8

    kept = {name: {**entry, "loss": 0.0} for name, entry in measured.items()}
    path.write_text(json.dumps(kept), encoding="utf-8")
    run(searched)
    again = finals.read(searched.folder)
    assert again.pop("trial-5")["loss"] == loss
    assert again == kept

    path.write_text(json.dumps(kept), encoding="utf-8")
    shutil.rmtree(searched.folder / "adapters" / "5")
    run(searched)
    assert finals.read(searched.folder) == kept


def test_the_recommended_trial_is_scored_and_told_of(searched: Located, tmp_path: Path) -> None:
    """By `evaluate` beside the best ones, and by the report."""
    data = make_drop(tmp_path / "data" / "drop").parent
    given = {"best": 1, "worst": 0, "limit": 2, "benchmarks": ("drop",), "data": str(data)}
    done = evaluate([tmp_path / "study.yaml"], given=given)
    assert [row.name for row in done.tables[0].rows] == ["trial 7", "trial 5", "trial 0", "untuned"]
    said = "Take trial 5 (`--trial recommended`): by all trials together its expected loss is the lowest ("
    assert any(note.startswith(said) for note in done.notes)
    assert said in Path(report([tmp_path / "study.yaml"])["page"]).read_text(encoding="utf-8")
