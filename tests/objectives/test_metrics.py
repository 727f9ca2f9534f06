"""Metrics of one's own: what is loaded, what is scored, and every way in which a file can be wrong."""

from pathlib import Path

import pytest

from meshtune.config.sections import MetricConfig
from meshtune.errors import InputError
from meshtune.objectives import metrics


def written(folder: Path, text: str, **changed: str) -> dict[str, MetricConfig]:
    path = folder / "metrics.py"
    path.write_text(text, encoding="utf-8")
    return {"exact": MetricConfig(**{"file": str(path), **changed})}


def test_a_metric_sees_the_row_and_the_answer(tmp_path: Path) -> None:
    text = "def score(row, answer):\n    return row['output'] == answer\n"
    function = metrics.load(written(tmp_path, text))["exact"]
    assert metrics.score("exact", function, {"output": "yes"}, "yes") == 1.0
    assert metrics.score("exact", function, {"output": "yes"}, "no") == 0.0


def test_a_file_may_define_what_looks_up_its_module(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    text += "def f(row, answer):\n    return A().x\n"
    assert metrics.score("exact", metrics.load(written(tmp_path, text, function="f"))["exact"], {}, "") == 1.0


@pytest.mark.parametrize(
    ("text", "changed", "words"),
    [
        ("def scorer(row, answer): ...", {}, "has no function `score`. Did you mean `scorer`?"),
        ("score = 3", {}, "has no function `score`"),
        ("def score(row): return 1", {}, "`score` must take a row and an answer: too many positional arguments"),
        ("import no_such_package", {}, "cannot be run: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def score(:", {}, "cannot be run: SyntaxError"),
        ("", {"file": "/no/such.py"}, "there is no such file"),
    ],
)
def test_faults(tmp_path: Path, text: str, changed: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        metrics.load(written(tmp_path, text, **changed))
    assert words in str(caught.value)
    assert "metrics.exact" in str(caught.value)


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    given = {name: MetricConfig(file=str(tmp_path / f"{name}.py")) for name in ("one", "two")}
    with pytest.raises(InputError) as caught:
        metrics.load(given)
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("return row['x']", "failed on an answer: KeyError: 'x' (metrics.py, line 2); the row has output"),
        ("return 'high'", "must give a finite number, and gave 'high'"),
        ("return float('nan')", "must give a finite number"),
        ("return None", "must give a finite number, and gave None"),
    ],
)
def test_what_a_metric_may_give(tmp_path: Path, text: str, words: str) -> None:
    function = metrics.load(written(tmp_path, f"def score(row, answer):\n    {text}\n"))["exact"]
    with pytest.raises(InputError) as caught:
        metrics.score("exact", function, {"output": "yes"}, "an answer")
    assert words in str(caught.value)


def test_the_stamp_changes_with_whatever_decides_a_score(tmp_path: Path) -> None:
    given = written(tmp_path, "def score(row, answer): return 1")
    stamps = [metrics.stamp(given, 4, 128), metrics.stamp(given, 5, 128), metrics.stamp(given, 4, 64)]
    stamps.append(metrics.stamp({"other": given["exact"]}, 4, 128))
    stamps.append(metrics.stamp(written(tmp_path, "def score(row, answer): return 2"), 4, 128))
    assert len(set(stamps)) == 5
    assert metrics.stamp(written(tmp_path, "def score(row, answer): return 1"), 4, 128) == stamps[0]
