"""A module of the package starts as a program whatever lies in the working folder, and finds the user's own there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshtune.system import child_start

PROGRAM = "import random, sys, meshtune\nprint(random.Random.__module__, meshtune.__file__, *sys.argv[1:])\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder of a user's: a module of theirs, and two files whose names are others'."""
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "random.py").write_text("x = 1\n")
    (tmp_path / "meshtune.py").write_text("x = 1\n")
    return tmp_path


def said(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr.splitlines()[-1]


def test_the_users_module_is_found_and_hides_nothing(folder: Path) -> None:
    package = child_start.PACKAGE / "__init__.py"
    assert said(child_start.command("mine", "a b"), folder) == f"random {package} a b\n"


def test_an_isolated_one_sees_neither_the_folder_nor_the_environment(folder: Path) -> None:
    command = child_start.command("mine", isolated=True)
    assert "No module named mine" in said(command, folder, PYTHONPATH=str(folder))


def test_a_package_that_is_not_installed_starts_itself(folder: Path) -> None:
    package = folder / "checkout" / "meshtune"
    (package / "system").mkdir(parents=True)
    shutil.copy(child_start.__file__, package / "system")
    (package / "__init__.py").touch()
    (package / "system" / "__init__.py").touch()
    start = "import subprocess\nfrom meshtune.system import child_start\nsubprocess.run(child_start.command('mine'))\n"
    command = [sys.executable, "-P", "-c", f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n{start}"]
    assert said(command, folder) == f"random {package / '__init__.py'}\n"
