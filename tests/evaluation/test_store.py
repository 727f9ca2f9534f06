"""Files of answers: a full disk, what lacks what scores need, and likelihoods that are no numbers."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError, StorageError
from meshtune.evaluation import store


def place_in(folder: Path, protocol: str = "instruct-eval") -> store.AnswerFile:
    return store.AnswerFile(folder, protocol, "mmlu", {"set": "a"}, "trial-1", {"model": "m"})


def line_of(item: int, **values: Any) -> store.Line:
    return {
        "item": f"logic/{item}",
        "sample": 0,
        "shots": 5,
        "prompt": "x" * 1000,
        "right": " A",
        "answer": " A",
        "cut": False,
        "correct": True,
        "scores": {},
        "log_likelihoods": {" A": -1.0, " B": -2.0},
    } | values


def test_a_full_disk_is_told_and_the_answers_before_it_stay(tmp_path: Path) -> None:
    place = place_in(tmp_path)

    def add_all() -> None:
        with store.writing(place) as (known, writer):
            for item in range(100):
                writer.add([line_of(item)] if (f"logic/{item}", 0) not in known else [])

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # no file may be longer
    try:
        with pytest.raises(StorageError, match=r"trial-1\.jsonl cannot be written: "):
            add_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 5 < len(store.read(place)) < 10
    add_all()
    assert store.read(place) == {(f"logic/{item}", 0): line_of(item) for item in range(100)}


@pytest.mark.parametrize("name", ["correct", "scores", "right", "shots", "cut", "log_likelihoods"])
def test_a_line_without_what_scores_need_is_refused(tmp_path: Path, name: str) -> None:
    place = place_in(tmp_path)
    lacking = {key: value for key, value in line_of(1).items() if key != name}
    for odd in (lacking, line_of(1) | {name: 1.5}):
        with store.writing(place) as (_, writer):
            writer.add([line_of(0), odd])
        with pytest.raises(InputError, match=r"trial-1\.jsonl:3: is no answer of meshtune: remove the file"):
            store.read(place)
        place.path.unlink()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_likelihoods_that_are_no_numbers_are_none(tmp_path: Path, value: float) -> None:
    place = place_in(tmp_path)
    told = {" A": -1.0, " B": value}
    with store.writing(place) as (_, writer):
        writer.add([line_of(0), line_of(1, log_likelihoods=told)])
    assert "NaN" not in place.path.read_text()
    assert "Infinity" not in place.path.read_text()
    assert store.read(place)["logic/1", 0] == line_of(1, log_likelihoods=None)
    with place.path.open("a") as file:  # as they were written before
        file.write(json.dumps(line_of(2, log_likelihoods=told)) + "\n")
    assert store.read(place)["logic/2", 0] == line_of(2, log_likelihoods=None)


def test_likelihoods_of_the_harness_keep_their_places(tmp_path: Path) -> None:
    place = place_in(tmp_path, "harness")
    line = {"item": "a", "sample": 0, "answer": "", "log_likelihoods": [-1.0, math.nan], "greedy": [True, False]}
    with store.writing(place) as (_, writer):
        writer.add([line])
    assert "NaN" not in place.path.read_text()
    first, second = store.read(place)["a", 0]["log_likelihoods"]
    assert first == -1.0
    assert math.isnan(second)
