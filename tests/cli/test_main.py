"""What the command line does where it may not read, or its output cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from meshtune.cli import prefer, watch
from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.plan.locate import locate
from tests.kill import command_study, meshtune


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("arguments", [("--version",), ("check", "--json"), ("check",)])
def test_output_on_a_full_disk_is_one_message(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    given = (*arguments, command_study(tmp_path)) if "check" in arguments else arguments
    with open("/dev/full", "w") as full:
        done = subprocess.run(meshtune(*given), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("meshtune: what is printed cannot be written: No space left on device.")
    assert done.stderr.count("\n") == 1


def test_an_output_without_umlauts_gets_their_numbers(tmp_path: Path) -> None:
    path = command_study(tmp_path / "höhe")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(meshtune("check", path), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"h\xf6he/study.yaml: no faults" in done.stdout


def test_quickstart_takes_what_tune_takes(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    done = CliRunner().invoke(app, ["quickstart", str(path.parent), "--trials", "0", "--set", "samplr=random"])
    assert isinstance(done.exception, InputError)
    assert {fault.key for fault in done.exception.faults} == {"budget.trials", "samplr"}


@pytest.mark.parametrize("module", ["meshtune.cli.commands", "typer", "meshtune.errors", "meshtune.study.check"])
def test_a_ctrl_c_during_the_imports_is_one_line(tmp_path: Path, module: str) -> None:
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class CtrlC:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

from meshtune import cli
sys.meta_path.insert(0, CtrlC())
sys.modules.pop({module!r}, None)
cli.main()
"""
    given = [sys.executable, "-c", program, "check", command_study(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "meshtune: interrupted\n")


def test_a_folder_or_record_without_permission_is_one_line(tmp_path: Path) -> None:
    as_user = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if as_user and shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv")
    study = command_study(tmp_path / "closed")
    (tmp_path / "open").mkdir()
    shutil.copy(study, tmp_path / "open" / "study.yaml")
    (tmp_path / "open" / "study.db").touch(mode=0)
    study.parent.chmod(0)
    try:
        for folder, names in (("closed", "closed/study.yaml"), ("open", "open/study.db")):
            ended = subprocess.run(
                [*as_user, *meshtune("status", folder)], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 2
            assert ended.stderr.count("\n") == 1
            assert f"{names} cannot be read" in ended.stderr
            assert ended.stderr.endswith("Permission denied\n")
    finally:
        study.parent.chmod(0o700)


def test_every_path_is_read_by_the_command_itself_and_not_by_typer() -> None:
    commands = [*app.registered_commands, *prefer.app.registered_commands]
    paths = [
        (command.callback.__name__, name, hint.__metadata__[0].readable)
        for command in commands
        if command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items()
        if hasattr(hint, "__metadata__") and "Path" in str(hint.__origin__)
    ]
    assert len(paths) > 30
    assert [path for path in paths if path[2]] == []


def test_what_an_interrupted_run_goes_on_with_is_one_trial_or_several(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("model: embedded\ndata: {sources: [{embedded: python-stdlib-describe}]}\nbudget: {trials: 2}\n")
    study = locate(path)
    assert "Trial 1 was running: the next run goes on with it from its last" in watch._words("interrupted", [1], study)
    assert "Trials 1, 2 were running: the next run goes on with them from their" in watch._words("so", [1, 2], study)
