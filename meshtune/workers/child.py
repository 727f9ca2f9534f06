"""The program in which trials run: `meshtune.workers.child`, started by `meshtune.system.child_start`.

Standard input brings JSON lines: first how to build the objective, then a list of requests at a time; what is decided
at a rung, or a request that joins what runs; `"suspend"` asks it to save what runs and to end.
What was standard output carries out progress and outcomes, one line each, and a sign of life now and then. What
libraries print goes to the log. The program ends at once when its input ends, so it never outlives its coordinator, and
after telling an error that leaves its GPU unusable, or that another process of its trial is gone.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

from meshtune.objectives.build import Asking, Objective, ObjectiveSpec, build
from meshtune.system.child_start import Say, begin
from meshtune.system.whole_file import no_room
from meshtune.trial import Decision, Ending, Outcome, Request, from_json, to_json
from meshtune.workers.running import addressed

READY = "Ready"  # kinds of lines beside events: it has built the objective
LOST = "Lost"  # it ends, and its `message` says why
SUSPEND = "suspend"


def main() -> None:
    """Build the objective, then evaluate what comes until the pipe ends."""
    begun = begin()
    if begun is None:
        return
    say, start = begun
    work: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
    at = {name: start[name] for name in ("device", "threads", "devices", "sharded")}
    objective = build(ObjectiveSpec(**start["objective"]), **at)
    gc.collect()
    gc.freeze()  # what is imported stays; to look through it again after each pack takes a third of a second
    awaited: dict[int, Request] = {}
    threading.Thread(target=_heard, args=(objective, work, awaited), daemon=True).start()
    say(json.dumps({"kind": READY}))
    while (requests := work.get()) is not None:
        awaited.update({request.trial: request for request in requests})
        _evaluate(objective, requests, awaited, say)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # the thread that waits for input would be in the interpreter's way


def _heard(*given: Any) -> None:
    """End with the input, or with a line that cannot be read: a process that hears nothing must not stay."""
    try:
        _read(*given)
    except Exception:
        traceback.print_exc()
    os._exit(1)


def _read(objective: Objective, work: queue.SimpleQueue[list[Request] | None], awaited: dict[int, Request]) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message == SUSPEND:
            work.put(None)
            objective.suspend()
            continue
        if isinstance(message, list):
            requests = [from_json(json.dumps(fields)) for fields in message]
            work.put([request for request in requests if isinstance(request, Request)])
            continue
        match addressed(message):
            case Decision() as decision:
                if isinstance(objective, Asking):
                    objective.decide(decision)
            case pack, request:
                _join(objective, pack, request, work, awaited)
    os._exit(0)  # the coordinator is gone: nobody waits for what runs here


def _join(
    objective: Objective,
    pack: int,
    request: Request,
    work: queue.SimpleQueue[list[Request] | None],
    awaited: dict[int, Request],
) -> None:
    """Have a request evaluated with what runs; after it where that has just ended, or knows no packs."""
    awaited[request.trial] = request  # first: its outcome may come at once
    if not (isinstance(objective, Asking) and objective.join(pack, request)):
        work.put([request])


def _evaluate(objective: Objective, requests: list[Request], awaited: dict[int, Request], say: Say) -> None:
    try:
        for event in objective.evaluate(requests):
            if isinstance(event, Outcome):
                awaited.pop(event.trial, None)
            say(to_json(event))
    except Exception as error:  # an objective must not raise: what it was asked for has crashed
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        if lost := _lost(error):
            message = f"{lost}: {error}"
            say(json.dumps({"kind": LOST, "message": message}))
            os._exit(1)
        for request in list(awaited.values()):
            del awaited[request.trial]
            crashed = Outcome(request.trial, request.attempt, Ending.CRASHED, message=message, no_room=no_room(error))
            say(to_json(crashed))


def _lost(error: Exception) -> str | None:
    """What is lost, so that nothing more can be computed here."""
    if "torch" not in sys.modules:  # then no error is one of a GPU, and the child of a program need not load it
        return None
    from meshtune.training.machine import is_device_lost, is_group_lost

    if is_group_lost(error):
        return "a device of the trial was lost"
    return f"the GPU failed: {type(error).__name__}" if is_device_lost(error) else None


if __name__ == "__main__":
    main()
