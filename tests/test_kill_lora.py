"""A study of a real (tiny, random) model: killed, continued, compared; and what a user does with its result."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from meshtune.record.log import Record
from meshtune.testing.processes import gone
from tests.conftest import WORDS
from tests.kill import command, kill_at_random, record_of, run, run_apart

pytestmark = pytest.mark.slow


def lora_study(folder: Path, model: Path) -> Path:
    """A study.yaml of the tiny model on 60 made-up rows."""
    folder.mkdir()
    rows = [
        {"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % len(WORDS)])} for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "metrics.py").write_text(
        "def score(row, answer):\n    return float(answer == row['output'])\n", encoding="utf-8"
    )
    path = folder / "study.yaml"
    path.write_text(
        f"model: {model}\n"
        "data: {sources: [{path: rows.jsonl}], validation: 10, test: 10}\n"
        "training: {epochs: 3, batch_size: 4, precision: float32}\n"
        "space: {rank: {low: 2, high: 16, power_of: 2}, learning_rate: {low: 1e-4, high: 1e-1, log: true}}\n"
        "baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}\n"
        "sampler: {name: mads, block_size: 6}\n"
        "budget: {trials: 20}\n"
        "metrics: {exact: {file: metrics.py}}\n"
        "generation: {rows: 4, max_new_tokens: 8}\n"
        "worker: {name: local, processes: 2, threads: 1, pack: 3, attempts: 10}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def whole(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran without interruption."""
    path = lora_study(tmp_path_factory.mktemp("lora") / "whole", tiny_model_folder)
    ended = run(path)
    assert ended.returncode == 0, ended.stderr
    return path


def status_of(path: Path) -> dict[str, object]:
    told: dict[str, object] = json.loads(command("status", path, "--json", "--trials").stdout)
    return told


def test_three_kills_leave_the_record_of_an_uninterrupted_study(
    whole: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    killed = lora_study(tmp_path / "killed", tiny_model_folder)
    victims = []

    def wait(chance: random.Random) -> float:
        return chance.uniform(6.0, 10.0)  # past the import of torch, inside the trials, and well before their end

    for victim, family in kill_at_random(killed, 3, seed=3, wait=wait):
        victims.append(victim)
        assert gone(family), f"processes outlived the kill of the {victim}"
    assert run_apart(killed).returncode == 0
    assert victims == ["coordinator", "worker", "nomad"]
    assert record_of(killed) == record_of(whole)
    names = {path.name for path in (tmp_path / "killed" / "study").iterdir()}
    assert names == {"adapters", "data", "evaluation", "logs", "study.db", "study.yaml"}
    ours, theirs = status_of(killed), status_of(whole)
    for name in ("best", "baseline", "untuned", "best_against_baseline"):
        assert ours[name] == theirs[name]


def test_kills_of_a_study_that_decides_at_rungs(tiny_model_folder: Path, tmp_path: Path) -> None:
    """In one process, in which packs of three stop each other: record and decisions of an undisturbed study."""
    paths = []
    for name in ("calm", "killed"):
        path = lora_study(tmp_path / name, tiny_model_folder)
        text = (
            path.read_text(encoding="utf-8").replace("processes: 2", "processes: 1").replace("trials: 20", "trials: 14")
        )
        path.write_text(text + "early_stopping: {rule: asha, rungs: [0.2, 0.4, 0.6], rows: 10, promote: 1}\n")
        paths.append(path)
    calm, killed = paths
    assert run_apart(calm).returncode == 0

    def wait(chance: random.Random) -> float:
        return chance.uniform(6.0, 10.0)

    for victim, family in kill_at_random(killed, 3, seed=3, wait=wait):
        assert gone(family), f"processes outlived the kill of the {victim}"
    assert run_apart(killed).returncode == 0
    assert record_of(killed) == record_of(calm)
    assert decided_in(killed) == decided_in(calm)
    assert "stops" in str(decided_in(calm))


def decided_in(path: Path) -> dict[str, object]:
    """The notes of what was decided at rungs."""
    notes = Record(f"sqlite:///{path.parent / 'study' / 'study.db'}", "study").notes
    return {key: value for key, value in notes.items() if key.startswith("decided")}


def test_the_best_adapter_in_plain_peft_has_the_recorded_loss(whole: Path) -> None:
    best = status_of(whole)["best"]
    assert isinstance(best, dict)
    folder = whole.parent / "study"
    program = f"""
import json, warnings
import numpy as np, torch
from peft import AutoPeftModelForCausalLM
data = {str(folder / "data")!r}
model = AutoPeftModelForCausalLM.from_pretrained({str(folder / best["adapter"])!r}).eval()
from meshtune.data.store import Rows
from meshtune.trial import DataRef
rows = Rows.open(DataRef(data, json.load(open(data + "/manifest.json"))["fingerprint"]), "validation")
total = count = 0
for index in range(len(rows)):
    tokens, trained = rows[index]
    ids = torch.tensor(tokens[None].astype(np.int64))
    labels = torch.where(torch.tensor(trained[None]), ids, -100)
    with torch.no_grad():
        logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum", ignore_index=-100)
    total, count = total + loss.item(), count + int(trained[1:].sum())
print(total / count)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(told.stdout.split()[-1]) == pytest.approx(best["loss"], abs=1e-4)


def test_the_table_at_the_end_and_the_kept_adapters(whole: Path) -> None:
    status = status_of(whole)
    assert set(status["best_against_baseline"]) == {"mean", "low", "high", "rows"}  # type: ignore[call-overload]
    assert status["untuned"]["test_loss"] is not None  # type: ignore[index]
    kept = {path.name for path in (whole.parent / "study" / "adapters").iterdir()}
    ranked = sorted((t["loss"], t["trial"]) for t in status["all"] if t["ending"] == "complete")  # type: ignore[attr-defined]
    always = {str(number) for _, number in ranked[:5]} | {"0"}
    assert always <= kept <= always | {str(status["recommended"]["trial"])}  # type: ignore[index]
    again = run(whole)  # nothing is left to do: it shows the result again
    assert again.returncode == 0
    assert "from peft import AutoPeftModelForCausalLM" in again.stderr
    assert "untuned" in again.stderr
    assert "baseline" in again.stderr
    assert "unseen rows" in again.stderr or "not beaten" in again.stderr


def test_the_finalists_answered_validation_rows(whole: Path) -> None:
    folder = whole.parent / "study"
    kept = {int(path.name) for path in (folder / "adapters").iterdir()}
    answers = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.glob("evaluation/answers/*")}
    assert set(answers) == {"untuned", *(f"trial-{number}" for number in kept)}, "with metrics, all kept adapters"
    assert all(len(lines) == 4 for lines in answers.values())
    assert set(json.loads(answers["untuned"][0])) == {"row", "prompt", "reference", "answer", "scores", "made"}


def test_a_baseline_outside_the_space_is_trained_beside_the_trials(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "outside", tiny_model_folder)
    overrides = ("--set", "baseline.rank=64", "--set", "budget.trials=2", "--set", "training.epochs=1")
    ended = run(path, *overrides)
    assert ended.returncode == 0, ended.stderr
    status = status_of(path)
    assert status["baseline"]["hyperparameters"]["rank"] == 64  # type: ignore[index]
    assert status["baseline"]["test_loss"] is not None  # type: ignore[index]
    assert [trial["origin"] for trial in status["all"]] == ["search", "search"]  # type: ignore[attr-defined]
