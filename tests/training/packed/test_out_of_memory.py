"""Memory that runs out costs a step, and not a pack: torch's error in an operation of the base, at sizes of choice."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.testing.packs import losses, mean_difference, of
from meshtune.training.loss import Row
from meshtune.training.packed.changes import PassLimit
from meshtune.training.packed.trainer import PackEvent, train, train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, NoRoom, Step, Suspended, Trained

MakeRecipe = Callable[..., Recipe]
Sides = tuple[list[Row], list[Row]]
# What is computed (the way there, the way back, or a measurement), its number, and its tokens: is there no room?
Short = Callable[[str, int, int], bool]


class Memory:
    """Tokens of the passes over the base, and of those that had no room. The first that trains is the check at load."""

    def __init__(self, short: Short):
        self.short, self.trained, self.measured, self.failed = short, list[int](), list[int](), list[int]()

    def enter(self, module: Any, given: tuple[torch.Tensor, ...], kept: dict[str, Any]) -> None:
        """Before the body."""
        tokens = kept["input_ids"].numel()
        there = torch.is_grad_enabled()
        passes = self.trained if there else self.measured
        passes.append(tokens)
        self._check("there" if there else "measuring", len(passes), tokens)

    def leave(self, module: Any, given: Any, kept: Any, output: Any) -> None:
        """After half of the body: when its gradient comes, the layers behind it have given theirs."""
        hidden = output
        if hidden.requires_grad:
            number, tokens = len(self.trained), hidden.shape[1]
            hidden.register_hook(lambda _: self._check("back", number, tokens))

    def _check(self, what: str, number: int, tokens: int) -> None:
        if self.short(what, number, tokens):
            self.failed.append(tokens)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextlib.contextmanager
def memory(base: Any, short: Short) -> Iterator[Memory]:
    """From here on, as little memory as `short` says; the checks of a pack at load have enough."""
    counted = Memory(short)
    middle = base.model.layers[len(base.model.layers) // 2]
    hooks = [
        base.model.register_forward_pre_hook(counted.enter, with_kwargs=True),
        middle.register_forward_hook(counted.leave, with_kwargs=True),
    ]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def pack(make_recipe: MakeRecipe, **changed: Any) -> list[Recipe]:
    """Three, with dropout."""
    usual = {"gradient_accumulation": 1, "epochs": 2, **changed}
    points = [(4, 0.1, 1e-2), (8, 0.3, 2e-3), (16, 0.0, 1e-3)]
    return [make_recipe(usual, rank=r, alpha=2 * r, dropout=p, learning_rate=x) for r, p, x in points]


def run(base: Any, sides: Sides, recipes: list[Recipe], **given: Any) -> list[PackEvent]:
    return list(train_pack(base, *sides, recipes, at="last", **given))


def ends(events: list[PackEvent]) -> dict[int, type]:
    """How each ended."""
    return {number: type(event) for number, event in events if not isinstance(event, Step)}


def assert_same(found: list[PackEvent], wanted: list[PackEvent], number: int) -> None:
    """The losses of an adapter, to 1e-5, and its weights."""
    assert losses(of(found, number)) == pytest.approx(losses(of(wanted, number)), abs=1e-5)
    assert mean_difference(of(found, number)[-1], of(wanted, number)[-1]) <= 1e-5


@pytest.mark.parametrize(("way", "accumulation"), [("there", 1), ("back", 1), ("back", 2)])
def test_it_costs_that_step_alone(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    way: str,
    accumulation: int,
) -> None:
    """In the seventh step, on its way there or back; or in the second portion of a step, the first being done."""
    sides = train_rows, validation_rows
    recipes = pack(make_recipe, gradient_accumulation=accumulation)
    with memory(base, lambda *_: False) as undisturbed:
        wanted = run(base, sides, recipes)
    at = 8 if accumulation == 1 else 9  # the first pass is the check at load
    large = undisturbed.trained[at - 1]
    limit = PassLimit()
    with memory(base, lambda what, number, _: (what, number) == (way, at)) as short:
        found = run(base, sides, recipes, limit=limit)
    assert short.failed == [large]
    assert limit.tokens == large // 2
    for number in range(3):
        assert_same(found, wanted, number)
    # What was lost is the pass that failed, and with accumulation the portion before it; all others came once.
    assert undisturbed.trained[: at - 1] == short.trained[: at - 1]
    again = sum(short.trained) - sum(undisturbed.trained)
    before = undisturbed.trained[at - 2] if accumulation == 2 else 0
    assert again == large + before
    assert max(short.trained[at:]) <= max(limit.tokens, max(len(tokens) for tokens, _ in train_rows))


def test_pieces_of_one_adapters_rows(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """One adapter, whose rows do not fit together: its masks, its losses and the moments of its optimizer are as if
    nothing had been."""
    recipe = make_recipe({"epochs": 2}, dropout=0.2, weight_decay=0.1)
    sides = train_rows, validation_rows
    wanted = [(0, event) for event in train(base, *sides, recipe, at="last")]
    with memory(base, lambda what, _, tokens: what != "measuring" and tokens > 45) as short:
        found = [(0, event) for event in train(base, *sides, recipe, at="last")]
    assert len(short.failed) == 1
    assert_same(found, wanted, 0)
    steps = Counter(event.step for _, event in found if isinstance(event, Step) and event.rung is None)
    assert set(steps) == {event.step for _, event in wanted if isinstance(event, Step)}


def test_of_a_base_in_bfloat16(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Portions there are filled up to eights, and so are their pieces."""
    recipes = pack(make_recipe, precision="bfloat16")
    wanted = run(base, (train_rows, validation_rows), recipes)
    with memory(base, lambda what, _, tokens: what != "measuring" and tokens > 60) as short:
        found = run(base, (train_rows, validation_rows), recipes)
    assert short.failed
    for number in range(3):
        assert losses(of(found, number)) == pytest.approx(losses(of(wanted, number)), abs=3e-3)


