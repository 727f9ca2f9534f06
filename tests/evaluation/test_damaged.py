"""An adapter that was damaged on purpose scores worse wherever there is something to see: the embedded model."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data.tokenizer import load_tokenizer
from meshtune.evaluation import scoring, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.benchmarks.items import PROBABILITY, Benchmark
from meshtune.evaluation.run import AnswerSettings, BenchmarkRunner, place_of
from meshtune.evaluation.scoring import Scores
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, save_adapter, tensors
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe
from tests.evaluation import made

MODEL = ModelConfig(name="embedded")
NOISE = {"whole": 0.01, "damaged": 0.3}  # standard deviation of what is added to the weights
ITEMS = {"mmlu": 12, "bbh": 12, "drop": 24, "humaneval": 4}


def make_adapters(base: Any, folder: Path) -> list[Candidate]:
    values = {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-4}
    for name, deviation in NOISE.items():
        with new_adapter(base, lora_config(base, recipe(TrainingConfig(), values, 0)), 0) as new:
            torch.manual_seed(0)
            weights = {key: value + deviation * torch.randn_like(value) for key, value in tensors(new.model).items()}
            save_adapter(folder / name, weights, new.saved_config, base.name_or_path)
    return [Candidate(name, folder / name) for name in NOISE]


def some_data(folder: Path) -> Path:
    """Three subjects, three tasks, the problems, and made-up questions on passages."""
    for side in ("dev", "test"):
        (folder / "mmlu" / side).mkdir(parents=True)
        for subject in ("high_school_geography", "marketing", "us_foreign_policy"):
            name = f"{subject}_{side}.csv"
            shutil.copy(made.REAL / "mmlu_prerelease" / side / name, folder / "mmlu" / side)
    (folder / "bbh").mkdir()
    for task in ("boolean_expressions", "navigate", "object_counting"):
        shutil.copy(made.REAL / "bbh" / f"{task}.json", folder / "bbh")
    (folder / "drop").mkdir()
    (folder / "drop" / "drop_dataset_dev.json").write_text(json.dumps(made.synthetic_drop(20)))
    shutil.copytree(made.REAL / "humaneval", folder / "humaneval")
    return folder


def seen(benchmark: Benchmark, result: Scores) -> Mapping[str, float]:
    """The scores of a benchmark that have signal: above chance by two standard errors; of likelihoods a byte, all."""
    found = {"verdict": result.verdict.value} if result.signal else {}
    likely = result.likelihood
    assert likely is not None
    chance = 0.25 + 2 * (likely.error or 0)
    return found | (
        {} if benchmark.likelihood == PROBABILITY and likely.value < chance else {"likelihood": likely.value}
    )


@pytest.mark.slow
@made.needs_real_files
def test_a_damaged_adapter_scores_worse_wherever_there_is_signal(tmp_path: Path) -> None:
    base, tokenizer = load_model(MODEL, "cpu"), load_tokenizer(MODEL)
    candidates = make_adapters(base, tmp_path / "adapters")
    found = registry.load(tuple(ITEMS), some_data(tmp_path / "data"), made.no_check)
    benchmarks = [
        replace(benchmark.limited(ITEMS[benchmark.name], 0), new_tokens=min(8, benchmark.new_tokens))
        for benchmark in found
    ]
    how = AnswerSettings("embedded")
    for _ in BenchmarkRunner(base, tokenizer, 8192, benchmarks, tmp_path / "out", how).ask(candidates):
        pass
    compared = set()
    for benchmark in benchmarks:
        whole, damaged = (
            scoring.score(benchmark, store.read(place_of(tmp_path / "out", benchmark, candidate, how)))
            for candidate in candidates
        )
        print(benchmark.name, whole, damaged, sep="\n")
        for name, value in seen(benchmark, whole).items():
            score = getattr(damaged, name)
            assert score is not None
            assert score.value < value, (benchmark.name, name)
            compared.add((benchmark.name, name))
    assert {("bbh", "likelihood"), ("drop", "likelihood"), ("humaneval", "likelihood"), ("drop", "verdict")} <= compared
