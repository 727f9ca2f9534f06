"""Trainer `packed`: several adapters over one base trained at once, each as if it were alone.

What an adapter is trained to does not depend on its pack, but for the rounding of products of other sizes: its rows,
their order, its masks, its steps and its loss follow from its own recipe. With the same members in the same places and
the same threads, losses repeat bitwise. An adapter that has ended, left or diverged takes its cost with it.
Losses are those of the `transformers` trainer (`trainer.py`): the mean over the label tokens of a step, and over those
of the whole validation set, in the model's own type. Rows are not padded, the head is computed at labels only.

What cannot be packed raises `Unpackable`; then nothing was trained. Not run on a GPU yet.

Memory that runs out costs a step: the steps of those in that pass begin anew, in passes of half as many tokens, which
hold from there on. A portion is cut for that at its rows, with the masks that it has as a whole, and the loss of a step
stays the mean over all its labels. An adapter of which a single row does not fit, alone in a pass, ends with `NoRoom`.

Where a trial has several devices, the rows of each pass are shared by their processes (`ranks.py`). This one plans and
decides as it does alone; sums are then rounded in another order.

`TrainingPack` is a pack while it runs: who is in it, its passes, its validations, and its state as a whole. Whoever is
due is validated together. What is said at a rung may make its adapter leave before anything else is computed for it:
once all that stand at one have said so, `Measured` comes, and whoever iterates decides. What has left, or ended, makes
room for the next before the next pass, and so does what joins meanwhile.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, Literal, Unpack

import torch

from meshtune.training import saved_state
from meshtune.training.adapter_config import lora_config
from meshtune.training.loss import RowLoss, RowSet, alike, batch_limit, mean_loss
from meshtune.training.optimizers import is_usual
from meshtune.training.packed.base import PackedBase, packed
from meshtune.training.packed.changes import ALL, Changes, Kept, Measured, PassLimit
from meshtune.training.packed.limits import token_limit
from meshtune.training.packed.member import Member, read
from meshtune.training.packed.mixers import mixers
from meshtune.training.packed.passes import backward, measured, roomy
from meshtune.training.packed.ranks import Ranks
from meshtune.training.packed.rows import Portion, gathered, in_portions, pieces, shares
from meshtune.training.packed.sharded import EMPTY
from meshtune.training.packed.unpackable import check_packable
from meshtune.training.recipe import Recipe
from meshtune.training.saved_state import Saves
from meshtune.training.steps import Checkpoint, Diverged, Given, NoRoom, Rungs, Step, Suspended, Trained


def train(
    base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, **given: Unpack[Given]
) -> Generator[Step | Trained, None, None]:
    """Train one adapter, a pack of one; see `steps.py` for what comes, and `train_pack` for what is raised.

    Raises:
        Diverged: a loss was not finite. NoRoom: a single row does not fit into memory.
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
    limit: PassLimit | None = None,
    ranks: Ranks | None = None,
) -> Events:
    """Train adapters over the base together: pairs of an adapter's number and what it says.

    Each says what a trainer of `steps.py` says: steps, then `Trained`; or `Diverged` or `NoRoom`, given and not raised,
    so that the others go on; or `Kept`, where it was asked to leave so. One checkpoint holds the whole pack. A pack
    that goes on from one tells everything once more that was told before: each adapter's history, and the ends of those
    that had ended, but for those that just left. There the recipes are all that the pack has had, in the order of their
    numbers; what the checkpoint does not know begins as soon as there is room.

    Args:
        recipes: one an adapter, of one precision. at: the epoch that counts. rungs: of all. changes: what may be
            changed meanwhile. width: adapters trained at once; as one ends or leaves, the next begins. None: all.
            Where there is no room for another one, it is as many as there are.
        limit: of a pass. ranks: other processes that share the rows; None: there are none. Results depend on none of
            these three, but for rounding.

    Raises:
        InputError: the model lacks a target module.
        Unpackable: the model or a recipe cannot be packed.
        Suspended: the checkpoint asked for it.
    """
    for recipe in recipes:
        lora_config(base, recipe)
    check_packable(base, recipes)
    own = changes or Changes(), width, limit or PassLimit(), ranks
    pack = TrainingPack(base, train_rows, validation_rows, at, rungs, *own)
    return pack.events(list(recipes), checkpoint)


