"""Metrics of one's own: `score(row, answer) -> float` out of a file that the user names, one number an answer.

The row is what the user's file of data has (a mapping), the answer is text. The file is the only code of theirs that is
run, in the process that generates the answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from meshtune.config.sections import MetricConfig
from meshtune.errors import Fault, InputError, last_words, nearest, together
from meshtune.system.imported import module_of

Score = Callable[[Mapping[str, Any], str], float]


def load(metrics: Mapping[str, MetricConfig]) -> dict[str, Score]:
    """The functions by their names. Raises InputError with everything that is wrong."""
    return dict(zip(metrics, together(partial(_function, *each) for each in metrics.items()), strict=True))


def score(name: str, function: Score, row: Mapping[str, Any], answer: str) -> float:
    """One score. Raises InputError where the function fails or gives no finite number."""
    try:
        value = function(row, answer)
    except Exception as error:  # whatever the user's code raises is theirs to see
        there = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        what = f"metric `{name}` failed on an answer: {last_words(error)}; the row has {there or 'no key'}"
        raise InputError(what) from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"metric `{name}` must give a finite number, and gave {value!r}")
    return number


def stamp(metrics: Mapping[str, MetricConfig], rows: int, max_new_tokens: int) -> str:
    """Short text that changes with whatever decides answers or scores: files, functions, rows and their length."""
    content = hashlib.sha256(f"{rows} {max_new_tokens}".encode())
    for name, metric in sorted(metrics.items()):
        content.update(f"\n{name} {metric.function} ".encode())
        content.update(hashlib.sha256(Path(metric.file).read_bytes()).digest())
    return content.hexdigest()[:16]


def _function(name: str, metric: MetricConfig) -> Score:
    path, key = Path(metric.file), f"metrics.{name}"
    if not path.is_file():
        raise InputError(Fault("there is no such file; it must hold `def score(row, answer)`", path, key=f"{key}.file"))
    if path.suffix != ".py":
        raise InputError(Fault("is no Python file: name one that ends in .py", path, key=f"{key}.file"))
    try:
        module = module_of(path, path.read_bytes())
    except Exception as error:
        raise InputError(Fault(f"cannot be run: {last_words(error)}", path, key=f"{key}.file")) from error
    function = getattr(module, metric.function, None)
    if not callable(function):
        known = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        what = f"has no function `{metric.function}`.{nearest(metric.function, known)}"
        raise InputError(Fault(what, path, key=f"{key}.function"))
    with contextlib.suppress(ValueError):  # some built-in functions tell no signature
        try:
            inspect.signature(function).bind({}, "")
        except TypeError as error:
            what = f"`{metric.function}` must take a row and an answer: {error}"
            raise InputError(Fault(what, path, key=f"{key}.function")) from error
    return function  # type: ignore[no-any-return]  # its signature is the user's affair
