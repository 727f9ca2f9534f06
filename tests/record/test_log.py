"""The record: an ordered log that is complete after any moment at which its writer dies."""

import dataclasses
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError, StudyMismatch
from meshtune.record.distributions import as_known, distributions
from meshtune.record.log import Record
from meshtune.record.storage import open_storage
from meshtune.record.trials import flatten, read_outcome
from meshtune.samplers.build import build
from meshtune.samplers.interface import Sampler
from meshtune.trial import Ending, Outcome

SPACE = presets.recommended()
BASELINE = presets.RECOMMENDED_BASELINE


def opened(folder: Path, fixed: dict[str, object] | None = None) -> Record:
    return Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={"a": 1} if fixed is None else fixed)


def sampler() -> Sampler:
    made: Sampler = build(SamplerConfig(name="random"), distributions(SPACE), x0=None, block_size=2, seed=0)
    return made


def ended(trial: int, ending: Ending = Ending.COMPLETE, loss: float | None = 1.5, **fields: object) -> Outcome:
    return Outcome(trial, 1, ending, loss=loss if ending is Ending.COMPLETE else None, **fields)  # type: ignore[arg-type]


def test_what_is_proposed_and_told_is_there_after_reopening(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.enqueue(BASELINE, origin="baseline", seed=3)
    proposed = record.propose(sampler(), seed=3)
    loss = 0.1 + 0.2  # needs all 17 digits
    record.tell(ended(1, loss=loss, losses=(2.5, loss), training_losses=(3.0,), seconds=1.5, tokens=9), elapsed=4.5)
    record.note("untuned", {"loss": 2.25})
    again = opened(tmp_path)
    assert again.trials == record.trials
    assert again.trials[1].outcome is not None
    assert again.trials[1].value == loss
    assert again.trials[1].params == proposed.params
    assert [trial.number for trial in again.pending] == [0]
    assert again.notes["untuned"] == {"loss": 2.25}
    assert (again.elapsed, again.tokens) == (4.5, 9)
    assert again.mirror.trials[1].value == loss
    assert again.mirror.trials[0].state is TrialState.RUNNING


@pytest.mark.parametrize("several", [False, True])
def test_a_dashboard_sees_decoded_names_values_and_learning_curves(tmp_path: Path, several: bool) -> None:
    """And the record goes on from them: samplers are given what they moved, exactly."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    fixed: dict[str, Any] = {"space": SPACE.describe()}
    if several:
        fixed["objectives"] = ["minimize validation_loss", "minimize size"]
    record = Record(url, "study", SPACE, fixed=fixed)
    record.enqueue(presets.RECOMMENDED_BASELINE, origin="baseline", seed=0)
    for _ in range(11):
        record.propose(optuna.samplers.RandomSampler(seed=len(record.trials)), seed=0)
    for number in range(11):
        outcome = Outcome(number, 1, Ending.COMPLETE, loss=2.0 - number / 20, losses=(2.5, 2.0 - number / 20))
        record.tell(dataclasses.replace(outcome, extra={"size": 1.0 + number}), elapsed=number)
    stored = optuna.load_study(study_name="study", storage=open_storage(url))
    names = {"rank", "alpha", "dropout", "learning_rate"}
    for trial, known in zip(stored.trials, record.trials, strict=True):
        assert set(trial.params) == names
        assert trial.params == pytest.approx(dict(known.hyperparameters), rel=1e-12)
    assert stored.trials[3].intermediate_values == {1: 2.5, 2: 1.85}
    target = (lambda trial: trial.values[0]) if several else None
    figure = optuna.visualization.plot_slice(stored, target=target, target_name="loss")
    assert {axis.title.text for axis in figure.select_xaxes()} == names
    if not several:
        assert len(optuna.visualization.plot_intermediate_values(stored).data) == 11
        assert set(optuna.importance.get_param_importances(stored)) == names

    again = Record(url, "study", SPACE, fixed=fixed)
    read_only = Record(url, "study")
    assert again.trials == read_only.trials == record.trials
    for other in (again, read_only):
        assert [t.params for t in other.mirror.trials] == [t.params for t in record.mirror.trials]
        assert [t.distributions for t in other.mirror.trials] == [t.distributions for t in record.mirror.trials]


def test_a_record_of_an_earlier_version_goes_on_as_it_began(tmp_path: Path) -> None:
    """Its parameters are the sampler's: a dashboard that found both would compare neither."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    record = Record(url, "study", SPACE, fixed={"space": SPACE.describe()})
    record._decoded = False  # as before there were decoded parameters
    record.enqueue(presets.RECOMMENDED_BASELINE, origin="baseline", seed=0)
    again = Record(url, "study", SPACE, fixed={"space": SPACE.describe()})
    again.propose(sampler(), seed=0)
    stored = optuna.load_study(study_name="study", storage=open_storage(url))
    assert [set(trial.params) for trial in stored.trials] == [set(again.trials[0].params)] * 2
    assert "rank_log2" in stored.trials[0].params
    shown = as_known(stored.trials[1], SPACE)
    assert shown.params == pytest.approx(dict(again.trials[1].hyperparameters), rel=1e-12)


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Ending.COMPLETE, TrialState.COMPLETE),
        (Ending.STOPPED_EARLY, TrialState.PRUNED),
        (Ending.DIVERGED, TrialState.COMPLETE),
        (Ending.OUT_OF_MEMORY, TrialState.COMPLETE),
        (Ending.TIMED_OUT, TrialState.COMPLETE),
        (Ending.INFEASIBLE, TrialState.COMPLETE),
        (Ending.CRASHED, TrialState.FAIL),
    ],
)
def test_endings_as_optuna_sees_them(tmp_path: Path, ending: Ending, state: TrialState) -> None:
    record = opened(tmp_path)
    for _ in range(2):
        record.propose(sampler(), seed=0)
    record.tell(ended(0, loss=7.0), elapsed=1)
    record.tell(ended(1, ending), elapsed=2)
    stored = optuna.load_study(study_name="study", storage=open_storage(f"sqlite:///{tmp_path / 'study.db'}"))
    for study in (stored, record.mirror):
        trial = study.trials[1]
        assert trial.state is state
        infeasible = state is TrialState.COMPLETE and ending is not Ending.COMPLETE
        assert any(value > 0 for value in trial.constraints.values()) is infeasible
        if infeasible:
            assert trial.value == 7.0  # the worst loss so far: finite, and misleading to no model
        assert study.best_trial.number == 0 or ending is Ending.COMPLETE
    assert record.best is not None
    assert record.best.number == (1 if ending is Ending.COMPLETE else 0)


