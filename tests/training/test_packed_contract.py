"""The packed trainer keeps the contract of trainers."""

from pathlib import Path

import pytest

from meshtune.testing.trainers import TrainerContract
from meshtune.training.loss import Row
from meshtune.training.packed_trainer import train
from meshtune.training.steps import Train


class TestPacked(TrainerContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path, train_rows: list[Row], validation_rows: list[Row]) -> None:
        self._folder, self._rows = tiny_model_folder, (train_rows, validation_rows)

    def trainer(self) -> Train:
        return train

    def model_folder(self) -> Path:
        return self._folder

    def rows(self) -> tuple[list[Row], list[Row]]:
        return self._rows
