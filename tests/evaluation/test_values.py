"""Values cross as literals of exact built-in types; bytes that are no value are refused and build nothing else."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation.candidate_process import encode
from meshtune.evaluation.values import DEPTH, DIGITS, Malformed, NotLiteral, decode, literal

HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(),
    lambda members: st.tuples(members, members) | st.frozensets(members, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda members: (
        st.lists(members, max_size=4)
        | st.dictionaries(HASHABLE, members, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.tuples(members)
    ),
    max_leaves=12,
)


def encoded(value: Any) -> bytes:
    parts: list[bytes] = []
    encode(value, parts)
    return b"".join(parts)


def shape(value: Any) -> Any:
    """Types and members, so that True is not 1, 0.0 not -0.0, and not-a-number is itself."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(member)) for key, member in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(shape(member)) for member in value)
    if isinstance(value, list | tuple):
        return type(value), [shape(member) for member in value]
    return type(value), repr(value)


@given(VALUES)
def test_an_answer_is_read_as_it_was(value: Any) -> None:
    assert shape(decode(encoded(value))) == shape(value)


@given(VALUES)
def test_an_argument_is_read_as_it_was(value: Any) -> None:
    assert shape(eval(literal(value), {"inf": math.inf, "nan": math.nan})) == shape(value)


@given(st.binary(max_size=60) | st.text("NBIFCSYLTDEZ0123456789:=-xp. ", max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    assert shape(decode(encoded(value))) == shape(value)


@given(VALUES, st.data())
def test_damaged_bytes_are_a_value_or_malformed(value: Any, data: st.DataObject) -> None:
    good = bytearray(encoded(value))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(good[: data.draw(st.integers(0, len(good)))]))
    except Malformed:
        return
    assert shape(decode(encoded(found))) == shape(found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"I%d:%s" % (DIGITS + 2, b"9" * (DIGITS + 2)), "an integer of more than 4300 digits"),
        (b"L1:" * (DEPTH + 2) + b"N0:", "nested deeper than 64"),
        (b"L999999999:N0:", "no value"),
        (b"S5:abc", "cut off"),
        (b"E1:L0:", "unhashable"),
        (b"N0:N0:", "bytes after the value"),
        (b"P2:xx", "an unknown type"),
        (b"S1:\xff", "codec can't decode"),
        (b"", "no value"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        decode(data)


def test_the_deepest_answer_passes_and_a_deeper_one_does_not() -> None:
    deep: list[Any] = []
    for _ in range(DEPTH):
        deep = [deep]
    assert decode(encoded(deep)) == deep
    with pytest.raises(ValueError, match="nested too deeply"):
        encoded([deep])


@pytest.mark.parametrize("value", [object(), print, iter([]), range(3), [lambda: 0], {"a": type}])
def test_what_is_no_literal_is_not_sent(value: object) -> None:
    with pytest.raises(NotLiteral, match="is given to the candidate"):
        literal(value)
