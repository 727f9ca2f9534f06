"""What the user names by `package.module:Name` or `folder/file.py:Name`: the only code of theirs that is run.

A file is read anew where its text has changed, so that a notebook sees what was edited. Its folder goes to the end of
the import path: it finds the modules beside it, and they hide none that are installed. Objects of the same file and
text are the same in a process. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from meshtune.errors import Fault, InputError, nearest


def imported(name: str, key: str) -> Any:
    """The object that `package.module:Name` or `file.py:Name` names; `key` is for messages.

    Raises InputError where there is no such module, file or object, or where importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    found = _of_file(Path(place), key) if place.endswith(".py") else _of_module(place, attribute, key)
    if not hasattr(found, attribute):
        names = [known for known in vars(found) if not known.startswith("_")]
        raise InputError(Fault(f"`{place}` has no `{attribute}`.{nearest(attribute, names)}", key=key))
    return getattr(found, attribute)


def portable(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a config whose `import` names no folder: a study that was moved with its files has the same."""
    place, _, attribute = (section.get("import") or "").rpartition(":")
    return {**section, "import": f"{Path(place).name}:{attribute}"} if place.endswith(".py") else dict(section)


def _of_module(place: str, attribute: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            what = (
                f"there is no module `{place}`: is it installed, or its folder on PYTHONPATH? A file beside the"
                f" study.yaml is written `./{place.replace('.', '/')}.py:{attribute}`"
            )
            raise InputError(Fault(what, key=key)) from error
        raise _failed(place, key, error) from error
    except Exception as error:
        raise _failed(place, key, error) from error


def _of_file(path: Path, key: str) -> ModuleType:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(Fault(f"{path}: cannot be read ({error.strerror})", key=key)) from error
    try:
        return module_of(path, text)
    except Exception as error:
        raise _failed(str(path), key, error) from error


def module_of(path: Path, text: bytes) -> ModuleType:
    """The module that a file with this text makes. Raises what running it raises."""
    digest = hashlib.sha256(bytes(path.absolute()) + b"\0" + text).hexdigest()
    name = f"meshtune_imported_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path.absolute())
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module  # before it runs, as the import system does: dataclasses look their module up
    try:  # not by an import loader: its cache takes two texts of one second and one length for the same
        exec(compile(text, module.__file__, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _failed(place: str, key: str, error: Exception) -> InputError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f", {frame.filename}:{frame.lineno}"  # its text has its place
    return InputError(Fault(f"importing `{place}` failed ({type(error).__name__}: {error}{where})", key=key))
