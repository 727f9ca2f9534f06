"""Paths are cut to their last parts; nothing else is."""

from typing import Any

import pytest

from meshtune.report.public import hidden, hidden_config

HOME = "/".join(("", "home", "alice"))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/data/of me/rows.jsonl", "rows.jsonl"),
        ("C:\\data\\rows.jsonl", "rows.jsonl"),
        ("~/models/tiny", "tiny"),
        ("--data=/a/b.json", "--data=b.json"),
        ("exit code 1 (see /a/b/trial-3.err)", "exit code 1 (see trial-3.err)"),
        (f"run >{HOME}/log 2>{HOME}/err <{HOME}/in", "run >log 2>err <in"),
        (f"@{HOME}/args", "@args"),
        (f"-I{HOME}/inc -L{HOME}/lib/", "-Iinc -Llib/"),
        ("file:" + f"//{HOME}/x", "x"),
        ("--at=file:" + f"//host{HOME}/x", "--at=x"),
        (".file:" + f"//host{HOME}/x", ".file:x"),
        (f"sqlite:///{HOME}/x.db", "sqlite:x.db"),
        (f"--data:{HOME}/rows.json", "--data:rows.json"),
        (f"--data=/{HOME}/rows.json", "--data=rows.json"),
        (f"at:{HOME}/bin;{HOME}/b|c", "at:bin;b|c"),
        ("--data=~alice/rows.json", "--data=rows.json"),
        ("--data:C:\\me\\rows.json", "--data:rows.json"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("../rows/*/train-1/*.json", "../rows/*/train-1/*.json"),
        ("--at:http://localhost:8080/v1/a", "--at:http://localhost:8080/v1/a"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("rows/train.jsonl", "rows/train.jsonl"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("3 / 4", "3 / 4"),
        (["/a/python", 3, None], ["python", 3, None]),
        ({"a": {"b": "/x/y"}}, {"a": {"b": "y"}}),
    ],
)
def test_hidden(given: Any, shown: Any) -> None:
    assert hidden(given) == shown


def test_where_things_lie_is_dropped() -> None:
    config = {"storage": "postgresql://me:secret@host/db", "folder": "/a/b", "seed": 3}
    assert hidden_config(config) == {"seed": 3}
