"""What a week brings, in whole studies of a tiny model: a disk that is full where trials write."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kill import meshtune, record_of, run
from tests.test_kill_lora import lora_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]


def short(folder: Path, model: Path) -> Path:
    """The study of `lora_study` with four trials."""
    path = lora_study(folder, model)
    text = (
        path.read_text()
        .replace("epochs: 3", "epochs: 1, checkpoint_minutes: 0.0001")
        .replace("trials: 20", "trials: 4")
    )
    path.write_text(text.replace("mads, block_size: 6", "random, block_size: 4").replace("rows: 4", "rows: 0"))
    return path


@pytest.fixture(scope="module")
def whole(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = short(tmp_path_factory.mktemp("faults") / "whole", tiny_model_folder)
    assert run(path).returncode == 0
    return path


def with_little_room(path: Path, part: str, *, size: int) -> "subprocess.CompletedProcess[str]":
    """Run the study where the disk of one of its folders has room for so many bytes."""
    place = path.parent / "study" / part
    place.mkdir(parents=True, exist_ok=True)
    command = ["bwrap", "--dev-bind", "/", "/", "--size", str(size), "--tmpfs", str(place), "--die-with-parent"]
    return subprocess.run([*command, *meshtune("tune", path)], capture_output=True, text=True, check=False)


def test_no_room_for_an_adapter_ends_the_run_and_costs_no_trial(
    whole: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = short(tmp_path / "full", tiny_model_folder)
    full = with_little_room(path, "adapters", size=8192)
    assert full.returncode == 2, full.stderr
    (said,) = (line for line in full.stderr.splitlines() if line.startswith("meshtune: "))
    assert "the adapter cannot be written to" in said
    assert "Is the disk full" in said
    assert "run the same again" in said
    assert "Traceback" not in full.stderr
    assert not any(trial["ending"] == "crashed" for trial in record_of(path))
    assert run(path).returncode == 0
    assert record_of(path) == record_of(whole)


def test_no_room_for_a_checkpoint_costs_no_more_than_that(whole: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    path = short(tmp_path / "full", tiny_model_folder)
    full = with_little_room(path, "checkpoints", size=4096)
    assert full.returncode == 0, full.stderr
    logs = "".join(log.read_text() for log in (path.parent / "study" / "logs").glob("*.log"))
    assert "the checkpoint cannot be written to" in logs
    assert record_of(path) == record_of(whole)
