"""The objective `lora` keeps the contract of objectives, and that of early stopping with both trainers."""

from pathlib import Path

import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.testing.objectives import ObjectiveContract, StoppingContract
from meshtune.trial import DataRef, Request


class TestContract(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path, tiny_data: DataRef) -> None:
        self.model, self.data = tiny_model_folder, tiny_data

    def make(self, folder: Path) -> LoraObjective:
        training = TrainingConfig(batch_size=8, precision="float32", epochs=1)
        model = ModelConfig(name=str(self.model))
        return LoraObjective(
            LoraSpec(model=model, training=training, data=self.data, at="last", folder=str(folder)), "cpu", 1
        )

    def good(self, trial: int) -> Request:
        return Request(trial, {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}, seed=0, threads=1)

    def bad(self, trial: int) -> Request:
        return Request(trial, {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 1e30}, seed=0, threads=1)


@pytest.mark.parametrize("trainer", ["packed", pytest.param("transformers", marks=pytest.mark.slow)])
class TestStopping(StoppingContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, trainer: str, tiny_model_folder: Path, tiny_data: DataRef) -> None:
        self.trainer, self.model, self.data = trainer, tiny_model_folder, tiny_data

    def make(self, folder: Path) -> LoraObjective:
        values = {"batch_size": 8, "precision": "float32", "epochs": 1, "trainer": {"name": self.trainer}}
        training = TrainingConfig.model_validate(values)
        model = ModelConfig(name=str(self.model))
        spec = LoraSpec(model=model, training=training, data=self.data, at="last", folder=str(folder), rung_rows=5)
        return LoraObjective(spec, "cpu", 1)

    def good(self, trial: int) -> Request:
        return Request(trial, {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}, seed=0, threads=1)
