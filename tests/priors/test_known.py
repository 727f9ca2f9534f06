"""What is known beforehand, as samplers use it."""

import json
import math

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.priors.advice import advice, shipped
from meshtune.priors.effects import CENTRE, Predicted, relative_loss
from meshtune.priors.known import DRAWS, WIDER, Known
from meshtune.record.distributions import distributions
from meshtune.samplers.build import build
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.model import objective
from meshtune.samplers.gp.observations import Observations
from meshtune.samplers.gp.space import Cube
from meshtune.space.space import Space, choice, integer, power_of_two, real

RATES = Space(
    (
        power_of_two("rank", 4, 64),
        choice("dropout", (0.05, 0.1)),
        integer("alpha", 1, 64, log=True),
        real("learning_rate", 1e-6, 1e-3, log=True),
    )
)
USUAL = {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-4}


def known(space: Space, points: int = 3) -> Known:
    found = advice(shipped(), CENTRE, max_rank=64)
    made = Known.of(space, found.expected, found.portfolio[:points], USUAL)
    assert made is not None
    return made


def test_points_lie_in_the_space_with_the_product_of_the_portfolio() -> None:
    found = advice(shipped(), CENTRE, max_rank=64).portfolio[:3]
    for space in (presets.recommended(), RATES):
        points = [space.decode(params) for params in known(space).points]
        assert [each["rank"] for each in points] == [each["rank"] for each in found]
        for point, wanted in zip(points, found, strict=True):
            product = wanted["alpha"] * wanted["learning_rate"]
            assert point["alpha"] * point["learning_rate"] == pytest.approx(product, rel=0.02)
    assert {space.decode(params)["dropout"] for params in known(RATES).points} == {0.05}


def test_a_space_that_fixes_the_product_or_has_a_hyperparameter_of_which_nothing_is_given_has_none() -> None:
    found = advice(shipped(), CENTRE)
    assert (
        Known.of(Space((power_of_two("rank", 4, 64),), {"step": 0.01}), found.expected, found.portfolio, USUAL) is None
    )
    more = Space((*RATES.dimensions, integer("epochs", 1, 3)))
    made = Known.of(more, found.expected, found.portfolio, USUAL)
    assert made is not None
    assert made.points == ()


def test_it_comes_back_from_the_record_as_it_was() -> None:
    for space in (presets.recommended(), RATES):
        made = known(space)
        assert Known.from_json(space, json.loads(json.dumps(made.to_json()))) == made


def test_the_expected_loss_is_the_mean_over_what_the_task_may_be_like() -> None:
    made = known(RATES)
    values = {"rank_log2": np.array([4.0]), "alpha": np.array([32.0]), "learning_rate": np.array([1e-4])}
    draws = Predicted(made.means, made.deviations).draws(DRAWS, wider=WIDER)
    expected = np.mean([relative_loss(draw, 32e-4, 16) for draw in draws])
    assert made.loss(values)[0] == pytest.approx(expected)
    assert made.product(values)[0] == pytest.approx(math.log10(32e-4))


def test_rate_times_alpha_is_a_coordinate_of_its_own_where_it_follows_from_two() -> None:
    for space, more in ((presets.recommended(), 0), (RATES, 1)):
        encoding = Encoding(distributions(space))
        cube, plain = Cube(encoding, known(space)), Cube(encoding)
        rows = cube.at(np.random.default_rng(0).random((5, len(cube))))
        assert cube.features(rows).shape[1] == plain.features(rows).shape[1] + more == len(cube.columns)
        assert ((cube.features(rows) >= 0) & (cube.features(rows) <= 1)).all()
    assert Cube(Encoding({"x": optuna.distributions.FloatDistribution(0, 1)}), known(RATES)).known is None


def first(
    name: str, count: int, *, knows: Known | None, warm: bool = False, again: bool = False
) -> list[dict[str, object]]:
    """The first points of a search; `again`: by a fresh sampler each."""
    space = distributions(RATES)
    study = optuna.create_study()
    earlier = [
        optuna.trial.create_trial(params=RATES.encode({**USUAL, "rank": 2**e}), distributions=space, value=e)
        for e in (2, 3, 4)
    ]

    def made() -> optuna.samplers.BaseSampler:
        return build(
            SamplerConfig(name=name),  # type: ignore[arg-type]
            space,
            x0=RATES.encode(USUAL),
            block_size=8,
            seed=1,
            known=knows,
            warm_start=earlier if warm else (),
        )

    study.sampler = made()
    points = []
    for _ in range(count):
        if again:
            study.sampler.close()  # type: ignore[attr-defined]
            study.sampler = made()
        trial = study.ask(space)
        points.append(trial.params)
        if len(points) % 8 == 0:
            for each in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
                study.tell(
                    each.number, (each.params["rank_log2"] - 5) ** 2 + math.log10(each.params["learning_rate"]) ** 2
                )
    study.sampler.close()  # type: ignore[attr-defined]
    return points


@pytest.mark.parametrize("name", ["batch-gp", "mads"])
def test_the_first_block_has_the_portfolio_after_the_start_and_a_fresh_sampler_goes_on_exactly(name: str) -> None:
    knows = known(RATES)
    points = first(name, 18, knows=knows)
    assert points[0] == pytest.approx(RATES.encode(USUAL))
    for point, wanted in zip(points[1:4], knows.points, strict=True):
        assert point == pytest.approx(dict(wanted))
    assert first(name, 18, knows=knows, again=True) == points
    assert first(name, 3, knows=None)[1:3] != points[1:3]
    assert first(name, 9, knows=knows, warm=True) == first(name, 9, knows=None, warm=True)


def believed(knows: Known | None, moved: float, count: int) -> float:
    """How well a belief from so many values of a valley orders points; the valley lies `moved` decades off."""
    cube = Cube(Encoding(distributions(RATES)), knows)
    rows = cube.at(np.random.default_rng(3).random((count + 200, len(cube))))
    losses = (known(RATES).product(cube.values(rows)) + 1.8 - moved) ** 2
    none = np.zeros((0, len(cube)))
    seen = Observations(rows[:count], 2 + losses[:count], np.zeros(count), {}, tuple(range(count)), none, frozenset())
    mean, _ = objective(cube, seen, "raw", {}, {})(rows[count:])
    return float(spearmanr(mean, losses[count:]).statistic)


def test_what_is_known_orders_points_at_once_and_loses_its_say_where_it_is_wrong() -> None:
    assert believed(known(RATES), 0.0, 3) > believed(None, 0.0, 3) + 0.2
    assert believed(known(RATES), -2.0, 24) > 0.8
