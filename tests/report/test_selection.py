"""The choice on the page: from the file that `select` writes, in words and two pictures."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.finalists.select import select
from meshtune.report import figures
from meshtune.report.page import StudyContent, study_page
from meshtune.report.write import selection_of
from meshtune.selection.decide import Settings

SCORES = "name,rank,mmlu,humaneval,default\ntrial 1,1,45,17,0\ntrial 2,2,46,16,0\ntrial 3,3,44,15,1\nuntuned,,42,14,0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scores.csv").write_text(SCORES)
    items = {"mmlu": 14042, "humaneval": 164}
    made = select(None, Settings(draws=200), scores=tmp_path / "scores.csv", items=items)
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "selection.json").write_text(json.dumps(made.values))
    return tmp_path


def test_the_choice_is_on_the_page(folder: Path, status: dict[str, Any]) -> None:
    choice = selection_of(folder)
    assert choice is not None
    page = study_page(StudyContent(status, {}, None, {}, selection=choice), csv="trials.csv", public=True)
    assert "The choice by benchmark scores" in page
    assert all(sentence.replace("'", "&#39;") in page for sentence in choice["sentences"])
    assert "figure-chances" in page
    assert "figure-pareto" in page
    assert "when the items are drawn again" in page
    seeds = StudyContent(status, {}, None, {}, selection={**choice, "seeds": {"trainings": 3}})
    assert "when the items and seeds are drawn again" in study_page(seeds, csv="trials.csv")
    bars = figures.chances(choice).data
    assert sum(sum(trace.x) for trace in bars) == pytest.approx(100)
    points = {trace.name: list(trace.text) for trace in figures.benchmarks(choice).data}
    assert points["chosen"] == [choice["chosen"]]
    assert points["not to choose from"] == ["untuned"]


def test_without_a_choice_there_is_no_section(tmp_path: Path, status: dict[str, Any]) -> None:
    assert selection_of(tmp_path) is None
    assert "The choice by benchmark" not in study_page(StudyContent(status, {}, None, {}), csv="trials.csv")


def test_another_file_of_that_name_is_refused(folder: Path) -> None:
    (folder / "selection" / "selection.json").write_text("{}")
    with pytest.raises(InputError, match="is no choice of `meshtune select`"):
        selection_of(folder)
