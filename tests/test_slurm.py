"""The example's batch script under a stand-in for SLURM, and what the example and its README name."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from meshtune.cli.commands import app
from tests.kill import command_study, record_of, run
from tests.slurm_like import SCRIPT, Start, run_job
from tests.test_kill_lora import lora_study


class Further:
    """Says once for each of some numbers that so many trials have ended, so that others run."""

    def __init__(self, ended: Callable[[], int], *numbers: int):
        self._ended, self._numbers = ended, list(numbers)

    def __call__(self) -> bool:
        if not self._numbers or self._ended() < self._numbers[0]:
            return False
        del self._numbers[0]
        return True


@pytest.mark.slow
def test_a_job_that_is_ended_in_every_way_finishes_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = command_study(tmp_path / "whole", trials=12)
    assert run(whole).returncode == 0
    path = command_study(tmp_path / "job", trials=12)
    log = path.parent / "finished.log"
    monkeypatch.setenv("PROGRAM_SECONDS", "0.8")
    ended = Further(lambda: len(log.read_text().splitlines()) if log.exists() else 0, 2, 4)
    starts = run_job(tmp_path / "slurm", path, ["usr1", "kill", "end_time", "whole"], ended)
    assert starts == [
        Start("usr1", 75, requeued=True),
        Start("kill", -9, requeued=False),
        Start("end_time", 75, requeued=True),
        Start("whole", 0, requeued=False),
    ]
    assert record_of(path) == record_of(whole)
    told = (tmp_path / "slurm" / "job.log").read_text()
    assert "SIGUSR1 came; everything finished is saved" in told
    assert "the end of the SLURM job is near; everything finished is saved" in told
    assert f"Continue with `meshtune tune {path.with_suffix('')}`" in told


@pytest.mark.slow
def test_a_study_of_a_tiny_model_finishes_in_three_jobs(tiny_model_folder: Path, tmp_path: Path) -> None:
    whole = lora_study(tmp_path / "whole", tiny_model_folder)
    assert run(whole).returncode == 0
    path = lora_study(tmp_path / "job", tiny_model_folder)
    adapters = path.parent / "study" / "adapters"
    ended = Further(lambda: max((int(folder.name) for folder in adapters.glob("[0-9]*")), default=0), 3, 8)
    starts = run_job(tmp_path / "slurm", path, ["usr1", "usr1", "whole"], ended)
    assert [start.code for start in starts] == [75, 75, 0]
    assert record_of(path) == record_of(whole)


def test_the_script_is_plain_bash_and_asks_for_what_the_readme_says() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["gpus-per-node"] == "4"
    assert options["signal"] == "B:USR1@300"
    assert "requeue" in options
    assert options["open-mode"] == "append"
    readme = (SCRIPT.parent / "README.md").read_text()
    assert "sbatch study.sbatch" in readme


@pytest.mark.parametrize("path", ["docs/cluster.md", "examples/slurm/README.md"])
def test_what_the_guides_call_is_there(path: str) -> None:
    text = (SCRIPT.parents[2] / path).read_text(encoding="utf-8")
    called = re.findall(r"(?:^|`|HF_HUB_OFFLINE=1 )meshtune ([a-z]+)([^`\n#]*)", text, re.MULTILINE)
    assert {"prepare", "status", "stop"} <= {command for command, _ in called}
    for command, rest in called:
        made = get_command(app).get_command(None, command)  # type: ignore[attr-defined]
        assert made is not None, command
        known = {option for parameter in made.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, rest
    for named in re.findall(r"`(examples/[^`]+)`", text):
        assert (SCRIPT.parents[2] / named).exists(), named
