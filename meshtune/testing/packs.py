"""The contract of trainers of packs: subclass `PackContract`, in a test module, and bring a model and a few rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshtune.config.sections import TrainingConfig
from meshtune.testing.trainers import OnTinyModel, rungs_at
from meshtune.training.packed.changes import Changes, Kept, Measured
from meshtune.training.packed.trainer import PackEvent
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.saved_state import write
from meshtune.training.steps import Checkpoint, Diverged, NoRoom, Step, Trained

TrainPack = Callable[..., Iterator[PackEvent]]
# Of rank, alpha, dropout and rate as far apart as a search proposes them.
POINTS: Sequence[Mapping[str, Any]] = (
    {"rank": 4, "alpha": 4.0, "dropout": 0.0, "learning_rate": 1e-3},
    {"rank": 8, "alpha": 32.0, "dropout": 0.1, "learning_rate": 3e-3},
    {"rank": 16, "alpha": 16.0, "dropout": 0.05, "learning_rate": 1e-3, "use_rslora": True},
    {"rank": 32, "alpha": 64.0, "dropout": 0.0, "learning_rate": 5e-4, "target_modules": "q_proj,down_proj"},
)


class PackContract(OnTinyModel):
    """Subclass it and name the trainer, the folder of a Llama-like model, and rows; see `packed_trainer.train_pack`."""

    epochs: ClassVar[int] = 2
    weight_difference: ClassVar[float] = 1e-5  # mean, between an adapter in a pack and alone, in float32
    loss_difference: ClassVar[float] = 1e-4

    @abstractmethod
    def trainer(self) -> TrainPack:
        """The function, with the arguments of `train_pack`."""

    def recipe(self, point: Mapping[str, Any], **changed: Any) -> Recipe:
        """The recipe of a point."""
        training = TrainingConfig(batch_size=4, epochs=self.epochs, precision="float32")
        return recipe(training, {**point, **changed}, 0)

    def run(self, base: Any, recipes: Sequence[Recipe], **given: Any) -> list[PackEvent]:
        """Everything that one pack says."""
        return list(self.trainer()(base, *self.rows(), recipes, at="last", **given))

    def test_an_adapter_in_a_pack_is_the_one_that_is_trained_alone(self, base: Any) -> None:
        """In its losses, and in its weights."""
        recipes = [self.recipe(point) for point in POINTS]
        together = self.run(base, recipes)
        for number, recipe_ in enumerate(recipes):
            packed, alone = of(together, number), of(self.run(base, [recipe_]), 0)
            assert losses(packed) == pytest.approx(losses(alone), abs=self.loss_difference)
            assert mean_difference(packed[-1], alone[-1]) <= self.weight_difference

    def test_the_same_pack_repeats_bitwise(self, base: Any) -> None:
        """The same members in the same places."""
        recipes = [self.recipe(point) for point in POINTS[:2]]
        one, other = (self.run(base, recipes) for _ in range(2))
        assert [(number, losses([event])) for number, event in one] == [(n, losses([event])) for n, event in other]
        assert mean_difference(of(one, 1)[-1], of(other, 1)[-1]) == 0

    def test_each_ends_by_itself(self, base: Any) -> None:
        """One that diverges and one with fewer epochs leave, and the third is what it is alone."""
        recipes = [
            self.recipe(POINTS[0], learning_rate=1e30, epochs=20),
            self.recipe(POINTS[1], epochs=1),
            self.recipe(POINTS[2], epochs=3),
        ]
        events = self.run(base, recipes)
        ends = [(number, type(event)) for number, event in events if not isinstance(event, Step)]
        assert sorted(ends) == [(0, Diverged), (1, Trained), (2, Trained)]
        assert ends[-1][0] == 2
        for number, end in ends:
            assert of(events, number)[-1].__class__ is end  # it says nothing after its end
        alone = of(self.run(base, recipes[2:]), 0)
        assert mean_difference(of(events, 2)[-1], alone[-1]) <= self.weight_difference

    def test_as_many_at_once_as_its_width(self, base: Any) -> None:
        """In their order, the next as one ends; each as it is alone, and its rungs too."""
        rungs = rungs_at(self.rows(), self.epochs, 0.3)
        recipes = [self.recipe(point) for point in POINTS]
        events = self.run(base, recipes, width=2, rungs=rungs)
        begun, ended = set[int](), set[int]()
        for number, event in events:
            if isinstance(event, Measured):
                continue
            assert number in begun or number == len(begun)
            begun.add(number)
            assert len(begun - ended) <= 2
            if isinstance(event, Trained):
                ended.add(number)
        for number, recipe_ in enumerate(recipes):
            packed, alone = of(events, number), of(self.run(base, [recipe_], rungs=rungs), 0)
            assert losses(packed) == pytest.approx(losses(alone), abs=self.loss_difference)
            assert at_rungs(packed) == pytest.approx(at_rungs(alone), abs=self.loss_difference)
            assert mean_difference(packed[-1], alone[-1]) <= self.weight_difference

    def test_one_that_leaves_goes_on_alone(self, base: Any, tmp_path: Path) -> None:
        """From a rung, with the state that it left with: to what it would have become; the others stay as they are."""
        rungs = rungs_at(self.rows(), self.epochs, 0.3, 0.7)
        recipes = [self.recipe(point) for point in POINTS[:3]]
        changes, events = Changes(), list[PackEvent]()
        for number, event in self.trainer()(base, *self.rows(), recipes, at="last", rungs=rungs, changes=changes):
            events.append((number, event))
            if number == 1 and isinstance(event, Step) and event.rung is not None:
                changes.keeping.add(1)
            if isinstance(event, Kept):
                assert event.state is not None
                write(tmp_path, event.made_by, event.state)
        assert isinstance(of(events, 1)[-1], Kept)
        assert len(at_rungs(of(events, 1))) == 1
        checkpoint = Checkpoint(tmp_path, None, lambda: False)
        after = of(self.run(base, [recipes[1]], rungs=rungs, checkpoint=checkpoint), 0)
        assert isinstance(after[0], Step)
        assert after[0].earlier > 0
        never = self.run(base, recipes, rungs=rungs)
        assert at_rungs(after) == pytest.approx(at_rungs(of(never, 1)), abs=self.loss_difference)
        assert losses(after)[-3:] == pytest.approx(losses(of(never, 1))[-3:], abs=self.loss_difference)
        assert mean_difference(after[-1], of(never, 1)[-1]) <= self.weight_difference
        for number in (0, 2):
            assert mean_difference(of(events, number)[-1], of(never, number)[-1]) <= self.weight_difference

    def test_the_base_is_left_as_it_was(self, base: Any) -> None:
        """Bitwise, with its own modules and settings, after a whole pack and after one that was closed."""
        before = {name: weight.clone() for name, weight in base.state_dict().items()}
        modules = [(name, type(part), "forward" in vars(part)) for name, part in base.named_modules()]
        attention = base.config._attn_implementation
        recipes = [self.recipe(point) for point in POINTS[:2]]
        self.run(base, recipes)
        events = self.trainer()(base, *self.rows(), recipes, at="last")
        next(events)
        events.close()  # type: ignore[attr-defined]
        after = base.state_dict()
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before)
        assert [(name, type(part), "forward" in vars(part)) for name, part in base.named_modules()] == modules
        assert base.config._attn_implementation == attention
        assert not base.training


def of(events: Sequence[PackEvent], number: int) -> list[Step | Trained | Diverged | NoRoom | Kept]:
    """What one adapter of a pack says."""
    return [event for owner, event in events if owner == number and not isinstance(event, Measured)]


def losses(events: Sequence[object]) -> list[float]:
    """All losses, in their order, but for those at rungs."""
    found: list[float] = []
    for event in events:
        if isinstance(event, Step):
            found += [loss for loss in (event.training_loss, event.validation_loss) if loss is not None]
        elif isinstance(event, Trained):
            found.append(event.loss)
    return found


def at_rungs(events: Sequence[Step | Trained | Diverged | NoRoom | Kept]) -> list[float]:
    """All losses at rungs, in their order."""
    return [event.rung_loss for event in events if isinstance(event, Step) and event.rung_loss is not None]


def mean_difference(one: object, other: object) -> float:
    """Of all weights of two `Trained`."""
    assert isinstance(one, Trained)
    assert isinstance(other, Trained)
    assert one.weights.keys() == other.weights.keys()
    total = sum(float((one.weights[name] - other.weights[name]).abs().sum()) for name in one.weights)
    return total / sum(weight.numel() for weight in one.weights.values())
