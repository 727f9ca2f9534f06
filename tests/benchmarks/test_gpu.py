"""The benchmark for an hour with a card, on a CPU: it runs where only torch, Transformers and PEFT are there, goes on
where it was, and no fault of one measurement is the end of the others. No speed is asserted."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.hidden import without
from tests.training.test_imports import NOT_NEEDED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    return gpu


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The lines that it prints, where what it must not need is missing."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--tiny", *arguments],
        capture_output=True,
        text=True,
        env=without(folder, *NOT_NEEDED),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_it_runs_with_torch_transformers_and_peft_alone_and_goes_on(tmp_path: Path) -> None:
    results = tmp_path / "gpu.jsonl"
    parts = ("losses", "speed", "memory", "launches", "nf4", "scoring", "kernels", "study")
    lines = run(tmp_path, *parts, "--results", str(results))
    assert all(line["card"] == "CPU" for line in lines)
    named = [line for line in lines if "name" in line]
    counted = {"losses": 6, "speed": 2, "memory": 6, "launches": 4}
    counted |= {"nf4": 1, "scoring": 1, "kernels": 2, "study": 1}
    assert Counter(line["name"].removeprefix("gpu_") for line in named) == counted
    launched = [line for line in named if line["name"] == "gpu_launches"]  # which a CPU has none of
    assert {line["attention"] for line in launched} == {"by_sequence"}
    for line in (line for line in named if line not in launched):
        assert {"ours", "theirs", "ratio", "low", "high", "setting"} <= line.keys()
        if line["name"] in ("gpu_nf4", "gpu_kernels", "gpu_study"):
            assert "is not installed" in line["setting"]
        else:
            assert line["low"] <= line["ratio"] <= line["high"]
    for line in named[:6]:
        bound = 1e-4 if "training in float32" in line["setting"] else 5e-3
        assert line["largest_difference"] < (1e-5 if "alone" in line["setting"] else bound)
        assert line["ours"] < line["first"]
    # Whole results are not measured anew; a line that was being written when the machine went away is.
    whole = results.read_text().splitlines(keepends=True)
    cut = next(at for at, line in enumerate(whole) if '"name": "gpu_speed"' in line)
    results.write_text("".join(whole[:cut]) + whole[cut][:20])
    again = [line for line in run(tmp_path, "speed", "--results", str(results)) if "name" in line]
    assert [line["setting"] for line in again] == [line["setting"] for line in named if line["name"] == "gpu_speed"]
    assert [line["ours"] for line in again] == [line["ours"] for line in named if line["name"] == "gpu_speed"]


@pytest.mark.parametrize("after", [0, 1])
def test_a_measurement_that_kills_its_process_is_its_result(gpu: Any, tmp_path: Path, after: int) -> None:
    """The child dies in its first measurement, or is silent in it; the next one measures the second."""
    end = ["os.abort()", "time.sleep(600)"][after]
    code = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from gpu import Results
results = Results(Path({str(tmp_path / "r.jsonl")!r}), "card", 7.0)
for cell in ("one", "two"):
    if results.of(cell) is None:
        results.add("losses", {{"cell": cell, "begun": True}}, shown=False)
        if cell == "one":
            {end}
        results.add("losses", {{"cell": cell, "value": 3}}, shown=False)
"""
    results = gpu.Results(tmp_path / "r.jsonl", "", 7.0)
    patience = 60.0 if after == 0 else 2.0
    assert gpu.supervise([sys.executable, "-c", code], results, patience) == 1
    results.card = "card"
    assert "fault" in results.of("one")
    assert results.of("two")["value"] == 3


def test_a_child_that_never_begins_is_not_started_for_ever(gpu: Any, tmp_path: Path) -> None:
    results = gpu.Results(tmp_path / "r.jsonl", "", 7.0)
    assert gpu.supervise([sys.executable, "-c", "raise SystemExit(5)"], results, 60.0) == 1


def test_no_memory_is_a_result_and_a_fault_of_the_device_ends_the_process(gpu: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    options = gpu.Options(("losses",), ("tiny",), "cpu", 60.0, str(tmp_path / "r.jsonl"), True, False, time.time())
    bench = gpu.Bench(options)

    def fails(error: Exception) -> Any:
        raise error

    short = bench.cell("losses", "one", lambda: fails(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    assert short["fault"] == "out of memory"
    assert "illegal" in bench.cell("losses", "two", lambda: fails(RuntimeError("an illegal access")))["fault"]
    assert bench.cell("losses", "two", lambda: fails(KeyError()))["fault"].startswith("RuntimeError")  # what is known
    bench.cuda = True
    with pytest.raises(SystemExit) as ended:
        bench.cell("losses", "three", lambda: fails(RuntimeError("CUDA error: an illegal memory access")))
    assert ended.value.code == gpu.AGAIN
    assert bench.results.of("three")["fault"].startswith("RuntimeError: CUDA error")
    for retry, known in ((False, True), (True, False)):  # in a later call
        later = gpu.Results(tmp_path / "r.jsonl", bench.results.card, 1.0, retry)
        assert (later.of("one") is not None) == known


def test_a_part_begins_nothing_after_its_time(gpu: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    results = tmp_path / "r.jsonl"
    gpu.child(gpu.Options(gpu.PARTS, ("tiny",), "cpu", -1.0, str(results), True, False, time.time()))
    assert "name" not in {name for line in results.read_text().splitlines() for name in json.loads(line)}


def test_a_base_in_few_bits(gpu: Any, tmp_path: Path) -> None:
    """Where bitsandbytes is installed; what is told is not told again."""
    pytest.importorskip("bitsandbytes")
    results = tmp_path / "r.jsonl"
    options = gpu.Options(("nf4",), ("tiny",), "cpu", 60.0, str(results), True, False, time.time())
    for _ in range(2):
        gpu.child(options)
    (line,) = [line for line in map(json.loads, results.read_text().splitlines()) if "name" in line]
    assert line["ratio"] == pytest.approx(line["ours"] / line["theirs"], rel=1e-3)


@pytest.mark.slow
def test_processes_side_by_side_and_a_whole_study(tmp_path: Path) -> None:
    """By `meshtune tune`, in packs and one by one, to the same losses."""
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "processes", "study", "--device", "cpu", "--tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--results", str(tmp_path / "r.jsonl")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    both, line = [line for line in map(json.loads, done.stdout.splitlines()) if "name" in line]
    assert both["ratio"] == pytest.approx(both["ours"] / both["theirs"], rel=1e-3)
    assert line["losses_ours"] == pytest.approx(line["losses_theirs"], abs=5e-3)
