"""Trainer `packed`: several adapters over one base trained at once, each as if it were alone.

What an adapter is trained to does not depend on its pack, but for the rounding of products of other sizes: its rows,
their order, its masks, its steps and its loss follow from its own recipe. With the same members in the same places and
the same threads, losses repeat bitwise. An adapter that has ended, left or diverged takes its cost with it.
Losses are those of the `transformers` trainer (`trainer.py`): the mean over the label tokens of a step, and over those
of the whole validation set, in the model's own type. Rows are not padded, the head is computed at labels only.

What cannot be packed raises `Unpackable`; then nothing was trained. Not run on a GPU yet.

`TrainingPack` is a pack while it runs: who is in it, its passes, its validations, and its state as a whole. Whoever is
due is validated together. What is said at a rung may make its adapter leave before anything else is computed for it;
what has left, or ended, makes room for the next before the next pass.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import torch

from meshtune.training import saved_state
from meshtune.training.loss import RowLoss, RowSet, alike, batch_limit, mean_loss
from meshtune.training.packed.base import PackedBase, packed
from meshtune.training.packed.member import Member
from meshtune.training.packed.mixers import mixers
from meshtune.training.packed.rows import LOW_MULTIPLE, Portion, gathered, in_portions, lay_out, token_limit
from meshtune.training.packed.unpackable import check_packable
from meshtune.training.recipe import Recipe
from meshtune.training.saved_state import Saves
from meshtune.training.steps import Checkpoint, Diverged, Given, Rungs, Step, Suspended, Trained
from meshtune.training.trainer import lora_config


def train(
    base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, **given: Unpack[Given]
) -> Generator[Step | Trained, None, None]:
    """Train one adapter, a pack of one; see `steps.py` for what comes, and `train_pack` for what is raised.

    Raises:
        Diverged: a loss was not finite.
    """
    return _alone(train_pack(base, train_rows, validation_rows, [recipe], **given))


def train_pack(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipes: Sequence[Recipe],
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
    changes: Changes | None = None,
    width: int | None = None,
    pass_tokens: int | None = None,
) -> Events:
    """Train adapters over the base together: pairs of an adapter's number and what it says.

    Each says what a trainer of `steps.py` says: steps, then `Trained`; or `Diverged`, given and not raised, so that the
    others go on; or `Kept`, where it was asked to leave so. One checkpoint holds the whole pack. A pack that goes on
    from one tells everything once more that was told before: each adapter's history, and the ends of those that had
    ended, but for those that just left. There the recipes are all that the pack has had, in the order of their
    numbers; what the checkpoint does not know begins as soon as there is room.

    Args:
        recipes: one an adapter, of one precision. at: the epoch that counts. rungs: of all. changes: what may be
            changed meanwhile. width: adapters trained at once; as one ends or leaves, the next begins. None: all.
        pass_tokens: of a pass at most, where memory is short (one adapter's portion may have more). Results depend on
            neither of these two, but for rounding. None: what suits the device.

    Raises:
        InputError: the model lacks a target module.
        Unpackable: the model or a recipe cannot be packed.
        Suspended: the checkpoint asked for it.
    """
    for recipe in recipes:
        lora_config(base, recipe)
    check_packable(base, recipes)
    pack = TrainingPack(base, train_rows, validation_rows, at, rungs, changes or Changes(), width, pass_tokens)
    return pack.events(list(recipes), checkpoint)


def _alone(events: Events) -> Generator[Step | Trained, None, None]:
    with contextlib.closing(events):
        for _, event in events:
            match event:
                case Diverged():
                    raise event
                case Step() | Trained():
                    yield event
                case Kept():  # only with changes
                    return


@dataclass(frozen=True)
class Kept:
    """The end of an adapter that left with its state, and that state as one of a pack of this adapter alone.

    Attributes:
        made_by, state: for `saved_state.write`; the tensors are the training's own. A pack that had gone on from a
            checkpoint in which the adapter had left tells it again without a state: None.
    """

    made_by: str
    state: dict[str, Any] | None


PackEvent = tuple[int, Step | Trained | Diverged | Kept]
Events = Generator[PackEvent, None, None]


@dataclass
class Changes:
    """What a caller wants changed in a pack that runs; looked at before each pass, and before an epoch is validated.

    Attributes:
        leaving: numbers of adapters that end without a result, and without another word.
        keeping: numbers of adapters that end with `Kept`.
    """

    leaving: set[int] = field(default_factory=set)
    keeping: set[int] = field(default_factory=set)


class TrainingPack:
    """One pack while it trains. `members` are those that have not ended, by their numbers."""

    def __init__(
        self,
        base: Any,
        train_rows: RowSet,
        validation_rows: RowSet,
        at: str,
        rungs: Rungs | None,
        changes: Changes,
        width: int | None,
        pass_tokens: int | None,
    ):
        self.base, self.train_rows, self.validation_rows, self.at = base, train_rows, validation_rows, at
        self.rungs, self.changes, self.width = rungs, changes, width
        self.limit = token_limit(base.device)  # of a portion, on which masks depend
        self.pass_limit = self.limit if pass_tokens is None else min(pass_tokens, self.limit)
        self.alike, self.padded = alike(base.config), bool(mixers(base))
        self.members: dict[int, Member] = {}
        self.states: list[dict[str, Any]] = []  # of all that there were: recipe, and how they ended
        self.waiting: list[Recipe] = []

    def events(self, recipes: list[Recipe], checkpoint: Checkpoint | None) -> Events:
        """As `train_pack` says."""
        first = recipes[0]
        self.pass_limit = min(self.pass_limit, first.pass_tokens or self.pass_limit)
        self.kind = torch.bfloat16 if first.precision == "bfloat16" else self.base.dtype
        made_by = "" if checkpoint is None else self._identity(first)
        self.saves = Saves(checkpoint, made_by)
        with packed(self.base, self.kind, checkpointing=first.gradient_checkpointing) as pack:
            saved = None if checkpoint is None else _read(checkpoint, made_by, recipes)
            if saved is not None:
                yield from self._restore(saved, recipes)
            self.waiting = recipes[len(self.states) :]
            yield from self._validate(pack)
            while self.members or self.waiting:
                yield from self._change()
                yield from self._pass(pack)
                yield from self._validate(pack)
                if self.members or self.waiting:  # else there is nothing to go on with
                    self.saves.where_due(self._save)

    def _identity(self, recipe: Recipe) -> str:
        kind = f"packed {self.at}"
        if self.alike < math.inf:  # where a step is cut otherwise than it once was
            kind += f", alone beyond {self.alike}"
        return saved_state.identity(recipe, kind, self.train_rows, self.validation_rows)

    def _add(self, recipe: Recipe) -> Member:
        rungs = () if self.rungs is None else self.rungs.tokens
        limit = min(self.limit, recipe.pass_tokens or self.limit)
        member = Member(self.base, recipe, self.train_rows, self.at, self.kind, limit, rungs)
        self.members[len(self.states)] = member
        self.states.append({"recipe": repr(recipe), "ending": None})
        return member

    def _change(self) -> Events:
        """Those that leave make room, and the next begin."""
        for number in sorted(self.changes.keeping & self.members.keys()):
            member = self.members[number]
            state = self.states[number] | member.snapshot()
            self._end(number, {"ending": "kept"}, member)
            yield number, Kept(self._identity(member.recipe), {"members": [state], "seconds": self.saves.seconds})
        for number in self.changes.leaving & self.members.keys():
            self._end(number, {"ending": "left"})
        while self.waiting and (not self.members or self.width is None or len(self.members) < self.width):
            self._add(self.waiting.pop(0))

    def _pass(self, pack: PackedBase) -> Events:
        """A portion of each member, and the optimizer's step where it was the last of its step."""
        portions = {id(portion.adapter): portion for portion in (m.portion() for m in self.members.values())}
        owners = {id(member.adapter): member for member in self.members.values()}
        for together in gathered(list(portions.values()), self.pass_limit, self.alike, self.padded):
            batch = lay_out(together, self.base.device, 1 if self.kind == torch.float32 else LOW_MULTIPLE)
            losses, total = pack.losses(batch, train=True)
            total.backward()  # type: ignore[no-untyped-call]
            for portion, own in zip(together, torch.split(losses, list(batch.shared)), strict=True):
                owners[id(portion.adapter)].took(own)
        for number, member in list(self.members.items()):
            try:
                event: Step | Diverged = member.advance()
            except Diverged as error:
                event = self._diverged(number, member, error)
            yield number, event

    def _validate(self, pack: PackedBase) -> Events:
        """Those that reached a rung, then those at an epoch's end, together; those whose last it was end."""
        at_rung = {number: member for number, member in self._staying() if member.rungs_due}
        if self.rungs is not None and at_rung:
            losses = yield from self._losses(pack, at_rung, self.rungs.rows)
            for number, member in at_rung.items():
                try:
                    steps = member.measured(losses[number])
                except Diverged as error:
                    yield number, self._diverged(number, member, error)
                    continue
                for step in steps:
                    yield number, step
        due = {number: member for number, member in self._staying() if member.validation_due}
        if not due:
            return
        losses = yield from self._losses(pack, due, self.validation_rows)
        for number, member in due.items():
            try:
                yield number, member.validated(losses[number])
            except Diverged as error:
                yield number, self._diverged(number, member, error)
                continue
            if member.ended:
                trained = member.trained()
                self._end(number, {"ending": "trained", "loss": trained.loss, "best": member.best}, member)
                yield number, trained

    def _staying(self) -> list[tuple[int, Member]]:
        leaving = self.changes.leaving | self.changes.keeping
        return [(number, member) for number, member in self.members.items() if number not in leaving]

    def _losses(
        self, pack: PackedBase, members: dict[int, Member], rows: RowSet
    ) -> Generator[PackEvent, None, dict[int, float]]:
        """The mean loss of each over some rows. Raises Suspended, with the state saved as it is."""
        losses: dict[int, list[RowLoss]] = {number: [] for number in members}
        numbers = {id(member.adapter): number for number, member in members.items()}
        limit = batch_limit(self.base.device)
        portions = list(_portions(members, rows, limit, self.alike, self.padded))
        for together in gathered(portions, limit, self.alike, self.padded):
            for number in sorted({numbers[id(portion.adapter)] for portion in together}):
                yield number, members[number].progress()
            if self.saves.stopping:
                self._save()
                raise Suspended
            batch = lay_out(together, self.base.device)
            found = iter(pack.row_losses(batch))
            for portion in together:
                losses[numbers[id(portion.adapter)]] += [next(found) for _ in portion.rows]
        return {number: mean_loss(found) for number, found in losses.items()}

    def _diverged(self, number: int, member: Member, error: Diverged) -> Diverged:
        self._end(number, {"ending": "diverged", "message": str(error)}, member)
        return error

    def _end(self, number: int, ending: dict[str, Any], member: Member | None = None) -> None:
        history = [] if member is None else member.snapshot()["history"]
        self.states[number] |= {"history": history, **ending}
        del self.members[number]

    def _save(self) -> None:
        running = {number: member.snapshot() for number, member in self.members.items()}
        states = [state | running.get(number, {}) for number, state in enumerate(self.states)]
        self.saves.save({"members": states, "seconds": self.saves.seconds})

    def _restore(self, saved: dict[str, Any], recipes: list[Recipe]) -> Events:
        """Every adapter as it was saved; tells what had been told."""
        self.saves.earlier = earlier = saved["seconds"]
        for number, state in enumerate(saved["members"]):
            member = self._add(recipes[number])
            ending = state["ending"]
            if ending is None:
                member.restore(state, earlier)
            else:
                del self.members[number]
                self.states[number] = state
            if ending != "left":
                for values in state["history"]:
                    yield number, replace(Step(*values), earlier=earlier)
            if ending is None:
                yield number, member.progress()
            elif ending == "diverged":
                yield number, Diverged(state["message"])
            elif ending == "kept":
                yield number, Kept(self._identity(member.recipe), None)
            elif ending == "trained":
                member.loss, member.best = state["loss"], state["best"]
                yield number, member.trained()


def _read(checkpoint: Checkpoint, made_by: str, recipes: list[Recipe]) -> dict[str, Any] | None:
    """The state of a pack whose recipes were the first of these, or None."""
    saved = saved_state.read(checkpoint.folder, made_by)
    if saved is None or [x["recipe"] for x in saved["members"]] == [repr(x) for x in recipes[: len(saved["members"])]]:
        return saved
    saved_state.say(f"the checkpoint in {checkpoint.folder} is of another pack: the training starts over")
    return None


def _portions(members: dict[int, Member], rows: RowSet, limit: int, alike: float, padded: bool) -> Iterator[Portion]:
    lengths = [len(rows[row][0]) for row in range(len(rows))]
    for member in members.values():
        for part in in_portions(range(len(rows)), lengths, len(rows), limit, alike, padded):
            yield Portion(member.adapter, [rows[row] for row in part])
