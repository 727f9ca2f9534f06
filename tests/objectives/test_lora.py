"""The objective `lora` on a tiny model: what it measures, every way in which it ends, and what it leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig, TrainingConfig
from meshtune.data.build import prepare
from meshtune.data.embedded import embedded_gguf
from meshtune.data.store import Rows
from meshtune.errors import InputError
from meshtune.objectives.build import ObjectiveSpec, build
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.trial import DataRef, Ending, Event, Outcome, Progress, Request, from_json, to_json

GOOD = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}
MakeObjective = Callable[..., LoraObjective]


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> Iterator[MakeObjective]:
    """Makes objectives over the tiny model, on one thread."""
    threads = torch.get_num_threads()

    def objective(at: str = "best", **training: Any) -> LoraObjective:
        config = TrainingConfig(**{"batch_size": 8, "precision": "float32", **training})
        model = ModelConfig(name=str(tiny_model_folder))
        spec = LoraSpec(model=model, training=config, data=tiny_data, at=at, folder=str(tmp_path))  # type: ignore[arg-type]
        return LoraObjective(spec, "cpu", 1)

    yield objective
    torch.set_num_threads(threads)


def run(objective: LoraObjective, *requests: Request) -> list[Outcome]:
    """The outcomes of requests one after the other, which all survive JSON."""
    events: list[Event] = [event for request in requests for event in objective.evaluate([request])]
    assert all(from_json(to_json(event)) == event for event in events)
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert [outcome.trial for outcome in outcomes] == [request.trial for request in requests]
    return outcomes


def values(outcome: Outcome) -> tuple[Any, ...]:
    """What must repeat."""
    return outcome.ending, outcome.loss, outcome.losses, outcome.training_losses, outcome.tokens


def test_a_trial(make: MakeObjective, tmp_path: Path) -> None:
    """Progress while it runs, then everything that is recorded."""
    events = list(make().evaluate([Request(3, GOOD, seed=0)]))
    *progress, outcome = events
    assert isinstance(outcome, Outcome)
    assert progress[0] == Progress(3, 1), "its clock starts, before the first step"
    assert all(isinstance(event, Progress) for event in progress)
    told = [event.validation_loss for event in progress if isinstance(event, Progress) and event.validation_loss]
    assert tuple(told) == outcome.losses
    assert outcome.ending is Ending.COMPLETE
    assert outcome.loss == min(outcome.losses)
    assert len(outcome.losses) == 2
    assert len(outcome.training_losses) == 3
    assert outcome.training_losses[2] < outcome.training_losses[0] - 0.1
    assert outcome.tokens > 1000
    assert outcome.seconds > 0
    assert outcome.peak_memory is None or outcome.peak_memory > 10**8
    assert outcome.adapter == "adapters/3"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "3",
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapters",
    ]


def test_the_same_request_repeats_bitwise_alone_or_after_others(make: MakeObjective) -> None:
    """Also after one that failed, in another process of the same kind, and with more steps between."""
    (alone,) = run(make(), Request(0, GOOD, seed=0))
    other = {**GOOD, "rank": 8, "learning_rate": 1e30}
    _, after, again = run(make(), Request(5, other, seed=3), Request(0, GOOD, seed=0), Request(0, GOOD, seed=0))
    assert values(after) == values(alone)
    assert values(again) == values(alone)


def test_plain_peft_gives_the_recorded_loss(make: MakeObjective, tiny_data: DataRef, tmp_path: Path) -> None:
    """The three lines that a user writes, and a loop over the validation rows."""
    (outcome,) = run(make(), Request(0, GOOD, seed=0))
    adapter = str(tmp_path / str(outcome.adapter))
    name = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name), adapter).eval()
    rows = Rows.open(tiny_data, "validation")
    total, count = 0.0, 0
    for index in range(len(rows)):
        tokens, trained = rows[index]
        ids = torch.tensor(tokens, dtype=torch.long)[None]
        labels = torch.where(torch.tensor(trained)[None], ids, -100)
        labels[:, 0] = -100
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * int((labels != -100).sum())
        count += int((labels != -100).sum())
    assert total / count == pytest.approx(outcome.loss, abs=1e-4)


def test_measuring(make: MakeObjective) -> None:
    """The recorded loss, row by row; the untuned model; rows that the search never saw."""
    objective = make("last")
    (trained,) = run(objective, Request(0, GOOD, seed=0))
    same, test, untuned, crashed = run(
        objective,
        Request(-1, {}, 0, measure="validation", adapter="adapters/0"),
        Request(-2, {}, 0, measure="test", adapter="adapters/0"),
        Request(-3, {}, 0, measure="validation"),
        Request(-4, {}, 0, measure="validation", adapter="adapters/9"),
    )
    assert trained.loss == trained.losses[-1]
    assert same.loss == pytest.approx(trained.loss, abs=1e-6)
    assert len(same.row_losses) == 10
    assert same.loss == pytest.approx(sum(s for s, _ in same.row_losses) / sum(n for _, n in same.row_losses), abs=1e-9)
    assert test.loss not in (None, same.loss)
    assert untuned.loss is not None
    assert untuned.loss > trained.loss + 0.1  # type: ignore[operator]
    assert (crashed.ending, crashed.retry) == (Ending.CRASHED, False)
    assert "there is no adapter" in crashed.message


def test_diverged(make: MakeObjective) -> None:
    """The first loss that is no number ends the trial; what was told before stays."""
    (outcome,) = run(make(epochs=50), Request(0, {**GOOD, "learning_rate": 1e30}, seed=0))
    assert outcome.ending is Ending.DIVERGED
    assert outcome.loss is None
    assert "the training loss of step" in outcome.message
    assert len(outcome.losses) < 50
    assert outcome.adapter is None


def test_timed_out(make: MakeObjective, tmp_path: Path) -> None:
    """Within a step of its timeout; nothing is left, and the next trial is as if it had never been."""
    objective = make()
    (alone,) = run(make(), Request(1, GOOD, seed=0))
    late, next_one = run(objective, Request(0, {**GOOD, "epochs": 10_000}, 0, timeout=3.0), Request(1, GOOD, seed=0))
    assert late.ending is Ending.TIMED_OUT
    assert late.seconds > 3.0
    assert late.message == "not finished after 3 s"
    assert values(next_one) == values(alone)
    assert not (tmp_path / "adapters" / "0").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"target_modules": "q_prj"}, "Did you mean `q_proj`?"), ({"rank": 0}, "`0` is not allowed")],
)
def test_crashed(make: MakeObjective, changed: dict[str, Any], message: str) -> None:
    """With words; the objective lives on."""
    crashed, complete = run(make(epochs=1), Request(0, {**GOOD, **changed}, seed=0), Request(1, GOOD, seed=0))
    assert crashed.ending is Ending.CRASHED
    assert message in crashed.message
    assert complete.ending is Ending.COMPLETE


def test_cancelled(make: MakeObjective, tmp_path: Path) -> None:
    """Closing ends it within a step, and the objective can go on."""
    objective = make()
    events = objective.evaluate([Request(0, {**GOOD, "epochs": 10_000}, seed=0), Request(1, GOOD, seed=0)])
    assert [next(events), isinstance(next(events), Progress)] == [Progress(0, 1), True]  # begun, and a step
    events.close()  # type: ignore[attr-defined]  # it would take hours to its end
    assert not (tmp_path / "adapters").exists()
    (alone,) = run(make(), Request(2, GOOD, seed=0))
    (after,) = run(objective, Request(2, GOOD, seed=0))
    assert values(after) == values(alone)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_out_of_memory(make: MakeObjective) -> None:
    """For real: the process may not have more memory than it has already; then, with more, it goes on."""
    script = """
