"""Points that are allowed before they are evaluated: how many there are, and samplers that propose no other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from meshtune.config.sections import SamplerConfig
from meshtune.errors import SamplerError
from meshtune.samplers.allowed import draw, share
from meshtune.samplers.build import build

SPACE = {
    "x": FloatDistribution(1e-3, 10, log=True),
    "k": IntDistribution(0, 7),
    "c": CategoricalDistribution(("a", "b", "c")),
}
FINITE = {"k": IntDistribution(0, 7), "n": IntDistribution(0, 3)}


def allows(point: Mapping[str, Any]) -> bool:
    return point["k"] <= 2 and point["x"] * (1 + point["k"]) <= 1


def test_a_share_is_exact_where_a_space_is_small() -> None:
    assert share(FINITE, lambda point: point["k"] < point["n"]) == (6 / 32, True)
    found, exact = share({"x": FloatDistribution(0, 1)}, lambda point: point["x"] < 0.3)
    assert found == pytest.approx(0.3, abs=0.02)
    assert not exact


def test_a_random_point_is_allowed_or_there_is_none() -> None:
    for seed in range(5):
        assert allows(draw(SPACE, allows, np.random.default_rng(seed)))
    with pytest.raises(SamplerError, match=r"none of 10,000 random points keeps the constraints"):
        draw(SPACE, lambda _: False, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random", "qmc", "batch-gp", "mads"])
def test_nothing_else_is_proposed_and_a_fresh_sampler_proposes_the_same(name: str) -> None:
    directions = ["minimize"] if name == "batch-gp" else ["minimize", "minimize"]
    studies = [optuna.create_study(directions=directions) for _ in range(2)]
    options = {"population_size": 4} if name == "nsga2" else {}
    config = SamplerConfig(name=name, options=options)  # type: ignore[arg-type]

    def made() -> Any:
        return build(config, SPACE, x0=None, block_size=2, seed=3, allows=allows)

    lasting = made()
    for _ in range(12):
        for study, sampler in zip(studies, (lasting, made()), strict=True):
            study.sampler = sampler
            trial = study.ask(SPACE)
            assert allows(trial.params)
            trial.set_constraint("size", trial.params["k"] - 1)
            study.tell(trial, [trial.params["x"], -float(trial.params["k"])][: len(directions)])
            if sampler is not lasting:
                sampler.close()
    lasting.close()
    assert [trial.params for trial in studies[0].trials] == [trial.params for trial in studies[1].trials]
