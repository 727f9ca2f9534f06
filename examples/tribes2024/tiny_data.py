"""Writes made-up items in the formats of MMLU, BBH, DROP and HumanEval, and a few questions, to run every step once.

python tiny_data.py OUT
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

ITEMS = 24  # `meshtune select` counts no benchmark of fewer than 20 items


def write(path: Path, lines: list[Any]) -> None:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def mmlu(folder: Path) -> None:
    """Sums of two equal numbers, with five examples of `dev`."""
    for part, first, count in (("dev", 1, 5), ("test", 10, ITEMS)):
        path = folder / part / f"elementary_mathematics_{part}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for number in range(first, first + count):
                right = number % 4
                choices = [str(2 * number + index - right) for index in range(4)]
                writer.writerow([f"What is {number} + {number}?", *choices, "ABCD"[right]])


def bbh(folder: Path) -> None:
    """Is a negation true?"""
    examples = [{"input": f"{'not ' * number}True is", "target": str(number % 2 == 0)} for number in range(ITEMS)]
    write(folder / "boolean_expressions.json", [{"examples": examples}])


def drop(folder: Path) -> None:
    """Sums of apples."""
    passages = {}
    for number in range(2, ITEMS + 5):  # three are the shots
        answer = {"number": str(number + 3), "spans": [], "date": {}}
        question = {"query_id": f"made-{number}", "question": "How many apples are there?", "answer": answer}
        text = f"On the table are {number} red apples and 3 green apples."
        passages[f"made_{number}"] = {"passage": text, "qa_pairs": [question]}
    write(folder / "drop_dataset_dev.json", [passages])


def humaneval(folder: Path) -> None:
    """Functions that add a number."""
    problems = [
        {
            "task_id": f"made/{number}",
            "prompt": f'def add_{number}(x: int) -> int:\n    """Return x + {number}."""\n',
            "entry_point": f"add_{number}",
            "canonical_solution": f"    return x + {number}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        }
        for number in range(ITEMS)
    ]
    write(folder / "HumanEval.jsonl", problems)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    mmlu(out / "mmlu")
    bbh(out / "bbh")
    drop(out / "drop")
    humaneval(out / "humaneval")
    texts = [f"What is {thing} in Python?" for thing in ("a list", "a set", "a file", "a loop")]
    write(out / "questions.jsonl", [{"question_id": number, "text": text} for number, text in enumerate(texts)])
