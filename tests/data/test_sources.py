import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import SourceConfig
from meshtune.data.rows import Row
from meshtune.data.sources import identity, load, load_all
from meshtune.errors import InputError
from tests.data.made import INSTRUCTIONS

ROWS = [
    {"instruction": "one", "input": "", "output": 'said "yes", left'},
    {"instruction": "two", "input": "a\nb", "output": "line\u2028separated"},
    {"instruction": "three", "input": "", "output": "fünf"},
]


def as_csv(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_parquet(rows: list[dict[str, str]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[list[dict[str, str]], Path], Any]] = {
    ".jsonl": lambda rows, path: path.write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8"),
    ".json": lambda rows, path: path.write_text(json.dumps(rows, indent=1), "utf-8"),
    ".wrapped.json": lambda rows, path: path.write_text("\ufeff" + json.dumps({"data": rows}), "utf-8"),
    ".lines.json": lambda rows, path: path.write_text("\n".join(map(json.dumps, rows)), "utf-8"),
    ".csv": as_csv,
    ".parquet": as_parquet,
}
LINES = {".jsonl": [1, 3, 5], ".json": [2, 7, 12], ".wrapped.json": [1, 1, 1], ".csv": [2, 3, 5]}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](ROWS, path)
    if packed:
        path = path.rename(path.with_name(path.name + ".gz"))
        path.write_bytes(gzip.compress(path.read_bytes()))
    loaded = load(SourceConfig(path=str(path)))
    assert loaded.format == "alpaca"
    assert [(row.prompt, row.context, row.response) for row in loaded.rows] == [tuple(row.values()) for row in ROWS]
    assert [row.line for row in loaded.rows] == LINES.get(suffix, [1, 2, 3])


def faults(path: Path, content: str | bytes) -> list[str]:
    """What is said about a file with this content, without its folder."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as raised:
        load(SourceConfig(path=str(path)))
    return [str(fault).removeprefix(f"{path.parent}/") for fault in raised.value.faults]


GOOD = json.dumps(ROWS[0])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", f"{GOOD}\n{{oops\n{GOOD}\n", ["a.jsonl:2: malformed JSON at column 2: "]),
        ("a.jsonl", f'{GOOD}\n{{"instruction": "x"}}\n[1\n', ["a.jsonl:2: lacks `output`", "a.jsonl:3: malformed"]),
        ("a.jsonl", GOOD.encode() + b"\n\xff{}\n", ["a.jsonl:2: not UTF-8 (byte 0xff at column 1)"]),
        ("a.jsonl", "[" * 100000, ["a.jsonl:1: malformed JSON: nested too deeply"]),
        ("a.jsonl", "9" * 5000, ["a.jsonl:1: malformed JSON: Exceeds the limit"]),
        ("a.jsonl", "\n\n", ["a.jsonl: holds no row"]),
        ("a.json", "[]", ["a.json: holds no row"]),
        ("a.json", f"[{GOOD},\n{GOOD}\n{GOOD}]", ["a.json:3: malformed JSON at column 1: expected `,` or `]`"]),
        ("a.json", f"[{GOOD}", ["a.json:1: malformed JSON"]),
        ("a.json", f"[{GOOD}] x", [f"a.json:1: malformed JSON at column {len(GOOD) + 4}: more text after the list"]),
        (
            "a.json",
            f'{{"a": [{GOOD}], "b": 1}}',
            [f"a.json:1: malformed JSON at column {len(GOOD) + 9}: the object must hold one list"],
        ),
        ("a.json", '{"a": 1}', ["a.json:1: must be a list of rows, or an object that holds one list of rows"]),
        ("a.csv", "instruction,output\na,b\nc\n", ["a.csv:3: has 1 fields, but the header has 2"]),
        ("a.csv", 'instruction,output\na,"b', ["a.csv:2: malformed CSV"]),
        ("a.parquet", "nonsense", ["a.parquet: is no readable Parquet file"]),
        ("a.jsonl.gz", GOOD, ["a.jsonl.gz: is no whole gzip file"]),
        ("a.jsonl.gz", gzip.compress(GOOD.encode() * 99, mtime=0)[:-20], ["a.jsonl.gz: is no whole gzip file"]),
        ("a.txt", GOOD, ["a.txt: `.txt` is no known kind of file: allowed are .jsonl, .ndjson, .json, .csv, .parquet"]),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    said = faults(tmp_path / name, content)
    assert len(said) == len(expected)
    for fault, begin in zip(said, expected, strict=True):
        assert fault.startswith(begin)


def test_the_faults_of_all_sources_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "alpaca.jsonl").write_text("{oops\n" * 25)
    sources = [SourceConfig(path=str(tmp_path / name)) for name in ("alpaca.jsonl", "alpaco.jsonl")]
    with pytest.raises(InputError) as raised:
        load_all(sources)
    messages = str(raised.value).splitlines()
    assert len(messages) == 12
    assert messages[10].endswith("alpaca.jsonl: and 15 more faults like these")
    assert messages[11].endswith("alpaco.jsonl: there is no such file. Did you mean `alpaca.jsonl`?")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(InputError, match=r"rows\.jsonl: cannot be read: Is a directory"):
        load(SourceConfig(path=str(tmp_path / "rows.jsonl")))


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD)
    before = identity(SourceConfig(path=str(path)))
    assert identity(SourceConfig(path=str(path.rename(tmp_path / "b.jsonl")))) == before
    (tmp_path / "b.jsonl").write_text(GOOD + "\n")
    assert identity(SourceConfig(path=str(tmp_path / "b.jsonl"))) != before


def test_a_data_set_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    loaded = load(SourceConfig(dataset=str(folder)))
    assert [row.response for row in loaded.rows] == [row["output"] for row in ROWS]
    with pytest.raises(InputError, match=r"has no split `trian`; it has train\. Did you mean `train`\?"):
        load(SourceConfig(dataset=str(folder), split="trian"))


def test_a_data_set_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="data set `nobody/nothing` is not in the local cache, and the Hugging Face hub"
    ):
        load(SourceConfig(dataset="nobody/nothing"))


def test_the_real_damaged_file_is_refused_with_its_first_bad_line() -> None:
    path = INSTRUCTIONS / "alpaca_libre_tasks_v2.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    with pytest.raises(InputError) as raised:
        load(SourceConfig(path=str(path)))
    assert str(raised.value.faults[0]).startswith(f"{path}:2279: malformed JSON at column")
    assert str(raised.value.faults[-1]).endswith("and 4 more faults like these")


def test_a_data_set_with_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text(json.dumps({**ROWS[0], "instruction": name}))
    subsets = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{subsets}---\n")
    two = SourceConfig(dataset=str(folder), subset="two")
    (row,) = load(two).rows
    assert isinstance(row, Row)
    assert row.prompt == "two"
    assert identity(two) == f"dataset:{folder}:two:train"
    for subset, message in (
        (None, "has several subsets: name one with `subset:`; it has one, two."),
        ("twoo", "has no subset `twoo`; it has one, two. Did you mean `two`?"),
    ):
        with pytest.raises(InputError) as raised:
            load(SourceConfig(dataset=str(folder), subset=subset))
        assert str(raised.value).endswith(message)
