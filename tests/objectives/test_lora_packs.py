"""Trials trained together by the objective `lora`: each ends as it would alone, whatever becomes of the others."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig, TrainingConfig
from meshtune.data.build import prepare
from meshtune.objectives import checkpoints
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.trial import DataRef, Ending, Event, Outcome, Progress, Request, from_json

GOOD = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}
OTHER = {"rank": 16, "alpha": 16.0, "dropout": 0.0, "learning_rate": 0.003}
DIVERGES = {**GOOD, "learning_rate": 1e30, "epochs": 20}
MakeSpec = Callable[..., LoraSpec]


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> MakeSpec:
    """Makes specs over the tiny model."""

    def spec(variants: Sequence[dict[str, Any]] = ({},), **training: Any) -> LoraSpec:
        values = {"batch_size": 8, "precision": "float32", "checkpoint_minutes": 1e-3, **training}
        config = TrainingConfig.model_validate(values)
        model = ModelConfig(name=str(tiny_model_folder))
        folder, given = str(tmp_path), tuple(variants)
        return LoraSpec(model=model, training=config, data=tiny_data, at="best", folder=folder, variants=given)

    return spec


def events(spec: LoraSpec, *points: dict[str, Any], **request: Any) -> list[Event]:
    """What a fresh objective says of a pack of these points."""
    requests = [Request(trial, point, seed=0, **request) for trial, point in enumerate(points)]
    return list(LoraObjective(spec, "cpu", 1).evaluate(requests))


def outcomes(spec: LoraSpec, *points: dict[str, Any], **request: Any) -> list[Outcome]:
    """The outcomes, in the order of the trials."""
    found = [event for event in events(spec, *points, **request) if isinstance(event, Outcome)]
    assert sorted(outcome.trial for outcome in found) == list(range(len(points)))
    return sorted(found, key=lambda outcome: outcome.trial)


def test_each_is_what_it_is_alone(make: MakeSpec, tmp_path: Path) -> None:
    """Whatever the others do: one diverges, and one has a fault that only it can have."""
    faulty = {**GOOD, "target_modules": "q_prj"}
    together = outcomes(make(), GOOD, DIVERGES, faulty, OTHER)
    endings = [outcome.ending for outcome in together]
    assert endings == [Ending.COMPLETE, Ending.DIVERGED, Ending.CRASHED, Ending.COMPLETE]
    assert "Did you mean `q_proj`?" in together[2].message
    assert not together[2].retry
    for number, point in ((0, GOOD), (3, OTHER)):
        (alone,) = outcomes(make(), point)
        assert together[number].losses == pytest.approx(alone.losses, abs=1e-4)
        assert together[number].training_losses == pytest.approx(alone.training_losses, abs=1e-4)
        assert together[number].tokens == alone.tokens
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["0", "3"]
    assert list((tmp_path / checkpoints.FOLDER).iterdir()) == [], "what has ended has taken its checkpoint away"


def test_each_tells_how_far_it_is(make: MakeSpec) -> None:
    """From the same moment on, and until its own end."""
    told = events(make(), GOOD, {**OTHER, "epochs": 4})
    assert told[:2] == [Progress(0, 1), Progress(1, 1)]
    ends = [event.trial for event in told if isinstance(event, Outcome)]
    assert ends == [0, 1]
    losses: dict[int, list[float]] = {0: [], 1: []}
    for event in told:
        if isinstance(event, Progress) and event.validation_loss is not None:
            losses[event.trial].append(event.validation_loss)
    for event in told:
        if isinstance(event, Outcome):
            assert tuple(losses[event.trial]) == event.losses


def test_one_that_times_out_leaves_the_others_alone(make: MakeSpec, tmp_path: Path) -> None:
    """It ends within a pass of its timeout."""
    requests = [Request(0, {**GOOD, "epochs": 10_000}, seed=0, timeout=4.0), Request(1, GOOD, seed=0)]
    told = list(LoraObjective(make(), "cpu", 1).evaluate(requests))
    ended = [event for event in told if isinstance(event, Outcome)]
    late, whole = sorted(ended, key=lambda outcome: outcome.trial)
    assert (late.ending, late.message) == (Ending.TIMED_OUT, "not finished after 4 s")
    assert late.seconds > 4.0
    losses = [event.validation_loss for event in told if isinstance(event, Progress) and event.trial == 0]
    measured = tuple(loss for loss in losses if loss is not None)
    assert late.losses[: len(measured)] == measured  # as many as there were: a slow machine may not come to one
    assert whole.ending is Ending.COMPLETE
    assert not (tmp_path / "adapters" / "0").exists()


def test_one_that_timed_out_before_an_interruption_has_its_outcome_again(make: MakeSpec) -> None:
    """A pack that goes on has exactly one outcome a request."""
    long, longer = {**GOOD, "epochs": 400}, {**OTHER, "epochs": 10_000}
    requests = [Request(0, long, seed=0, timeout=2.0), Request(1, longer, seed=0)]
    objective = LoraObjective(make(), "cpu", 1)
    first: list[Outcome] = []
    for event in objective.evaluate(requests):
        if isinstance(event, Outcome):
            first.append(event)
        elif first:
            objective.suspend()
    assert [(outcome.trial, outcome.ending) for outcome in first] == [(0, Ending.TIMED_OUT)]
    again = LoraObjective(make(), "cpu", 1)
    shorter = [requests[0], Request(1, longer, seed=0, timeout=1e-3)]
    second = [event for event in again.evaluate(shorter) if isinstance(event, Outcome)]
    assert sorted((outcome.trial, outcome.ending) for outcome in second) == [
        (0, Ending.TIMED_OUT),
        (1, Ending.TIMED_OUT),
    ]


@pytest.mark.parametrize("always", [False, True])
def test_one_without_room_beside_the_others_is_trained_alone(make: MakeSpec, always: bool) -> None:
    """After them, and to what it is alone; where it has no room there either, it ends so. Passes are as they were."""
    objective = LoraObjective(make(epochs=1), "cpu", 1)
    points = [GOOD, {**OTHER, "alpha": 48.0}, OTHER]
    (alone,) = [x for x in objective.evaluate([Request(9, points[1], seed=0)]) if isinstance(x, Outcome)]
    tight: list[object] = []  # the adapter without room, of those with a scale of 3

    def short(*_: Any) -> None:
        spans = objective._base.model.layers[0].mlp.down_proj.forward.func.__self__.now.spans
        for adapter in (span.adapter for span in spans if span.adapter is not None and span.adapter.scale == 3.0):
            tight.append(adapter)
            if always or adapter is tight[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")

    def watch(module: Any, given: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(short)

    requests = [Request(trial, point, seed=0) for trial, point in enumerate(points)]
    with objective._base.model.layers[0].register_forward_hook(watch):
        found = [event for event in objective.evaluate(requests) if isinstance(event, Outcome)]
    assert [outcome.trial for outcome in found] == [0, 2, 1]
    assert [outcome.pass_tokens for outcome in found] == [None] * 3
    assert [outcome.ending for outcome in found[:2]] == [Ending.COMPLETE] * 2
    if always:
        assert found[2].ending is Ending.OUT_OF_MEMORY
        assert "alone in a pass" in found[2].message
    else:
        assert found[2].losses == pytest.approx(alone.losses, abs=1e-5)


def test_an_outcome_says_how_large_passes_may_be(make: MakeSpec) -> None:
    """Once memory ran out; and a request says it to the next pack."""
    objective = LoraObjective(make(epochs=1), "cpu", 1)
    for _ in objective.evaluate([Request(9, OTHER, seed=0)]):
        pass
    seen: list[int] = []

    def short(module: Any, given: Any, kept: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            seen.append(kept["input_ids"].numel())
            if seen[-1] > 200:
                raise torch.OutOfMemoryError("CUDA out of memory")

    def run(first: int, tokens: int | None) -> set[int | None]:
        seen.clear()
        requests = [Request(first + n, point, seed=0, pass_tokens=tokens) for n, point in enumerate((GOOD, OTHER))]
        found = [event for event in objective.evaluate(requests) if isinstance(event, Outcome)]
        assert [outcome.ending for outcome in found] == [Ending.COMPLETE] * 2
        return {outcome.pass_tokens for outcome in found}

    with objective._base.model.register_forward_pre_hook(short, with_kwargs=True):
        (tokens,) = run(0, None)
        assert tokens is not None
        assert max(seen) > 200 >= tokens
        assert run(2, tokens) == {tokens}
        assert max(seen) <= 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_a_pack_that_is_too_large_is_trained_in_halves(make: MakeSpec, tmp_path: Path) -> None:
    """For real: the process may not have memory for four at once, and has it for two."""
    script = """
