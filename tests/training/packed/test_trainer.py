"""The packed trainer against the `transformers` trainer and against itself alone; and what may be changed meanwhile."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig
from meshtune.data.build import prepare
from meshtune.data.store import Rows
from meshtune.errors import InputError
from meshtune.testing.packs import losses, mean_difference, of
from meshtune.training import trainer
from meshtune.training.loss import Row
from meshtune.training.models import load_model
from meshtune.training.packed import limits
from meshtune.training.packed.changes import Changes, PassLimit
from meshtune.training.packed.trainer import train, train_pack
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Diverged, Step, Trained
from tests.training.architectures import HYBRID, LENGTHS, MIXTURES, NOT_EXPERTS, PACKABLE, make

MakeRecipe = Callable[..., Recipe]
RANKS, DROPOUTS = (4, 8, 16, 32, 64, 128, 4, 16), (0.0, 0.1, 0.05, 0.0, 0.1, 0.01, 0.05, 0.0)


def eight(make_recipe: MakeRecipe, **changed: Any) -> list[Recipe]:
    """Recipes of ranks 4 to 128 and dropouts 0 to .1, for 22 rows six steps an epoch."""
    return [
        make_recipe(
            {"gradient_accumulation": 1, "epochs": 4, **changed}, rank=r, alpha=2 * r, dropout=p, learning_rate=x
        )
        for r, p, x in zip(RANKS, DROPOUTS, [1e-3, 2e-4] * 4, strict=True)
    ]


def assert_equal_alone(base: Any, rows: list[Row], validation: list[Row], recipes: Sequence[Recipe]) -> None:
    """Each adapter of a pack, to 1e-5 in the mean of its weights and 1e-4 in its losses."""
    together = list(train_pack(base, rows, validation, recipes, at="last"))
    for number, recipe in enumerate(recipes):
        alone = list(train(base, rows, validation, recipe, at="last"))
        packed = of(together, number)
        assert losses(packed) == pytest.approx(losses(alone), abs=1e-4)
        assert mean_difference(packed[-1], alone[-1]) <= 1e-5


ALL = {**PACKABLE, **LENGTHS, **HYBRID, **MIXTURES}


@pytest.mark.parametrize("name", ALL)
def test_equals_the_transformers_trainer(
    name: str, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """With accumulation over rows of different lengths, clipping, decay and warm-up, without dropout."""
    base = make(ALL[name]())
    targets = {"target_modules": NOT_EXPERTS} if name in MIXTURES else {}
    recipe = make_recipe({"epochs": 2, "max_grad_norm": 0.5, "warmup_ratio": 0.2}, weight_decay=0.1, **targets)
    sides = train_rows[:14], validation_rows
    ours, theirs = (list(which(base, *sides, recipe, at="best")) for which in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-5
    assert isinstance(ours[-1], Trained)
    assert isinstance(theirs[-1], Trained)
    assert max(float(weight.abs().max()) for name, weight in ours[-1].weights.items() if "lora_B" in name) > 0.01
    assert ours[-1].config.to_dict() == theirs[-1].config.to_dict()
    tokens = [event.tokens for event in (ours[-2], theirs[-2]) if isinstance(event, Step)]
    assert tokens[0] == tokens[1] == 2 * sum(len(tokens) for tokens, _ in sides[0])


def test_a_pack_of_eight(base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe) -> None:
    """Over 24 steps."""
    assert_equal_alone(base, train_rows, validation_rows, eight(make_recipe, epochs=4))


@pytest.mark.parametrize("scheduler", ["constant", "linear", "wsd"])
def test_every_schedule_is_that_of_the_transformers_trainer(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, scheduler: str
) -> None:
    """At a rate at which a step of another rate would show; a cosine is measured above."""
    given = {"epochs": 3, "warmup_ratio": 0.2, "gradient_accumulation": 1, "lr_scheduler": scheduler}
    recipe = make_recipe(given, learning_rate=1e-2)
    sides = train_rows[:14], validation_rows
    ours, theirs = (list(which(base, *sides, recipe, at="last")) for which in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-5


@pytest.mark.parametrize(
    "changed", [{"lora_plus_ratio": 8}, {"optimizer": "muon"}, {"optimizer": "adamw_8bit", "lora_plus_ratio": 2}]
)
def test_optimizers_step_as_in_the_transformers_trainer(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, changed: dict[str, Any]
) -> None:
    """With warm-up and decay, which is in proportion to the rate; and in a pack with AdamW as alone."""
    given = {"epochs": 2, "warmup_ratio": 0.2}
    common = {"weight_decay": 0.1, "learning_rate": 2e-3, "rank": 64}  # whose matrices have moments of eight bits
    recipe, plain = make_recipe(given, **common, **changed), make_recipe(given, **common)
    sides = train_rows[:14], validation_rows
    ours, theirs = (list(which(base, *sides, recipe, at="last")) for which in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-5
    assert losses(list(train(base, *sides, plain, at="last"))) != pytest.approx(losses(ours), abs=1e-3)
    assert_equal_alone(base, *sides, [recipe, plain])


def test_noise_is_that_of_the_transformers_trainer(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, monkeypatch: Any
) -> None:
    """NEFTune; and it is the same in a pack, and where a portion is cut for memory's sake."""
    recipe, plain = make_recipe(neftune_alpha=5, rank=8), make_recipe(rank=8)
    sides = train_rows[:14], validation_rows
    ours, theirs = (list(which(base, *sides, recipe, at="last")) for which in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-5
    assert losses(list(train(base, *sides, plain, at="last"))) != pytest.approx(losses(ours), abs=1e-3)
    assert_equal_alone(base, *sides, [recipe, plain])
    cut = list(train_pack(base, *sides, [recipe, plain], at="last", limit=PassLimit(48)))
    assert losses(of(cut, 0)) == pytest.approx(losses(ours), abs=1e-4)


@pytest.mark.parametrize("name", ["qwen3.5", "lfm2", "qwen3-moe"])
def test_a_pack_over_a_hybrid_model_or_experts(
    name: str, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """With dropout, and checkpointing; passes are cut where rows of different lengths would be padded too much."""
    targets = {"target_modules": NOT_EXPERTS} if name in MIXTURES else {}
    recipes = [
        make_recipe({"epochs": 1, "gradient_checkpointing": True}, rank=r, dropout=p, **targets)
        for r, p in ((4, 0.0), (8, 0.1), (2, 0.05))
    ]
    assert_equal_alone(make(ALL[name]()), train_rows[:12], validation_rows, recipes)


@pytest.mark.parametrize("name", LENGTHS)
def test_a_pack_over_positions_that_depend_on_the_longest_row(
    name: str, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Rows within the original length and beyond it."""
    assert_equal_alone(make(LENGTHS[name]()), train_rows, validation_rows, eight(make_recipe, epochs=1)[:3])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PACKABLE, *HYBRID])
def test_a_pack_of_eight_of_every_architecture(
    name: str, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """As above."""
    assert_equal_alone(make(ALL[name]()), train_rows, validation_rows, eight(make_recipe, epochs=4))


@pytest.fixture
def embedded(tmp_path: Path) -> tuple[Any, tuple[list[Row], list[Row]]]:
    """The embedded model, and the shortest of its own rows: 40 to train, 4 to validate."""
    sources = tuple(SourceConfig(embedded=name) for name in ("python-stdlib-describe", "python-stdlib-signature"))
    model = ModelConfig(name="embedded")
    data = prepare(DataConfig(sources=sources, validation=20, test=0), model, 0, tmp_path).ref
    sides = [sorted(Rows.open(data, side), key=lambda row: len(row[0])) for side in ("train", "validation")]
    return load_model(model, "cpu"), (sides[0][:40], sides[1][:4])


@pytest.mark.slow
def test_a_pack_of_eight_on_the_embedded_model(embedded: Any, make_recipe: MakeRecipe) -> None:
    """All 30 layers; 20 steps of two rows."""
    base, sides = embedded
    assert_equal_alone(base, *sides, eight(make_recipe, epochs=1, batch_size=2))


@pytest.mark.slow
def test_the_embedded_model_as_the_transformers_trainer_trains_it(embedded: Any, make_recipe: MakeRecipe) -> None:
    """20 steps of two rows."""
    base, sides = embedded
    recipe = make_recipe({"epochs": 1, "batch_size": 2, "gradient_accumulation": 1}, rank=16, learning_rate=1e-3)
    ours, theirs = (list(which(base, *sides, recipe, at="best")) for which in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-5


def test_members_of_different_batches_step_by_themselves(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Sizes, accumulation, epochs, schedules and seeds of their own; and portions cut by the limit of a pass."""
    recipes = [
        make_recipe({"gradient_accumulation": 1, "epochs": 2}, batch_size=3),
        make_recipe({"gradient_accumulation": 3, "epochs": 1, "lr_scheduler": "constant"}, batch_size=2, dropout=0.1),
        make_recipe({"epochs": 3, "lr_scheduler": "linear"}, seed=4, dropout=0.1),
        make_recipe({"epochs": 4, "lr_scheduler": "wsd", "gradient_accumulation": 1}, seed=2),
    ]
    assert_equal_alone(base, train_rows, validation_rows, recipes)


def test_the_limit_of_a_pass_changes_no_loss(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps of eight rows are cut into passes of 50 tokens."""
    recipe = make_recipe()
    whole = list(train(base, train_rows, validation_rows, recipe, at="last"))
    monkeypatch.setattr(limits, "CPU_TOKENS", 50)
    cut = list(train(base, train_rows, validation_rows, recipe, at="last"))
    assert len(cut) > len(whole)
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)


def test_gradient_checkpointing_changes_no_loss(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """The masks of dropout are drawn again as they were."""
    plain, saved = (
        list(train(base, train_rows, validation_rows, make_recipe(given, dropout=0.2), at="last"))
        for given in ({}, {"gradient_checkpointing": True})
    )
    assert losses(saved) == losses(plain)


def test_dropout_and_seeds(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Dropout changes the losses of training, the seed changes the masks, and validation has none."""
    rows = train_rows, validation_rows
    told = {
        (rate, seed): losses(list(train(base, *rows, make_recipe(seed=seed, dropout=rate), at="last")))
        for rate, seed in ((0.0, 0), (0.3, 0), (0.3, 1))
    }
    assert len({tuple(found) for found in told.values()}) == 3
    assert told[0.0, 0][0] == told[0.3, 0][0]  # B is zero, so the first loss is the base's
    assert told[0.0, 0][2] != told[0.3, 0][2]  # the step between was the first of the warm-up


def test_dropout_of_everything(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """At rate 1, which the paper searched, an adapter learns nothing, as with PEFT; others of its pack do."""
    recipe = make_recipe({"epochs": 1}, dropout=1.0, weight_decay=0.1)
    together = list(train_pack(base, train_rows, validation_rows, [recipe, make_recipe({"epochs": 1})], at="last"))
    ours, theirs = of(together, 0), list(trainer.train(base, train_rows, validation_rows, recipe, at="last"))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert mean_difference(ours[-1], theirs[-1]) <= 1e-6
    assert losses(of(together, 1))[-1] < losses(ours)[-1]


@pytest.mark.parametrize("start", ["gaussian", "orthogonal"])
def test_start_weights(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, start: str
) -> None:
    """Those that leave the base alone are PEFT's."""
    recipe = make_recipe(init_lora_weights=start, use_rslora=True)
    ours, theirs = (list(w(base, train_rows, validation_rows, recipe, at="last")) for w in (train, trainer.train))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)


def test_training_in_bfloat16_validates_in_float32(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Losses near those of float32; and an adapter that stays at zero has the untuned loss to the last digits."""
    rows = train_rows, validation_rows
    kinds = ("bfloat16", "float32")
    low, exact = (losses(list(train(base, *rows, make_recipe({"precision": kind}), at="last"))) for kind in kinds)
    assert low != exact
    assert low == pytest.approx(exact, abs=0.03)
    zero, untuned = (
        list(train(base, *rows, make_recipe({"precision": kind}, learning_rate=1e-30), at="last"))[-1] for kind in kinds
    )
    assert isinstance(zero, Trained)
    assert isinstance(untuned, Trained)
    assert zero.loss == pytest.approx(untuned.loss, abs=1e-6)


def test_one_leaves_and_another_takes_its_place(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """The one that leaves says nothing more; the one that comes is what it is alone."""
    recipes = [make_recipe(epochs=3), make_recipe(rank=8, dropout=0.1), make_recipe(rank=2, dropout=0.2)]
    changes = Changes()
    told = []
    for event in train_pack(base, train_rows, validation_rows, recipes, at="last", changes=changes, width=2):
        told.append(event)
        if len(told) == 4:
            changes.leaving.add(0)
    first = of(told, 0)
    assert 0 < len(first) <= 3
    assert all(isinstance(event, Step) for event in first)
    for number in (1, 2):
        alone = list(train(base, train_rows, validation_rows, recipes[number], at="last"))
        assert losses(of(told, number)) == pytest.approx(losses(alone), abs=1e-4)
        assert mean_difference(of(told, number)[-1], alone[-1]) <= 1e-5


def test_alone_it_raises_what_a_pack_says(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """That it diverged."""
    with pytest.raises(Diverged, match="training loss of step"):
        list(train(base, train_rows, validation_rows, make_recipe(learning_rate=1e30, epochs=9), at="last"))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "`pissa` change the base"),
        ({"target_modules": "lm_head"}, "output head"),
        ({"target_modules": "embed_tokens"}, "embedding"),
    ],
)
def test_refusals(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    changed: dict[str, Any],
    reason: str,
) -> None:
    """At once, with the reason."""
    with pytest.raises(Unpackable, match=reason) as caught:
        train(base, train_rows, validation_rows, make_recipe(**changed), at="last")
    assert str(caught.value) == f"cannot be trained in a pack: {caught.value.reason}"


def test_a_pack_has_one_precision(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """And names of modules that the model lacks are faults of the input."""
    recipes = [make_recipe(), make_recipe({"precision": "bfloat16"})]
    with pytest.raises(Unpackable, match="precision"):
        train_pack(base, train_rows, validation_rows, recipes, at="last")
    with pytest.raises(InputError, match="Did you mean `q_proj`"):
        train(base, train_rows, validation_rows, make_recipe(target_modules="q_prj"), at="last")


def test_memory_leaves_with_an_adapter(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """After its end nothing of it is computed: passes have the tokens of those that are left."""
    recipes = [make_recipe(epochs=1), make_recipe(epochs=4)]
    seen: list[int] = []
    lengths: list[int] = []
    hook = base.model.embed_tokens.register_forward_pre_hook(lambda _, given: lengths.append(given[0].numel()))
    with hook:
        for number, event in train_pack(base, train_rows, validation_rows, recipes, at="last"):
            seen.append(number)
            if number == 0 and isinstance(event, Trained):
                lengths.clear()
                seen.clear()
    assert set(seen) == {1}
    rows = sum(len(tokens) for tokens, _ in train_rows)
    validated = sum(len(tokens) for tokens, _ in validation_rows)
    assert sum(lengths) == 3 * rows + 3 * validated


def test_no_gradient_and_no_graph_is_left(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """The base's weights have none, and torch computes as before."""
    list(train(base, train_rows, validation_rows, make_recipe(epochs=1), at="last"))
    assert all(weight.grad is None and not weight.requires_grad for weight in base.parameters())
    assert torch.is_grad_enabled()