def test_a_tell_that_was_cut_in_its_middle_is_finished_on_opening(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.propose(sampler(), seed=0)
    record.tell(ended(0, losses=(2.0, 1.5)), elapsed=1)
    cut = Record(f"sqlite:///{tmp_path / 'cut.db'}", "study", SPACE, fixed={"a": 1})
    cut.propose(sampler(), seed=0)
    whole = optuna.load_study(study_name="study", storage=open_storage(f"sqlite:///{tmp_path / 'study.db'}"))
    attribute = whole.trials[0].user_attrs
    cut._storage.set_trial_user_attr(cut._ids[0], "outcome", attribute["outcome"])  # as a kill would leave it
    again = Record(f"sqlite:///{tmp_path / 'cut.db'}", "study", SPACE, fixed={"a": 1})
    assert again.trials == record.trials
    stored = optuna.load_study(study_name="study", storage=open_storage(f"sqlite:///{tmp_path / 'cut.db'}"))
    assert stored.trials[0].state is TrialState.COMPLETE
    assert stored.trials[0].intermediate_values == {1: 2.0, 2: 1.5}


def test_an_outcome_without_the_fields_that_came_later_is_read() -> None:
    fields = dataclasses.asdict(ended(0, loss=1.0))
    del fields["retry"], fields["pass_tokens"]
    assert read_outcome(fields) == ended(0, loss=1.0)


def test_a_late_answer_is_discarded(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.propose(sampler(), seed=0)
    assert record.tell(ended(0, loss=1.0), elapsed=1) is not None
    assert record.tell(ended(0, loss=0.5), elapsed=2) is None
    assert record.best is not None
    assert record.best.value == 1.0


def test_blocks_are_proposals_from_the_same_tells(tmp_path: Path) -> None:
    record = opened(tmp_path)
    made = sampler()
    record.enqueue(BASELINE, origin="baseline", seed=0)
    record.propose(made, seed=0)
    record.tell(ended(0), elapsed=1)
    record.tell(ended(1), elapsed=1)
    record.propose(made, seed=0)
    reopened = opened(tmp_path)
    reopened.propose(sampler(), seed=0)
    assert [trial.block for trial in reopened.trials] == [0, 0, 1, 1]
    assert [trial.seen for trial in reopened.trials] == [0, 0, 2, 2]


def test_nothing_complete_yet_still_gives_a_finite_value(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.propose(sampler(), seed=0)
    told = record.tell(ended(0, Ending.DIVERGED), elapsed=1)
    assert told is not None
    assert told.value is not None
    assert math.isfinite(told.value)
    assert record.best is None


def test_other_fixed_keys_are_refused_and_all_named(tmp_path: Path) -> None:
    opened(tmp_path, {"seed": 0, "training": {"epochs": 2, "batch_size": 4}})
    with pytest.raises(StudyMismatch) as caught:
        opened(tmp_path, {"seed": 1, "training": {"epochs": 3, "batch_size": 4}})
    message = str(caught.value)
    assert "seed: the study has 0, now given 1" in message
    assert "training.epochs: the study has 2, now given 3" in message
    assert "batch_size" not in message


def test_foreign_trials_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="study", storage=open_storage(url))
    study.tell(study.ask(), 1.0)
    with pytest.raises(StudyMismatch, match="not proposed by meshtune"):
        opened(tmp_path)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(InputError, match="no study called `other`"):
        Record(f"sqlite:///{tmp_path / 'study.db'}", "other")


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    """It would be in the way of the study that begins there."""
    with pytest.raises(InputError, match="no study's record here"):
        Record(f"sqlite:///{tmp_path / 'study.db'}", "study")
    assert not list(tmp_path.iterdir())


def test_the_record_reads_as_optuna_does(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for number in range(4):
        record.propose(sampler(), seed=0)
        record.tell(ended(number, loss=float(number)), elapsed=1)
    study = optuna.load_study(study_name="study", storage=open_storage(f"sqlite:///{tmp_path / 'study.db'}"))
    assert study.best_params == record.trials[0].params
    assert set(study.best_trial.user_attrs["hyperparameters"]) >= {"rank", "alpha", "dropout", "learning_rate"}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [2, {"d": 3}]}, "e": {}}) == {"a.b": 1, "a.c.0": 2, "a.c.1.d": 3, "e": {}}


def test_a_database_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed at any moment of its making: a reader never meets a half-made file, and the next writer goes on."""
    code = (
        "import sys; from meshtune.record.log import Record; from meshtune.config import presets\n"
        "print('ready', flush=True)\n"
        "Record(sys.argv[1], 'study', presets.recommended(), fixed={'a': 1})"
    )
    seen = set()
    for number, wait in enumerate((0.0, 0.02, 0.05, 0.1, 0.2, None)):
        database = tmp_path / f"{number}.db"
        url = f"sqlite:///{database}"
        writer = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        if wait is not None:  # the last one is left alone
            time.sleep(wait)
            writer.kill()
        writer.communicate()
        seen.add(database.exists())
        if database.exists():
            assert Record(url, "study").notes["fixed"] == {"a": 1}
        Record(url, "study", SPACE, fixed={"a": 1}).propose(sampler(), seed=0)
        assert not (tmp_path / f"{number}.db.part").exists()
    assert seen == {True, False}
