"""meshtune: finds the best LoRA hyperparameters for your model and data, and shows how sure it is.

In Python: `study = meshtune.tune("study.yaml")`, `study = meshtune.load("study")`; see `meshtune.api`. Importing the
package loads nothing else: what is heavy is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshtune._version import __version__

if TYPE_CHECKING:
    from meshtune.api import Study, Trial, load, tune
    from meshtune.results import Result

__all__ = ["Result", "Study", "Trial", "__version__", "load", "tune"]

_OFFERED = {
    "Result": "meshtune.results",
    **dict.fromkeys(("Study", "Trial", "load", "tune"), "meshtune.api"),
}


def __getattr__(name: str) -> Any:
    """What the Python interface offers, imported when it is first asked for."""
    if name not in _OFFERED:
        raise AttributeError(f"module 'meshtune' has no attribute {name!r}")
    return getattr(import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
