"""Small benchmarks in the published formats, written on the spot, and where the real ones are."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real_files = pytest.mark.skipif(not REAL.exists(), reason=f"the real files are not there: {REAL}")

SUBJECTS = ("simple_sums", "logic")
QUESTION = ["What is {n} + 1?", "{n}", "{m}", "0", "none"]
PROBLEM = {
    "prompt": 'def add{n}(x):\n    """ Add {n}. """\n',
    "canonical_solution": "    return x + {n}\n",
    "test": "def check(candidate):\n    assert candidate(1) == {m}\n",
    "entry_point": "add{n}",
    "task_id": "HumanEval/{n}",
}


def no_check(pairs: Sequence[tuple[Mapping[str, str], str]]) -> list[tuple[bool, str]]:
    """Judges code without running it: right where it is the problem's own solution."""
    return [(code.strip() == problem["canonical_solution"].strip(), "other code") for problem, code in pairs]


def question(n: int) -> list[str]:
    return [*(part.format(n=n, m=n + 1) for part in QUESTION), "B"]


def make_mmlu(folder: Path, subjects: Sequence[str] = SUBJECTS, items: int = 6, shots: int = 5) -> Path:
    for side, count in (("dev", shots), ("test", items)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for subject in subjects:
            with (folder / side / f"{subject}_{side}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(question(n) for n in range(count))
    return folder


def make_bbh(folder: Path, items: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for task in ("boolean_expressions", "navigate"):
        rows = [{"input": f"{task} {n}", "target": str(n % 2 == 0)} for n in range(items)]
        (folder / f"{task}.json").write_text(json.dumps({"canary": "none", "examples": rows}))
    return folder


def drop_passages(count: int, questions: int = 2) -> dict[str, Any]:
    """The official format; the last question of each passage has two annotators who disagree."""
    empty = {"day": "", "month": "", "year": ""}
    sections = {}
    for n in range(count):
        pairs = [
            {
                "question": f"How many does team {n} have after {q}?",
                "query_id": f"{n}-{q}",
                "answer": {"number": str(n + q), "date": empty, "spans": []},
            }
            for q in range(questions)
        ]
        other = {"number": "", "date": {"day": "1", "month": "May", "year": "1900"}, "spans": []}
        disputed = {"question": "When?", "query_id": f"{n}-when", "answer": pairs[0]["answer"]}
        disputed["validated_answers"] = [other, pairs[0]["answer"]]
        sections[f"passage_{n}"] = {"passage": f"Team {n} has {n}.  Others less. ", "qa_pairs": [*pairs, disputed]}
    return sections


def make_drop(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drop_dataset_dev.json").write_text(json.dumps(drop_passages(count)))
    return folder


def synthetic_drop(count: int) -> dict[str, Any]:
    """So many passages in DROP's official format, made up: reports of games, and five questions on each."""
    teams = ("Hawks", "Bears", "Rams", "Colts", "Lions", "Saints", "Jets")
    towns = ("Oakland", "Denver", "Buffalo", "Dallas", "Tampa")
    names = ("Allen", "Brooks", "Carter", "Dixon", "Ellis", "Foster", "Grant", "Hayes", "Irwin", "Jones", "Keller")
    sections = {}
    for n in range(count):
        home, away = teams[n % len(teams)], teams[(n + 1 + n // len(teams) % 5) % len(teams)]
        thrower, kicker = names[n % len(names)], names[(n + 4) % len(names)]
        town, yards, long, short = towns[n % len(towns)], 180 + 7 * n, 40 + n % 17, 20 + n % 13
        passage = (
            f"In week {1 + n % 17} the {home} played the {away} in {town}. {thrower} threw for {yards} yards in all. "
            f"{kicker} kicked a {long}-yard field goal in the first quarter and a {short}-yard one in the third. "
            f"The {home} won by {long - short} points."
        )
        asked = {
            "In which town was the game played?": town,
            "Who threw for the most yards?": thrower,
            "Who kicked the field goals?": kicker,
            f"How many yards did {thrower} throw for?": str(yards),
            f"Against whom did the {home} play?": away,
        }
        empty = {"day": "", "month": "", "year": ""}
        pairs = [
            {
                "question": question,
                "query_id": f"synthetic-{n}-{number}",
                "answer": {"number": answer if answer.isdigit() else "", "date": empty, "spans": []}
                | ({} if answer.isdigit() else {"spans": [answer]}),
            }
            for number, (question, answer) in enumerate(asked.items())
        ]
        sections[f"synthetic_{n}"] = {"passage": passage, "qa_pairs": pairs}
    return sections


def make_humaneval(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{key: text.format(n=n, m=n + 1) for key, text in PROBLEM.items()} for n in range(count)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "HumanEval.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def make_all(folder: Path, subjects: Sequence[str] = SUBJECTS) -> Path:
    make_mmlu(folder / "mmlu", subjects)
    make_bbh(folder / "bbh")
    make_drop(folder / "drop")
    make_humaneval(folder / "humaneval")
    return folder
