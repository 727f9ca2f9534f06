"""The child program that owns NOMAD, started by its path. The only file that imports PyNomad.

Standard input brings one JSON line that describes the run, then one line of answers for each block; what was standard
output carries out one line a block, and `{"end": reason}`, and NOMAD's own words go to standard error. The program
writes no file, leaves signals to the coordinator, and ends when its input ends. It needs nothing but PyNomad and the
standard library, so that it runs wherever the sampler was installed.

NOMAD crashes on bad input instead of raising: everything is validated by `nomad.py` before it comes here. An exception
must never leave the callback (NOMAD would count a failed evaluation and go on).
"""

from __future__ import annotations

import sys

if sys.path and sys.path[0].replace("\\", "/") == __file__.replace("\\", "/").rpartition("/")[0]:
    del sys.path[0]  # the sampler's own folder, where Python puts a program's: names there are no modules of ours

import json
import os
import signal
import tempfile
from collections.abc import Callable
from typing import Any, TextIO

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # a batch system may send them to all of a job


def main() -> None:
    """Read the run from standard input, then propose blocks until NOMAD ends or the pipe does."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    run = json.loads(line)

    import PyNomad

    parameters: list[str] = list(run["parameters"])
    unlink = _nothing
    if run["cache"] is not None:
        path, unlink = _file(run["cache"])
        parameters.append(f"CACHE_FILE {path}")
    result = PyNomad.optimize(_callback(out, unlink), run["start"], run["lower"], run["upper"], parameters)
    unlink()
    print(json.dumps({"end": str(result.get("stop_reason", "")).strip()}), file=out, flush=True)
    os._exit(0)  # NOMAD's own clean-up at exit may hang on its threads


def _callback(out: TextIO, unlink: Callable[[], None]) -> Any:
    """The black box that NOMAD calls: it sends the block to the parent and waits for the answers."""

    def evaluate(block: Any) -> list[bool] | int:
        unlink()  # NOMAD has read its cache
        several = hasattr(block, "get_x")  # one point comes bare where the block size is 1
        points = [block.get_x(i) for i in range(block.size())] if several else [block]
        coordinates = [[point.get_coord(j) for j in range(point.size())] for point in points]
        try:
            print(json.dumps({"block": coordinates}), file=out, flush=True)
            answer = sys.stdin.readline()
        except OSError:
            answer = ""
        if not answer:
            os._exit(0)  # the parent is gone
        outputs_of = json.loads(answer)
        for point, outputs in zip(points, outputs_of, strict=True):
            if outputs is not None:
                point.setBBO(outputs.encode())
        succeeded = [outputs is not None for outputs in outputs_of]
        return succeeded if several else int(succeeded[0])

    def guarded(block: Any) -> list[bool] | int:
        try:
            return evaluate(block)
        except BaseException as error:  # NOMAD would swallow it: the child must die loudly instead
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    return guarded


def _nothing() -> None:
    """There is no file."""


def _file(text: str) -> tuple[str, Callable[[], None]]:
    """A path from which NOMAD reads a text, and what leaves no file behind when it has."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("nomad-cache")
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            file.write(text)
        return f"/proc/{os.getpid()}/fd/{descriptor}", _nothing
    folder = tempfile.TemporaryDirectory(prefix="nomad-cache-")
    path = os.path.join(folder.name, "cache.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path, folder.cleanup


if __name__ == "__main__":
    main()
