"""Early stopping in a study: what is written with a proposal, what is told, and that nothing else decides."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from meshtune.config import presets
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import Interval, SamplerConfig, TrainingConfig
from meshtune.errors import StudyMismatch
from meshtune.plan.budget import Budget
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.ends import Ends
from meshtune.study.loop import run
from meshtune.trial import Ending, Outcome, Request
from meshtune.workers.planner import Packing
from tests.study.test_loop import AtOnce

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
    return EarlyStopping(EarlyStoppingConfig(**values), epochs=2, epoch_tokens=TOKENS // 2, space=SPACE)


def opened(folder: Path, **given: Any) -> Record:
    return Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={}, **given)


def searched(
    folder: Path, rules: EarlyStopping | None, trials: int, *, sampler: str = "mads", places: int = 2
) -> Record:
    """A study run to so many trials, or gone on with."""
    record = opened(folder)
    if not record.trials:
        rungs = rules.measured(START) if rules else ()
        record.enqueue(START, origin="baseline", seed=0, thresholds=rungs)
    pruned = "value" if rules is not None and rules.config.value == "predicted" else "failed"
    made = build(
        SamplerConfig(name=sampler),  # type: ignore[arg-type]
        distributions(SPACE),
        x0=START,
        block_size=4,
        seed=0,
        pruned=pruned,  # type: ignore[arg-type]
        ends=Ends(rules, SPACE) if rules else None,
    )
    list(
        run(record, made, AtOnce(trained, places), Budget(trials), seed=0, packing=Packing(2, uneven=True), early=rules)
    )
    made.close()
    return record


@pytest.fixture(scope="module")
def asha(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of 24 trials that the rule `asha` has stopped some of; to be read."""
    folder = tmp_path_factory.mktemp("asha")
    searched(folder, early(rule="asha"), 24)
    return folder


