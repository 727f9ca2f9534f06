"""A base whose layers are cut over processes (FSDP2): packs over it, and what is measured, against a whole base."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError
from meshtune.testing.packs import at_rungs, losses, mean_difference, of
from meshtune.testing.trainers import rungs_at
from meshtune.training import trainer
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.machine import RankLost, is_device_lost
from meshtune.training.models import load_model
from meshtune.training.packed.ranks import Ranks
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Trained
from tests.training.architectures import PACKABLE, make

MakeRecipe = Callable[..., Recipe]
Cut = tuple[Any, Ranks]


@pytest.fixture
def cut(request: pytest.FixtureRequest, tiny_model_folder: Path) -> Iterator[Cut]:
    """The tiny model over so many processes, and the others of them."""
    model = ModelConfig(name=str(tiny_model_folder))
    ranks = Ranks(model, "cpu", 1, request.param, shared_base=True)
    try:
        base = load_model(model, "cpu")
        ranks.shard(base)
        yield base, ranks
    finally:
        ranks.close()


def held(base: Any) -> int:
    """Values of its weights that this process holds."""
    return sum(x.to_local().numel() if isinstance(x, DTensor) else x.numel() for x in base.parameters())


def packs(make_recipe: MakeRecipe) -> list[list[Recipe]]:
    """With dropout, a pass with nothing for some, and modules of some layers only; and one adapter of these alone."""
    of_one_layer = {"target_modules": "model.layers.1.mlp.down_proj"}
    points = [(4, 0.1, 4, {}), (8, 0.0, 3, of_one_layer), (16, 0.3, 1, {"target_modules": "q_proj,v_proj"})]
    found = [
        [
            make_recipe({"epochs": 2, "gradient_checkpointing": again}, rank=r, dropout=p, batch_size=size, **targets)
            for r, p, size, targets in points
        ]
        for again in (False, True)
    ]
    return [found[0], found[1][1:2]]


@pytest.mark.parametrize("cut", [2, pytest.param(4, marks=pytest.mark.slow)], indirect=True)
def test_losses_are_those_of_a_whole_base(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, cut: Cut, tmp_path: Path
) -> None:
    """Of packs with rungs, one after the other; of the base; and of an adapter that is measured alone. At last, in the
    same processes, memory runs out.
    """
    over, ranks = cut
    whole, layers = held(base), sum(x.numel() for x in base.model.layers.parameters())
    assert held(over) == whole - layers + layers // ranks.count
    sides = train_rows, validation_rows
    given: dict[str, Any] = {"at": "last", "rungs": rungs_at(sides, 2, 0.3)}
    for recipes in packs(make_recipe):
        wanted = list(train_pack(base, *sides, recipes, **given))
        found = list(train_pack(over, *sides, recipes, **given, ranks=ranks))
        for number in range(len(recipes)):
            one, other = of(found, number), of(wanted, number)
            assert losses(one) == pytest.approx(losses(other), abs=1e-4)
            assert at_rungs(one) == pytest.approx(at_rungs(other), abs=1e-4)
            assert mean_difference(one[-1], other[-1]) <= 1e-5
        untuned = mean_loss(row_losses(base, validation_rows))
        assert mean_loss(row_losses(over, validation_rows)) == pytest.approx(untuned, abs=1e-5)
    trained = of(found, 0)[-1]
    assert isinstance(trained, Trained)
    save_adapter(tmp_path / "0", trained.weights, trained.config, base.name_or_path)
    with attached(over, tmp_path / "0"), attached(base, tmp_path / "0"):
        measured = mean_loss(row_losses(over, validation_rows))
        assert measured == pytest.approx(mean_loss(row_losses(base, validation_rows)), abs=1e-5)
    assert measured == pytest.approx(trained.loss, abs=1e-4)
    assert_memory_that_runs_out_ends_the_group(cut, sides, make_recipe())


def assert_memory_that_runs_out_ends_the_group(cut: Cut, sides: tuple[list[Row], list[Row]], recipe: Recipe) -> None:
    """The other waits in the middle of its pass: it cannot be told, and the process ends with all that it started."""
    over, ranks = cut
    events = train_pack(over, *sides, [recipe], at="last", ranks=ranks)
    next(events)

    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    over.model.layers[1].register_forward_pre_hook(short)
    words = rf"memory ran out on the first of {ranks.count} devices: lower training\.pass_tok"
    with pytest.raises(RankLost, match=words) as raised:
        list(events)
    assert is_device_lost(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [2, 4], indirect=True)
def test_the_trainer_transformers(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, cut: Cut
) -> None:
    """Losses and weights, with dropout, a last batch of one row, rungs, and gradient checkpointing; before and after it
    a pack. Adapters that need the base's weights, and rows that are computed alone, are refused.
    """
    over, ranks = cut
    sides = train_rows, validation_rows
    given: dict[str, Any] = {"at": "best", "rungs": rungs_at(sides, 2, 0.3)}
    for again in (False, True):
        recipe = make_recipe({"batch_size": 7, "gradient_checkpointing": again, "lr_scheduler": "wsd"}, dropout=0.3)
        wanted = list(trainer.train(base, *sides, recipe, **given))
        found = list(trainer.train(over, *sides, recipe, **given, ranks=ranks))
        assert losses(found) == pytest.approx(losses(wanted), abs=1e-4)
        assert at_rungs(found) == pytest.approx(at_rungs(wanted), abs=1e-4)
        assert mean_difference(found[-1], wanted[-1]) <= 1e-5
        recipes = packs(make_recipe)[0][:1]
        one, other = (list(train_pack(x, *sides, recipes, at="last", ranks=y)) for x, y in ((base, None), cut))
        assert losses(of(one, 0)) == pytest.approx(losses(of(other, 0)), abs=1e-4)
    for start in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        with pytest.raises(InputError, match=r"shard_model: .* the base's weights, and each device has a part of them"):
            list(trainer.train(over, *sides, make_recipe(**start), at="last", ranks=ranks))
    over.config.rope_parameters = {**over.config.rope_parameters, "rope_type": "dynamic"}
    over.config.max_position_embeddings = 30
    with pytest.raises(InputError, match=r"beyond 30 tokens the model's positions are stretched, and a row has"):
        list(trainer.train(over, *sides, make_recipe(), at="last", ranks=ranks))


@pytest.mark.slow
@pytest.mark.parametrize("cut", [2], indirect=True)
def test_another_process_dies(
    train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, cut: Cut
) -> None:
    """In the middle of a training of `transformers`: it is said which and how."""
    over, ranks = cut
    events = trainer.train(over, train_rows, validation_rows, make_recipe({"epochs": 3}), at="last", ranks=ranks)
    for _ in range(4):
        next(events)
    os.kill(ranks.pids[0], signal.SIGKILL)
    with pytest.raises(RankLost, match=r"rank 1 of 2, a process of the trial, was killed by signal 9"):
        list(events)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKABLE)
def test_other_architectures(
    name: str, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Two processes each."""
    make(PACKABLE[name]()).save_pretrained(tmp_path)
    model = ModelConfig(name=str(tmp_path))
    ranks = Ranks(model, "cpu", 1, 2, shared_base=True)
    recipes = [make_recipe({"epochs": 1}, rank=4, dropout=0.1), make_recipe({"epochs": 1}, rank=8)]
    sides = train_rows[:12], validation_rows
    try:
        over = load_model(model, "cpu")
        wanted = list(train_pack(load_model(model, "cpu"), *sides, recipes, at="last"))
        ranks.shard(over)
        found = list(train_pack(over, *sides, recipes, at="last", ranks=ranks))
    finally:
        ranks.close()
    for number in range(2):
        assert losses(of(found, number)) == pytest.approx(losses(of(wanted, number)), abs=1e-4)
