"""Freezing and thawing of a real (tiny, random) model: the losses of trials that ran through, and kills."""

import random
import time
from pathlib import Path
from typing import Any, cast

import pytest

from meshtune.errors import MeshtuneError
from meshtune.record.log import Record
from meshtune.study.check import check
from meshtune.testing.processes import gone
from meshtune.trial import Ending, Verdict
from tests.here import trials_here
from tests.kill import kill_at_random, record_of, run, run_apart
from tests.test_kill_lora import lora_study

pytestmark = pytest.mark.slow

FREEZING = (
    "early_stopping: {rule: asha, rungs: [0.2, 0.4], rows: 10, keep: 0.1, confidence: 0.99, promote: 0, freeze: true}\n"
)
MORE_RUNGS = FREEZING.replace("[0.2, 0.4]", "[0.2, 0.4, 0.6, 0.8]").replace("keep: 0.1", "keep: 0.3")
BY_MODEL = (
    "early_stopping: {rule: model, rungs: [0.1, 0.2, 0.3, 0.4, 0.6, 0.8], rows: 10, confidence: 0.9, promote: 0}\n"
)


def study(folder: Path, model: Path, further: str = "", block: int = 4, pack: int = 1, trials: int = 17) -> Path:
    """One process that trains so many trials at once. Dropout and rates that are high until they fall at the end
    have the curves cross, so that some of what was stopped looks good again. 17 trials are a baseline and four blocks.
    """
    path = lora_study(folder, model)
    text = path.read_text(encoding="utf-8").replace("mads, block_size: 6", f"random, block_size: {block}")
    text = text.replace("batch_size: 4", "batch_size: 4, lr_scheduler: wsd").replace("trials: 20", f"trials: {trials}")
    text = text.replace(
        "low: 1e-4, high: 1e-1, log: true}", "low: 6e-3, high: 3e-2, log: true}, dropout: {low: 0, high: 0.5}"
    )
    text = text.replace("learning_rate: 1e-3", "learning_rate: 1e-2")
    text = text.replace("metrics: {exact: {file: metrics.py}}\n", "").replace("rows: 4", "rows: 0")
    worker = f"worker: {{name: local, processes: 1, threads: 1, pack: {pack}, attempts: 10}}\n"
    path.write_text(text[: text.index("worker: ")] + worker + further, encoding="utf-8")
    return path


def record_at(path: Path) -> Record:
    return Record(f"sqlite:///{path.parent / 'study' / 'study.db'}", "study")


@pytest.mark.parametrize(("rules", "block", "trials"), [(FREEZING, 4, 17), (BY_MODEL, 1, 25)], ids=["asha", "model"])
def test_what_thawed_has_the_losses_of_a_trial_that_ran_through(
    tiny_model_folder: Path, tmp_path: Path, rules: str, block: int, trials: int
) -> None:
    """Bitwise: with the same pack, threads and device. No state is left once it has ended."""
    with trials_here():
        for name, further in (("plain", rules.replace("rows: 10", "rows: 10, startup: 25")), ("freezing", rules)):
            ended = run(study(tmp_path / name, tiny_model_folder, further, block, trials=trials))
            assert ended.returncode == 0, ended.stderr
    plain, freezing = (record_at(tmp_path / name / "study.yaml") for name in ("plain", "freezing"))
    assert all(trial.final and trial.final.ending is Ending.COMPLETE for trial in plain.trials)
    thawed = {thaw.trial for thaw in freezing.thaws}
    assert thawed
    for number in thawed:
        trial = freezing.trials[number]
        before, found, wanted = (cast(Any, each) for each in (trial.outcome, trial.final, plain.trials[number].outcome))
        assert trial.params == plain.trials[number].params
        assert found.tokens > before.tokens
        assert (found.losses, found.rungs) == (wanted.losses[: len(found.losses)], wanted.rungs[: len(found.rungs)])
        if trial.promoted:
            assert found.ending is Ending.COMPLETE
            assert (found.loss, found.losses, found.tokens) == (wanted.loss, wanted.losses, wanted.tokens)
    kept = tmp_path / "freezing" / "study" / "stopped"
    ended_so = {number for number in thawed if freezing.trials[number].promoted}
    assert not {int(place.name) for place in kept.glob("[0-9]*")} & ended_so
    assert freezing.tokens < plain.tokens