def _alone(events: Events) -> Generator[Step | Trained, None, None]:
    with contextlib.closing(events):
        for _, event in events:
            match event:
                case Diverged() | NoRoom():
                    raise event
                case Step() | Trained():
                    yield event
                case Kept():  # only with changes
                    return


PackEvent = tuple[int, Step | Trained | Diverged | NoRoom | Kept | Measured]
Events = Generator[PackEvent, None, None]


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
        pass_limit: PassLimit,
        ranks: Ranks | None,
    ):
        self.base, self.train_rows, self.validation_rows, self.at = base, train_rows, validation_rows, at
        self.rungs, self.changes, self.width, self.ranks = rungs, changes, width, ranks
        self.limit = token_limit(base.device)  # of a portion, on which masks depend
        self.pass_limit, self.most = pass_limit, self.limit
        self.measured_limit = batch_limit(base.device)
        self.alike, self.padded = alike(base.config), bool(mixers(base))
        self.members: dict[int, Member] = {}
        self.states: list[dict[str, Any]] = []  # of all that there were: recipe, and how they ended
        self.waiting: list[Recipe] = []

    def events(self, recipes: list[Recipe], checkpoint: Checkpoint | None) -> Events:
        """As `train_pack` says."""
        first = recipes[0]
        self.most = min(self.limit, first.pass_tokens or self.limit)
        self.kind = torch.bfloat16 if first.precision == "bfloat16" else torch.float32
        made_by = "" if checkpoint is None else self._identity(first)
        self.saves = Saves(checkpoint, made_by)
        again = first.gradient_checkpointing
        others = contextlib.nullcontext() if self.ranks is None else self.ranks.packing(self.kind, again)
        lockstep = self.ranks is not None and self.ranks.sharded
        with others, packed(self.base, self.kind, checkpointing=again, lockstep=lockstep) as pack:
            saved = None if checkpoint is None else _read(checkpoint, made_by, recipes, self.base.device)
            if saved is not None:
                yield from self._restore(saved, recipes)
            self.waiting = recipes[len(self.states) :]
            yield from self._validate(pack)
            while self.members or self.waiting or self.changes.joining:
                yield from self._change()
                yield from self._pass(pack)
                yield from self._validate(pack)
                if self.members or self.waiting:  # else there is nothing to go on with
                    self.saves.where_due(self._save)

    @property
    def tokens(self) -> int:
        """Of a pass, at most."""
        return min(self.most, self.pass_limit.tokens or self.most)

    def _identity(self, recipe: Recipe) -> str:
        kind = f"packed {self.at}"
        if self.alike < math.inf:  # where a step is cut otherwise than it once was
            kind += f", alone beyond {self.alike}"
        return saved_state.identity(recipe, kind, self.train_rows, self.validation_rows)

    def _add(self, recipe: Recipe) -> Member:
        rungs = () if self.rungs is None else self.rungs.tokens
        limit = min(self.limit, recipe.pass_tokens or self.limit)
        member = Member(self.base, recipe, self.train_rows, self.at, self.kind, limit, rungs)
        if self.ranks is not None:
            self.ranks.keep(list(self.members))
            self.ranks.hold(len(self.states), member.adapter, recipe)
        self.members[len(self.states)] = member
        self.states.append({"recipe": _known_as(recipe, self.base.device), "ending": None})
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
        self._take_in()
        while self.waiting and (not self.members or self.width is None or len(self.members) < self.width):
            if self.members and len(self.states) in self.changes.held:
                break
            recipe = self.waiting[0]
            if roomy(partial(self._add, recipe), self.base.device) is not None:
                self.waiting.pop(0)
                yield from self._thaw(len(self.states) - 1)
            elif self.members:
                self.width = len(self.members)
                saved_state.say(f"there is no room for another adapter: {self.width} are trained at once")
            else:
                self.waiting.pop(0)
                self.states.append({"recipe": _known_as(recipe, self.base.device), "ending": None})
                yield len(self.states) - 1, self._no_room(len(self.states) - 1, "there is no room for its weights")

    def _thaw(self, number: int) -> Events:
        """Have an adapter that has just begun go on from where it was frozen; tells what had been told."""
        folder, member = self.changes.frozen.pop(number, None), self.members[number]
        if folder is None:
            return
        saved = saved_state.read(folder, self._identity(member.recipe))
        if saved is None or [state["recipe"] for state in saved["members"]] != [repr(member.recipe)]:
            saved_state.say(f"there is no state in {folder} to go on from: it is trained from the beginning")
            return
        (state,) = saved["members"]
        member.restore(state, saved["seconds"])
        for values in state["history"]:
            yield number, replace(Step(*values), earlier=saved["seconds"])
        yield number, member.progress()
        self._save()  # what it is stopped with again takes the place of what it came with

    def _take_in(self) -> None:
        """What joins waits behind the others."""
        while self.changes.joining:
            recipe, tokens = self.changes.joining.popleft()
            self.waiting.append(recipe)
            if self.rungs is not None:
                self.rungs = replace(self.rungs, tokens=tuple(sorted({*self.rungs.tokens, *tokens})))

    def _pass(self, pack: PackedBase) -> Events:
        """A portion of each member, and the optimizer's step where it was the last of its step."""
        due, before = list(self.members), self.pass_limit.tokens
        while due:
            tight = self._computed(pack, due)
            if not tight:
                continue
            if len(tight) > 1 or len(tight[0].rows) > 1:
                self.pass_limit.tokens = _half(tight, "training")
                continue
            self.pass_limit.tokens = before  # it was not the size of the passes
            number = self._number(tight[0])
            due.remove(number)
            yield number, self._no_room(number, f"a row of {tight[0].tokens} tokens has no room, alone in a pass")
        if self.ranks is not None:
            self.ranks.sum_gradients(list(self.members))
        for member in self.members.values():
            member.update()
        read(self.members.values())
        for number, member in list(self.members.items()):
            try:
                event: Step | Diverged = member.advance()
            except Diverged as error:
                event = self._diverged(number, member, error)
            yield number, event

    def _computed(self, pack: PackedBase, due: list[int]) -> list[Portion]:
        """Losses and gradients of a portion of each that is due, which then is not any more.

        Gives the pass that had no room, if there was one; the steps of those in it begin anew.
        """
        parts = [
            [piece for portion in share for piece in pieces(portion, self.tokens, self.alike, self.padded)]
            for share in shares([self.members[number].portion() for number in due], self.count)
        ]
        left = Counter(self._number(part) for share in parts for part in share)
        found: dict[int, list[torch.Tensor]] = {number: [] for number in due}
        for passes in zip_longest(*(gathered(x, self.tokens, self.alike, self.padded) for x in parts), fillvalue=()):
            tight = []
            for together, losses in zip(passes, self._each(pack, passes, train=True), strict=True):
                if losses is None:
                    tight.append(list(together))
                    continue
                for part, own in zip(together, losses, strict=True):
                    found[self._number(part)].append(own)
            if tight:
                half_done = {number for number in due if 0 < len(found[number]) < left[number]}
                self._restart({self._number(part) for together in tight for part in together} | half_done)
            for number in [number for number in due if len(found[number]) == left[number]]:
                self.members[number].took(torch.cat(found[number]))
                due.remove(number)
            if tight:
                return tight[0]
        return []

    @property
    def count(self) -> int:
        """Processes that share the rows."""
        return 1 if self.ranks is None else self.ranks.count

    def _each(self, pack: PackedBase, passes: Sequence[Sequence[Portion]], *, train: bool) -> list[Any]:
        """What passes give, one a process: the losses of each portion's labels, or of each row; None: it has no room.

        The other processes tell the sum of a portion's losses, which is all that is wanted.
        """
        if self.ranks is not None:
            others = [[(self._number(part), part) for part in together] for together in passes[1:]]
            self.ranks.begin(others, train=train)
        empty = not passes[0]
        work = partial(backward if train else measured, pack, [EMPTY] if empty else passes[0])
        lockstep = self.ranks is not None and self.ranks.sharded
        own: Any = roomy(work, self.base.device, pack) if lockstep or not empty else ()
        if self.ranks is None:
            return [own]
        if own is None:
            self.ranks.no_room()
        own = () if empty else own
        given: list[Any] = self.ranks.results()[: len(passes) - 1]
        if train:
            given = [x if x is None else torch.tensor(x, device=self.base.device).unbind() for x in given]
            given = [x if x is None else [loss[None] for loss in x] for x in given]
        return [own, *given]

    def _restart(self, numbers: set[int]) -> None:
        for number in numbers:
            self.members[number].restart()
        if self.ranks is not None:
            self.ranks.restart(sorted(numbers))

    def _number(self, portion: Portion) -> int:
        return next(number for number, member in self.members.items() if member.adapter is portion.adapter)

    def _validate(self, pack: PackedBase) -> Events:
        """Those that reached a rung, then those at an epoch's end, together; those whose last it was end."""
        at_rung = {number: member for number, member in self._staying() if member.rungs_due}
        if self.rungs is not None and at_rung:
            with self._saving():
                losses = yield from self._losses(pack, at_rung, self.rungs.rows)
            for number, loss in losses.items():
                member = at_rung[number]
                try:
                    steps = member.measured(loss)
                except Diverged as error:
                    yield number, self._diverged(number, member, error)
                    continue
                for step in steps:
                    yield number, step
            yield ALL, Measured()
        due = {number: member for number, member in self._staying() if member.validation_due}
        if not due:
            return
        with self._saving():
            losses = yield from self._losses(pack, due, self.validation_rows)
        for number, loss in losses.items():
            member = due[number]
            try:
                yield number, member.validated(loss)
            except Diverged as error:
                yield number, self._diverged(number, member, error)
                continue
            if member.ended:
                trained = member.trained()
                self._end(number, {"ending": "trained", "loss": trained.loss, "best": member.best}, member)
                yield number, trained

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """What is asked to stop meanwhile saves the state from before."""
        try:
            yield
        except Suspended:
            self._save()
            raise

    def _staying(self) -> list[tuple[int, Member]]:
        leaving = self.changes.leaving | self.changes.keeping
        return [(number, member) for number, member in self.members.items() if number not in leaving]

    def _losses(
        self, pack: PackedBase, members: dict[int, Member], rows: RowSet
    ) -> Generator[PackEvent, None, dict[int, float]]:
        """The mean loss of each over some rows, but of those that end. Raises Suspended."""
        losses: dict[int, list[RowLoss]] = {number: [] for number in members}
        wanted = list(_portions(members, rows, self.measured_limit, self.alike, self.padded))
        passes = deque(gathered(wanted, self.measured_limit, self.alike, self.padded))
        while passes:
            now = [passes.popleft() for _ in range(min(len(passes), self.count))]
            for number in sorted({self._number(portion) for together in now for portion in together}):
                yield number, members[number].progress()
            if self.saves.stopping:
                raise Suspended
            tight = []
            for together, found in zip(now, self._each(pack, now, train=False), strict=True):
                if found is None:
                    tight.append(together)
                    continue
                each = iter(found)
                for portion in together:
                    losses[self._number(portion)] += [next(each) for _ in portion.rows]
            if not tight:
                continue
            rest = [portion for those in (*tight, *passes) for portion in those]
            together = tight[0]
            if len(together) > 1 or len(together[0].rows) > 1:
                self.measured_limit = _half(together, "measuring")
                rest = [
                    part for portion in rest for part in pieces(portion, self.measured_limit, self.alike, self.padded)
                ]
            else:
                number, adapter = self._number(together[0]), together[0].adapter
                del losses[number]
                rest = [portion for portion in rest if portion.adapter is not adapter]
                yield number, self._no_room(number, f"a row of {together[0].tokens} tokens has no room to be measured")
            passes = deque(gathered(rest, self.measured_limit, self.alike, self.padded))
        return {number: mean_loss(found) for number, found in losses.items()}

    def _no_room(self, number: int, message: str) -> NoRoom:
        self._end(number, {"ending": "no_room", "message": message}, self.members.get(number))
        return NoRoom(message)

    def _diverged(self, number: int, member: Member, error: Diverged) -> Diverged:
        self._end(number, {"ending": "diverged", "message": str(error)}, member)
        return error

    def _end(self, number: int, ending: dict[str, Any], member: Member | None = None) -> None:
        history = [] if member is None else member.snapshot()["history"]
        self.states[number] |= {"history": history, **ending}
        self.members.pop(number, None)

    def _save(self) -> None:
        running = {number: member.snapshot() for number, member in self.members.items()}
        states = [state | running.get(number, {}) for number, state in enumerate(self.states)]
        self.saves.save({"members": states, "seconds": self.saves.seconds, "pass_tokens": self.pass_limit.tokens})

    def _restore(self, saved: dict[str, Any], recipes: list[Recipe]) -> Events:
        """Every adapter as it was saved; tells what had been told."""
        self.saves.earlier = earlier = saved["seconds"]
        if (tokens := saved.get("pass_tokens")) is not None:
            self.pass_limit.tokens = min(tokens, self.tokens)
        for number, state in enumerate(saved["members"]):
            ending = state["ending"]
            member = None
            if ending not in ("diverged", "no_room", "left"):
                member = self._add(recipes[number])
            if ending is None and member is not None:
                member.restore(state, earlier)
            else:
                self.members.pop(number, None)
                self.states[number:] = [state]
            if ending != "left":
                for values in state["history"]:
                    yield number, replace(Step(*values), earlier=earlier)
            if ending is None and member is not None:
                yield number, member.progress()
            elif ending == "diverged":
                yield number, Diverged(state["message"])
            elif ending == "no_room":
                yield number, NoRoom(state["message"])
            elif ending == "kept":
                yield number, Kept(self._identity(recipes[number]), None)
            elif ending == "trained" and member is not None:
                member.loss, member.best = state["loss"], state["best"]
                yield number, member.trained()
        if self.rungs is not None:
            yield ALL, Measured()  # what had been told at rungs may have had no answer


