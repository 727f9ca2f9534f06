"""A study on real instruction files, from a short YAML, with `mads` and with `tpe`; and a damaged file, refused."""

import json
from pathlib import Path

import pytest

from tests.kill import run

FILES = Path(__file__).parents[2] / "shared" / "data" / "instructions"
ALPACA, DOLLY = FILES / "alpaca_libre_tasks_v1.jsonl", FILES / "dolly_hhrlhf_train_small.jsonl"
DAMAGED = FILES / "alpaca_libre_tasks_v2.jsonl"

pytestmark = pytest.mark.skipif(not DOLLY.exists(), reason=f"the real files are not there: {FILES}")

STUDY = """\
model: {model}
data:
  sources:
    - {{path: {alpaca}, share: 0.7}}
    - {{path: {dolly}, share: 0.3}}
  mixture: cap
  rows: 120
  max_length: 256
training: {{epochs: 1, batch_size: 8, precision: float32}}
sampler: {sampler}
budget: {{trials: 3}}
worker: {{name: local, processes: 1, threads: 1}}
"""


@pytest.mark.parametrize("sampler", ["mads", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_study_on_real_files(tiny_model_folder: Path, tmp_path: Path, sampler: str) -> None:
    text = STUDY.format(model=tiny_model_folder, alpaca=ALPACA, dolly=DOLLY, sampler=sampler)
    assert len(text.splitlines()) < 25
    (tmp_path / "study.yaml").write_text(text)
    ended = run(tmp_path / "study.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    status = json.loads(ended.stdout)
    assert status["trials"]["complete"] == 3
    assert status["best"]["test_loss"] < status["untuned"]["test_loss"]


def test_the_damaged_file_is_refused_with_its_first_malformed_line(tiny_model_folder: Path, tmp_path: Path) -> None:
    text = STUDY.format(model=tiny_model_folder, alpaca=DAMAGED, dolly=DOLLY, sampler="mads")
    (tmp_path / "study.yaml").write_text(text)
    refused = run(tmp_path / "study.yaml")
    assert refused.returncode == 2
    assert f"{DAMAGED}:2279: " in refused.stderr.splitlines()[1]
    assert not (tmp_path / "study").exists()
