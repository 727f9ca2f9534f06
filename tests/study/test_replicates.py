"""Replicates: other seeds, kept over interruptions and for each best, and the noise that they show."""

import math
import statistics
from pathlib import Path

import pytest

from meshtune.objectives import checkpoints
from meshtune.plan.budget import Stop
from meshtune.record.log import Record
from meshtune.study.finals import Runner
from meshtune.study.loop import StudyEvent
from meshtune.study.replicates import DONE, NOISE, replicate
from meshtune.study.status import usage
from meshtune.trial import Ending, Outcome, Request
from tests.study.test_loop import AtOnce, opened


def seeded(request: Request) -> Outcome:
    """A loss that moves with the seed: by 0, 0.01, 0.04, .."""
    loss = float(request.hyperparameters["x"]) ** 2 + request.seed**2 / 100
    return Outcome(
        request.trial, request.attempt, Ending.COMPLETE, loss, tokens=10, adapter=f"adapters/{request.trial}"
    )


def searched(folder: Path, trials: int = 3) -> Record:
    """A study of so many trials, each better than the one before."""
    record = opened(folder)
    for number in range(len(record.trials), trials):
        trial = record.enqueue({"x": 1 / (1 + number), "k": 1}, origin="search" if number else "baseline", seed=0)
        record.tell(seeded(trial.request(None, None)), elapsed=float(number))
    return record


def replicated(
    record: Record, folder: Path, worker: AtOnce, count: int, runner: Runner | None = None
) -> list[StudyEvent]:
    return list(replicate(record, folder, runner or Runner(worker, 0, 3, 2, timeout=9.0), count))


def test_the_best_is_trained_with_other_seeds(tmp_path: Path) -> None:
    record, worker = searched(tmp_path), AtOnce(seeded)
    best = record.best
    assert best is not None
    told = len(record.finished)
    replicated(record, tmp_path, worker, 3)
    assert sorted(request.seed for request in worker.submitted) == [1, 2, 3]
    assert {request.trial for request in worker.submitted} == {checkpoints.replicate(best.number, i) for i in (1, 2, 3)}
    assert all(r.hyperparameters == best.hyperparameters and r.timeout == 9.0 for r in worker.submitted)
    losses = [best.loss + more for more in (0.01, 0.04, 0.09)]
    noise = opened(tmp_path).notes[NOISE]
    assert noise == {
        "trial": best.number,
        "deviation": pytest.approx(statistics.stdev(losses)),
        "mean": pytest.approx(statistics.mean(losses)),
        "count": 3,
        "told": told,
    }
    assert (len(record.finished), record.tokens) == (told, 10 * told)  # no trials of the search


def test_an_interrupted_run_keeps_what_is_done_and_more_can_be_added(tmp_path: Path) -> None:
    record, asked = searched(tmp_path), iter([None])
    runner = Runner(AtOnce(seeded, places=1), 0, None, 2, lambda: next(asked, Stop("asked to stop")))
    replicated(record, tmp_path, AtOnce(seeded), 3, runner)
    assert NOISE not in record.notes
    again, worker = opened(tmp_path), AtOnce(seeded)
    replicated(again, tmp_path, worker, 3)
    assert len(worker.submitted) == 2
    replicated(again, tmp_path, worker, 5)
    assert len(worker.submitted) == 4
    assert opened(tmp_path).notes[NOISE]["count"] == 5


def test_a_new_best_has_replicates_of_its_own(tmp_path: Path) -> None:
    record, worker = searched(tmp_path), AtOnce(seeded)
    replicated(record, tmp_path, worker, 2)
    first = record.best
    again = searched(tmp_path, 4)
    second = again.best
    assert first is not None
    assert second is not None
    assert first.number != second.number
    assert usage(again, 1.0)["seed_noise"] is None
    replicated(again, tmp_path, worker, 2)
    assert set(again.notes[DONE]) == {str(first.number), str(second.number)}
    assert again.notes[NOISE]["trial"] == second.number


def test_those_that_fail_are_left_out(tmp_path: Path) -> None:
    def failing(request: Request) -> Outcome:
        if request.seed in (1, 2):
            return Outcome(request.trial, request.attempt, Ending.DIVERGED)
        return seeded(request)

    record = searched(tmp_path)
    replicated(record, tmp_path, AtOnce(failing), 3)
    assert NOISE not in record.notes  # one value shows no spread
    replicated(record, tmp_path, AtOnce(failing), 4)
    assert record.notes[NOISE]["count"] == 2


def test_adapters_are_not_kept(tmp_path: Path) -> None:
    def saving(request: Request) -> Outcome:
        (tmp_path / "adapters" / str(request.trial)).mkdir(parents=True)
        return seeded(request)

    replicated(searched(tmp_path), tmp_path, AtOnce(saving), 2)
    assert not list((tmp_path / "adapters").iterdir())


def test_none_are_made_where_none_are_asked_for(tmp_path: Path) -> None:
    worker = AtOnce(seeded)
    assert not replicated(searched(tmp_path), tmp_path, worker, 0)
    assert not replicated(opened(tmp_path), tmp_path, worker, 0)


def test_names_of_what_is_trained_beside_the_trials() -> None:
    assert checkpoints.beside(-2) == "baseline"
    assert [checkpoints.is_replicate(n) for n in (-2, checkpoints.replicate(None, 1), -2041)] == [False, True, True]
    assert checkpoints.beside(checkpoints.replicate(0, 1)) == "replicate-0-1"
    assert checkpoints.beside(checkpoints.replicate(41, 100)) == "replicate-41-100"
    assert checkpoints.beside(checkpoints.replicate(None, 3)) == "replicate-baseline-3"


def test_a_status_holds_the_baseline_against_the_noise(tmp_path: Path) -> None:
    record = searched(tmp_path)
    replicated(record, tmp_path, AtOnce(seeded), 3)
    noise = usage(record, 1.0)["seed_noise"]
    above = noise["above"]
    assert above["mean"] == pytest.approx(1.0 - noise["mean"])
    assert above["low"] < above["mean"] < above["high"]
    error = 4.303 * noise["deviation"] * math.sqrt(1 + 1 / 3)  # Student's t at 2 degrees of freedom
    assert above["high"] - above["mean"] == pytest.approx(error, rel=1e-3)
    (tmp_path / "alone").mkdir()
    record = searched(tmp_path / "alone", 1)
    replicated(record, tmp_path, AtOnce(seeded), 3)
    assert usage(record, 1.0)["seed_noise"]["above"] is None  # the baseline is the best
