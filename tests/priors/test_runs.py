"""The table of runs: what ships, its format, and every fault of a file at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.priors import runs

TASK: dict[str, Any] = {
    **{"model": "m", "family": "llama3", "hidden_size": 4096, "rows": 1000, "steps": 100, "batch_size": 10},
    **{"data": "chats", "source": "ours", "licence": "CC0-1.0"},
    "runs": [
        {"rank": 8, "alpha": 32, "dropout": 0, "learning_rate": 1e-4, "loss": 1.2},
        {"rank": 8, "alpha": 32, "dropout": 0.1, "learning_rate": 3e-4, "loss": 1.1},
    ],
}


def test_the_shipped_table_says_where_each_task_is_from() -> None:
    tasks = runs.read(runs.SHIPPED)
    assert sum(task.data == "Tulu-3" for task in tasks) == 24
    assert {task.licence for task in tasks} == {"Apache-2.0"}
    assert len([run for task in tasks if task.data == "Tulu-3" for run in task.runs]) == 391


def test_a_task_is_its_line(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({**TASK, "layers": 32, "tokens": None}) + "\n\n")
    [task] = runs.read(path)
    path.write_text(task.line())
    assert runs.read(path) == [task]
    assert task.more == {"layers": 32}


def test_all_faults_of_a_file_are_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    bad = [
        "{",
        "[1]",
        json.dumps({key: value for key, value in TASK.items() if key != "steps"} | {"stpes": 3}),
        json.dumps({**TASK, "family": "lama", "hidden_size": 0, "batch_size": True, "rows": None, "model": " "}),
        json.dumps({**TASK, "runs": [{**TASK["runs"][0], "rank": 1.5, "loss": float("nan")}, {"rank": 8}]}),
        json.dumps({**TASK, "runs": [{**TASK["runs"][0], "dropout": 2}]}),
        json.dumps({**TASK, "runs": {"rank": 8}}),
    ]
    path.write_text("\n".join(bad))
    with pytest.raises(InputError) as raised:
        runs.read_all([path, tmp_path / "none.jsonl"])
    text = str(raised.value)
    assert [fault.line for fault in raised.value.faults] == [1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 7, None]
    for part in ("Did you mean `steps`?", "steps: is missing", "Did you mean `llama`?", "runs.0.rank: `1.5`"):
        assert part in text
    assert "cannot be read" in text


PRETTY = json.dumps(TASK, indent=1)


@pytest.mark.parametrize("text", ["", "\n \n", "rank,loss\n8,1.2\n", f"[{json.dumps(TASK)}]", PRETTY, "null", "\0"])
def test_a_table_without_tasks_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(InputError, match="holds no task") as raised:
        runs.read(tmp_path / "runs.jsonl")
    assert len(raised.value.faults) == 1


def test_what_editors_write_is_read(tmp_path: Path) -> None:
    """A mark of the byte order, another system's ends of lines, and a separator inside a name, which ends no line."""
    line = json.dumps({**TASK, "model": "a\u2028b"}, ensure_ascii=False)
    (tmp_path / "runs.jsonl").write_bytes(f"\ufeff{line}\r\n\r\n{line}\r\n".encode())
    assert [task.model for task in runs.read(tmp_path / "runs.jsonl")] == ["a\u2028b"] * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"family": "x" * 10**6}, f"unknown family `{'x' * 60}..`; there are"),
        ({"x" * 10**6: 1}, f"{'x' * 60}..: is no key of a task"),
        ({"model": ["x" * 10**6]}, f"`['{'x' * 58}..` is not allowed; text is"),
        ({"instruct": "maybe"}, "instruct: `maybe` is not allowed; true or false is"),
        ({"steps": 10**400}, "`a number of more than 60 digits` is not allowed"),
    ],
)
def test_what_is_wrong_is_said_in_a_short_message(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(json.dumps({**TASK, **wrong}))
    with pytest.raises(InputError) as raised:
        runs.read(tmp_path / "runs.jsonl")
    assert said in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("key", "values"), [("learning_rate", (1e300, 1e-320, 10**400)), ("alpha", (1e300, 1e-320)), ("loss", (1e308, 0))]
)
def test_what_no_training_has_is_refused(key: str, values: tuple[float, ...], tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    bad = [json.dumps({**TASK, "runs": [TASK["runs"][0], {**TASK["runs"][1], key: value}]}) for value in values]
    path.write_text("\n".join(bad))
    with pytest.raises(InputError) as raised:
        runs.read(path)
    assert [(fault.line, fault.key) for fault in raised.value.faults] == [
        (number, f"runs.1.{key}") for number in range(1, len(values) + 1)
    ]


@pytest.mark.parametrize(
    ("word", "family"),
    [
        *[("llama", "llama"), ("Llama-3.1-8B", "llama3.1"), ("llama-7b", "llama"), ("qwen3_5_moe", "qwen3.5")],
        *[("Qwen3-30B-A3B", "qwen3"), ("gpt-oss-20b", "gpt-oss"), ("gpt_oss", "gpt-oss"), ("Kimi-K2.5", "kimi-k2")],
        *[("deepseek_v3", "deepseek3"), ("SmolLM2-135M", "smollm2"), ("phi", "phi"), ("yippie", None), ("lama", None)],
    ],
)
def test_families(word: str, family: str | None) -> None:
    assert runs.family_of(word) == family
    if family:
        assert runs.family_of(family) == family
        assert runs.root(family) in runs.FAMILIES
