"""`auto`: which sampler, and the reason."""

from dataclasses import replace

import pytest

from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError
from meshtune.samplers.auto import Situation, choose
from meshtune.samplers.build import build
from meshtune.testing.samplers import MIXED

USUAL = Situation(trials=30, dimension=4, block_size=1)


@pytest.mark.parametrize(
    ("study", "name", "reason"),
    [
        (USUAL, "batch-gp", "(one trial at a time, from a baseline)"),
        (replace(USUAL, start=False), "batch-gp", "without a baseline in the space"),
        (replace(USUAL, block_size=2), "batch-gp", "(2 trials at once, from a baseline)"),
        (replace(USUAL, block_size=9), "batch-gp", "it came closest to the best possible point (8 trials at once)"),
        (
            replace(USUAL, trials=300, dimension=9, constraints=1),
            "batch-gp",
            "9 hyperparameters, 300 trials, constraints",
        ),
        (replace(USUAL, trials=None, nomad=False), "batch-gp", "from a baseline"),
        (replace(USUAL, objectives=2), "mads", "2 objectives, which batch-gp cannot search"),
        (replace(USUAL, objectives=2, block_size=8), "tpe", "tpe came closer"),
        (replace(USUAL, objectives=2, block_size=8, nomad=False), "tpe", "tpe came closer"),
        (replace(USUAL, objectives=2, block_size=4), "mads", "not measured: 4 trials at once"),
        (replace(USUAL, objectives=3), "mads", "not measured: 3 objectives"),
        (replace(USUAL, objectives=2, nomad=False), "tpe", "PyNomad"),
    ],
)
def test_the_choice(study: Situation, name: str, reason: str) -> None:
    choice = choose(study)
    assert choice.name == name
    assert reason in choice.reason


def test_what_was_measured_is_not_called_unmeasured() -> None:
    assert all("not measured" not in choose(replace(USUAL, trials=trials)).reason for trials in (20, 100, None))
    assert all("not measured" not in choose(replace(USUAL, objectives=2, block_size=n)).reason for n in (1, 8, 16))


def test_it_is_no_sampler_itself() -> None:
    with pytest.raises(InputError, match="must be chosen"):
        build(SamplerConfig(name="auto"), MIXED, x0=None, block_size=1, seed=0)


def test_of_several_objectives_asynchronously_it_is_one_that_waits_for_no_block() -> None:
    study = Situation(trials=60, dimension=4, block_size=4, objectives=2)
    assert choose(study).name == "mads"
    choice = choose(replace(study, asynchronous=True))
    assert choice.name == "tpe"
    assert "waits for the last trial of a block" in choice.reason
