"""`examples/small_to_large`: the model that cut.py writes, and its two studies."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meshtune.config import file
from meshtune.config.sections import ModelConfig
from meshtune.plan.warm_start import CENTRE, rate_shift, shipped
from meshtune.priors.model_facts import model_facts
from meshtune.study.status import status
from meshtune.training.models import load_model
from tests.conftest import make_tiny_model
from tests.kill import run

EXAMPLE = Path(__file__).parents[1] / "examples" / "small_to_large"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with a tiny model of the family in place of the embedded one, cut to three quarters."""
    folder = tmp_path_factory.mktemp("small-to-large") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    make_tiny_model(folder / "smollm2-tiny")
    ended = cut(folder, "smollm2-small", "--hidden-size", "24")
    assert ended.returncode == 0, ended.stderr
    assert "hidden size 24 of 32, 2 layers" in ended.stdout
    return folder


def cut(folder: Path, out: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the example's first command does, on the tiny model."""
    command = [sys.executable, "cut.py", out, "--model", "smollm2-tiny", "--tokens", "512", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def logits(folder: Path) -> torch.Tensor:
    """Of a few tokens."""
    model = load_model(ModelConfig(name=str(folder)), "cpu")
    with torch.no_grad():
        return torch.as_tensor(model(torch.arange(40).reshape(2, 20)).logits)


@pytest.mark.slow
def test_the_smaller_model_has_its_shapes_and_its_family(folder: Path) -> None:
    small = load_model(ModelConfig(name=str(folder / "smollm2-small")), "cpu")
    attention = small.model.layers[0].self_attn
    assert small.model.embed_tokens.weight.shape[1] == small.lm_head.in_features == 24
    assert (attention.q_proj.in_features, attention.q_proj.out_features) == (24, 32)  # its heads are whole
    assert (len(small.model.layers), small.model.layers[0].mlp.down_proj.weight.shape) == (2, (24, 64))
    assert model_facts(str(folder / "smollm2-small")) == (24, "smollm2")


@pytest.mark.slow
def test_with_the_whole_hidden_size_nothing_changes(folder: Path) -> None:
    ended = cut(folder, "whole", "--hidden-size", "32")
    assert ended.returncode == 0, ended.stderr
    torch.testing.assert_close(logits(folder / "whole"), logits(folder / "smollm2-tiny"), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_size_that_cannot_be(folder: Path) -> None:
    for size, why in (("64", "the model has a hidden size of 32"), ("25", "a multiple of the 4 heads")):
        ended = cut(folder, "none", "--hidden-size", size)
        assert (ended.returncode, why in ended.stderr) == (2, True), ended.stderr
    assert not (folder / "none").exists()


def test_both_studies_are_the_same_search() -> None:
    small, large = (file.read(EXAMPLE / f"{name}.yaml").model_dump() for name in ("small", "large"))
    differ = {key for key in small if small[key] != large[key]}
    assert differ - {"folder", "storage"} == {"model", "budget", "warm_start"}
    assert (large["warm_start"]["values"], large["warm_start"]["rates"]) == ("shifted", "moved")


def test_rates_move_down_to_the_embedded_model() -> None:
    there, here = (replace(CENTRE, hidden_size=size, family="smollm2") for size in (432, 576))
    assert f"{10 ** rate_shift(there, here, shipped()):.3f}" in (EXAMPLE / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_large_study_starts_from_the_small_one(folder: Path) -> None:
    tiny = [word for change in ("data.max_length=512", "data.prompt=alpaca") for word in ("--set", change)]
    for name, more in (("small", ["--trials", "3"]), ("large", ["--trials", "2", "--set", "model=smollm2-tiny"])):
        ended = run(folder / f"{name}.yaml", *tiny, *more)
        assert ended.returncode == 0, ended.stderr
    small, large = (status(folder / name, trials=True) for name in ("small", "large"))
    known = large["warm_start"]
    assert known["complete"] + known["failed"] + known["outside"] == len(small["all"]) == 3
    assert 0.5 < known["rates_times"] < 1
    rates = [trial["hyperparameters"]["learning_rate"] for trial in small["all"]]
    again = large["all"][1]["hyperparameters"]["learning_rate"]  # shifted: of the best points that are known, moved
    assert any(again == pytest.approx(rate * known["rates_times"]) for rate in rates)
    assert len(large["all"]) == large["trials"]["complete"] == 2
