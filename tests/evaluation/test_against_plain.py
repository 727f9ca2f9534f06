"""Real items asked of the embedded model, with an adapter and without: as a plain script that asks one at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config import ModelConfig, TrainingConfig
from meshtune.data.tokenizer import load_tokenizer
from meshtune.evaluation import humaneval, sources, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.run import How, place_of, run
from meshtune.training.checkpoints import new_adapter, save_adapter, tensors
from meshtune.training.models import embedded_folder, load_model
from meshtune.training.recipe import recipe
from meshtune.training.trainer import lora_config
from tests.evaluation import made

MODEL = ModelConfig(name="embedded")
ITEMS = {"mmlu": 8, "bbh": 8, "humaneval": 2}
NEW_TOKENS = 48  # of code: a plain script does not stop at the blank line behind it


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(MODEL, "cpu")


@pytest.fixture(scope="module")
def adapter(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over all linear layers that changes what the model says, and does not ruin it."""
    values = {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-4}
    folder = tmp_path_factory.mktemp("adapter") / "a"
    with new_adapter(base, lora_config(base, recipe(TrainingConfig(), values, 0)), 0) as new:
        torch.manual_seed(0)
        weights = {name: weight + 0.01 * torch.randn_like(weight) for name, weight in tensors(new.model).items()}
        save_adapter(folder, weights, new.saved_config, base.name_or_path)
    return folder


@pytest.mark.slow
@made.needs_real_files
@pytest.mark.parametrize("which", ["untuned", "adapter"])
def test_answers_verdicts_and_likelihoods(base: Any, adapter: Path, tmp_path: Path, which: str) -> None:
    found = sources.load(tuple(ITEMS), made.REAL, made.no_check)
    benchmarks = [benchmark.limited(ITEMS[benchmark.name], 0) for benchmark in found]
    candidate = Candidate(which, adapter if which == "adapter" else None)
    how = How("embedded")
    for _ in run(base, load_tokenizer(MODEL), 8192, [candidate], benchmarks, tmp_path, how):
        pass
    asked = {
        "model": str(embedded_folder()),
        "adapter": candidate.adapter and str(candidate.adapter),
        "data": str(made.REAL),
        "items": {benchmark.name: [item.id for item in benchmark.items] for benchmark in benchmarks},
        "new_tokens": NEW_TOKENS,
    }
    script = [sys.executable, "-m", "tests.evaluation.plain"]
    root = Path(__file__).parents[2]
    done = subprocess.run(script, input=json.dumps(asked), capture_output=True, text=True, cwd=root, check=True)
    plain = {(line["benchmark"], line["item"]): line for line in map(json.loads, done.stdout.splitlines())}
    assert len(plain) == sum(ITEMS.values())
    for benchmark in benchmarks:
        for (item, _), line in store.read(place_of(tmp_path, benchmark, candidate, how)).items():
            other = plain[benchmark.name, item]
            assert line["log_likelihoods"][line["right"]] == pytest.approx(other["log_likelihood"], abs=1e-4, rel=1e-5)
            if other["margin"] <= 1e-3:  # two tokens are as likely: rounding decides
                continue
            if benchmark.name == "humaneval":
                code = humaneval.completion(other["answer"])
                assert humaneval.completion(line["answer"]).startswith(code[: len(code) - 8])  # cut inside a line
            else:
                assert line["correct"] == other["correct"]
                assert other["answer"].startswith(line["answer"])
