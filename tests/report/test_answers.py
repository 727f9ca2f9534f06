"""Answers side by side, and the means of metrics."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.report import answers


def line(row: int, answer: str = "yes", **scores: float) -> dict[str, Any]:
    return {"row": row, "prompt": f"q{row}", "reference": "r", "answer": answer, "scores": scores}


def test_the_models_stand_side_by_side(study: Path, status: dict[str, Any]) -> None:
    found = answers.read(study, status)
    assert list(found) == ["untuned", "baseline", "best"]
    rows = answers.side_by_side(found)
    assert [row.row for row in rows] == [0, 1, 2, 3]
    assert all(list(row.answers) == ["untuned", "baseline", "best"] for row in rows)
    assert rows[0].answers["best"].startswith(f"trial-{status['best']['trial']} says")
    assert list(answers.read(study, {**status, "baseline": status["best"]})) == ["untuned", "best"]


def test_rows_that_one_lacks_are_left_out_and_missing_files_too(study: Path, tmp_path: Path) -> None:
    assert [r.row for r in answers.side_by_side({"a": [line(0), line(2)], "b": [line(2), line(1)]})] == [2]
    assert answers.side_by_side({}) == []
    assert answers.read(tmp_path, {"best": None, "baseline": None}) == {}


def test_a_metric_is_a_mean_with_its_error_and_a_paired_difference() -> None:
    base = [line(n, score=value) for n, value in enumerate((0.0, 1.0, 0.0, 1.0))]
    best = [line(n, score=value) for n, value in enumerate((1.0, 1.0, 1.0, 1.0))]
    (row,) = answers.metrics({"baseline": base, "best": best})
    error = math.sqrt(1 / 3) / 2
    assert row["metric"] == "score"
    assert row["cells"] == {"baseline": f"0.50 ± {error:.2f}", "best": "1.00 [0.51, 1.00]"}
    assert row["difference"].startswith("+0.50 [")
    assert answers.metrics({"best": [line(0)]}) == []


def test_none_right_of_20_on_both_sides_is_no_certainty() -> None:
    both = {name: [line(row, right=0.0, length=7.0) for row in range(20)] for name in ("baseline", "best")}
    right, length = answers.metrics(both)
    assert right["cells"] == {"baseline": "0.00 [0.00, 0.16]", "best": "0.00 [0.00, 0.16]"}
    assert right["difference"] == "+0.00 [-0.17, +0.17]"  # exact: .025 is the chance to see none of .17 in 20
    assert length["cells"]["best"] == "7"  # no share: of such a number no width is known
    assert length["difference"] == "+0"


def test_what_is_no_answer_is_named_with_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation" / "answers"
    folder.mkdir(parents=True)
    (folder / "untuned.jsonl").write_text(json.dumps(line(0)) + "\n[]\n")
    with pytest.raises(InputError, match=r"untuned\.jsonl:2: is no answer"):
        answers.read(tmp_path, {"best": None, "baseline": None})
