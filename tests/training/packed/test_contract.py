"""The packed trainer keeps the contract of trainers and that of packs."""

from pathlib import Path

import pytest

from meshtune.testing.packs import PackContract, TrainPack
from meshtune.testing.trainers import TrainerContract
from meshtune.training.loss import Row
from meshtune.training.packed.trainer import train, train_pack
from meshtune.training.steps import Train

Sides = tuple[list[Row], list[Row]]


@pytest.fixture
def sides(train_rows: list[Row], validation_rows: list[Row]) -> Sides:
    return train_rows, validation_rows


class TestAlone(TrainerContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path, sides: Sides) -> None:
        self._folder, self._rows = tiny_model_folder, sides

    def trainer(self) -> Train:
        return train

    def model_folder(self) -> Path:
        return self._folder

    def rows(self) -> Sides:
        return self._rows


class TestPack(PackContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path, sides: Sides) -> None:
        self._folder, self._rows = tiny_model_folder, sides

    def trainer(self) -> TrainPack:
        return train_pack

    def model_folder(self) -> Path:
        return self._folder

    def rows(self) -> Sides:
        return self._rows
