"""Recorded losses of a tiny fixed model and fixed rows: a change that moves them must say so.

After such a change write them anew: `python -m tests.training.test_golden_losses`, and say why in the commit.
"""

import json
from pathlib import Path

import pytest

from meshtune.config.sections import TrainingConfig
from meshtune.testing.packs import losses, of
from meshtune.training import trainer
from meshtune.training.packed.trainer import train, train_pack
from meshtune.training.recipe import Recipe, recipe
from tests.training.architectures import PACKABLE, make
from tests.training.conftest import make_rows

FILE = Path(__file__).with_name("golden_losses.json")
# Kernels of other machines sum in another order; in bfloat16 that moves a rounding now and then.
TOLERANCE = {"transformers": 1e-5, "solo": 1e-5, "pack": 1e-5, "bfloat16": 5e-3}


def recipes(precision: str, dropout: float) -> list[Recipe]:
    """Two adapters."""
    training = TrainingConfig(batch_size=4, gradient_accumulation=2, epochs=2, precision=precision)
    points = [
        {"rank": 4, "alpha": 8.0, "dropout": dropout, "learning_rate": 1e-2},
        {"rank": 32, "alpha": 16.0, "dropout": 2 * dropout, "learning_rate": 3e-3},
    ]
    return [recipe(training, point, 0) for point in points]


def measured() -> dict[str, list[float]]:
    """Losses by step and epoch, by how they were trained."""
    base = make(PACKABLE["llama"]())
    sides = make_rows(22, 1), make_rows(9, 2)
    plain, dropped, low = recipes("float32", 0.0), recipes("float32", 0.1), recipes("bfloat16", 0.1)
    pack = list(train_pack(base, *sides, dropped, at="last"))
    return {
        "transformers": losses(list(trainer.train(base, *sides, plain[0], at="last"))),
        "solo": losses(list(train(base, *sides, plain[0], at="last"))),
        "pack": losses(of(pack, 0)) + losses(of(pack, 1)),
        "bfloat16": losses(list(train(base, *sides, low[0], at="last"))),
    }


def test_golden_losses() -> None:
    """All of them; and without dropout the packed trainer has those of the `transformers` trainer."""
    expected, found = json.loads(FILE.read_text(encoding="utf-8")), measured()
    assert expected.keys() == found.keys() == TOLERANCE.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], abs=TOLERANCE[name]), name
    assert found["solo"] == pytest.approx(found["transformers"], abs=1e-4)


if __name__ == "__main__":
    rounded = {name: [round(value, 7) for value in values] for name, values in measured().items()}
    FILE.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
