"""Early stopping in a study: what is written with a proposal, what is told, and that nothing else decides."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from meshtune import presets
from meshtune.budget import Budget
from meshtune.config import Interval, SamplerConfig
from meshtune.config_spending import EarlyStoppingConfig
from meshtune.distributions import distributions
from meshtune.early_stopping import EarlyStopping
from meshtune.record import Record
from meshtune.recorded import RecordedTrial
from meshtune.samplers.build import build
from meshtune.study import run
from meshtune.trial import Ending, Outcome, Request
from meshtune.workers.planner import Packing
from tests.test_study import AtOnce

SPACE = presets.build({"x": Interval(low=-1, high=1), "y": Interval(low=-1, high=1)}, lora=False)
START = {"x": 0.8, "y": 0.8}
TOKENS = 1000


def loss_at(hyperparameters: Mapping[str, Any], share: float) -> float:
    """Curves that fall to a bowl's loss, a little out of order on the way."""
    x, y = hyperparameters["x"] - 0.3, hyperparameters["y"] + 0.2
    return float(1 + x**2 + y**2 + (1 - share) * (0.5 + 0.1 * math.sin(40 * x)))


def trained(request: Request) -> Outcome:
    """What an objective does: it measures at the rungs, and ends above a threshold."""
    rungs: list[tuple[int, float]] = []
    for tokens, threshold in request.thresholds:
        loss = loss_at(request.hyperparameters, tokens / TOKENS)
        rungs.append((tokens, loss))
        if threshold is not None and loss > threshold:
            return Outcome(
                request.trial, request.attempt, Ending.STOPPED_EARLY, loss, rungs=tuple(rungs), tokens=tokens
            )
    loss = loss_at(request.hyperparameters, 1)
    return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss, (loss,), rungs=tuple(rungs), tokens=TOKENS)


def early(**values: Any) -> EarlyStopping:
    return EarlyStopping(EarlyStoppingConfig(**values), epochs=2, epoch_tokens=TOKENS // 2)


def opened(folder: Path) -> Record:
    return Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={})


def searched(
    folder: Path, rules: EarlyStopping | None, trials: int, *, sampler: str = "mads", places: int = 2
) -> Record:
    """A study run to so many trials, or gone on with."""
    record = opened(folder)
    if not record.trials:
        rungs = rules.measured(START) if rules else ()
        record.enqueue(START, origin="baseline", seed=0, thresholds=rungs)
    pruned = "value" if rules is not None and rules.config.told == "predicted" else "failed"
    made = build(
        SamplerConfig(name=sampler),  # type: ignore[arg-type]
        distributions(SPACE),
        x0=START,
        block_size=4,
        seed=0,
        pruned=pruned,  # type: ignore[arg-type]
    )
    list(
        run(record, made, AtOnce(trained, places), Budget(trials), seed=0, packing=Packing(2, uneven=True), early=rules)
    )
    made.close()
    return record


def log_of(record: Record) -> list[tuple[Any, ...]]:
    return [(t.params, t.block, t.pack, t.seen, t.thresholds, t.told, t.order, t.outcome) for t in record.trials]


@pytest.mark.parametrize("rule", ["median", "asha", "curve"])
def test_trials_are_stopped_and_the_best_is_one_that_was_not(tmp_path: Path, rule: str) -> None:
    record = searched(tmp_path, early(rule=rule), 40)
    stopped = [trial for trial in record.trials if trial.outcome and trial.outcome.ending is Ending.STOPPED_EARLY]
    assert len(stopped) >= 5
    assert record.tokens < 0.9 * 40 * TOKENS
    assert record.best is not None
    assert record.best not in stopped
    assert record.best.loss == min(trial.loss for trial in record.trials)


