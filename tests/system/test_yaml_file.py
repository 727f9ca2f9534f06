"""YAML 1.2 scalars, lines, and every way in which a file can be no config."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.errors import InputError
from meshtune.system import yaml_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("4.", 4.0),
        ("012", 12),
        ("0o17", 15),
        ("0xff", 255),
        ("-7", -7),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("yes", "yes"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-24", "2026-11-24"),
        ("'1e-6'", "1e-6"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, a]", [1, "a"]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = yaml_file.value(text)
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(yaml_file.value(".nan"))


def test_every_key_and_item_has_its_line() -> None:
    document = yaml_file.parse("a: 1\nb:\n  - x: 2\n  -\n    y: 3\n")
    assert document.values == {"a": 1, "b": [{"x": 2}, {"y": 3}]}
    assert document.lines[("a",)] == 1
    assert document.lines[("b", 0, "x")] == 3
    assert document.lines[("b", 1, "y")] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.yaml:1: is empty"),
        ("# only a comment", "is empty"),
        ("- a\n- b", "s.yaml:1: is not a mapping"),
        ("just words", "is not a mapping"),
        ("a: 1\nb: [1, 2", "s.yaml:2: is not YAML"),
        ("a: 1\n\tb: 2", "s.yaml:2: is not YAML"),
        ("a: 1\n---\nb: 2", "s.yaml:2: is not YAML: but found another document"),
        ("a: \x01", "is not YAML"),
        ("a: 1\nb: 2\na: 3", "s.yaml:3: a: the key stands twice, on lines 1 and 3"),
        ("a: {b: 1, b: 2}", "s.yaml:1: a.b: the key stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "a: the tag `tag:yaml.org,2002:python/object/apply:os.system`"),
        ("a: !mine 3", "a: the tag `!mine` is not allowed"),
        ("a: !!int abc", "a: `abc` cannot be read as int"),
        ("a: &x [*x]", "a.0: the alias stands inside the value that it names"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: " + "[" * 20000, "is nested too deeply"),
        ("? [a, b]\n: 1", "s.yaml:1: a key must be plain text"),
    ],
)
def test_what_is_no_config_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        yaml_file.read(path)
    assert message in str(raised.value)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InputError) as raised:
        yaml_file.parse("a: !x 1\nb: 2\nb: 3\nc: !!python/none x")
    assert [fault.line for fault in raised.value.faults] == [1, 3, 4]


def test_missing_unreadable_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; `meshtune init"):
        yaml_file.read(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder: name the YAML file in it"):
        yaml_file.read(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: Grün".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml:2: is not UTF-8"):
        yaml_file.read(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert yaml_file.read(path).values == {"a": 1}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.text(), trees))
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    text = yaml_file.dump(values)
    assert yaml_file.parse(text).values == values


def bomb(lines: int) -> str:
    """Ten lines that stand for ten to the power of ten values."""
    made = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    made += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, lines)]
    return "\n".join(made)


def test_aliases_that_stand_for_very_many_values_are_refused() -> None:
    assert yaml_file.parse(bomb(3)).values["a2"][9][9] == ["x"] * 10
    with pytest.raises(InputError, match=r"study\.yaml:4: a3: aliases stand for more than 10,000 values"):
        yaml_file.parse(bomb(10), "study.yaml")
    with pytest.raises(InputError, match=r"aliases stand for more than 10,000 values"):
        yaml_file.value("[&a [x, x, x, x, x, x, x, x, x, x]" + ", *a" * 2000 + "]")
