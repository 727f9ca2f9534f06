"""The interpreter that NNI runs in: the present one, or that of an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata

from meshtune.errors import Fault, InputError, MissingExtra, extra

VERSION = "3.0"
VARIABLE = "MESHTUNE_NNI_PYTHON"
ASK = "from importlib.metadata import version; print(version('nni'))"


def interpreter(given: str | None = None) -> str:
    """The path of a Python that has NNI 3.0: `given`, or that of MESHTUNE_NNI_PYTHON, or the present one.

    Raises InputError where it is none or has another version, MissingExtra where it lacks NNI.
    """
    named = given or os.environ.get(VARIABLE)
    where = "sampler.options.python" if given else VARIABLE
    if named is None:
        return _checked(sys.executable, _own(), "")
    path = shutil.which(os.path.expanduser(named))
    if path is None:
        raise InputError(Fault(f"`{named}` is no program; the path of a Python that has NNI {VERSION} is", key=where))
    asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True, check=False)
    return _checked(path, asked.stdout.strip(), where)


def _own() -> str:
    try:
        return metadata.version("nni")
    except metadata.PackageNotFoundError:
        return ""


def _checked(path: str, version: str, where: str) -> str:
    if version == VERSION:
        return path
    if version:
        raise InputError(
            Fault(f"{path} has NNI {version}; version {VERSION} is needed: pip install nni=={VERSION}", key=where)
        )
    raise MissingExtra(
        f"the sampler `nni-tpe` (with {path})",
        "nni",
        f"{extra('nni')}. Or give it an environment of its own: python -m venv nni-env; nni-env/bin/pip"
        f" install nni=={VERSION}; export {VARIABLE}=$PWD/nni-env/bin/python",
    )