def test_a_proposal_holds_its_thresholds_and_a_resume_reads_them(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha"), 24)
    last = record.trials[-1]
    assert [tokens for tokens, _ in last.thresholds] == [150, 300, 500, 700]
    assert last.thresholds[0][1] is not None
    assert [trial.thresholds for trial in opened(tmp_path).trials] == [trial.thresholds for trial in record.trials]
    assert last.request(1, None).thresholds == last.thresholds


def test_the_baseline_is_measured_at_rungs_and_never_stopped(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha"), 12)
    baseline = record.trials[0]
    assert baseline.thresholds == ((150, None), (300, None), (500, None), (700, None))
    assert baseline.outcome is not None
    assert len(baseline.outcome.rungs) == 4


def test_optuna_sees_a_pruned_trial_with_its_rungs(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha"), 24)
    trial = next(t for t in record.trials if t.outcome and t.outcome.ending is Ending.STOPPED_EARLY)
    for frozen in (record.mirror.trials[trial.number], opened(tmp_path).mirror.trials[trial.number]):
        assert frozen.state is TrialState.PRUNED
        assert trial.outcome is not None
        assert frozen.intermediate_values == dict(trial.outcome.rungs)
        assert frozen.value == trial.told


def test_a_stopped_trial_is_told_as_no_better_than_the_best_of_its_time(tmp_path: Path) -> None:
    record = searched(tmp_path, early(), 32)
    best = math.inf
    for trial in record.told:
        if trial.loss < best:
            best = trial.loss
        if trial.outcome is not None and trial.outcome.ending is Ending.STOPPED_EARLY:
            assert trial.told is None or trial.told >= best


def test_told_as_failed_no_value_is_stored(tmp_path: Path) -> None:
    record = searched(tmp_path, early(told="failed"), 24)
    stopped = [trial for trial in record.told if trial.outcome and trial.outcome.ending is Ending.STOPPED_EARLY]
    assert stopped
    assert all(trial.told is None for trial in stopped)


@pytest.mark.parametrize("sampler", ["mads", "tpe"])
@pytest.mark.parametrize("told", ["predicted", "failed"])
def test_going_on_after_any_trial_gives_the_record_of_an_uninterrupted_study(
    tmp_path: Path, sampler: str, told: str
) -> None:
    (tmp_path / "whole").mkdir()
    whole = log_of(searched(tmp_path / "whole", early(told=told), 28, sampler=sampler))
    ends = [trial[3] for trial in whole if trial[3]]  # what a budget cuts off a block is proposed anew
    for end in [*dict.fromkeys(ends), 28]:
        record = searched(tmp_path, early(told=told), end, sampler=sampler)
    assert log_of(record) == whole


def test_nothing_depends_on_how_many_run_at_once(tmp_path: Path) -> None:
    logs = []
    for places in (1, 2):
        (tmp_path / str(places)).mkdir()
        record = searched(tmp_path / str(places), early(), 24, places=places)
        logs.append([(trial.params, trial.block, trial.thresholds) for trial in record.trials])
    assert logs[0] == logs[1]


def test_only_trials_of_one_schedule_are_compared(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha"), 24)
    rules = early(rule="asha")
    assert any(loss is not None for _, loss in rules.thresholds(record, START))
    other = rules.thresholds(record, {**START, "epochs": 1})
    assert other == ((75, None), (150, None), (250, None), (350, None))


def test_a_promoted_trial_may_be_the_best_and_no_sampler_is_told(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha"), 24)
    stopped = next(t for t in record.trials if t.outcome and t.outcome.ending is Ending.STOPPED_EARLY)
    before = record.mirror.trials[stopped.number]
    record.promote(Outcome(stopped.number, 1, Ending.COMPLETE, 0.5, (0.5,), tokens=TOKENS))
    for now in (record, opened(tmp_path)):
        assert now.best is not None
        assert now.best.number == stopped.number
        assert now.best.final is not None
        assert now.best.final.loss == 0.5
        assert now.trials[stopped.number].told == stopped.told
        assert now.mirror.trials[stopped.number].value == before.value
    assert stopped.outcome is not None
    assert record.tokens == sum(_tokens(trial) for trial in record.trials)


def _tokens(trial: RecordedTrial) -> int:
    return trial.final.tokens if trial.final else 0


def test_the_likeliest_of_the_stopped_are_promising(tmp_path: Path) -> None:
    record = searched(tmp_path, early(rule="asha", keep=0.2), 40)
    rules = early(rule="asha", keep=0.2, promote=2)
    numbers = rules.promising(record)
    assert len(numbers) <= 2
    stopped = [t.number for t in record.trials if t.outcome and t.outcome.ending is Ending.STOPPED_EARLY]
    assert set(numbers) <= set(stopped)
    assert early(rule="asha", promote=0).promising(record) == []
