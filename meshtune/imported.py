"""What the user names by `package.module:Name` to be imported: the only code of theirs that is run."""

from __future__ import annotations

import importlib
from typing import Any

from meshtune.errors import Fault, InputError, nearest


def imported(name: str, key: str) -> Any:
    """The object that `package.module:Name` names; `key` is for messages. Raises InputError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        what = f"`{module}` cannot be imported ({error}): is it installed, or its folder on PYTHONPATH?"
        raise InputError(Fault(what, key=key)) from error
    if not hasattr(found, attribute):
        names = [known for known in vars(found) if not known.startswith("_")]
        raise InputError(Fault(f"`{module}` has no `{attribute}`.{nearest(attribute, names)}", key=key))
    return getattr(found, attribute)
