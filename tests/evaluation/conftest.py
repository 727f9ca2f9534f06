"""The tiny model with adapters, and small benchmarks, for the tests of the evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.data.tokenizer import load_tokenizer
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, save_adapter, tensors
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe
from tests.evaluation import made


@pytest.fixture(scope="session")
def base(tiny_model_folder: Path) -> Any:
    """The tiny model, loaded; no test changes it."""
    return load_model(ModelConfig(name=str(tiny_model_folder)), "cpu")


@pytest.fixture(scope="session")
def tokenizer(tiny_model_folder: Path) -> Any:
    return load_tokenizer(ModelConfig(name=str(tiny_model_folder)))


@pytest.fixture(scope="session")
def candidates(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Candidate]:
    """The base and two adapters that say other things than it."""
    folder = tmp_path_factory.mktemp("adapters")
    values = {"rank": 4, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-3}
    found = [Candidate("untuned", None)]
    for seed in (1, 2):
        config = lora_config(base, recipe(TrainingConfig(), values, seed))
        with new_adapter(base, config, seed) as adapter:
            torch.manual_seed(seed)
            weights = {name: torch.randn_like(weight) * 0.3 for name, weight in tensors(adapter.model).items()}
            save_adapter(folder / str(seed), weights, adapter.saved_config, base.name_or_path)
        found.append(Candidate(f"trial-{seed}", folder / str(seed)))
    return found


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Benchmark]:
    """Small ones of all four kinds."""
    return registry.load((), made.make_all(tmp_path_factory.mktemp("benchmarks")), made.no_check)
