"""What mattered, by the model of a record's losses: a known function is found again; little data leaves much open."""

import math
from pathlib import Path

import numpy as np
import pytest

from meshtune.config.sections import SamplerConfig
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.selection.response import response
from meshtune.space.space import Space, choice, power_of_two, real
from meshtune.trial import Ending, Outcome

SPACE = Space(
    (
        real("rate", 1e-5, 1e-1, log=True),
        power_of_two("size", 1, 64),
        real("idle", 0.0, 1.0),
        choice("kind", ["a", "b", "c"]),
    ),
    lora=False,
)


def made(folder: Path, trials: int, *, noise: float = 0.01, space: Space = SPACE) -> Record:
    """Random points of a function of `rate`, less of `size`, and not of the others; every tenth one crashed."""
    fixed = {"space": space.describe(), "objective": {"command": ["run"]}}
    record = Record(f"sqlite:///{folder / 'study.db'}", "study", space, fixed=fixed)
    sampler = build(SamplerConfig(name="random"), distributions(space), x0=None, block_size=1, seed=0)
    chance = np.random.default_rng(0)
    for number in range(trials):
        record.propose(sampler, seed=0)
        point = record.trials[number].hyperparameters
        loss = (math.log10(point["rate"]) + 3) ** 2 + 0.2 * math.log2(point["size"]) + chance.normal(0, noise)
        crashed = number % 10 == 9
        ending, loss = (Ending.CRASHED, None) if crashed else (Ending.COMPLETE, loss)
        record.tell(Outcome(number, 1, ending, loss=loss), elapsed=1.0)
    return record


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return made(tmp_path_factory.mktemp("response"), 30)


def test_what_the_loss_is_made_of_is_found(record: Record) -> None:
    found = response(record)
    assert found is not None
    assert found["trials"] == 27  # without those that crashed
    assert found["explained"] > 0.8
    shares = {one["name"]: one for one in found["importances"]}
    assert [one["name"] for one in found["importances"]][:2] == ["rate", "size"]
    assert shares["rate"]["low"] > shares["size"]["high"]
    assert max(shares[name]["share"] for name in ("idle", "kind")) < 0.1
    assert all(0 <= one["low"] <= one["share"] <= one["high"] <= 1 for one in found["importances"])


def test_slices_go_through_the_recommended_trial_in_decoded_values(record: Record) -> None:
    found = response(record)
    assert found is not None
    slices = {one["name"]: one for one in found["slices"]}
    assert list(slices) == [one["name"] for one in found["importances"]]
    rate, size, kind = (slices[name] for name in ("rate", "size", "kind"))
    assert (rate["log"], size["log"], kind["ordered"]) == (True, True, False)
    assert size["values"] == [1, 2, 4, 8, 16, 32, 64]
    assert kind["values"] == ["a", "b", "c"]
    assert rate["values"][0] == pytest.approx(1e-5)
    lowest = rate["values"][int(np.argmin(rate["mean"]))]
    assert 3e-4 < lowest < 3e-3
    at = record.trials[found["at"]]
    assert at.final is not None
    nearest = int(np.argmin([abs(math.log(value / at.hyperparameters["rate"])) for value in rate["values"]]))
    assert rate["low"][nearest] - 0.2 < at.final.loss < rate["high"][nearest] + 0.2
    for one in slices.values():
        assert all(a <= b <= c for a, b, c in zip(one["low"], one["mean"], one["high"], strict=True))


def test_the_plane_is_of_two_that_have_an_order(record: Record) -> None:
    found = response(record)
    assert found is not None
    plane = found["plane"]
    assert {plane["x"], plane["y"]} == {"rate", "size"}
    assert len(plane["mean"]) == len(plane["ys"])
    assert {len(row) for row in plane["mean"]} == {len(plane["xs"])}


def test_few_trials_leave_more_open(record: Record, tmp_path: Path) -> None:
    few, many = response(made(tmp_path, 10)), response(record)
    assert few is not None
    assert many is not None
    width = [sum(one["high"] - one["low"] for one in found["importances"]) for found in (few, many)]
    assert width[0] > 1.5 * width[1]
    (tmp_path / "less").mkdir()
    assert response(made(tmp_path / "less", 7)) is None


def test_the_same_record_says_the_same(record: Record) -> None:
    assert response(record) == response(record)


def test_one_hyperparameter_has_no_plane(tmp_path: Path) -> None:
    space = Space((real("rate", 1e-5, 1e-1, log=True),), {"size": 4}, lora=False)
    found = response(made(tmp_path, 12, space=space))
    assert found is not None
    assert found["plane"] is None
    assert [one["name"] for one in found["slices"]] == ["rate"]
