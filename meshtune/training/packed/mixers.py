"""Layers that mix the tokens of a sequence otherwise than by attention: short convolutions, linear attention, Mamba.

They know nothing of sequences that lie end to end. While they run, each sequence is a row of its own, padded with zeros
on the right, which no earlier token sees; so one call serves all sequences, in the model's own code, with the kernels
that it finds. Their linear layers are still computed over the packed tokens, where adapters have their own.

They are found by their convolution, `nn.Conv1d`. What mixes tokens without one is refused by the check at load, and so
is what needs more of a row than its tokens. How much a pass may be padded is `rows.py`'s affair.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from meshtune.training.packed.adapters import Group


def mixers(base: Any) -> dict[str, nn.Module]:
    """The token mixers of a base by their names. One inside another is part of it."""
    found: dict[str, nn.Module] = {}
    for name, part in base.named_modules():
        convolves = any(isinstance(child, nn.Conv1d) for child in part.children())
        if convolves and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = part
    return found


class Lanes:
    """The sequences of the pass at hand as rows of one length.

    Attributes:
        shape: sequences, and tokens of the longest.
    """

    def __init__(self) -> None:
        self.shape = (0, 0)
        self._places: torch.Tensor | None = None  # of each token among all places; None: there is no padding

    def lay(self, lengths: Sequence[int], device: torch.device) -> None:
        """Take the lengths of a pass."""
        self.shape = len(lengths), max(lengths)
        padded = len(lengths) * max(lengths) != sum(lengths)
        places = [torch.arange(length) + row * max(lengths) for row, length in enumerate(lengths)]
        self._places = torch.cat(places).to(device) if padded else None

    def apart(self, tokens: torch.Tensor) -> torch.Tensor:
        """(1, tokens, width) to (sequences, longest, width)."""
        if self._places is None:
            return tokens.reshape(*self.shape, -1)
        flat = tokens.new_zeros(self.shape[0] * self.shape[1], tokens.shape[-1])
        return flat.index_copy(0, self._places, tokens.reshape(-1, tokens.shape[-1])).view(*self.shape, -1)

    def together(self, rows: torch.Tensor) -> torch.Tensor:
        """(sequences, longest, width) to (1, tokens, width)."""
        flat = rows.reshape(-1, rows.shape[-1])
        return (flat if self._places is None else flat.index_select(0, self._places))[None]


class Mixer:
    """A token mixer that is given packed tokens."""

    def __init__(self, module: Any, lanes: Lanes):
        self.lanes, self._own = lanes, module.forward
        self._first = next(iter(inspect.signature(module.forward).parameters))
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # inputs of its linear layers: apart, and together

    def run(self, *given: Any, **named: Any) -> Any:
        """What the module makes of its first argument."""
        tokens = given[0] if given else named.pop(self._first)
        apart = self.lanes.apart(tokens)
        self._seen = [(apart, tokens)]
        try:
            output = self._own(apart, *given[1:], **named)
        finally:
            self._seen = []
        if isinstance(output, tuple):
            return (self.lanes.together(output[0]), *output[1:])
        return self.lanes.together(output)

    def output(self, group: Group, index: int, rows: torch.Tensor) -> torch.Tensor:
        """What a linear layer makes of its input, in the input's type, which convolutions may not change."""
        tokens = next((together for apart, together in self._seen if apart is rows), None)
        if tokens is None:
            tokens = self.lanes.together(rows)
            self._seen.append((rows, tokens))
        return self.lanes.apart(group.output(index, tokens).to(rows.dtype))


@contextlib.contextmanager
def apart(found: dict[str, nn.Module], lanes: Lanes) -> Iterator[dict[str, Mixer]]:
    """Let token mixers take packed tokens; afterwards they are as they were."""
    made = {name: Mixer(part, lanes) for name, part in found.items()}
    try:
        for name, part in found.items():
            part.forward = made[name].run
        yield made
    finally:
        for part in found.values():
            with contextlib.suppress(AttributeError):
                del part.forward


def output_of(made: dict[str, Mixer], name: str, group: Group, index: int) -> Any:
    """The forward of a linear layer of that name."""
    for outer, mixer in made.items():
        if name.startswith(f"{outer}."):
            return functools.partial(mixer.output, group, index)
    return functools.partial(group.output, index)