def test_one_that_never_fits_ends_alone(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Not even a row of the second has room on the way back; the others are what they are, and passes are again as
    large as they were."""
    sides = train_rows, validation_rows
    recipes = [replace(recipe, alpha=3.0 * recipe.rank) for recipe in pack(make_recipe)]
    recipes[1] = replace(recipes[1], alpha=2.0 * recipes[1].rank)
    wanted = run(base, sides, recipes)
    limit = PassLimit()

    def short(*_: Any) -> None:
        now = base.model.layers[0].mlp.down_proj.forward.func.__self__.now
        if any(span.adapter is not None and span.adapter.scale == 2.0 for span in now.spans):
            raise torch.OutOfMemoryError("CUDA out of memory")

    def watch(module: Any, given: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(short)

    with base.model.layers[0].register_forward_hook(watch):
        found = run(base, sides, recipes, limit=limit)
        with pytest.raises(NoRoom, match="alone in a pass"):
            list(train(base, *sides, recipes[1], at="last"))
    assert ends(found) == {0: Trained, 1: NoRoom, 2: Trained}
    assert limit.tokens is None
    for number in (0, 2):
        assert_same(found, wanted, number)


def test_while_it_measures(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """A validation goes on in smaller passes; what was measured is not measured anew."""
    sides, recipes = (train_rows, validation_rows), pack(make_recipe, epochs=1)
    with memory(base, lambda *_: False) as undisturbed:
        wanted = run(base, sides, recipes)
    most = max(undisturbed.measured)

    with memory(base, lambda what, _, tokens: what == "measuring" and tokens > most // 2) as tight:
        found = run(base, sides, recipes)
    assert len(tight.failed) == 1
    assert sum(tight.measured) - sum(undisturbed.measured) == tight.failed[0]
    for number in range(3):
        assert_same(found, wanted, number)


def test_a_row_that_cannot_be_measured_ends_its_adapter(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Each of the pack, at the end of its epoch."""
    recipes = pack(make_recipe, epochs=1)
    long = max(len(tokens) for tokens, _ in validation_rows)
    with memory(base, lambda what, _, tokens: what == "measuring" and tokens >= long):
        found = run(base, (train_rows, validation_rows), recipes)
    assert ends(found) == dict.fromkeys(range(3), NoRoom)


def test_a_pack_goes_on_with_the_smaller_passes(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """From its checkpoint; and tells again who had no room."""
    sides, recipes = (train_rows, validation_rows), pack(make_recipe)
    wanted = run(base, sides, recipes)
    stop = False
    checkpoint = Checkpoint(tmp_path, None, lambda: stop)
    with (
        memory(base, lambda what, _, tokens: what != "measuring" and tokens > 100) as short,
        contextlib.suppress(Suspended),
    ):
        for _, event in train_pack(base, *sides, recipes, at="last", checkpoint=checkpoint):
            stop = isinstance(event, Step) and event.step == 3
    assert stop
    assert short.failed
    limit = PassLimit()
    with memory(base, lambda what, _, tokens: what != "measuring" and tokens > 100) as again:
        found = run(base, sides, recipes, limit=limit, checkpoint=Checkpoint(tmp_path, None, lambda: False))
    assert not again.failed
    assert limit.tokens is not None
    assert limit.tokens <= 100
    for number in range(3):
        assert losses(of(found, number))[-1] == pytest.approx(losses(of(wanted, number))[-1], abs=1e-5)


def test_other_errors_are_not_tried_again(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Also not in a step that is redone: the device may be lost."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered")

    def short(what: str, number: int, tokens: int) -> bool:
        if number > 6 and short_before:
            raise error
        if (what, number) == ("back", 6):
            short_before.append(number)
        return (what, number) == ("back", 6)

    short_before: list[int] = []
    with memory(base, short), pytest.raises(RuntimeError) as raised:
        run(base, (train_rows, validation_rows), pack(make_recipe))
    assert raised.value is error


def test_a_diverging_one_does_so_in_pieces_too(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    recipes = pack(make_recipe)
    recipes[0] = replace(recipes[0], learning_rate=1e30)
    with memory(base, lambda what, _, tokens: what != "measuring" and tokens > 60):
        found = run(base, (train_rows, validation_rows), recipes)
    assert ends(found) == {0: Diverged, 1: Trained, 2: Trained}
