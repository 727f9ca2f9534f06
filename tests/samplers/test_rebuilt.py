"""Optuna's own samplers behind the sampler contract."""

import optuna
import pytest

from meshtune.config import SamplerConfig
from meshtune.errors import InputError
from meshtune.samplers.build import build
from meshtune.samplers.seam import Sampler
from meshtune.testing.samplers import MIXED, SamplerContract, Space, points, search


class OptunaContract(SamplerContract):
    name = "random"

    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        sampler: Sampler = build(SamplerConfig(name=self.name), space, x0=None, block_size=block_size, seed=seed)
        return sampler


class TestRandom(OptunaContract):
    name = "random"


class TestTPE(OptunaContract):
    name = "tpe"


class TestQMC(OptunaContract):
    name = "qmc"


class TestGP(OptunaContract):
    name = "gp"


def test_qmc_covers_better_than_chance() -> None:
    sampler = build(SamplerConfig(name="qmc"), MIXED, x0=None, block_size=1, seed=0)
    study = search(optuna.create_study(), sampler, MIXED, 32)
    scales = sorted(params["scale"] for params in points(study))
    assert max(b - a for a, b in zip([-2.0, *scales], [*scales, 5.0], strict=True)) < 0.6  # 7 / 32 apart on average


def test_unknown_options_are_faults() -> None:
    with pytest.raises(InputError, match=r"sampler\.options of `tpe`"):
        build(SamplerConfig(name="tpe", options={"n_startups": 3}), MIXED, x0=None, block_size=1, seed=0)
    with pytest.raises(InputError, match=r"sampler\.options of `mads`"):
        build(SamplerConfig(name="mads", options={"colour": 3}), MIXED, x0=None, block_size=1, seed=0)
