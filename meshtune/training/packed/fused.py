"""Pieces of elementwise work as one kernel each: by `torch.compile` on a GPU, where its compiler Triton is installed.

Such a piece is a plain function of tensors. Compiled or not, it computes the same; not compiled, it takes several
kernels. What was compiled is kept on disk by torch (`TORCHINDUCTOR_CACHE_DIR`), so that only the first training on a
machine waits for it. `MESHTUNE_COMPILE=0` in the environment turns the compiler off. On a CPU nothing is compiled: see
docs/decisions/2026-12-01-grouped-adapters.md for what that would gain. Not run on a GPU yet.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from meshtune.training.packed.launches import launches

P = ParamSpec("P")
T = TypeVar("T")

SWITCH = "MESHTUNE_COMPILE"
_log = logging.getLogger(__name__)


def fused(function: Callable[P, T]) -> Callable[P, T]:
    """The function, as one launch where it can be compiled; its first argument is a tensor on the device."""
    compiled: Callable[P, T] | None = None

    @launches(1)
    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> T:
        nonlocal compiled
        first: Any = args[0]
        if not compiles(first.device.type):
            return function(*args, **given)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True)
        return compiled(*args, **given)

    return call


@functools.cache
def compiles(device: str) -> bool:
    """Whether pieces are compiled there. Tried once, with a tiny one; where that fails, one line of the log says so."""
    if device != "cuda" or os.environ.get(SWITCH) == "0":
        return False
    if importlib.util.find_spec("triton") is None:
        _log.warning("Triton is not installed: elementwise work of training is not fused, and slower")
        return False
    try:
        torch.compile(_tiny, dynamic=True)(torch.zeros(8, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of the compiler, its C compiler, its cache: whatever it is, the work can be done
        first_line = str(error).strip().partition("\n")[0]
        _log.warning("elementwise work of training is not fused, and slower: %s: %s", type(error).__name__, first_line)
        return False
    return True


def _tiny(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