def _read(checkpoint: Checkpoint, made_by: str, recipes: list[Recipe], device: torch.device) -> dict[str, Any] | None:
    """The state of a pack whose recipes were the first of these, or None."""
    saved = saved_state.read(checkpoint.folder, made_by)
    if saved is None:
        return None
    known = [state["recipe"] for state in saved["members"]]
    if known == [_known_as(recipe, device) for recipe in recipes[: len(known)]]:
        return saved
    saved_state.say(f"the checkpoint in {checkpoint.folder} is of another pack: the training starts over")
    return None


def _known_as(recipe: Recipe, device: torch.device) -> str:
    """What a member's state must be of. Moments of single matrices lie on a GPU otherwise, and are not turned back."""
    return repr(recipe) if is_usual(recipe) or device.type == "cpu" else f"{recipe!r} on a GPU"


def _portions(members: dict[int, Member], rows: RowSet, limit: int, alike: float, padded: bool) -> Iterator[Portion]:
    lengths = [len(rows[row][0]) for row in range(len(rows))]
    for member in members.values():
        for part in in_portions(range(len(rows)), lengths, len(rows), limit, alike, padded):
            yield Portion(member.adapter, [rows[row] for row in part])


def _half(together: Sequence[Portion], doing: str) -> int:
    """Of a pass's tokens; says so."""
    tokens = sum(portion.tokens for portion in together)
    saved_state.say(f"memory ran out {doing} {tokens} tokens in a pass: from here on it is {tokens // 2} at most")
    return tokens // 2
