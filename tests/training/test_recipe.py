"""The trial's hyperparameters in the place of the training section's values."""

from dataclasses import replace

import pytest

from meshtune.config.sections import TrainingConfig
from meshtune.errors import InputError
from meshtune.training.recipe import decay_steps, recipe, warmup_steps

LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.05, "learning_rate": 2e-4}


def test_hyperparameters_take_the_place_of_the_section() -> None:
    """What they do not name stays."""
    training = TrainingConfig(epochs=3, batch_size=8, weight_decay=0.1)
    made = recipe(training, {**LORA, "epochs": 1, "lr_scheduler": "linear", "use_rslora": True}, seed=7)
    assert (made.rank, made.alpha, made.dropout, made.learning_rate) == (16, 32.0, 0.05, 2e-4)
    assert (made.epochs, made.batch_size, made.weight_decay) == (1, 8, 0.1)
    assert (made.lr_scheduler, made.use_rslora, made.target_modules, made.seed) == ("linear", True, "all-linear", 7)


@pytest.mark.parametrize(("warmup", "steps", "expected"), [(0.03, 252, (8, 51)), (0.9, 10, (9, 1)), (0.0, 1, (0, 1))])
def test_the_decay_comes_after_the_warm_up(warmup: float, steps: int, expected: tuple[int, int]) -> None:
    """It has a fifth of the steps, or what the warm-up leaves."""
    made = recipe(TrainingConfig(lr_scheduler="wsd", warmup_ratio=warmup), LORA, seed=0)
    assert (warmup_steps(made, steps), decay_steps(made, steps)) == expected


def test_target_modules_as_one_text() -> None:
    """A choice of the space can be a text only."""
    made = recipe(TrainingConfig(), {**LORA, "target_modules": "q_proj, v_proj"}, seed=0)
    assert made.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rat": 1.0}, "Did you mean `learning_rate`?"),
        ({"rank": 0}, "rank: `0` is not allowed"),
        ({"dropout": 1.5}, "dropout: `1.5` is not allowed"),
        ({"warmup_ratio": 1.0}, "warmup_ratio: `1.0` is not allowed"),
        ({"lr_scheduler": "cosin"}, "Did you mean `cosine`?"),
        ({"scale": 2.0}, "scale: unknown hyperparameter"),
    ],
)
def test_refused(changed: dict[str, object], message: str) -> None:
    """With what is allowed."""
    with pytest.raises(InputError) as caught:
        recipe(TrainingConfig(), {**LORA, **changed}, seed=0)
    assert message in str(caught.value)


def test_all_that_is_missing_is_told_at_once() -> None:
    """Not the first alone."""
    with pytest.raises(InputError) as caught:
        recipe(TrainingConfig(), {"rank": 4}, seed=0)
    assert len(caught.value.faults) == 3


def test_states_of_earlier_versions_are_told_apart_as_they_were() -> None:
    """By the text of a recipe, which lacks later keys where they have their default."""
    made = recipe(TrainingConfig(), LORA, seed=7)
    assert repr(made).startswith("Recipe(rank=")
    assert repr(made).endswith("seed=7, pass_tokens=None)")
    assert repr(replace(made, lora_plus_ratio=2.0)).endswith("pass_tokens=None, lora_plus_ratio=2.0)")