def test_what_thawed_in_another_pack_has_its_losses_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    """To 1e-5: it is computed beside others. None is trained alone while there are further points."""
    with trials_here():
        for name, further, pack in (("plain", "", 1), ("freezing", MORE_RUNGS, 8)):
            ended = run(study(tmp_path / name, tiny_model_folder, further, 8, pack, trials=25))
            assert ended.returncode == 0, ended.stderr
    plain, freezing = (record_at(tmp_path / name / "study.yaml") for name in ("plain", "freezing"))
    thawed = {joined.trial for joined in freezing.joined if joined.thaw is not None}
    assert thawed
    for number in thawed:
        found: Any = freezing.trials[number].final
        wanted: Any = plain.trials[number].outcome
        assert freezing.trials[number].params == plain.trials[number].params
        assert found.losses == pytest.approx(wanted.losses[: len(found.losses)], abs=1e-5)
        assert found.ending is Ending.STOPPED_EARLY or found.tokens == wanted.tokens


@pytest.mark.parametrize(
    ("rules", "block", "pack", "trials"),
    [(FREEZING, 4, 1, 17), (BY_MODEL, 1, 1, 25), (MORE_RUNGS, 8, 8, 25)],
    ids=["asha", "model", "packed"],
)
def test_killed_while_freezing_and_thawing(
    tiny_model_folder: Path, tmp_path: Path, rules: str, block: int, pack: int, trials: int
) -> None:
    """The record of an undisturbed study, and the same course: one process. Killed where the first trial stops, and
    where trials have thawed: the coordinator; the worker, and the coordinator that went on; the coordinator.
    """
    calm, killed = (study(tmp_path / n, tiny_model_folder, rules, block, pack, trials) for n in ("calm", "killed"))
    assert run(calm).returncode == 0
    whole = record_at(calm)
    assert len(whole.thaws) >= 2
    assert pack == 1 or any(joined.thaw is not None for joined in whole.joined)
    marks = iter((("stopped", 1), ("thawed", 1), ("thawed", 1), ("thawed", 2)))

    def wait(chance: random.Random) -> float:
        """Not by the clock: until so much is in the record, whose study has several trials to go."""
        kind, mark = next(marks)
        while there(killed, kind) < mark:
            time.sleep(0.05)
        return 0.0

    for victim, family in kill_at_random(killed, 3, seed=7, wait=wait, victims=("coordinator", "worker")):
        assert gone(family), f"processes outlived the kill of the {victim}"
    assert run_apart(killed).returncode == 0
    assert record_of(killed) == record_of(calm)
    assert course(record_at(killed)) == course(whole)
    assert record_at(killed).joined == whole.joined


def test_frozen_trials_keep_no_more_than_the_disk_s_limit(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The states of real trials that are left are of those that could go on; what was dropped did not."""
    path = study(tmp_path / "limited", tiny_model_folder, FREEZING)
    state = check(path, measure=False)[1]["disk"]["state"]
    path.write_text(path.read_text(encoding="utf-8").replace("freeze: true", f"freeze: true, disk: {2 * state}"))
    with trials_here():
        ended = run(path)
    assert ended.returncode == 0, ended.stderr
    record = record_at(path)
    assert record.drops
    assert "its state was dropped, since the limit of the disk is reached" in ended.stdout + ended.stderr
    for dropped in record.drops:
        assert not any(thaw.trial == dropped.trial and thaw.seen > dropped.seen for thaw in record.thaws)
    left = {int(place.name) for place in (path.parent / "study" / "stopped").glob("[0-9]*")}
    assert left == {trial.number for trial in record.frozen}


def there(path: Path, kind: str) -> int:
    """How many trials were told to stop, or thawed, by what is in the record now."""
    try:
        record = record_at(path)
    except MeshtuneError:  # there is none yet
        return 0
    assert "finished" not in record.notes, f"it ended before so many {kind}"
    stops = sum(each.verdict is Verdict.STOPS for each in record.decided.values())
    return len(record.thaws) if kind == "thawed" else stops


def course(record: Record) -> list[Any]:
    """What became of trials after they had been stopped."""
    found: list[Any] = list(record.thaws)
    for trial in record.trials:
        for outcome in (trial.frozen, trial.promoted):
            found.append(outcome and (outcome.ending, outcome.loss, outcome.losses, outcome.rungs, outcome.tokens))
    return found
