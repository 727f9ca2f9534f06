"""What a study spends, as a user meets it: replicates that are killed, refusals, early stopping and what it saved."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.plan import energy
from meshtune.plan.locate import locate
from meshtune.study.check import check
from meshtune.study.status import status
from meshtune.study.tune import tune
from tests.kill import command, meshtune, run
from tests.test_kill_lora import lora_study

PROGRAM = """
import json, sys, time
from pathlib import Path
seed, x = int(sys.argv[1]), float(sys.argv[2])
with open("ran.log", "a") as log:
    log.write(f"{seed}\\n")
while seed == 2 and not Path("go").exists():
    time.sleep(0.05)
print(json.dumps({"loss": (x - 0.3) ** 2 + seed / 100}))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of a program that waits, with seed 2, for a file called `go`."""
    (tmp_path / "program.py").write_text(PROGRAM)
    path = tmp_path / "study.yaml"
    path.write_text(
        f"objective: {{command: [{sys.executable}, program.py, '{{seed}}', '{{x}}']}}\n"
        "space: {x: {low: -1, high: 1}}\n"
        "baseline: {x: 0.9}\n"
        "sampler: {name: random, block_size: 2}\n"
        "budget: {trials: 4}\n"
        "replicates: 3\n"
        "worker: {processes: 1}\n"
    )
    return path


def test_a_study_that_has_ended_ends_again_for_the_same_reason(study: Path) -> None:
    (study.parent / "go").touch()
    text = study.read_text().replace("{trials: 4}", "{trials: 40}")
    study.write_text(text + "stop_when: {no_improvement: 4, noise: 0.5}\n")
    assert run(study).returncode == 0
    before = status(study)
    assert before["trials"]["proposed"] < 40
    assert run(study).returncode == 0
    after = status(study)
    assert (after["trials"], after["reason"]) == (before["trials"], before["reason"])


def test_replicates_that_were_done_before_a_kill_are_not_made_again(study: Path) -> None:
    log = study.parent / "ran.log"
    process = subprocess.Popen(meshtune("tune", study), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not log.exists() or "2" not in log.read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = status(study, trials=True)
    assert before["seed_noise"] is None
    (study.parent / "go").touch()
    ended = run(study)
    assert ended.returncode == 0, ended.stderr
    assert log.read_text().split() == ["0"] * 4 + ["1", "2", "2", "3"]
    after = status(study, trials=True)
    assert after["all"] == before["all"]
    noise = after["seed_noise"]
    assert (noise["count"], noise["deviation"]) == (3, pytest.approx(0.01))
    assert (len(noise["losses"]), sum(noise["losses"]) / 3) == (3, pytest.approx(noise["mean"]))
    assert "seed noise: 0.01, standard deviation of the objective over 3 other seeds" in ended.stderr
    assert "below the baseline, beyond seed noise" in ended.stderr
    assert (study.parent / "study" / "logs" / f"replicate-{noise['trial']}-1.out").exists()
    assert (study.parent / "study" / "logs" / "trial-3.out").exists()


def test_check_says_what_ends_the_search_and_comes_after_it(study: Path) -> None:
    lines, _ = check(
        study, overrides=("stop_when.target=0.5", "stop_when.no_improvement=9", "stop_when.expected_gain=0.2 %")
    )
    assert "stop when  no improvement 9, target 0.5, expected gain 0.2 %" in lines
    assert "replicates 3 of the best point with other seeds, at the end" in lines


@pytest.mark.skipif(energy.POWERCAP.exists(), reason="this machine may have counters of energy")
def test_kilowatt_hours_are_refused_where_they_cannot_be_read(study: Path) -> None:
    given = ("budget.kilowatt_hours=1", f"model={study.parent}")  # said before that this is no model
    with pytest.raises(InputError, match=r"budget.kilowatt_hours: the energy of this machine cannot be read"):
        check(study, overrides=given)
    with pytest.raises(InputError, match="RAPL"):
        list(tune(locate(study, overrides=given)))
    assert not (study.parent / "study").exists()


@pytest.mark.slow
def test_a_study_with_early_stopping_promotes_and_says_what_it_saved(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "study", tiny_model_folder)
    text = path.read_text().replace("name: mads, block_size: 6", "name: random, block_size: 3")
    path.write_text(
        text + "early_stopping: {rule: asha, startup: 3, promote: 2, rows: 10, confidence: 0.99}\nreplicates: 2\n"
    )
    ended = run(path, "--json", "--set", "generation.rows=0", "--set", "metrics={}")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    stopped = [trial for trial in found["all"] if trial["ending"] == "stopped_early"]
    whole = max(trial["tokens"] for trial in found["all"])
    assert found["tokens_saved"] == sum(whole - t["tokens"] for t in stopped if t["trial"] not in found["promoted"])
    assert found["share_saved"] == pytest.approx(found["tokens_saved"] / (20 * whole))
    assert len(found["promoted"]) <= 2
    assert found["trials"]["complete"] + len(stopped) == 20
    assert found["seed_noise"]["count"] == 2
    adapters = {place.name for place in (tmp_path / "study" / "study" / "adapters").iterdir()}
    assert not [name for name in adapters if name.startswith("replicate")]
    assert "tokens saved by stopping" in command("status", path).stdout
