"""A trial over several devices: other processes of this machine that hold the base too, and share rows.

The process that a study's worker started is rank 0, and does all that it does on one device: it plans passes, steps
optimizers, measures, saves and decides. The others, `rank.py`, are programs that follow it: they hold copies of the
adapters' weights, compute what it hands them, and know nothing of trials. These are passes of a pack, or parts of
a micro-batch of the trainer `transformers` (`../shared.py`), which has one adapter, number 0. So ranks cannot disagree.
What it asks for and what they answer are JSON lines on their pipes; weights go to them, and gradients come back summed,
by torch.distributed: NCCL between GPUs, gloo over this machine's loopback otherwise. Before a gradient is summed all
have answered, so that none waits for one that has no room, or is gone.

A rank that dies, or gives no sign of life for minutes, raises `RankLost`: the whole group ends with this process, and
what it trained is another attempt's affair. Ranks end when their pipe ends. They are all on one machine. With NCCL not
run yet.

Where the base's layers are cut over them (`sharded.py`), they compute in lockstep: a pass each in every round, empty
where there are no rows, and one token where rank 0 measures alone.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist

from meshtune.system import child_start
from meshtune.system.child_start import BEAT
from meshtune.system.children import Child
from meshtune.training.loss import Row
from meshtune.training.machine import RankLost, is_group_lost
from meshtune.training.packed import sharded
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.rows import Portion
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe
from meshtune.training.shared import Part
from meshtune.training.steps import Suspended

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig  # a pack of one device needs none of config

SILENCE_SECONDS = 300.0  # without a sign of life, as a worker's process has
LONGEST = datetime.timedelta(minutes=30)  # that a collective may take
LESS = "lower training.pass_tokens, training.batch_size or data.max_length"
READY, DONE, NO_ROOM, FAILED = "Ready", "Done", "NoRoom", "Failed"  # kinds of answers


class Held(Protocol):
    """An adapter of which they have a copy: `changes` is how often its weights were changed."""

    changes: int

    @property
    def weights(self) -> torch.Tensor:
        """All of them, flat."""

    @property
    def gradient(self) -> torch.Tensor:
        """Of the weights, flat; what is written into it is the gradient."""


class Ranks:
    """The other processes of a trial, which rank 0 holds; they load the base while it does so itself.

    Args:
        model: the base, as all load it. device: of rank 0, as torch names it. threads: of each. count: of all ranks.
        shared_base: whether its layers are cut over all of them; then call `shard` before all else.
    """

    def __init__(self, model: ModelConfig, device: str, threads: int | None, count: int, *, shared_base: bool = False):
        self.count, self.sharded = count, shared_base
        self._busy = self._measuring = False
        self._device = device
        self._folder = Path(tempfile.mkdtemp(prefix="meshtune-ranks-"))
        self._group: Any = None
        self._held: dict[int, Held] = {}
        self._sent: dict[int, int] = {}  # the state of the weights that they have
        self._awaited: list[Child] = []
        command = child_start.command("meshtune.training.packed.rank")
        self._children = [Child(command) for _ in range(1, count)]
        fixed = {"model": model.model_dump(mode="json"), "threads": threads, "count": count, "sharded": shared_base}
        for rank, child in enumerate(self._children, start=1):
            of_rank = device if torch.device(device).type == "cpu" else f"{torch.device(device).type}:{rank}"
            self._send(child, {**fixed, "device": of_rank, "rank": rank, "store": str(self._folder / "store")})

    @property
    def pids(self) -> list[int]:
        """The others' process numbers."""
        return [child.pid for child in self._children]

    def shard(self, base: Any) -> None:
        """Cut rank 0's base, which is on the CPU, as they cut theirs. Raises InputError, RankLost."""
        self.answers()  # they have loaded it
        self._group = sharded.join(self._device, 0, self.count, self._folder / "store", LONGEST)
        sharded.shard(base, self._device, self.count)
        base.base_model.register_forward_pre_hook(lambda *_: self._mirror(True))
        base.base_model.register_forward_hook(lambda *_: self._mirror(False))

    @contextlib.contextmanager
    def packing(self, kind: torch.dtype, checkpointing: bool) -> Iterator[None]:
        """While a pack runs: they pack their bases meanwhile."""
        message = {"do": "open", "kind": str(kind).removeprefix("torch."), "checkpointing": checkpointing}
        with self._open(message), self._in_step():
            yield

    @contextlib.contextmanager
    def adapting(self, recipe: Recipe) -> Iterator[None]:
        """While the trainer `transformers` runs: they put that adapter on their bases too. Then call `adapted`."""
        with self._open({"do": "adapt", "recipe": asdict(recipe)}):
            yield

    def adapted(self, adapter: Held) -> None:
        """It is on this base too. Raises MemoryError where one of them has no room for it."""
        self._held = {0: adapter}
        if any(answer["kind"] == NO_ROOM for answer in self.answers()):
            raise MemoryError("a device of the trial has no room for the adapter")

    @contextlib.contextmanager
    def computing(self, parts: Sequence[Part], labels: int, scale: float, random: torch.Tensor) -> Iterator[None]:
        """While rank 0 computes its part of a micro-batch: they compute theirs. `results` brings the losses.

        Args:
            labels: of the step. scale: of the gradient. random: the state that masks are drawn from.
        """
        given = {"do": "part", "labels": labels, "scale": scale, "random": _text(random.numpy())}
        self._ask([{**given, **sent_part(part)} for part in parts], {0})
        with self._in_step():
            yield

    def hold(self, number: int, adapter: FlatAdapter, recipe: Recipe) -> None:
        """Have them make an adapter. Raises MemoryError where one of them has no room for it."""
        self._tell({"do": "hold", "number": number, "recipe": asdict(recipe)})
        self._held[number] = adapter
        if any(answer["kind"] == NO_ROOM for answer in self.answers()):
            del self._held[number]
            self._tell({"do": "drop", "numbers": [number]})
            raise MemoryError("a device of the trial has no room for the adapter")

    def keep(self, numbers: Sequence[int]) -> None:
        """Have them forget all other adapters."""
        if gone := [number for number in self._held if number not in numbers]:
            self._tell({"do": "drop", "numbers": gone})
            for number in gone:
                self._held.pop(number)
                self._sent.pop(number, None)

    def begin(self, passes: Sequence[Sequence[tuple[int, Portion]]], *, train: bool) -> None:
        """Hand each of the others its pass, portions with their adapters' numbers; `results` brings what it gave."""
        used = {number for together in passes for number, _ in together}
        idle: list[Sequence[tuple[int, Portion]]] = [()] * (self.count - 1 - len(passes))
        given = [[sent(number, portion) for number, portion in together] for together in (*passes, *idle)]
        self._ask([{"do": "pass", "train": train, "portions": portions} for portions in given], used)

    def results(self) -> list[Any]:
        """What each gave: the sum of each portion's losses, or of each row its loss; None: it had no room."""
        return [None if answer["kind"] == NO_ROOM else answer["found"] for answer in self.answers()]

    def no_room(self) -> None:
        """Memory ran out in a pass here. Raises RankLost where the others are in the middle of theirs."""
        if self.sharded:
            raise RankLost(f"memory ran out on the first of {self.count} devices: {LESS}")

    def restart(self, numbers: Sequence[int]) -> None:
        """Have them forget the gradients of these adapters."""
        self._tell({"do": "restart", "numbers": list(numbers)})

    def sum_gradients(self, numbers: Sequence[int]) -> None:
        """Bring what they have of these adapters' gradients here, and add it to what is here."""
        if not numbers:
            return
        self._tell({"do": "sum", "numbers": list(numbers)})
        for number in numbers:
            self._collective("reduce", self._held[number].gradient)

    def answers(self) -> list[dict[str, Any]]:
        """What they answer to what they were told last; nothing where they have answered. Raises RankLost."""
        waiting, self._awaited = self._awaited, []
        found = [self._answer(child) for child in waiting]
        for rank, answer in enumerate(found, start=1):
            if answer["kind"] == FAILED:
                raise RankLost(f"rank {rank} of {self.count} failed: {answer['message']}")
        return found

    def close(self) -> None:
        """End them."""
        for child in self._children:
            child.close()
        if self.sharded and self._group is not None:
            dist.destroy_process_group()
        self._group = None
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- inside

    @contextlib.contextmanager
    def _open(self, message: Mapping[str, Any]) -> Iterator[None]:
        """From a message that begins a training until they have closed it."""
        if self._group is None:
            self.answers()  # they have loaded the base
            self._group = group_of(self._device, 0, self.count, self._folder / "store")
        self._tell(message)
        try:
            yield
        finally:
            self._held, self._sent = {}, {}
            if not isinstance(sys.exc_info()[1], RankLost):
                self._tell({"do": "close"})

    @contextlib.contextmanager
    def _in_step(self) -> Iterator[None]:
        """While they compute with this process, and not as its mirror."""
        self._busy = True
        try:
            yield
        except (RankLost, Unpackable, Suspended):
            raise
        except Exception as error:
            if is_group_lost(error) and (gone := self._gone()) is not None:
                self._lose(gone)
            if self.sharded:  # the others wait in the middle of a pass
                raise RankLost(f"rank 0 of {self.count} failed: {type(error).__name__}: {error}") from None
            raise
        finally:
            self._busy = False

    def _ask(self, messages: Sequence[Mapping[str, Any]], used: set[int]) -> None:
        """A message to each, and what has changed of the adapters that it is about."""
        stale = [number for number in sorted(used) if self._sent.get(number) != self._held[number].changes]
        self._tell(*({**message, "weights": stale} for message in messages))
        for number in stale:
            adapter = self._held[number]
            self._collective("broadcast", adapter.weights.detach())
            self._sent[number] = adapter.changes

    def _mirror(self, begins: bool) -> None:
        """Where it runs here alone: have them run the model meanwhile."""
        if self._busy:
            return
        if begins and self._measuring:  # the last time it did not come to its end, and they are still in it
            raise RankLost(f"memory ran out on the first of {self.count} devices while it measured: {LESS}")
        self._measuring = begins
        if begins:
            self._tell({"do": "forward"})

    def _tell(self, *messages: Mapping[str, Any]) -> None:
        """A message to each, or one to all, once they have answered the one before."""
        self.answers()
        each = messages if len(messages) > 1 else messages * len(self._children)
        for child, message in zip(self._children, each, strict=True):
            self._send(child, message)

    def _send(self, child: Child, message: Mapping[str, Any]) -> None:
        try:
            child.send(message)
        except OSError:
            self._lose(child)
        self._awaited.append(child)

    def _answer(self, child: Child) -> dict[str, Any]:
        while (line := child.receive(SILENCE_SECONDS)).endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            if answer["kind"] != BEAT:
                return answer
        self._lose(child)

    def _collective(self, name: str, tensor: torch.Tensor) -> None:
        try:
            collective(self._group, name, tensor)
        except RuntimeError as error:
            if (gone := self._gone()) is None:
                raise RankLost(f"the {self.count} processes of the trial lost touch: {error}") from error
            self._lose(gone)

    def _gone(self) -> Child | None:
        """A process that has ended, rather one that was killed than one that ended for want of that; waits for it."""
        for _ in range(100):  # the end of a connection may be seen before the end of its process
            if ended := [child for child in self._children if child.ended]:
                return min(ended, key=lambda child: child.wait() >= 0)
            time.sleep(0.1)
        return None

    def _lose(self, child: Child) -> NoReturn:
        code, words = child.kill(), child.words()[-3:]
        rank = self._children.index(child) + 1
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if child.hung:
            how = f"gave no sign of life for {SILENCE_SECONDS:g} s"
        said = f"; its last words: {' | '.join(words)}" if words else ""
        raise RankLost(f"rank {rank} of {self.count}, a process of the trial, {how}{said}")


