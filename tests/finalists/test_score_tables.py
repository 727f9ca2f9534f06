"""Tables of scores as they are printed, written and told: nothing of a number is lost."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from meshtune.cli.score_tables import show
from meshtune.evaluation.scoring import Score, Scores
from meshtune.finalists import score_tables
from meshtune.finalists.candidates import ListedCandidate
from meshtune.finalists.evaluate import evaluate
from meshtune.report import benchmark_tables
from meshtune.selection.candidates import Column, Scored, ScoreTable

NAMES = ("mmlu", "bbh", "humaneval")


def made(label: str, name: str) -> ScoreTable:
    """Two candidates with three verdicts, each with a likelihood beside it, no two numbers alike."""
    columns = [Column(one, f"{one.upper()} (no signal)", 24) for one in NAMES]
    columns += [Column(f"{one}:likelihood", f"{one.upper()} nats a byte", digits=4) for one in NAMES]
    rows = []
    for row in (1, 2):
        scores = {
            column.name: row + place / 10 if column.verdict else -row - place / 1000
            for place, column in enumerate(columns)
        }
        errors = {column.name: 10 + scores[column.name] / 10 for column in columns}
        rows.append(Scored(f"{name} {row}", row, scores, errors, trial=row, loss=2.5 + row / 1000))
    return ScoreTable(label, tuple(columns), tuple(rows))


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("trial", range(40, 201)),
        ("\u8bd5\u9a8c", range(40, 201, 8)),  # each is two cells wide
        ("a long name of a trial, longer than a narrow terminal is wide", range(40, 201, 8)),
    ],
)
def test_every_number_is_printed_whole_whatever_the_width(name: str, widths: range) -> None:
    tables = [made("of the paper" if name == "trial" else name, name)]
    shown = [benchmark_tables.candidates(tables[0]), benchmark_tables.statistics(tables, 5)]
    cells = Counter(cell.text for one in shown for row in one.rows for cell in row[2:] if cell.text)
    for width in widths:
        text = io.StringIO()
        show(tables, 5, Console(file=text, width=width))
        lines = [line for line in text.getvalue().split("\n") if line.endswith("  ")]
        assert max(map(len, lines)) <= width
        printed = Counter(part for line in lines for part in re.split(" {2,}", line))
        assert not cells - printed, width


def test_tables_whose_labels_make_one_file_name_are_all_written(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.csv" for name in ("a b", "a-b", "A_b", "a_b")]
    for number, path in enumerate(files):
        path.write_text(f"rank,mmlu\n1,{40 + number}\n")
    done = evaluate([], scores=files, out=tmp_path / "out")
    assert done.folder is not None
    written = {path.stem: path.read_text().split("\n")[1][:10] for path in done.folder.glob("candidates*.csv")}
    assert written == {
        "candidates-a-b": "1,1,,,,40.",
        "candidates-a-b-2": "1,1,,,,41.",
        "candidates-A_b": "1,1,,,,42.",
        "candidates-a_b-2": "1,1,,,,43.",
    }
    assert all((done.folder / f"{name}{end}").exists() for name in written for end in (".md", ".tex"))


def test_a_likelihood_that_is_no_number_is_not_known() -> None:
    """As of a model whose outputs are not finite: JSON has no such number, and files of scores refuse it."""
    half = Score(0.5, 0.1)
    results = {
        name: {"mmlu": Scores(half, 0.25, {}, Score(likelihood, likelihood), 4, 0, 0, {})}
        for name, likelihood in (("a", float("nan")), ("b", 0.25))
    }
    columns = [Column("mmlu", "MMLU"), Column("mmlu:likelihood", "MMLU P(right letter)")]
    listed = [ListedCandidate(name, None, None, baseline=False) for name in results]
    table = score_tables.table("study", "", columns, listed, results, {}, {})
    assert [row.scores for row in table.rows] == [{"mmlu": 50.0}, {"mmlu": 50.0, "mmlu:likelihood": 25.0}]
    assert "-" in [cell.text for cell in benchmark_tables.candidates(table).rows[0]]
    json.dumps(score_tables.as_json(table), allow_nan=False)
