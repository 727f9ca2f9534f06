"""Files of scores: what is read of them, and their faults."""

from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.report import score_files
from meshtune.selection.candidates import ScoreTable


def read(folder: Path, name: str, text: str) -> ScoreTable:
    (folder / name).write_text(text)
    return score_files.read(folder / name)


def test_files_of_scores_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a first line with `rank`"):
        read(tmp_path, "a.csv", "model;mmlu\n")
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", "rank,mmlu,bbh\n1,0.4,x\n2,140,3\nitems,many,\n")
    assert [fault.message.partition(":")[0] for fault in raised.value.faults] == [
        "`x` is no score of bbh",
        "mmlu is 140",
        "`many` is no number of items of mmlu",
    ]
    head = "name,rank,mmlu,mmlu:se,loss,mmlu\n"
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", f"{head}a,1.0,5,x,y,5\nb,2,5,,,5\nb,3,5,,,5\nchance,,x,,,x\n")
    assert [fault.message for fault in raised.value.faults] == [
        "names the column `mmlu` twice",
        "`x` is no standard error of mmlu",
        "`1.0` is no whole number, and `rank` is one",
        "`y` is no loss",
        "line 3 has the scores of `b` already",
        "`x` is no chance of mmlu",
    ]
    with pytest.raises(InputError, match=r"`1\.0` is no whole number"):
        read(tmp_path, "a.csv", "rank,mmlu\n1.0,5\n")
    with pytest.raises(InputError, match="cannot be read"):
        score_files.read(tmp_path / "none.csv")
    lines = "".join(f"{n},5,{error}\n" for n, error in enumerate(("-1", "nan", "inf", "0", ""), start=1))
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", f"rank,mmlu,mmlu:se\n{lines}items,{10**20},\n")
    assert [fault.message.partition(":")[0] for fault in raised.value.faults] == [
        "the standard error of mmlu is -1",
        "`nan` is no standard error of mmlu",
        "`inf` is no standard error of mmlu",
        f"`{10**20}` is no number of items of mmlu",
    ]


def test_numbers_with_commas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", "rank,mmlu,bbh\n1,45,94,46,00\n2,46,10,40,20\n3,40,30\nitems,14,042,100\n")
    told = [(fault.line, fault.message.partition(":")[0]) for fault in raised.value.faults]
    assert told == [
        (2, "has 5 fields for 3 columns"),
        (3, "has 5 fields for 3 columns"),
        (5, "has 4 fields for 3 columns"),
    ]
    table = read(tmp_path, "a.csv", "rank,mmlu,bbh\n1,45,94,,\nitems,100\nprotocol,mine\n")
    assert table.rows[0].scores == {"mmlu": 45, "bbh": 94}
    assert (table.columns[0].items, table.columns[1].items, table.protocol) == (100, None, "mine")


@pytest.mark.parametrize("more", ["2,40\n", "2,40\n" * 40_000])
def test_a_quote_that_is_not_closed_is_a_fault_of_its_line(tmp_path: Path, more: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:4: the row that begins here cannot be read"):
        read(tmp_path, "a.csv", f'name,mmlu,default\n"of two\nlines",40,0\n1,45,"1\n{more}')


def test_lines_are_counted_where_a_name_has_two(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv:4: `x` is no score of mmlu"):
        read(tmp_path, "a.csv", 'name,mmlu\n"of two\nlines",40\nb,x\n')


def test_the_baseline_is_marked_in_words_too(tmp_path: Path) -> None:
    marks = ("1", "yes", " True", "x", "1.0", "0", "no", "FALSE", "", "0.0")
    lines = "".join(f"{number},45,{mark}\n" for number, mark in enumerate(marks, start=1))
    table = read(tmp_path, "a.csv", f"rank,mmlu,default\n{lines}")
    assert [row.baseline for row in table.rows] == 5 * [True] + 5 * [False]
    with pytest.raises(InputError, match="`2` in the column `default`: 1 marks the baseline"):
        read(tmp_path, "a.csv", "rank,mmlu,default\n1,45,2\n")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_every_number_is_finite(tmp_path: Path, text: str) -> None:
    rows = f"1,{text},{text},,{text}\n2,45,,{text},\nchance,{text}\n"
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", f"rank,mmlu,mmlu:x,mmlu:se,loss\n{rows}")
    what = ("score of mmlu", "score of mmlu:x", "loss", "standard error of mmlu", "chance of mmlu")
    advice = "it is a finite number; leave out what is not known"
    assert [fault.message for fault in raised.value.faults] == [f"`{text}` is no {one}: {advice}" for one in what]
