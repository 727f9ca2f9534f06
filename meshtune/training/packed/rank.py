"""The program that computes a share of a trial's rows: `meshtune.training.packed.rank`. See `ranks.py`.

Standard input brings JSON lines, each of which is answered by one on what was standard output: how it went, and what it
gave. It ends at once when its input ends, so it never outlives rank 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from meshtune.config.sections import ModelConfig
from meshtune.system.child_start import begin
from meshtune.training import machine, shared
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter
from meshtune.training.models import load_model
from meshtune.training.packed import sharded
from meshtune.training.packed.base import PackedBase, packed
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.passes import backward, measured, roomy
from meshtune.training.packed.ranks import (
    DONE,
    FAILED,
    LESS,
    LONGEST,
    NO_ROOM,
    READY,
    collective,
    group_of,
    part_from,
    portion_from,
    random_from,
)
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe
from meshtune.training.shared import SharedAdapter


class Rank:
    """A process that follows rank 0: the base, and the adapters that are trained, by their numbers.

    `lockstep`: whether the base's layers are cut over all processes. `precision`: of the trainer `transformers`.
    """

    def __init__(self, base: Any, group: Any, lockstep: bool = False):
        self.base, self.group, self.lockstep = base, group, lockstep
        self.adapters: dict[int, FlatAdapter | SharedAdapter] = {}
        self.pack: PackedBase | None = None
        self.precision = "float32"
        self._undo = contextlib.ExitStack()

    def follow(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message says; the answer."""
        match message["do"]:
            case "open":
                kind, again = getattr(torch, message["kind"]), message["checkpointing"]
                self._undo = contextlib.ExitStack()
                with contextlib.suppress(Unpackable):  # which rank 0 finds too, and says
                    made = packed(self.base, kind, checkpointing=again, lockstep=self.lockstep)
                    self.pack = self._undo.enter_context(made)
            case "adapt":
                self._undo = contextlib.ExitStack()
                if roomy(partial(self._adapt, message), self.base.device) is None:
                    return {"kind": NO_ROOM}
            case "forward":
                sharded.step(self.base)
            case "close":
                self.adapters, self.pack = {}, None
                self._undo.close()
                machine.free(str(self.base.device))
            case "hold":
                if roomy(partial(self._hold, message), self.base.device) is None:
                    return {"kind": NO_ROOM}
            case "drop":
                for number in message["numbers"]:
                    self.adapters.pop(number, None)
            case "restart":
                for number in message["numbers"]:
                    self.adapters[number].gradient.zero_()
            case "pass":
                return self._pass(message)
            case "part":
                return self._part(message)
            case "sum":
                for number in message["numbers"]:
                    gradient = self.adapters[number].gradient
                    collective(self.group, "reduce", gradient)
                    gradient.zero_()
            case other:
                raise ValueError(f"unknown message: {other!r}")
        return {"kind": DONE}

    def _hold(self, message: Mapping[str, Any]) -> bool:
        assert self.pack is not None
        self.adapters[message["number"]] = FlatAdapter(self.base, _recipe(message), self.pack.low)
        return True

    def _adapt(self, message: Mapping[str, Any]) -> bool:
        recipe = _recipe(message)
        self.precision = recipe.precision
        made = self._undo.enter_context(new_adapter(self.base, lora_config(self.base, recipe), recipe.seed))
        model = made.model.train()
        if recipe.gradient_checkpointing:
            getattr(model, f"{shared.CHECKPOINTING}_enable")()
            self._undo.callback(getattr(self.base, f"{shared.CHECKPOINTING}_disable"))
        self.adapters[0] = adapter = SharedAdapter(model)
        adapter.begin()
        return True

    def _receive(self, message: Mapping[str, Any]) -> None:
        for number in message["weights"]:
            collective(self.group, "broadcast", self.adapters[number].weights.detach())
            self.adapters[number].refresh()

    def _part(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self._receive(message)
        adapter = cast(SharedAdapter, self.adapters[0])
        shared.set_random_state(self.base.device, random_from(message))
        given = message["labels"], message["scale"], self.precision, self.lockstep
        work = partial(shared.backward, adapter.model, part_from(message), *given)
        loss = work() if self.lockstep else roomy(work, self.base.device)  # in lockstep the others wait for it
        return {"kind": NO_ROOM} if loss is None else {"kind": DONE, "found": loss}

    def _pass(self, message: Mapping[str, Any]) -> dict[str, Any]:
        pack = self.pack
        assert pack is not None
        self._receive(message)
        adapters = cast(dict[int, FlatAdapter], self.adapters)
        together = [portion_from(fields, adapters[fields["number"]]) for fields in message["portions"]]
        if empty := not together:
            if not self.lockstep:
                return {"kind": DONE, "found": []}
            together = [sharded.EMPTY]
        found: list[Any] | None
        if message["train"]:
            losses = roomy(partial(backward, pack, together), self.base.device, pack)
            found = None if losses is None else torch.stack([own.sum() for own in losses]).tolist()
        else:
            found = roomy(partial(measured, pack, together), self.base.device, pack)
        if found is None and self.lockstep:
            raise MemoryError(f"memory ran out: {LESS}")
        return {"kind": NO_ROOM} if found is None else {"kind": DONE, "found": [] if empty else found}


def _recipe(message: Mapping[str, Any]) -> Recipe:
    fields = dict(message["recipe"])
    if isinstance(fields["target_modules"], list):
        fields["target_modules"] = tuple(fields["target_modules"])
    return Recipe(**fields)


def main() -> None:
    """Load the base, then follow rank 0 until the pipe ends."""
    begun = begin()
    if begun is None:
        return
    say, start = begun
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    try:
        machine.use_threads(start["threads"])
        if start["device"].startswith("cuda"):
            torch.cuda.set_device(start["device"])
        lockstep, own = start["sharded"], (start["device"], start["rank"], start["count"], Path(start["store"]))
        base = load_model(ModelConfig(**start["model"]), "cpu" if lockstep else start["device"])
        say(json.dumps({"kind": READY}))
        group = sharded.join(*own, LONGEST) if lockstep else group_of(*own)
        if lockstep:
            sharded.shard(base, start["device"], start["count"])
        rank = Rank(base, group, lockstep)
        while True:
            say(json.dumps(rank.follow(inbox.get())))
    except Exception as error:  # rank 0 ends the group, and says why
        traceback.print_exc()
        say(json.dumps({"kind": FAILED, "message": f"{type(error).__name__}: {error}"}))
        sys.stderr.flush()
        os._exit(1)  # whoever waits for it in the middle of a pass is told by that


def _read(inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    os._exit(0)  # rank 0 is gone: nobody waits for what runs here


if __name__ == "__main__":
    main()
