"""What a sampler is told of trials that were stopped: an end and how sure it is, from the study's own trials."""

import copy
import json
from pathlib import Path

import pytest
from optuna.trial import TrialState

from meshtune.plan.locate import locate
from meshtune.plan.plan import build
from meshtune.record.log import Record
from meshtune.samplers import BatchGPSampler
from meshtune.study import tune
from meshtune.study.ends import Ends
from tests.stopping.test_decisions import SPACE, early, loss_at, searched, stopped_of

RULES = early(keep=0.25)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return searched(tmp_path_factory.mktemp("ends"), RULES, 28, sampler="batch-gp")


def test_the_true_ends_are_mostly_within_two_deviations(study: Record) -> None:
    ends = Ends(RULES, SPACE)(study.mirror.trials)
    stopped = stopped_of(study)
    assert ends.keys() == {trial.number for trial in stopped}
    assert len(stopped) >= 5
    misses = [abs(ends[t.number][0] - loss_at(t.hyperparameters, 1)) / ends[t.number][1] for t in stopped]
    assert sum(miss < 2 for miss in misses) >= 0.8 * len(misses)


def test_what_was_fitted_to_decide_serves_to_propose(study: Record) -> None:
    """One fit of the same trials, whoever asks first, and the answer of who decided nothing."""
    rules = early(rule="model")
    found = Ends(rules, SPACE)(study.mirror.trials)
    fitted = dict(rules._fitted)
    assert fitted
    rules.promising(study)
    assert all(rules._fitted[alike] is known for alike, known in fitted.items())
    assert found == Ends(early(rule="model"), SPACE)(study.mirror.trials)


def test_the_later_a_trial_was_stopped_the_surer_is_its_end(study: Record) -> None:
    """Of one that reached its end, had it been stopped at each of its rungs."""
    *others, last = [trial for trial in study.mirror.trials if trial.state is TrialState.COMPLETE]
    spreads, misses = [], []
    for rungs in (1, 5):
        stopped = copy.deepcopy(last)
        stopped.state = TrialState.PRUNED
        stopped.intermediate_values = dict(list(last.intermediate_values.items())[:rungs])
        loss, spread = Ends(RULES, SPACE)([*others, stopped])[last.number]
        spreads.append(spread)
        misses.append(abs(loss - last.values[0]) / spread)
    assert spreads[1] < spreads[0]
    assert max(misses) < 3


def test_the_answer_follows_from_the_trials_alone(study: Record) -> None:
    """Of one that was asked before, and of a fresh one; so a resume proposes the same points."""
    trials, ends = study.mirror.trials, Ends(RULES, SPACE)
    found = [dict(ends(trials[:count])) for count in (20, 28, 20)]
    assert found[0] == found[2] == Ends(RULES, SPACE)(trials[:20])
    assert any(found[0][number] != found[1][number] for number in found[0]), "later trials say more of earlier ones"


def test_nothing_is_known_before_three_trials_have_reached_their_end(study: Record) -> None:
    pruned = [trial for trial in study.mirror.trials if trial.state is TrialState.PRUNED]
    complete = [trial for trial in study.mirror.trials if trial.state is TrialState.COMPLETE]
    assert Ends(RULES, SPACE)([*pruned, *complete[:2]]) == {}
    assert Ends(RULES, SPACE)([*pruned, *complete[:3]]).keys() == {trial.number for trial in pruned}


def test_a_study_that_stops_early_gives_them_to_its_sampler(tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}: repeat", "input": "", "output": "word"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    study = "model: embedded\ndata: {sources: [{path: rows.jsonl}], validation: 4}\nearly_stopping: default\n"
    (tmp_path / "study.yaml").write_text(study + "sampler: batch-gp\n", encoding="utf-8")
    plan = build(locate(tmp_path / "study.yaml"))
    sampler = tune._sampler(plan, 0, new_segment=False)
    assert isinstance(sampler, BatchGPSampler)
    assert isinstance(sampler._ends, Ends)
