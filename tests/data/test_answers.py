"""Files of answers: their names, what is read back, and what is no answer."""

from pathlib import Path

import pytest

from meshtune.data.answers import file_of, read, read_all, write
from meshtune.errors import InputError, StorageError

LINE = {"row": 3, "prompt": "p", "reference": "ü", "answer": "a\u2028b", "scores": {"exact": 1.0}, "made": "0a"}


def test_names() -> None:
    assert file_of(None).as_posix() == "evaluation/answers/untuned.jsonl"
    assert file_of("adapters/12").as_posix() == "evaluation/answers/trial-12.jsonl"
    assert file_of("adapters/baseline").as_posix() == "evaluation/answers/baseline.jsonl"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for adapter in (None, "adapters/3"):
        write(tmp_path / file_of(adapter), [LINE, {**LINE, "row": 4, "scores": {}}])
    assert read_all(tmp_path) == {name: [LINE, {**LINE, "row": 4, "scores": {}}] for name in ("trial-3", "untuned")}
    assert read_all(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"row": 1}', '{"row": 1, "prompt": "", "reference": "", "answer": ""}'])
def test_what_is_no_answer(tmp_path: Path, text: str) -> None:
    path = tmp_path / "untuned.jsonl"
    write(path, [LINE])
    path.write_text(path.read_text(encoding="utf-8") + text + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"untuned\.jsonl:2: is no answer of meshtune"):
        read(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "evaluation").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / file_of(None), [LINE])
