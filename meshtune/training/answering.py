"""One base, several adapters: what each of the models answers to the same prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meshtune.config.sections import ModelConfig
from meshtune.training.checkpoints import attached
from meshtune.training.generate import Sampling, generate
from meshtune.training.models import load_model, resolve_device


def answer_all(
    model: ModelConfig,
    adapters: Mapping[str, Path | None],
    prompts: Sequence[NDArray[Any]],
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling | None,
    tick: Callable[[], None] | None = None,
) -> Iterator[tuple[str, list[list[int]]]]:
    """For each adapter's name (None: the base as it is) the tokens of its answers, in the order of the prompts.

    An answer of `max_new_tokens` tokens was cut. `tick` is called before each token. Raises InputError.
    """
    base = load_model(model, resolve_device(model))
    for name, folder in adapters.items():
        with attached(base, folder) if folder is not None else contextlib.nullcontext():
            given = generate(base, prompts, ends=ends, max_new_tokens=max_new_tokens, sampling=sampling, tick=tick)
        yield name, given