@pytest.fixture
def copied(asha: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(asha, tmp_path, dirs_exist_ok=True)
    return tmp_path


def stopped_of(record: Record) -> list[RecordedTrial]:
    return [trial for trial in record.trials if trial.outcome and trial.outcome.ending is Ending.STOPPED_EARLY]


def log_of(record: Record, *, attempts: bool = True) -> list[tuple[Any, ...]]:
    """`attempts`: their numbers too."""
    outcomes = [t.outcome if attempts or t.outcome is None else replace(t.outcome, attempt=1) for t in record.trials]
    log = [(t.params, t.block, t.pack, t.seen, t.thresholds, t.value, t.order) for t in record.trials]
    return [(*trial, outcome) for trial, outcome in zip(log, outcomes, strict=True)]


@pytest.mark.parametrize("rule", ["median", "asha", "curve"])
def test_trials_are_stopped_and_the_best_is_one_that_was_not(tmp_path: Path, rule: str) -> None:
    record = searched(tmp_path, early(rule=rule), 28)
    stopped = stopped_of(record)
    assert len(stopped) >= 3
    assert record.tokens < 0.95 * 28 * TOKENS
    assert record.best is not None
    assert record.best not in stopped
    assert record.best.loss == min(trial.loss for trial in record.trials)


def test_a_proposal_holds_its_thresholds_and_a_resume_reads_them(asha: Path) -> None:
    record = opened(asha)
    last = record.trials[-1]
    assert [tokens for tokens, _ in last.thresholds] == [100, 150, 300, 500, 700]
    assert last.thresholds[0][1] is not None
    assert last.request(1, None).thresholds == last.thresholds


def test_the_baseline_is_measured_at_rungs_and_never_stopped(asha: Path) -> None:
    baseline = opened(asha).trials[0]
    assert baseline.thresholds == ((100, None), (150, None), (300, None), (500, None), (700, None))
    assert baseline.outcome is not None
    assert len(baseline.outcome.rungs) == 5


def test_optuna_sees_a_pruned_trial_with_its_rungs(asha: Path) -> None:
    record = opened(asha)
    trial = stopped_of(record)[0]
    frozen = record.mirror.trials[trial.number]
    assert frozen.state is TrialState.PRUNED
    assert trial.outcome is not None
    assert frozen.intermediate_values == dict(trial.outcome.rungs)
    assert frozen.value == trial.value


def test_a_stopped_trial_is_told_as_no_better_than_the_best_of_its_time(tmp_path: Path) -> None:
    record = searched(tmp_path, early(), 24)
    best = math.inf
    for trial in record.finished:
        if trial.loss < best:
            best = trial.loss
        if trial.outcome is not None and trial.outcome.ending is Ending.STOPPED_EARLY:
            assert trial.value is None or trial.value >= best


def test_batch_gp_is_told_a_value_of_every_stopped_trial_and_none_is_stopped_before_three_have_finished(
    tmp_path: Path,
) -> None:
    """The smallest `startup` that a file may have says nothing else."""
    record = searched(tmp_path, early(startup=1), 32, sampler="batch-gp")
    stopped = stopped_of(record)
    assert stopped
    assert all(trial.value is not None and math.isfinite(trial.value) for trial in stopped)
    for trial in record.trials:
        finished = [before for before in record.finished[: trial.seen] if before.outcome.ending is Ending.COMPLETE]  # type: ignore[union-attr]
        assert len(finished) >= 3 or all(loss is None for _, loss in trial.thresholds)
    assert len(record.trials) - len(stopped) >= 12, "the sampler is not driven to where nothing finishes"


def test_a_study_that_began_when_fewer_were_enough_goes_on(tmp_path: Path) -> None:
    earlier = {"early_stopping": {**early().described(), "startup": 1}}
    folder = f"sqlite:///{tmp_path / 'study.db'}"
    Record(folder, "study", SPACE, fixed=earlier)
    for startup in (1, 2, 3):
        Record(folder, "study", SPACE, fixed={"early_stopping": early(startup=startup).described()})
    with pytest.raises(StudyMismatch, match=r"early_stopping\.startup: the study has 3, now given 4"):
        Record(folder, "study", SPACE, fixed={"early_stopping": early(startup=4).described()})


def test_told_as_failed_no_value_is_stored(tmp_path: Path) -> None:
    record = searched(tmp_path, early(value="failed"), 16)
    stopped = stopped_of(record)
    assert stopped
    assert all(trial.value is None for trial in stopped)


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        ("mads", "predicted"),
        ("batch-gp", "predicted"),
        pytest.param("mads", "failed", marks=pytest.mark.slow),
        pytest.param("tpe", "predicted", marks=pytest.mark.slow),
    ],
)
def test_going_on_after_any_trial_gives_the_record_of_an_uninterrupted_study(
    tmp_path: Path, sampler: str, told: str
) -> None:
    (tmp_path / "whole").mkdir()
    whole = log_of(searched(tmp_path / "whole", early(value=told), 20, sampler=sampler))
    ends = [trial[3] for trial in whole if trial[3]]  # what a budget cuts off a block is proposed anew
    for end in [*sorted(set(ends))[1::2], 20]:
        record = searched(tmp_path, early(value=told), end, sampler=sampler)
    assert log_of(record) == whole


def test_nothing_depends_on_how_many_run_at_once(tmp_path: Path) -> None:
    logs = []
    for places in (1, 2):
        (tmp_path / str(places)).mkdir()
        record = searched(tmp_path / str(places), early(), 16, places=places)
        logs.append([(trial.params, trial.block, trial.thresholds) for trial in record.trials])
    assert logs[0] == logs[1]


def test_only_trials_of_one_schedule_are_compared(asha: Path) -> None:
    record = opened(asha)
    rules = early(rule="asha")
    assert any(loss is not None for _, loss in rules.thresholds(record, START))
    other = rules.thresholds(record, {**START, "epochs": 1})
    assert other == ((50, None), (75, None), (150, None), (250, None), (350, None))


