"""Trainer `packed`: several adapters over one base trained at once, each as if it were alone.

What an adapter is trained to does not depend on its pack, but for the rounding of products of other sizes: its rows,
their order, its masks, its steps and its loss follow from its own recipe. With the same members in the same places and
the same threads, losses repeat bitwise. An adapter that has ended or diverged leaves, and its cost leaves with it.
Losses are those of the `transformers` trainer (`trainer.py`): the mean over the label tokens of a step, and over those
of the whole validation set, in the model's own type. Rows are not padded, the head is computed at labels only.

What cannot be packed raises `Unpackable`; then nothing was trained. Not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from meshtune.training import saved_state
from meshtune.training.loss import RowSet
from meshtune.training.pack_member import Member
from meshtune.training.packed_base import PackedBase, packed
from meshtune.training.packed_rows import LOW_MULTIPLE, Portion, gathered, in_portions, lay_out, token_limit
from meshtune.training.recipe import Recipe
from meshtune.training.saves import Saves
from meshtune.training.steps import Checkpoint, Diverged, Step, Suspended, Trained
from meshtune.training.trainer import lora_config
from meshtune.training.unpackable import check_packable
from meshtune.training.validation import CPU_TOKENS, GPU_TOKENS, RowLoss, mean_loss

PackEvent = tuple[int, Step | Trained | Diverged]
Events = Generator[PackEvent, None, None]


@dataclass
class Changes:
    """What a caller wants changed in a pack that runs; looked at after each pass.

    Attributes:
        joining: recipes of adapters that begin now; they are numbered on from those that the pack has had.
        leaving: numbers of adapters that end without a result.
    """

    joining: list[Recipe] = field(default_factory=list)
    leaving: set[int] = field(default_factory=set)


def train(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
) -> Generator[Step | Trained, None, None]:
    """Train one adapter, a pack of one; see `steps.py` for what comes, and `train_pack` for what is raised.

    Raises:
        Diverged: a loss was not finite.
    """
    return _alone(train_pack(base, train_rows, validation_rows, [recipe], at=at, checkpoint=checkpoint))


def train_pack(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipes: Sequence[Recipe],
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    changes: Changes | None = None,
    pass_tokens: int | None = None,
) -> Events:
    """Train adapters over the base together: pairs of an adapter's number and what it says.

    Each says what a trainer of `steps.py` says: steps, then `Trained`; or `Diverged`, given and not raised, so that the
    others go on. One checkpoint holds the whole pack. A pack that goes on from one tells everything once more that was
    told before: each adapter's history, and the ends of those that had ended. There the recipes are all that the pack
    has had, in the order of their numbers; what the checkpoint does not know begins now.

    Args:
        recipes: one an adapter, of one precision. at: the epoch that counts. changes: what may be changed meanwhile.
        pass_tokens: of a pass at most, where memory is short (one adapter's portion may have more); results do not
            depend on it, but for rounding. None: what suits the device.

    Raises:
        InputError: the model lacks a target module.
        Unpackable: the model or a recipe cannot be packed.
        Suspended: the checkpoint asked for it.
    """
    for recipe in recipes:
        lora_config(base, recipe)
    check_packable(base, recipes)
    run = _Run(base, train_rows, validation_rows, at, Changes() if changes is None else changes, pass_tokens)
    return run.events(list(recipes), checkpoint)


def _alone(events: Events) -> Generator[Step | Trained, None, None]:
    with contextlib.closing(events):
        for _, event in events:
            if isinstance(event, Diverged):
                raise event
            yield event


class _Run:
    """One pack while it trains. `members` are those that have not ended, by their numbers."""

    def __init__(
        self,
        base: Any,
        train_rows: RowSet,
        validation_rows: RowSet,
        at: str,
        changes: Changes,
        pass_tokens: int | None,
    ):
        self.base, self.train_rows, self.validation_rows, self.at = base, train_rows, validation_rows, at
        self.changes = changes
        self.limit = token_limit(base.device)  # of a portion, on which masks depend
        self.pass_limit = self.limit if pass_tokens is None else min(pass_tokens, self.limit)
        self.members: dict[int, Member] = {}
        self.states: list[dict[str, Any]] = []  # of all that there were: recipe, and how they ended

    def events(self, recipes: list[Recipe], checkpoint: Checkpoint | None) -> Events:
        first = recipes[0]
        self.pass_limit = min(self.pass_limit, first.pass_tokens or self.pass_limit)
        self.kind = torch.bfloat16 if first.precision == "bfloat16" else self.base.dtype
        made_by = ""
        if checkpoint is not None:
            made_by = saved_state.identity(first, f"packed {self.at}", self.train_rows, self.validation_rows)
        self.saves = Saves(checkpoint, made_by)
        with packed(self.base, self.kind, checkpointing=first.gradient_checkpointing) as pack:
            saved = None if checkpoint is None else _read(checkpoint, made_by, recipes)
            if saved is not None:
                yield from self._restore(saved, recipes)
            for recipe in recipes[len(self.states) :]:
                self._add(recipe)
            yield from self._validate(pack)
            while self.members or self.changes.joining:
                self._change()
                yield from self._pass(pack)
                yield from self._validate(pack)
                if self.members:  # else there is nothing to go on with
                    self._save_where_due()

    def _add(self, recipe: Recipe) -> Member:
        limit = min(self.limit, recipe.pass_tokens or self.limit)
        member = Member(self.base, recipe, self.train_rows, self.at, self.kind, limit)
        self.members[len(self.states)] = member
        self.states.append({"recipe": repr(recipe), "ending": None})
        return member

    def _change(self) -> None:
        for number in self.changes.leaving & self.members.keys():
            self._end(number, {"ending": "left"})
        self.changes.leaving.clear()
        while self.changes.joining:
            recipe = self.changes.joining.pop(0)
            check_packable(self.base, [recipe])
            self._add(recipe)

    def _pass(self, pack: PackedBase) -> Events:
        """A portion of each member, and the optimizer's step where it was the last of its step."""
        portions = {id(portion.adapter): portion for portion in (m.portion() for m in self.members.values())}
        owners = {id(member.adapter): member for member in self.members.values()}
        for together in gathered(list(portions.values()), self.pass_limit):
            batch = lay_out(together, self.base.device, 1 if self.kind == torch.float32 else LOW_MULTIPLE)
            losses, total = pack.losses(batch, train=True)
            total.backward()  # type: ignore[no-untyped-call]
            for portion, own in zip(together, torch.split(losses, list(batch.shared)), strict=True):
                owners[id(portion.adapter)].took(own)
        for number, member in list(self.members.items()):
            try:
                event: Step | Diverged = member.advance()
            except Diverged as error:
                event = error
                self._end(number, {"ending": "diverged", "message": str(error)}, member)
            yield number, event

    def _validate(self, pack: PackedBase) -> Events:
        """All members at an epoch's end, together; those whose last it was end."""
        due = {number: member for number, member in self.members.items() if member.validation_due}
        if not due:
            return
        losses: dict[int, list[RowLoss]] = {number: [] for number in due}
        numbers = {id(member.adapter): number for number, member in due.items()}
        for together in gathered(list(self._portions(due)), _validation_limit(self.base.device)):
            for number in sorted({numbers[id(portion.adapter)] for portion in together}):
                yield number, due[number].told()
            if self.saves.asked:
                self._save()
                raise Suspended
            batch = lay_out(together, self.base.device)
            found = iter(pack.row_losses(batch))
            for portion in together:
                losses[numbers[id(portion.adapter)]] += [next(found) for _ in portion.rows]
        for number, member in due.items():
            try:
                yield number, member.validated(mean_loss(losses[number]))
            except Diverged as error:
                self._end(number, {"ending": "diverged", "message": str(error)}, member)
                yield number, error
                continue
            if member.ended:
                trained = member.trained()
                self._end(number, {"ending": "trained", "loss": trained.loss, "best": member.best}, member)
                yield number, trained

    def _portions(self, members: dict[int, Member]) -> Iterator[Portion]:
        rows = range(len(self.validation_rows))
        lengths = [len(self.validation_rows[row][0]) for row in rows]
        for member in members.values():
            for part in in_portions(rows, lengths, len(rows), _validation_limit(self.base.device)):
                yield Portion(member.adapter, [self.validation_rows[row] for row in part])

    def _end(self, number: int, ending: dict[str, Any], member: Member | None = None) -> None:
        history = [] if member is None else member.snapshot()["history"]
        self.states[number] |= {"history": history, **ending}
        del self.members[number]

    def _save_where_due(self) -> None:
        asked = self.saves.asked
        if asked or self.saves.due:
            self._save()
        if asked:
            raise Suspended

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
                yield number, member.told()
            elif ending == "diverged":
                yield number, Diverged(state["message"])
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


def _validation_limit(device: torch.device) -> int:
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