import json, resource, sys
from meshtune.objectives.build import ObjectiveSpec, build
from meshtune.trial import Outcome, Request, to_json
objective = build(ObjectiveSpec("lora", json.loads(sys.argv[1])), device="cpu", threads=1)
points = json.loads(sys.argv[2])
def run(points):
    requests = [Request(trial, point, 0, width=4) for trial, point in enumerate(points)]
    return [event for event in objective.evaluate(requests) if isinstance(event, Outcome)]
run([{**points[0], "rank": 4}])  # loads the base
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]), resource.RLIM_INFINITY))
for outcome in run(points):
    print(to_json(outcome))
"""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"{n}", "input": "", "output": "red"} for n in range(6)]))
    few = DataConfig(sources=(SourceConfig(path=str(rows)),), validation=1, test=0)  # large ranks make steps slow
    spec = make(epochs=1, batch_size=3)
    spec = spec.model_copy(update={"data": prepare(few, spec.model, 0, tmp_path / "data").ref})
    # Each takes some 90 MB: 16 bytes a parameter, the best epoch's copy, and what is kept for the backward pass.
    points = [{**OTHER, "rank": 4096, "alpha": 4096.0, "learning_rate": rate} for rate in (1e-4, 2e-4, 3e-4, 4e-4)]
    arguments = [json.dumps(spec.model_dump(mode="json")), json.dumps(points), str(240 << 20)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    found = [from_json(line) for line in told.stdout.splitlines()]
    assert told.stderr.count("4 trials in a pack: training them in two halves") == 1, told.stderr
    endings = {outcome.trial: outcome.ending for outcome in found if isinstance(outcome, Outcome)}
    assert endings == dict.fromkeys(range(4), Ending.COMPLETE), told.stderr
    losses = {outcome.trial: outcome.losses for outcome in found if isinstance(outcome, Outcome)}
    (alone,) = outcomes(spec, points[0])
    assert losses[0] == pytest.approx(alone.losses, abs=1e-4)


def why_not(spec: LoraSpec) -> str:
    """What the measurement `trainer` says."""
    *_, outcome = LoraObjective(spec, "cpu", 1).evaluate([Request(-3, {}, 0, measure="trainer")])
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.COMPLETE
    return outcome.message


@pytest.mark.slow
def test_what_cannot_be_packed_is_trained_alone_and_says_so(make: MakeSpec) -> None:
    """All trials alike: also one that could be packed, where another of its space could not."""
    assert why_not(make()) == ""
    assert why_not(make([{"use_dora": False}, {"init_lora_weights": "gaussian"}])) == ""
    assert "DoRA" in why_not(make(use_dora=True))
    space = [{"init_lora_weights": True}, {"init_lora_weights": "pissa"}]
    assert "pissa" in why_not(make(space))
    found, dora = outcomes(make([{"use_dora": True}, {}]), GOOD, {**GOOD, "use_dora": True})
    assert dora.ending is Ending.COMPLETE
    (transformers,) = outcomes(make(trainer={"name": "transformers"}), GOOD)
    assert (found.loss, found.losses) == (transformers.loss, transformers.losses), "bitwise: by the same trainer"


def test_both_trainers_agree(make: MakeSpec) -> None:
    """Without dropout, whose masks they draw differently."""
    points = [OTHER, {**GOOD, "dropout": 0.0}]
    packed = outcomes(make(), *points)
    alone = [outcomes(make(trainer={"name": "transformers"}), point)[0] for point in points]
    for one, other in zip(packed, alone, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-3)
        assert one.tokens == other.tokens
