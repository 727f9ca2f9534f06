"""The benchmarks of training run, on tiny models, and what they print holds together. No speed is asserted."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a benchmark prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def odd_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers, none of whose sizes is the rank of the benchmarks."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("odd-model")
    sizes = {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    return folder


def assert_holds_together(lines: list[dict[str, Any]]) -> None:
    """The ratio lies in its spread."""
    assert {line["name"] for line in lines} == {"packed_training"}
    assert len({line["setting"] for line in lines}) == len(lines)
    for line in lines:
        assert line["low"] <= line["ratio"] <= line["high"]


@pytest.mark.slow
def test_packed_training(tiny_model_folder: Path) -> None:
    """All settings that a CPU has: sides of one process and of two."""
    lines = run(
        "packed_training.py",
        *("block", "one", "--model", str(tiny_model_folder), "--rows", "short"),
        *("--rounds", "2", "--steps", "2", "--warm-up", "1"),
    )
    assert len(lines) == 12
    assert_holds_together(lines)


@pytest.mark.slow
def test_both_sides_train_the_same_batches(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real tokens of each round are equal, and Trainer's padding is that of the whole set."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from training_sides import Spec, compare, race

    model = str(tiny_model_folder)
    sides = {side: [Spec(side, model)] for side in ("ours", "trainer")}
    sides["grouped"] = [Spec("trainer", model, grouped=True)]
    found = race(sides, rounds=3, steps=16, warm_up=2)
    assert found["ours"].tokens == found["trainer"].tokens
    assert found["ours"].padded == found["ours"].tokens
    assert sum(found["trainer"].padded) / sum(found["trainer"].tokens) == pytest.approx(1.55, abs=0.1)
    assert sum(found["grouped"].padded) / sum(found["grouped"].tokens) < 1.1
    for other in ("trainer", "grouped"):
        compare("packed_training", other, found["ours"], found[other])
    assert_holds_together([json.loads(line) for line in capsys.readouterr().out.splitlines()])


@pytest.mark.slow
def test_packed_validation(tiny_model_folder: Path) -> None:
    """A line for each set of rows."""
    lines = run("packed_validation.py", "--model", str(tiny_model_folder), "--rounds", "2", "--batches", "2")
    assert [line["setting"].partition(" ")[0] for line in lines] == ["short", "long"]
    assert all(line["low"] <= line["ratio"] <= line["high"] for line in lines)


@pytest.mark.slow
def test_scaling(odd_model_folder: Path, tmp_path: Path) -> None:
    """Its plot is well-formed and has a point for each of twelve packs."""
    plot = tmp_path / "plot.svg"
    lines = run("packed_training.py", "--model", str(odd_model_folder), "--scaling", str(plot), "--steps", "1")
    assert len(lines) == 1
    circles = [part for part in ElementTree.parse(plot).iter() if part.tag.endswith("circle")]
    assert len(circles) == 12


@pytest.mark.slow
def test_profile(odd_model_folder: Path) -> None:
    """Shares add up to the whole, and each kind of work is found."""
    arguments = ("--profile", "--rows", "short", "--steps", "2", "--warm-up", "1")
    lines = run("packed_training.py", "--model", str(odd_model_folder), *arguments)
    assert len(lines) == 4
    for line in lines:
        assert sum(line["share"].values()) == pytest.approx(1, abs=0.01)
        assert all(line["share"][kind] > 0 for kind in line["share"] if kind != "Python, and the profiler")
