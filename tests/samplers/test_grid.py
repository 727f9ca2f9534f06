"""`grid`: every point once, resumed exactly, and what has no grid is refused."""

from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError
from meshtune.samplers.build import build
from meshtune.samplers.grid import GridSampler
from meshtune.testing.samplers import points, search

SPACE: dict[str, BaseDistribution] = {
    "rank": IntDistribution(2, 5),
    "dropout": CategoricalDistribution((0.0, 0.05, 0.1)),
    "share": FloatDistribution(0.0, 1.0, step=0.5),
    "fixed": IntDistribution(3, 3),
}


def keys(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(sorted(point.items())) for point in points(study)]


@pytest.mark.parametrize("block_size", [1, 5, 8])
def test_every_point_once_then_the_end(block_size: int) -> None:
    study = optuna.create_study()
    study.enqueue_trial({"rank": 3, "dropout": 0.05, "share": 0.5, "fixed": 3})  # the baseline
    study.ask(dict(SPACE))
    sampler = GridSampler(SPACE, seed=1, block_size=block_size)
    search(study, sampler, SPACE, 100, lambda number, p: TrialState.FAIL if number % 5 == 1 else float(p["rank"]))
    assert len(study.trials) == len(set(keys(study))) == sampler.size == 36
    assert sampler.available(study) == 0


def test_the_order_is_the_seeds_and_goes_on_after_a_kill() -> None:
    def played(seed: int, cut: int) -> list[tuple[Any, ...]]:
        study = optuna.create_study()
        search(study, GridSampler(SPACE, seed=seed, block_size=4), SPACE, cut, lambda *_: 1.0, answer_rest=False)
        return keys(search(study, GridSampler(SPACE, seed=seed, block_size=4), SPACE, 36, lambda *_: 1.0))

    assert played(1, 1) == played(1, 10) == played(1, 30) != played(2, 10)
    assert played(1, 1) != sorted(played(1, 1))


def test_what_is_not_allowed_is_not_of_the_grid() -> None:
    sampler = GridSampler(SPACE, seed=0, allows=lambda point: point["rank"] < 4)
    study = search(optuna.create_study(), sampler, SPACE, 100, lambda *_: 1.0)
    assert len(study.trials) == sampler.size == 18
    assert max(point["rank"] for point in points(study)) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rate": FloatDistribution(1e-6, 1e-3, log=True)}, "`rate` has none: give a list"),
        ({"x": FloatDistribution(0, 1), "alpha": IntDistribution(1, 64, log=True)}, "`alpha`, `x` have none"),
        ({"a": IntDistribution(1, 10_000)}, "360,000 points"),
    ],
)
def test_refused(more: dict[str, BaseDistribution], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(SamplerConfig(name="grid"), {**SPACE, **more}, x0=None, block_size=1, seed=0)
    assert caught.value.faults[0].key == "space"


def test_it_takes_no_options() -> None:
    with pytest.raises(InputError, match="takes none"):
        build(SamplerConfig(name="grid", options={"points": 3}), SPACE, x0=None, block_size=1, seed=0)