def test_a_promoted_trial_may_be_the_best_and_no_sampler_is_told(copied: Path) -> None:
    record = opened(copied)
    stopped = stopped_of(record)[0]
    before = record.mirror.trials[stopped.number]
    record.promote(Outcome(stopped.number, 1, Ending.COMPLETE, 0.5, (0.5,), tokens=TOKENS))
    for now in (record, opened(copied)):
        assert now.best is not None
        assert now.best.number == stopped.number
        assert now.best.final is not None
        assert now.best.final.loss == 0.5
        assert now.trials[stopped.number].value == stopped.value
        assert now.mirror.trials[stopped.number].value == before.value
    assert stopped.outcome is not None
    assert record.tokens == sum(_tokens(trial) for trial in record.trials)


def _tokens(trial: RecordedTrial) -> int:
    return trial.final.tokens if trial.final else 0


def test_the_likeliest_of_the_stopped_are_promising(asha: Path) -> None:
    record = opened(asha)
    rules = early(rule="asha", promote=2)
    numbers = rules.promising(record)
    assert len(numbers) <= 2
    assert set(numbers) <= {trial.number for trial in stopped_of(record)}
    assert set(numbers) <= set(rules.promising(record, 10))
    assert early(rule="asha", promote=0).promising(record) == []


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "on 64 validation rows"),
        (65, "on 64 validation rows"),
        (64, "on the 64 validation rows"),
        (2, "on the 2 "),
    ],
)
def test_no_more_rows_are_said_than_there_are(there: int | None, words: str) -> None:
    assert words in str(EarlyStopping(EarlyStoppingConfig(rule="asha"), 1, 1000, there, TrainingConfig()))


def test_another_tool_is_evaluated_as_its_own_settings_say() -> None:
    assert "of a trial's epochs" in str(EarlyStopping(EarlyStoppingConfig(rule="asha"), 1, 1000))


def of_training(rows: int, **training: Any) -> EarlyStopping:
    section = TrainingConfig(batch_size=4, epochs=2, **training)
    return EarlyStopping(EarlyStoppingConfig(rule="asha"), 2, TOKENS // 2, None, section, rows)


def test_what_the_warm_up_s_first_step_reaches_is_no_rung() -> None:
    """Eight steps of 125 tokens: at 100 every adapter would be untrained, since a warm-up begins at a rate of 0."""
    assert of_training(16).rungs({}) == (150, 300, 500, 700)
    assert of_training(16, warmup_ratio=0).rungs({}) == (100, 150, 300, 500, 700)
    assert of_training(16, gradient_accumulation=2).rungs({}) == (300, 500, 700)
    assert of_training(16).rungs({"epochs": 4}) == (200, 300, 600, 1000, 1400)
    assert of_training(16).rungs({"warmup_ratio": 0.0, "batch_size": 32}) == (100, 150, 300, 500, 700)
    assert of_training(4).rungs({"epochs": 1}) == ()


def test_a_study_of_an_earlier_version_goes_on_without_the_untrained_rung(copied: Path) -> None:
    """Its trials keep the rungs that they were measured at; new ones are compared where both were measured."""
    record = opened(copied)
    stopped = next(trial for trial in stopped_of(record) if len(trial.thresholds) > 1)
    plain, now = early(rule="asha"), of_training(16)
    assert now.thresholds(record, START) == plain.thresholds(record, START)[1:]
    assert stopped.outcome is not None
    if len(stopped.outcome.rungs) == 1:  # all that it was measured at is no rung any more
        assert now.value(record, stopped.outcome) is None
    deeper = [trial for trial in stopped_of(record) if trial.outcome and len(trial.outcome.rungs) > 1]
    for trial in deeper:
        assert trial.outcome is not None
        value = now.value(record, trial.outcome)
        assert value == pytest.approx(plain.value(record, trial.outcome))
    assert set(now.promising(record)) <= {trial.number for trial in deeper}
    assert of_training(4).thresholds(record, START | {"epochs": 1}) == ()
