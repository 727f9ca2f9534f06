"""Python programs for which packages that are installed here are not there: a `sitecustomize` hides them."""

import os
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_CODE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def without(folder: Path, *names: str) -> dict[str, str]:
    """The environment of a child in which these packages, with all that is in them, cannot be found."""
    (folder / "sitecustomize.py").write_text(_CODE.format(names=set(names)), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(_ROOT))), "OMP_NUM_THREADS": "1"}
