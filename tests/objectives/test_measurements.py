"""What guides a search: measured of the untuned model and of each trial, as whoever measured it alone would find it."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from meshtune.config.sections import MetricConfig, ModelConfig, TrainingConfig
from meshtune.data.tokenizer import load_tokenizer, window
from meshtune.errors import InputError
from meshtune.evaluation import run, scoring, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.sandbox import judge
from meshtune.objectives import checkpoints, measurement_files, measurements
from meshtune.objectives.answers import Answering
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.objectives.measurements import MeasurementSpec
from meshtune.objectives.measuring import Measurer
from meshtune.training.models import load_model
from meshtune.training.steps import Diverged
from meshtune.trial import DataRef, Ending, Event, Outcome, Request
from tests.evaluation.made import make_bbh, make_humaneval, make_mmlu, no_check

GOOD = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}
OTHER = {"rank": 16, "alpha": 16.0, "dropout": 0.0, "learning_rate": 0.003}
UNTUNED = Request(-1, {}, 0, measure="validation")
QUANTITIES = ("perplexity", "mmlu", "mmlu.gold", "bbh", "bbh.gold")
Make = Callable[..., LoraSpec]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of MMLU with six items each, two tasks of BBH with five."""
    folder = tmp_path_factory.mktemp("benchmarks")
    make_mmlu(folder / "mmlu", shots=5)
    make_bbh(folder / "bbh")
    return folder


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path, benchmarks: Path) -> Make:
    """Makes specs over the tiny model, with a text of one's own."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {n} of a text says {n * n}.\n" for n in range(400)), encoding="utf-8")

    def spec(*quantities: str, trainer: str = "packed", limit: int = 4, **given: Any) -> LoraSpec:
        config = {"batch_size": 8, "precision": "float32", "trainer": {"name": trainer}, "checkpoint_minutes": 1e-3}
        guiding = MeasurementSpec(quantities=quantities, benchmarks=str(benchmarks), limit=limit, text=str(text))
        return LoraSpec(
            model=ModelConfig(name=str(tiny_model_folder)),
            training=TrainingConfig.model_validate({"epochs": 1, **config}),
            data=tiny_data,
            at="best",
            folder=str(tmp_path / "study"),
            measurements=guiding,
            **given,
        )

    return spec


def events(spec: LoraSpec, *requests: Request) -> Iterator[Event]:
    return LoraObjective(spec, "cpu", 1).evaluate(requests)


def outcomes(spec: LoraSpec, *requests: Request) -> list[Outcome]:
    """The outcomes of a fresh objective, in the order of the requests."""
    found = {event.trial: event for event in events(spec, *requests) if isinstance(event, Outcome)}
    return [found[request.trial] for request in requests]


def plain(spec: LoraSpec, adapter: Path | None) -> dict[str, float]:
    """The quantities, with as little of meshtune as can be."""
    assert spec.measurements is not None
    base, tokenizer = load_model(spec.model, "cpu"), load_tokenizer(spec.model)
    tokens = tokenizer(Path(spec.measurements.text).read_text())["input_ids"]
    total, count = 0.0, 0
    model = base if adapter is None else PeftModel.from_pretrained(base, str(adapter))
    for number in range(8):
        start = round(number * (len(tokens) - 256) / 7)
        ids = torch.tensor([tokens[start : start + 256]])
        with torch.inference_mode():
            total += 255 * float(model(input_ids=ids, labels=ids).loss)
        count += 255
    found = {"perplexity": math.exp(total / count)}
    base = load_model(spec.model, "cpu")
    asked = [
        b.limited(4, 0) for b in registry.load(("mmlu", "bbh"), Path(spec.measurements.benchmarks or ""), no_check)
    ]
    candidate, how, folder = Candidate("one", adapter), run.AnswerSettings("tiny"), Path(spec.folder) / "beside"
    shutil.rmtree(folder, ignore_errors=True)
    limit = window(spec.model, tokenizer)
    for _ in run.BenchmarkRunner(base, tokenizer, limit, asked, folder, how).ask([candidate]):
        pass
    for benchmark in asked:
        result = scoring.score(benchmark, store.read(run.place_of(folder, benchmark, candidate, how)))
        assert result.likelihood is not None
        found |= {benchmark.name: result.verdict.value, f"{benchmark.name}.gold": result.likelihood.value}
    return found


def test_each_trial_has_what_its_adapter_has_alone(make: Make) -> None:
    """Trained in a pack and alone, by both trainers, and the untuned model; a replicate has none."""
    spec = make(*QUANTITIES)
    folder = Path(spec.folder)
    again = Request(checkpoints.replicate(0, 1), GOOD, 1)
    untuned, one, other = outcomes(spec, UNTUNED, Request(0, GOOD, 0), Request(1, OTHER, 0))
    (replicate,) = outcomes(spec, again)
    (alone,) = outcomes(make(*QUANTITIES, trainer="transformers"), Request(2, GOOD, 0))
    assert replicate.ending is Ending.COMPLETE
    assert replicate.extra == {}
    for outcome, name in ((untuned, "untuned"), (one, "0"), (other, "1"), (alone, "2")):
        assert outcome.ending is Ending.COMPLETE, outcome.message
        assert tuple(outcome.extra) == QUANTITIES
        adapter = None if outcome.adapter is None else folder / outcome.adapter
        assert outcome.extra == pytest.approx(plain(spec, adapter), rel=1e-5)
        kept = measurement_files.read(folder, name)
        assert kept is not None
        assert kept.quantities == outcome.extra
        assert {quantity: items.mean for quantity, items in kept.items.items()} == pytest.approx(
            {quantity: outcome.extra[quantity] for quantity in QUANTITIES[1:]}
        )
    assert one.extra["perplexity"] != other.extra["perplexity"]
    assert {path.name for path in (folder / "guides").glob("*.json")} == {
        *("set.json", "untuned.json", "0.json", "1.json", "2.json")
    }
    assert measurement_files.read(folder, 7) is None


def test_a_metric_guides_by_its_mean(make: Make, tmp_path: Path) -> None:
    """Over the same rows as at the end of the search, in the same files."""
    (tmp_path / "own.py").write_text("def score(row, answer): return len(answer)", encoding="utf-8")
    scored = {"length": MetricConfig(file=str(tmp_path / "own.py"))}
    spec = make("length", metrics=scored, answers=3, max_new_tokens=5)
    untuned, trial = outcomes(spec, UNTUNED, Request(0, GOOD, 0))
    for outcome, name in ((untuned, "untuned"), (trial, "trial-0")):
        lines = (Path(spec.folder) / "evaluation" / "answers" / f"{name}.jsonl").read_text().splitlines()
        assert outcome.extra == {"length": pytest.approx(sum(len(json.loads(line)["answer"]) for line in lines) / 3)}
        kept = measurement_files.read(Path(spec.folder), name.removeprefix("trial-"))
        assert kept is not None
        assert len(kept.items["length"].values) == 3


WAITS = """
import pathlib, time

