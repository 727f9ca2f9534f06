"""Optuna's own samplers behind the sampler contract."""

import importlib.util

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError, MissingExtra
from meshtune.samplers.build import build
from meshtune.samplers.interface import Sampler
from meshtune.samplers.optuna_samplers import RebuiltSampler, quiet
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


class TestCmaEs(OptunaContract):
    name = "cma-es"

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("cmaes")


def test_cma_es_learns_where_the_valley_is() -> None:
    pytest.importorskip("cmaes")
    sampler = build(SamplerConfig(name="cma-es"), MIXED, x0=None, block_size=1, seed=0)
    study = search(optuna.create_study(), sampler, MIXED, 120)
    scales = [params["scale"] for params in points(study)]
    assert max(abs(scale - 2) for scale in scales[-20:]) < max(abs(scale - 2) for scale in scales[:20])
    assert {params["kind"] for params in points(study)} == {"a", "b", "c"}


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is not None, reason="it is installed")
def test_cma_es_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"meshtune\[cma-es\]"):
        build(SamplerConfig(name="cma-es"), MIXED, x0=None, block_size=1, seed=0)


def known(count: int) -> optuna.Study:
    """A study whose finished trials are known to another one."""
    earlier = build(SamplerConfig(name="random"), MIXED, x0=None, block_size=1, seed=9)
    return search(optuna.create_study(), earlier, MIXED, count)


class TestInformedTPE(SamplerContract):
    """As the others, with points that are known from the start."""

    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        given = known(15).trials
        made: Sampler = build(
            SamplerConfig(name="tpe"), space, x0=None, block_size=block_size, seed=seed, warm_start=given
        )
        return made


@pytest.mark.parametrize("options", [{}, {"multivariate": False}, {"constant_liar": False}])
def test_what_is_known_counts_as_finished_trials_of_the_study(options: dict[str, bool]) -> None:
    """Known trials before a study's own propose what one study of both does."""

    def tpe(seed: int, number: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=0, **options)

    def proposed(study: optuna.Study, sampler: Sampler) -> dict[str, object]:
        study.sampler = sampler
        study.ask(dict(MIXED))  # stays pending
        return study.ask(dict(MIXED)).params

    earlier, own = known(15), known(4)
    both = optuna.create_study()
    both.add_trials(earlier.trials + own.trials)
    informed = RebuiltSampler(tpe, MIXED, seed=0, block_size=4, earlier_trials=earlier.trials)
    expected = proposed(both, RebuiltSampler(tpe, MIXED, seed=0, block_size=4))
    assert proposed(own, informed) == expected
    assert len(own.trials) == 6
    assert proposed(known(4), RebuiltSampler(tpe, MIXED, seed=0, block_size=4)) != expected


@pytest.mark.parametrize("options", [{"group": True}, {"multivariate": True}, {"multivariate": False}])
def test_tpe_draws_together_or_one_by_one_as_its_options_say(options: dict[str, bool]) -> None:
    """As in Optuna: the spaces of both are the same once trials have all parameters, and so are the points."""
    sampler = build(SamplerConfig(name="tpe", options=dict(options)), MIXED, x0=None, block_size=1, seed=0)
    study = search(optuna.create_study(), sampler, MIXED, 12)
    plain = quiet(lambda *_: optuna.samplers.TPESampler(**options))(0, 0)
    trial = study.trials[-1]
    names = set(sampler.infer_relative_search_space(study, trial))
    assert names == set(plain.infer_relative_search_space(study, trial))
    assert len(names) == (4 if options.get("multivariate", True) else 0)


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


def test_an_enqueued_trial_that_nobody_has_asked_for_blocks_nothing() -> None:
    """It is neither proposed nor awaited: with a block of one there would be nothing to wait for, for ever."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5})
    sampler = RebuiltSampler(lambda seed, _: RandomSampler(seed=seed), {"x": FloatDistribution(0, 1)}, seed=0)
    assert sampler.available(study) == 1
    study.ask({"x": FloatDistribution(0, 1)})
    assert sampler.available(study) == 0
