"""Which modules of a model get an adapter, and which targets cannot be had.

`all-linear` is every linear layer but the output head. Experts of a mixture are no linear layers: Transformers holds
them as one weight a block. PEFT would leave them out for some models; for others it puts adapters of other ranks on
them and on the router, unasked. So `all-linear` is refused there, and layers beside the experts can be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.errors import Fault, InputError, nearest

ALL_LINEAR = "all-linear"


def check_targets(base: Any, targets: str | Sequence[str]) -> None:
    """Refuse targets that the model, whose weights may be on the meta device, does not have.

    Raises:
        InputError: with every name that is not there, or with what to name instead.
    """
    found = [name for name, part in base.named_modules() if isinstance(part, nn.Linear | nn.Embedding | Conv1D)]
    known = sorted({name.rpartition(".")[2] for name in found})
    experts = [name for name, weight in base.named_parameters() if weight.dim() > 2 and "expert" in name]
    if targets == ALL_LINEAR:
        if experts:
            linear = ", ".join(sorted({name.rpartition(".")[2] for name, _ in targeted(base, ALL_LINEAR)}))
            text = f"cannot be had for a mixture of experts, whose experts (`{experts[0]}`) are no linear layers"
            raise InputError(Fault(f"`all-linear` {text}; name the layers to adapt, of {linear}", key="target_modules"))
        return
    text = f"it has {', '.join(known)}" + ("" if experts else ", or write all-linear")
    missing = [t for t in targets if not any(_fits(name, t) for name in found)]
    if missing:
        raise InputError(
            [Fault(f"the model has no module `{t}`; {text}.{nearest(t, known)}", key="target_modules") for t in missing]
        )
    if not targets:
        raise InputError(Fault(f"no target module is named; {text}", key="target_modules"))


def targeted(base: Any, targets: str | Sequence[str]) -> list[tuple[str, Any]]:
    """Name and module of every linear layer that PEFT puts an adapter on."""
    linears = [(name, part) for name, part in base.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    if targets == ALL_LINEAR:
        head = base.get_output_embeddings()
        return [(name, part) for name, part in linears if part is not head]
    return [(name, part) for name, part in linears if any(_fits(name, t) for t in targets)]


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
