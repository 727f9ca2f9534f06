"""Packs of the objective `lora` in which trials are stopped early: who comes after them, and what a kill changes."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.objectives import checkpoints
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.testing.objectives import decided, outcomes
from meshtune.testing.workers import collect
from meshtune.training.saved_state import FILE
from meshtune.trial import DataRef, Ending, Outcome, Request, Verdict
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec

RATES = (0.01, 1e-5, 0.003, 2e-5)  # of four trials, of which the second and the last learn next to nothing
MakeSpec = Callable[..., LoraSpec]


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> MakeSpec:
    """Makes specs of the tiny model that save themselves many times a second."""

    def spec(folder: Path = tmp_path, **training: Any) -> LoraSpec:
        values = {"batch_size": 8, "precision": "float32", "checkpoint_minutes": 1e-3, **training}
        config = TrainingConfig.model_validate(values)
        model = ModelConfig(name=str(tiny_model_folder))
        return LoraSpec(model=model, training=config, data=tiny_data, at="last", folder=str(folder), rung_rows=5)

    return spec


def four(epochs: int = 1, **given: Any) -> list[Request]:
    """A pack of four, of which two are trained at once."""
    point = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "epochs": epochs}
    rates = enumerate(RATES)
    return [Request(n, {**point, "learning_rate": rate}, seed=0, threads=1, width=2, **given) for n, rate in rates]


def stopping_the_worse(spec: LoraSpec, epochs: int = 1) -> tuple[list[Outcome], list[Request]]:
    """The outcomes of four that are not stopped, and requests that stop the two that learn least at the second rung."""
    objective = LoraObjective(spec, "cpu", 1)
    (first,) = outcomes(objective, four(epochs)[:1])
    rungs = tuple((round(share * first.tokens), None) for share in (0.2, 0.5))
    whole = sorted(outcomes(objective, four(epochs, thresholds=rungs)), key=lambda outcome: outcome.trial)
    assert [outcome.ending for outcome in whole] == [Ending.COMPLETE] * 4
    losses = sorted(outcome.rungs[1][1] for outcome in whole)
    thresholds = rungs[0], (rungs[1][0], (losses[1] + losses[2]) / 2)
    return whole, four(epochs, thresholds=thresholds)


def assert_same(found: Sequence[Outcome], wanted: Sequence[Outcome]) -> None:
    """All that does not come from the clock."""
    assert [replace(x, seconds=0.0, peak_memory=0) for x in found] == [
        replace(x, seconds=0.0, peak_memory=0) for x in wanted
    ]


def test_a_pack_of_four_two_at_once(make: MakeSpec, tmp_path: Path) -> None:
    """Two are stopped, the others go on; promoted together they become what they would have become."""
    whole, requests = stopping_the_worse(make(tmp_path / "whole"))
    found = sorted(outcomes(LoraObjective(make(), "cpu", 1), requests), key=lambda outcome: outcome.trial)
    stopped = [outcome.trial for outcome in found if outcome.ending is Ending.STOPPED_EARLY]
    assert stopped == [1, 3]
    assert sorted(path.name for path in (tmp_path / checkpoints.STOPPED).iterdir()) == ["1", "3"]
    for outcome, never in zip(found, whole, strict=True):
        assert [loss for _, loss in outcome.rungs] == pytest.approx([loss for _, loss in never.rungs], abs=1e-4)
        if outcome.ending is Ending.COMPLETE:
            assert outcome.losses == pytest.approx(never.losses, abs=1e-4)
            assert outcome.tokens == never.tokens
    promoted = [replace(requests[trial], promote=True, attempt=2) for trial in stopped]
    for trial, ended in zip(stopped, outcomes(LoraObjective(make(), "cpu", 1), promoted), strict=True):
        assert (ended.trial, ended.ending, ended.tokens) == (trial, Ending.COMPLETE, whole[trial].tokens)
        assert ended.loss == pytest.approx(whole[trial].loss, abs=1e-4)
        assert ended.seconds > found[trial].seconds
        assert (tmp_path / "adapters" / str(trial)).is_dir()
    assert list((tmp_path / checkpoints.STOPPED).iterdir()) == []
    assert list((tmp_path / checkpoints.FOLDER).iterdir()) == []


def test_promoted_without_what_was_kept(make: MakeSpec, capfd: pytest.CaptureFixture[str]) -> None:
    """From the beginning, which the log says."""
    request = replace(four()[0], promote=True)
    (ended,) = outcomes(LoraObjective(make(), "cpu", 1), [request])
    assert ended.ending is Ending.COMPLETE
    assert "there is no state of trial 0" in capfd.readouterr().err


def test_the_timeout_of_a_promoted_trial_begins_anew(make: MakeSpec, tmp_path: Path) -> None:
    """The time before was that of a whole pack; it still counts among its seconds."""
    request = replace(four()[0], thresholds=((10, 0.0),))
    (stopped,) = outcomes(LoraObjective(make(), "cpu", 1), [request])
    assert stopped.ending is Ending.STOPPED_EARLY
    state = tmp_path / checkpoints.STOPPED / "0" / FILE
    torch.save({**torch.load(state, weights_only=True), "seconds": 5000.0}, state)
    (ended,) = outcomes(LoraObjective(make(), "cpu", 1), [replace(request, promote=True, timeout=1000.0)])
    assert ended.ending is Ending.COMPLETE
    assert ended.seconds > 5000


def frozen_at(request: Request, *rungs: int) -> Request:
    """It stops at these of its rungs, whatever its loss; at none, it goes on to its end."""
    thresholds = ((tokens, 0.0 if index in rungs else None) for index, (tokens, _) in enumerate(request.thresholds))
    return replace(request, thresholds=tuple(thresholds))


@pytest.mark.parametrize("trainer", ["packed", "transformers"])
def test_frozen_twice_it_ends_as_if_it_had_run_through(make: MakeSpec, tmp_path: Path, trainer: str) -> None:
    """Bitwise: in a pack of one, with the same threads. Its state is there as long as it is frozen."""
    training = {"trainer": {"name": trainer}}
    (plain,) = outcomes(LoraObjective(make(tmp_path / "plain", **training), "cpu", 1), four(epochs=2)[:1])
    rungs = tuple((round(share * plain.tokens), None) for share in (0.2, 0.6))
    request = four(epochs=2, thresholds=rungs)[0]
    (never,) = outcomes(LoraObjective(make(tmp_path / "never", **training), "cpu", 1), [request])
    objective, state = LoraObjective(make(**training), "cpu", 1), tmp_path / checkpoints.STOPPED / "0" / FILE
    (first,) = outcomes(objective, [frozen_at(request, 0)])
    assert (first.ending, first.rungs) == (Ending.STOPPED_EARLY, never.rungs[:1])
    (second,) = outcomes(objective, [replace(frozen_at(request, 1), thaws=True)])
    assert (second.ending, second.rungs) == (Ending.STOPPED_EARLY, never.rungs)
    assert state.is_file()
    (ended,) = outcomes(objective, [replace(request, thaws=True)])
    assert_same([ended], [never])
    assert not state.exists()


def test_thawed_into_a_pack_that_runs(make: MakeSpec, tmp_path: Path) -> None:
    """In the place of one that stops there, with its own batches; a resume of that pack has it go on there too."""
    whole, requests = stopping_the_worse(make(tmp_path / "whole"))
    asking = [replace(frozen_at(request), asks=True, width=None) for request in requests]
    (rung, _), (later, _) = asking[0].thresholds
    (frozen,) = outcomes(LoraObjective(make(), "cpu", 1), [frozen_at(requests[0], 0)])
    assert frozen.rungs == whole[0].rungs[:1]
    thawed = replace(asking[0], thaws=True, joins=(1, rung), decided=((rung, Verdict.GOES_ON),))
    stops, joins = {(1, rung): Verdict.STOPS}, {(1, rung): thawed}
    found, asked = decided(LoraObjective(make(), "cpu", 1), asking[1:3], stops, joins)
    ended = {outcome.trial: outcome for outcome in found}
    assert {trial: one.ending for trial, one in ended.items()} == {
        0: Ending.COMPLETE, 1: Ending.STOPPED_EARLY, 2: Ending.COMPLETE
    }  # fmt: skip
    assert [(trial, at) for event in asked for trial, at, _ in event.losses if trial == 0] == [(0, later)]
    for trial in (0, 2):
        assert ended[trial].losses == pytest.approx(whole[trial].losses, abs=1e-5)
        assert ended[trial].tokens == whole[trial].tokens
        assert [loss for _, loss in ended[trial].rungs] == pytest.approx([x for _, x in whole[trial].rungs], abs=1e-5)
    again, _ = decided(LoraObjective(make(), "cpu", 1), [*asking[1:3], thawed], stops)
    assert_same(sorted(again, key=lambda one: one.trial), [ended[trial] for trial in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["packed", "transformers"])
def test_killed_while_some_stop(make: MakeSpec, tmp_path: Path, trainer: str) -> None:
    """Real processes, killed at every fourth loss that they tell; asked again each answers as if nothing had been.

    Then what was stopped is promoted, killed on its way as well.
    """
    training = {"trainer": {"name": trainer}, "batch_size": 4}
    whole, requests = stopping_the_worse(make(tmp_path / "whole", **training), epochs=4)
    wanted = sorted(
        outcomes(LoraObjective(make(tmp_path / "never", **training), "cpu", 1), requests), key=lambda x: x.trial
    )
    assert sorted(x.ending for x in wanted) == [Ending.COMPLETE] * 2 + [Ending.STOPPED_EARLY] * 2
    spec = ObjectiveSpec("lora", make(**training).model_dump(mode="json", by_alias=True))
    kills, found = killed_and_asked_again(spec, tmp_path, requests)
    assert kills > 2
    assert_same(sorted(found, key=lambda outcome: outcome.trial), wanted)
    stopped = [outcome.trial for outcome in wanted if outcome.ending is Ending.STOPPED_EARLY]
    assert all((tmp_path / checkpoints.STOPPED / str(trial) / FILE).is_file() for trial in stopped)
    for trial in stopped:
        promoted = replace(requests[trial], promote=True, attempt=2)
        kills, (ended,) = killed_and_asked_again(spec, tmp_path, [promoted])
        assert kills > 0
        assert (ended.ending, ended.tokens) == (Ending.COMPLETE, whole[trial].tokens)
        assert ended.losses == pytest.approx(whole[trial].losses, abs=1e-4)
    assert list((tmp_path / checkpoints.STOPPED).iterdir()) == []


def killed_and_asked_again(spec: ObjectiveSpec, folder: Path, requests: Sequence[Request]) -> tuple[int, list[Outcome]]:
    """How often the process was killed, each time four losses further than before, and what the last one answered."""
    kills = 0
    while True:
        worker = LocalWorker(spec, [ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1)], folder)
        answers: list[Outcome] = []
        told = 0
        try:
            worker.submit(requests)
            while len(answers) < len(requests) and told < 4 * (kills + 1):
                for event in worker.events(1.0):
                    if isinstance(event, Outcome):
                        answers.append(event)
                    else:
                        told += event.rung_loss is not None or event.validation_loss is not None
            if len(answers) == len(requests):
                worker.suspend(60)  # with nothing to save it ends once it has cleared up
                return kills, answers
            os.kill(worker.pids[0], signal.SIGKILL)
            collect(worker, len(requests) - len(answers))
        finally:
            worker.close()
        kills += 1
