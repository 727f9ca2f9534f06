"""SIGKILL of studies that are guided: record and measurements are those of a study without it."""

import random
import time
from pathlib import Path

import pytest

from meshtune.testing.processes import gone
from tests.evaluation.made import make_mmlu
from tests.kill import kill_at_random, killed_and_whole, record_of, run, run_apart
from tests.plan.test_measurements import study
from tests.test_kill_lora import status_of

pytestmark = pytest.mark.slow

GUIDED = (
    "budget: {trials: 7}\n"
    "constraints: [perplexity >= untuned * 0.9, mmlu >= untuned - 0.9, rank <= 4]\n"
    "guide: {text: text.txt, benchmarks: data, limit: 12, measure: [mmlu.gold]}\n"
)


def guided_study(folder: Path, model: Path, sampler: str) -> Path:
    path = study(folder, model, f"sampler: {{name: {sampler}, block_size: 3}}\n{GUIDED}")
    path.write_text(path.read_text().replace("threads: 1}", "threads: 1, attempts: 10}"))
    make_mmlu(folder / "data" / "mmlu", items=24)
    return path


def measured(path: Path) -> dict[str, str]:
    """What was measured, item by item, by file."""
    return {file.name: file.read_text() for file in (path.parent / "study" / "guides").glob("*.json")}


@pytest.mark.parametrize("sampler", ["mads", "tpe"])
def test_ten_kills_under_constraints(tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")
    killed, whole = killed_and_whole(tmp_path, sampler, "constraints: [y <= 1, size <= 4]")
    assert record_of(killed) == record_of(whole)


@pytest.mark.parametrize("sampler", ["mads", "tpe"])
def test_a_study_that_is_killed_while_it_measures(tmp_path: Path, tiny_model_folder: Path, sampler: str) -> None:
    whole, killed = (guided_study(tmp_path / name, tiny_model_folder, sampler) for name in ("whole", "killed"))
    assert run(whole).returncode == 0
    folder, before = tmp_path / "killed" / "study", set[str]()

    def until_it_measures(_: random.Random) -> float:
        """What was trained waits to be measured, of a pack that was not killed there before."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            for waiting in folder.glob("checkpoints/*/trained.jsonl"):
                if waiting.parent.name not in before:
                    before.add(waiting.parent.name)
                    return 0.0
            time.sleep(0.01)
        raise AssertionError("nothing was measured any more")

    victims = ("coordinator", "worker")
    for victim, family in kill_at_random(killed, 3, seed=0, wait=until_it_measures, victims=victims):
        assert gone(family), f"processes outlived the kill of the {victim}"
    ended = run_apart(killed)
    assert ended.returncode == 0, ended.stderr
    assert record_of(killed) == record_of(whole)
    assert measured(killed) == measured(whole)
    ours, theirs = status_of(killed), status_of(whole)
    for name in ("best", "baseline", "untuned", "constraints"):
        assert ours[name] == theirs[name]
    assert not list((folder / "guides").glob("answers/*"))
