"""What `check` times: a trial as the search draws them on average, in the company that the study's trials will have."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from meshtune.config.sections import StudyConfig
from meshtune.config.template import QUICKSTART
from meshtune.data.summary import Summary
from meshtune.space.space import Dimension, Space
from meshtune.system.text import duration
from meshtune.training.memory.pilot import Pilot

LONG = 0.5  # hours of a study on CPUs from which a smaller one is proposed

BUSY = """
import os, sys, threading, torch
threading.Thread(target=lambda: os._exit(len(sys.stdin.read())), daemon=True).start()  # ends with its parent
torch.set_num_threads(int(sys.argv[1]))
a = torch.rand(1024, 1024)
print(flush=True)
while True:
    a @ a
"""


def sooner(config: StudyConfig, measured: Pilot, data: Summary, processes: int, hours: float) -> list[str]:
    """What a newcomer without a GPU may run first, and how long that takes by what was measured, at most; nothing where
    that is not well below the study's own `hours`, as for what it proposes itself.
    """
    validation, test = int(QUICKSTART.validation), int(QUICKSTART.test)
    a_row = data.train.tokens / max(1, data.train.rows)
    training = (int(QUICKSTART.rows) - validation - test) * QUICKSTART.epochs * a_row / measured.training
    seconds = math.ceil(QUICKSTART.trials / processes) * (training + validation * a_row / measured.validation)
    seconds += (validation + 3 * test) * a_row / measured.validation
    if seconds > hours * 3600 / 2:
        return []
    model = "embedded" if config.model is None else config.model.name
    paths = [source.path for source in config.data.sources if source.path] if config.data is not None else []
    command = f"meshtune init NEW --recipe quickstart --model {shlex.quote(model)}"
    command += f" --data {shlex.quote(os.path.relpath(paths[0]))}" if len(paths) == 1 else ""
    small = "; with `--model embedded`, which is small, minutes" if seconds > 3600 and model != "embedded" else ""
    first = f"no GPU is used; for a first result search small ranks on {QUICKSTART.rows} rows:"
    return [first, command, f"takes about {duration(seconds)} or less{small}"]


def expected_point(space: Space, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline with what a trial's time depends on at its mean over the space: rank, epochs and batch size.

    The mean of the ranks 4 to 256 is 73: a trial of the baseline's rank 16 says little about them.
    """
    point = dict(baseline)
    for dimension in space.dimensions:
        values = [value for value in _spread(dimension) if isinstance(value, int | float)]
        if dimension.name in ("rank", "epochs", "batch_size") and values:
            point[dimension.name] = max(1, round(sum(values) / len(values)))
    return point


def _spread(dimension: Dimension) -> list[Any]:
    """Values of a dimension, evenly spaced as the search moves it."""
    parameter = dimension.parameter
    low, high = parameter.low, parameter.high
    if parameter.kind == "categorical":
        return list(parameter.choices)
    if parameter.kind == "int" and not parameter.log:
        return [dimension.decode(value) for value in range(int(low), int(high) + 1)]
    shares = [index / 100 for index in range(101)]
    if parameter.log:
        return [dimension.decode(low * (high / low) ** share) for share in shares]
    return [dimension.decode(low + share * (high - low)) for share in shares]


@contextlib.contextmanager
def busy(processes: int, threads: int | None) -> Iterator[None]:
    """So many processes beside this one that compute as trials do: cores, caches and memory are shared among them."""
    with contextlib.ExitStack() as stack:
        others = []
        for _ in range(processes):
            command = [sys.executable, "-c", BUSY, str(threads or 1)]
            other = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(other.kill)
            others.append(other)
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        yield