def group_of(device: str, rank: int, count: int, store: Path) -> Any:
    """The group of all ranks, which waits for all of them. It is not torch's default one, which others look for."""
    group: Any = dist
    shared = group.FileStore(str(store), count)
    if torch.device(device).type == "cuda":
        return group.ProcessGroupNCCL(shared, rank, count, LONGEST)
    gloo = group.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]  # nobody else reaches it
    options._timeout = LONGEST
    return gloo(shared, rank, count, options)


def collective(group: Any, name: str, tensor: torch.Tensor) -> None:
    """`broadcast` from rank 0, or `reduce` to it. Raises RuntimeError where another rank is gone."""
    if name == "broadcast":
        group.broadcast([tensor], dist.BroadcastOptions()).wait()
    else:
        group.reduce([tensor], dist.ReduceOptions()).wait()


def sent(number: int, portion: Portion) -> dict[str, Any]:
    """A portion of an adapter of that number as it crosses; `portion_from` reads it."""
    rows = [[_text(tokens.astype(np.int32)), _text(trained.astype(np.bool_))] for tokens, trained in portion.rows]
    fields = {"share": portion.share, "draw": portion.draw, "before": portion.before, "whole": portion.whole}
    return {"number": number, "rows": rows, **fields}


def portion_from(fields: Mapping[str, Any], adapter: FlatAdapter) -> Portion:
    """A portion that was sent."""
    rows: list[Row] = [(_array(tokens, np.int32), _array(trained, np.bool_)) for tokens, trained in fields["rows"]]
    return Portion(adapter, rows, fields["share"], fields["draw"], fields["before"], fields["whole"])


def sent_part(part: Part) -> dict[str, Any]:
    """A part of a micro-batch as it crosses; `part_from` reads it."""
    inputs = {name: _text(x.cpu().numpy()) for name, x in part.inputs.items()}
    shape = list(part.inputs["input_ids"].shape)
    return {"inputs": inputs, "shape": shape, "first": part.first, "rows": part.rows}


def part_from(fields: Mapping[str, Any]) -> Part:
    """A part that was sent."""
    arrays = {name: _array(text, np.int64).reshape(fields["shape"]) for name, text in fields["inputs"].items()}
    return Part({name: torch.from_numpy(x) for name, x in arrays.items()}, fields["first"], fields["rows"])


def random_from(fields: Mapping[str, Any]) -> torch.Tensor:
    """The random state that was sent."""
    return torch.from_numpy(_array(fields["random"], np.uint8))


def _text(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, kind: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).copy()
