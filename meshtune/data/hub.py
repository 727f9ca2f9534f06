"""What to say when the Hugging Face hub does not give what was asked for.

The libraries wrap each other's errors, so that the reason is found along the chain of causes. Imports no library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from logging import getLogger

from meshtune.errors import Fault

_REASONS = {
    "GatedRepoError": "is gated: accept its terms on https://huggingface.co/{name}, then log in with `hf auth login`",
    "RevisionNotFoundError": "has no such revision: name a branch, tag or commit of https://huggingface.co/{name}",
    "RepositoryNotFoundError": "does not exist on the Hugging Face hub, or is private: check the spelling, "
    "or log in with `hf auth login`",
    "DatasetNotFoundError": "does not exist on the Hugging Face hub, or is private or gated: check the spelling, "
    "or accept its terms there and log in with `hf auth login`",
    "HFValidationError": "is neither an existing file or folder nor an id of the Hugging Face hub (`owner/name`)",
    "OfflineModeIsEnabled": "is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it: fetch it once with "
    "network, or name a local folder",
    "LocalEntryNotFoundError": "is not in the local cache, and the Hugging Face hub cannot be reached: fetch it once "
    "with network, or name a local folder",
    "ConnectionError": "is not in the local cache, and the Hugging Face hub cannot be reached: fetch it once "
    "with network, or name a local file",
}


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Without the hub's lines about each time that it tries again: what comes of it is said once, by `explain`."""
    logger = getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def explain(error: BaseException, name: str, what: str, key: str = "") -> Fault:
    """The fault behind an error of transformers, datasets or huggingface_hub; `what` is `model` or `data set`."""
    names = list[str]()
    link: BaseException | None = error
    while link is not None and len(names) < 100:
        names += [kind.__name__ for kind in type(link).__mro__]
        link = link.__cause__ or link.__context__
    for kind, reason in _REASONS.items():
        if kind in names:
            folder = f"datasets/{name}" if what == "data set" else name
            return Fault(f"the {what} `{name}` {reason.format(name=folder)}", key=key)
    return Fault(f"the {what} `{name}` cannot be loaded: {' '.join(str(error).split())[:500]}", key=key)
