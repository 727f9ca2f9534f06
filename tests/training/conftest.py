"""Rows and a base for the tests of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.training.loss import Row
from meshtune.training.models import load_model
from meshtune.training.recipe import Recipe, recipe

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 1e-2}


def make_rows(count: int, seed: int) -> list[Row]:
    """Rows of 8 to 40 tokens that count upwards, so that there is something to learn; the later half is trained."""
    numbers = np.random.default_rng(seed)
    rows = []
    for length in numbers.integers(8, 41, count):
        tokens = (numbers.integers(0, 200) + np.arange(length, dtype=np.int32)) % 256
        trained = np.arange(length) >= numbers.integers(1, length - 1)
        rows.append((tokens.astype(np.int32), trained))
    return rows


@pytest.fixture
def base(tiny_model_folder: Path) -> Any:
    """The tiny model, loaded."""
    return load_model(ModelConfig(name=str(tiny_model_folder)), "cpu")


@pytest.fixture(scope="session")
def train_rows() -> list[Row]:
    """22 rows."""
    return make_rows(22, 1)


@pytest.fixture(scope="session")
def validation_rows() -> list[Row]:
    """9 rows."""
    return make_rows(9, 2)


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """Makes recipes: 2 epochs of micro-batches of 4 in float32, two of them a step, changed as asked."""

    def make(training: dict[str, Any] | None = None, seed: int = 0, **hyperparameters: Any) -> Recipe:
        usual = {"batch_size": 4, "gradient_accumulation": 2, "precision": "float32"}
        return recipe(TrainingConfig(**{**usual, **(training or {})}), {**LORA, **hyperparameters}, seed)

    return make
