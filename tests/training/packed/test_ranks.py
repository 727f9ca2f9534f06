"""A pack whose rows are shared by processes, or a training of the trainer `transformers`, against the same in one."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig
from meshtune.data.build import prepare
from meshtune.data.store import Rows
from meshtune.testing.packs import at_rungs, losses, mean_difference, of
from meshtune.testing.trainers import rungs_at
from meshtune.training import trainer
from meshtune.training.loss import Row
from meshtune.training.machine import RankLost, is_device_lost, is_out_of_memory
from meshtune.training.models import load_model
from meshtune.training.packed.changes import Changes, PassLimit
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.rank import Rank
from meshtune.training.packed.ranks import DONE, NO_ROOM, Ranks, sent
from meshtune.training.packed.rows import Portion, pieces, shares
from meshtune.training.packed.trainer import PackEvent, train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, Step, Suspended, Trained
from tests.training.conftest import make_rows

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def ranks_of(tiny_model_folder: Path) -> Iterator[Callable[[int], Ranks]]:
    """Processes that hold the tiny model, by their number in all; each number is started once."""
    made: dict[int, Ranks] = {}

    def get(count: int) -> Ranks:
        if count not in made:
            made[count] = Ranks(ModelConfig(name=str(tiny_model_folder)), "cpu", 1, count)
        return made[count]

    yield get
    for ranks in made.values():
        ranks.close()


def pack(make_recipe: MakeRecipe, **changed: Any) -> list[Recipe]:
    """Three of different ranks and batches, with dropout and accumulation."""
    points = [(4, 0.1, 1e-2, 4), (8, 0.3, 2e-3, 3), (16, 0.0, 1e-3, 1)]
    return [
        make_recipe({"epochs": 2, "weight_decay": 0.1, **changed}, rank=r, dropout=p, learning_rate=x, batch_size=size)
        for r, p, x, size in points
    ]


def assert_same(found: list[PackEvent], wanted: list[PackEvent], numbers: Any = range(3)) -> None:
    """Losses to 1e-4, those at rungs too, and weights."""
    for number in numbers:
        one, other = of(found, number), of(wanted, number)
        assert losses(one) == pytest.approx(losses(other), abs=1e-4)
        assert at_rungs(one) == pytest.approx(at_rungs(other), abs=1e-4)
        assert mean_difference(one[-1], other[-1]) <= 1e-5


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_are_those_of_one_process(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, ranks_of: Any, count: int
) -> None:
    """With rungs, a plateau, and one that waits for a place. Masks are the same, or losses would differ.

    One pack after the other in the same processes.
    """
    sides = train_rows, validation_rows
    rungs = rungs_at(sides, 2, 0.3)
    for recipes in (pack(make_recipe), pack(make_recipe, gradient_checkpointing=True, lr_scheduler="wsd")[:2]):
        given: dict[str, Any] = {"at": "last", "rungs": rungs, "width": 2}
        wanted = list(train_pack(base, *sides, recipes, **given))
        found = list(train_pack(base, *sides, recipes, **given, ranks=ranks_of(count)))
        assert_same(found, wanted, range(len(recipes)))
        assert [type(event) for _, event in found] == [type(event) for _, event in wanted]


@pytest.mark.slow
def test_losses_of_the_embedded_model(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """All 30 layers, in two processes: three adapters, ten steps of two rows, and the shortest rows to validate."""
    sources = tuple(SourceConfig(embedded=name) for name in ("python-stdlib-describe", "python-stdlib-signature"))
    model = ModelConfig(name="embedded")
    data = prepare(DataConfig(sources=sources, validation=20, test=0), model, 0, tmp_path).ref
    train, validation = (sorted(Rows.open(data, side), key=lambda row: len(row[0])) for side in ("train", "validation"))
    recipes = pack(make_recipe, epochs=1, gradient_accumulation=1)
    recipes = [replace(one, batch_size=2) for one in recipes]
    sides = train[:20], validation[:5]
    base = load_model(model, "cpu")
    wanted = list(train_pack(base, *sides, recipes, at="last"))
    ranks = Ranks(model, "cpu", 1, 2)
    try:
        found = list(train_pack(base, *sides, recipes, at="last", ranks=ranks))
    finally:
        ranks.close()
    assert_same(found, wanted)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "given",
    [
        {"dropout": 0.3, "use_dora": True, "lr_scheduler": "wsd"},
        pytest.param({"init_lora_weights": "pissa", "batch_size": 3}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True, "dropout": 0.1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_trainer_transformers(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    ranks_of: Any,
    count: int,
    given: dict[str, Any],
) -> None:
    """Losses, those at rungs too, and weights; rows that cannot be divided, and a last batch of fewer than there are
    processes. Masks are the same, or losses would differ.
    """
    point = {name: value for name, value in given.items() if name in ("dropout", "use_dora", "init_lora_weights")}
    training = {name: value for name, value in given.items() if name not in point}
    recipe = make_recipe({"batch_size": 7, "weight_decay": 0.1, **training}, **point)
    sides = train_rows, validation_rows
    said: dict[str, Any] = {"at": "best", "rungs": rungs_at(sides, 2, 0.3)}
    wanted = list(trainer.train(base, *sides, recipe, **said))
    found = list(trainer.train(base, *sides, recipe, **said, ranks=ranks_of(count)))
    assert len(found) == len(wanted)
    assert [step.tokens for step in found if isinstance(step, Step)] == [
        step.tokens for step in wanted if isinstance(step, Step)
    ]
    assert losses(found) == pytest.approx(losses(wanted), abs=1e-4)
    assert at_rungs(found) == pytest.approx(at_rungs(wanted), abs=1e-4)
    assert mean_difference(found[-1], wanted[-1]) <= 1e-5


def test_the_trainer_transformers_goes_on_with_another_number_of_devices(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, ranks_of: Any, tmp_path: Path
) -> None:
    """Suspended by two in the middle of an epoch, finished by one."""
    recipe, sides, looks = make_recipe(dropout=0.2), (train_rows, validation_rows), 0
    wanted = list(trainer.train(base, *sides, recipe, at="last"))

    def asked() -> bool:
        nonlocal looks
        looks += 1
        return looks >= 2

    with pytest.raises(Suspended):
        list(
            trainer.train(
                base, *sides, recipe, at="last", checkpoint=Checkpoint(tmp_path, None, asked), ranks=ranks_of(2)
            )
        )
    found = list(trainer.train(base, *sides, recipe, at="last", checkpoint=Checkpoint(tmp_path, None, lambda: False)))
    assert len(found) < len(wanted)
    ends = found[-1], wanted[-1]
    assert isinstance(ends[0], Trained)
    assert isinstance(ends[1], Trained)
    assert ends[0].loss == pytest.approx(ends[1].loss, abs=1e-4)
    assert mean_difference(*ends) <= 1e-5


def test_in_bfloat16(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, ranks_of: Any
) -> None:
    """Products are rounded; so are rows filled up in pieces, and their masks are drawn so."""
    recipes = pack(make_recipe, precision="bfloat16")
    sides = train_rows, validation_rows
    wanted = list(train_pack(base, *sides, recipes, at="last"))
    found = list(train_pack(base, *sides, recipes, at="last", ranks=ranks_of(2)))
    for number in range(3):
        assert losses(of(found, number)) == pytest.approx(losses(of(wanted, number)), abs=0.02)


def test_one_diverges_and_one_leaves(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, ranks_of: Any
) -> None:
    """The others do not feel it."""
    recipes = pack(make_recipe)
    recipes[1] = make_recipe({"epochs": 2}, rank=8, learning_rate=1e30)
    sides = train_rows, validation_rows
    changes = Changes()
    found = list[PackEvent]()
    for number, event in train_pack(base, *sides, recipes, at="last", ranks=ranks_of(2), changes=changes):
        found.append((number, event))
        if number == 2 and isinstance(event, Step) and event.step == 3:
            changes.leaving.add(2)
    assert isinstance(of(found, 1)[-1], Diverged)
    assert not isinstance(of(found, 2)[-1], Trained)
    assert_same(found, list(train_pack(base, *sides, recipes[:1], at="last")), [0])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_goes_on_from_a_checkpoint_with_another_number_of_devices(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    ranks_of: Any,
    tmp_path: Path,
    before: int,
    after: int,
) -> None:
    """Suspended by some in the middle of a step, finished by fewer or by more."""
    recipes = pack(make_recipe, gradient_accumulation=3)
    sides, looks = (train_rows, validation_rows), 0
    one, other = ({"ranks": None if count == 1 else ranks_of(count), "at": "last"} for count in (before, after))
    wanted = list(train_pack(base, *sides, recipes, at="last"))

    def asked() -> bool:
        nonlocal looks
        looks += 1
        return looks >= 8

    with pytest.raises(Suspended):
        list(train_pack(base, *sides, recipes, checkpoint=Checkpoint(tmp_path, None, asked), **one))
    rest = Checkpoint(tmp_path, None, lambda: False)
    found = list(train_pack(base, *sides, recipes, checkpoint=rest, **other))
    assert len(found) < len(wanted)
    for number in range(3):
        ends = of(found, number)[-1], of(wanted, number)[-1]
        assert isinstance(ends[0], Trained)
        assert isinstance(ends[1], Trained)
        assert ends[0].loss == pytest.approx(ends[1].loss, abs=1e-4)
        assert mean_difference(*ends) <= 1e-5


def test_a_pass_without_room_is_halved_for_all(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, ranks_of: Any
) -> None:
    """Where memory runs out in this process, whatever the others had computed of that step."""
    recipes, sides, limit = pack(make_recipe), (train_rows, validation_rows), PassLimit()
    wanted = list(train_pack(base, *sides, recipes, at="last"))
    calls = 0

    def short(module: Any, given: Any, kept: dict[str, Any]) -> None:
        nonlocal calls
        if kept["input_ids"].numel() > 100:
            calls += 1
            raise MemoryError("out of memory")

    hook = base.model.register_forward_pre_hook(short, with_kwargs=True)
    try:
        found = list(train_pack(base, *sides, recipes, at="last", ranks=ranks_of(2), limit=limit))
    finally:
        hook.remove()
    assert calls > 1
    assert limit.tokens is not None
    assert limit.tokens <= 100
    assert_same(found, wanted)


def test_another_process_says_that_it_has_no_room(base: Any, make_recipe: MakeRecipe) -> None:
    """Of a pass, there or back, and of an adapter; then it goes on."""
    rank = Rank(base, None)
    assert rank.follow({"do": "open", "kind": "float32", "checkpointing": False}) == {"kind": DONE}
    adapter = FlatAdapter(base, make_recipe(), torch.float32)
    hold = {"do": "hold", "number": 0, "recipe": asdict(make_recipe(target_modules="q_proj,v_proj"))}
    assert rank.follow(json.loads(json.dumps(hold))) == {"kind": DONE}
    portions = [sent(0, Portion(adapter, make_rows(3, 1), 0.1, 0))]
    for train in (True, False):
        asked = json.loads(json.dumps({"do": "pass", "train": train, "weights": [], "portions": portions}))
        before = rank.follow(asked)

        def short(*_: Any) -> None:
            raise MemoryError

        hook = base.model.layers[1].register_forward_pre_hook(short)
        assert rank.follow(asked) == {"kind": NO_ROOM}
        assert rank.follow({"do": "restart", "numbers": [0]}) == {"kind": DONE}
        hook.remove()
        assert rank.follow(asked) == before
    assert len(before["found"]) == 3
    assert rank.follow({"do": "close"}) == {"kind": DONE}


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False])
def test_a_process_that_dies_ends_the_group(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tiny_model_folder: Path,
    packed: bool,
) -> None:
    """With words; the process that holds it ends too, and its worker makes another attempt."""
    ranks = Ranks(ModelConfig(name=str(tiny_model_folder)), "cpu", 1, 3)
    given: dict[str, Any] = {"at": "last", "ranks": ranks}
    try:
        sides = train_rows, validation_rows
        one = trainer.train(base, *sides, make_recipe({"epochs": 3}), **given)
        events: Iterator[Any] = train_pack(base, *sides, pack(make_recipe), **given) if packed else one
        for _ in range(5):
            next(events)
        os.kill(ranks.pids[1], signal.SIGKILL)
        with pytest.raises(RankLost, match=r"rank 2 of 3, a process of the trial, was killed by signal 9") as raised:
            list(events)
    finally:
        ranks.close()
    assert is_device_lost(raised.value)
    assert not is_out_of_memory(RankLost("rank 1 of 2 failed: CUDA out of memory"))


def test_a_base_that_another_process_cannot_load(base: Any, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    """It says why."""
    ranks = Ranks(ModelConfig(name=str(tmp_path)), "cpu", 1, 2)
    try:
        with pytest.raises(RankLost, match="rank 1 of 2 failed: InputError"):
            list(train_pack(base, make_rows(4, 1), make_rows(2, 2), [make_recipe()], at="last", ranks=ranks))
    finally:
        ranks.close()


def test_rows_are_shared_evenly_and_in_order(base: Any, make_recipe: MakeRecipe) -> None:
    """Each row once; a piece of a piece knows its place in the whole portion."""
    adapters = [FlatAdapter(base, make_recipe(seed=seed), torch.float32) for seed in range(3)]
    portions = [Portion(adapter, make_rows(5, n), draw=n) for n, adapter in enumerate(adapters)]
    for count in (1, 2, 3, 4, 40):
        found = shares(portions, count)
        assert len(found) == count
        cut = [piece for share in found for part in share for piece in pieces(part, 50)]
        rows = [id(row[0]) for piece in cut for row in piece.rows]
        assert rows == [id(row[0]) for portion in portions for row in portion.rows]
        for portion in portions:
            before = 0
            for piece in (piece for piece in cut if piece.adapter is portion.adapter):
                assert piece.before == before
                assert piece.whole in (None, portion.tokens)
                before += piece.tokens
            assert before == portion.tokens
        if count <= 4:
            sizes = [sum(part.tokens for part in share) for share in found]
            assert max(sizes) - min(sizes) <= 80