def score(row, answer):
    here = pathlib.Path(__file__).parent
    (here / "measuring").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return len(answer)
"""


def test_what_is_not_finite_has_diverged(make: Make) -> None:
    spec = make("bbh", "bbh.gold")
    assert spec.measurements is not None
    (found,) = outcomes(spec, Request(0, GOOD, 0))
    weights = Path(spec.folder) / str(found.adapter) / "adapter_model.safetensors"
    save_file({name: weight * math.nan for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    base = load_model(spec.model, "cpu")
    guiding = Measurer(spec.measurements, base, Answering(spec.model, spec.data, {}, 1, 1), Path(spec.folder))
    with pytest.raises(Diverged, match=r"bbh\.gold was nan"):
        guiding.measure("trial-0", found.adapter, lambda: None)


@pytest.mark.parametrize("trainer", ["packed", "transformers"])
def test_interrupted_while_it_measures_it_trains_nothing_again(make: Make, trainer: str, tmp_path: Path) -> None:
    """And ends as one that was never interrupted."""
    (tmp_path / "own.py").write_text(WAITS, encoding="utf-8")
    own = {"metrics": {"length": MetricConfig(file=str(tmp_path / "own.py"))}, "answers": 3, "max_new_tokens": 5}
    quantities = ("perplexity", "mmlu", "length")
    spec = make(*quantities, trainer=trainer, **own)
    requests = [Request(0, GOOD, 0, pack=0), Request(1, OTHER, 0, pack=0)][: 2 if trainer == "packed" else 1]
    first = LoraObjective(spec, "cpu", 1)

    def interrupt() -> None:
        while not (tmp_path / "measuring").exists():
            time.sleep(0.01)
        first.suspend()
        (tmp_path / "go").touch()

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert not any(isinstance(event, Outcome) for event in first.evaluate(requests))
    thread.join()
    weights = {path: path.stat().st_mtime_ns for path in Path(spec.folder).rglob("adapter_model.safetensors")}
    assert len(weights) == len(requests)
    resumed = outcomes(spec, *requests)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert not any((Path(spec.folder) / checkpoints.FOLDER).iterdir())
    shutil.rmtree(spec.folder)
    undisturbed = outcomes(spec, *requests)
    for outcome, other in zip(resumed, undisturbed, strict=True):
        assert outcome.ending is Ending.COMPLETE, outcome.message
        assert (outcome.loss, outcome.losses, outcome.extra) == (other.loss, other.losses, other.extra)
        assert outcome.extra.keys() == set(quantities)
    kept = Path(spec.folder) / checkpoints.FOLDER / checkpoints.of_pack(requests)
    checkpoints.keep_trained(kept, [replace(one, extra={}) for one in undisturbed])
    path = next(iter(weights))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    again = outcomes(spec, *requests)
    assert [(one.loss, one.extra) for one in again] == [(one.loss, one.extra) for one in undisturbed]
    assert path.read_bytes()[-1] == damaged[-1] ^ 1, "what was damaged meanwhile is trained again"


def test_what_it_is_measured_on_is_chosen_once(make: Make, tmp_path: Path, benchmarks: Path) -> None:
    """An edited text changes nothing; other items are refused, and at most half of a benchmark guides."""
    spec = make("perplexity", "mmlu", limit=1000).measurements
    model, folder = make().model, tmp_path / "study"
    assert spec is not None
    chosen = measurements.choose(spec, model, folder)
    assert [len(window) for window in chosen.windows] == [256] * 8
    assert len(measurements.items(folder)["mmlu"]) == 6
    assert chosen.lines()[0] == "2,048 tokens of text.txt"
    (tmp_path / "text.txt").unlink()
    assert measurements.choose(spec, model, folder) == chosen
    moved = tmp_path / "moved"
    make_mmlu(moved / "mmlu", subjects=("simple_sums", "ethics"))
    changed = spec.model_copy(update={"benchmarks": str(moved)})
    with pytest.raises(InputError, match="the data of mmlu are not those that the search began with"):
        measurements.choose(changed, model, folder)
    assert measurements.items(tmp_path) == {}


def test_a_short_text_is_read_as_a_whole(make: Make, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("word " * 100, encoding="utf-8")
    spec = make("perplexity").measurements
    assert spec is not None
    chosen = measurements.choose(spec, make().model, tmp_path)
    assert [len(window) for window in chosen.windows] == [256, 244]


def test_the_embedded_text_is_not_that_of_the_rows(make: Make, tmp_path: Path) -> None:
    spec = MeasurementSpec(quantities=("perplexity",))
    chosen = measurements.choose(spec, make().model, tmp_path)
    assert chosen.lines() == ["2,048 tokens of the standard library's documentation"]
    assert measurements.choose(spec, make().model, tmp_path, anew=True) == chosen


def test_what_cannot_be_measured_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    missing = MeasurementSpec(quantities=("perplexity", "mmlu.gold"), text=str(tmp_path / "none.txt"))
    words = [str(fault) for fault in measurements.faults(missing)]
    assert len(words) == 2
    assert "none.txt: guide.text: cannot be read (No such file or directory)" in words[0]
    assert words[1] == "guide.benchmarks: mmlu cannot be measured: name the folder that holds the data"
    (tmp_path / "empty.txt").write_text(" \n")
    empty = MeasurementSpec(
        quantities=("perplexity", "drop"), text=str(tmp_path / "empty.txt"), benchmarks=str(tmp_path)
    )
    words = [str(fault) for fault in measurements.faults(empty)]
    assert "holds no text" in words[0]
    assert "holds no data of drop" in words[1]
    with pytest.raises(InputError, match="holds no text"):
        measurements.choose(empty, ModelConfig(name="embedded"), tmp_path)
    assert measurements.faults(MeasurementSpec()) == []


def test_humaneval_needs_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is looked for on the PATH."""
    make_humaneval(tmp_path / "humaneval")
    spec = MeasurementSpec(quantities=("humaneval",), benchmarks=str(tmp_path))
    assert (measurements.faults(spec) == []) == (judge.available() is None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (fault,) = measurements.faults(spec)
    assert "a sandbox that this machine does not have" in str(fault)


def test_a_spec_of_an_earlier_version_is_read(make: Make) -> None:
    """Which called what is measured `guides`."""
    spec = make("perplexity")
    values = spec.model_dump(mode="json")
    values["guides"] = values.pop("measurements")
    assert LoraSpec.model_validate(values) == spec