import json, resource, sys
from meshtune.objectives.build import ObjectiveSpec, build
from meshtune.trial import Outcome, Request, to_json
objective = build(ObjectiveSpec("lora", json.loads(sys.argv[1])), device="cpu", threads=1)
good, bad = json.loads(sys.argv[2]), json.loads(sys.argv[3])
def run(trial, hyperparameters):
    return [e for e in objective.evaluate([Request(trial, hyperparameters, 0)]) if isinstance(e, Outcome)]
outcomes = run(0, good)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
outcomes += run(1, bad)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
outcomes += run(0, good)
for outcome in outcomes:
    print(to_json(outcome))
"""
    spec = json.dumps(make(epochs=1).spec.model_dump(mode="json"))
    bad = {**GOOD, "rank": 500_000}  # 64 MB a matrix
    arguments = [sys.executable, "-c", script, spec, json.dumps(GOOD), json.dumps(bad)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    before, failed, after = (from_json(line) for line in told.stdout.splitlines())
    assert isinstance(failed, Outcome)
    assert failed.ending is Ending.OUT_OF_MEMORY, failed.message
    assert isinstance(before, Outcome)
    assert isinstance(after, Outcome)
    assert values(after) == values(before)


@pytest.mark.slow
def test_the_embedded_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short training of the real thing; the converted model is kept in pytest's cache."""
    try:
        embedded_gguf()
    except InputError as error:
        pytest.skip(str(error))
    cache = getattr(request.config, "cache", None)  # there is none with `-p no:cacheprovider`
    monkeypatch.setenv("MESHTUNE_CACHE", str(cache.mkdir("meshtune") if cache else tmp_path / "cache"))
    model = ModelConfig(name="embedded")
    sources = (SourceConfig(embedded="python-stdlib-signature"),)
    data = prepare(DataConfig(sources=sources, rows=20, validation=4, test=0), model, 0, tmp_path / "data")
    training = TrainingConfig(epochs=1, batch_size=4, lr_scheduler="constant", warmup_ratio=0)
    spec = LoraSpec(model=model, training=training, data=data.ref, at="best", folder=str(tmp_path))
    objective = build(ObjectiveSpec("lora", spec.model_dump(mode="json")), device="cpu", threads=1)
    untuned, trained = (
        event
        for event in objective.evaluate(
            [
                Request(-1, {}, 0, measure="validation"),
                Request(0, {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-3}, seed=0),
            ]
        )
        if isinstance(event, Outcome)
    )
    assert (untuned.ending, trained.ending) == (Ending.COMPLETE, Ending.COMPLETE), trained.message
    assert trained.loss < untuned.loss - 0.05  # type: ignore[operator]
