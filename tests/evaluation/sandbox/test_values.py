"""Values cross as literals of exact built-in types; bytes that are no value are refused and build nothing else."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation.sandbox.candidate_process import encode
from meshtune.evaluation.sandbox.values import DEPTH, DIGITS, EQUAL_HASHES, Malformed, NotLiteral, decode, literal

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals(-1_000_000, 1_000_000)
    | st.text()
    | st.binary(),
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


@given(st.binary(max_size=60) | st.text("NBIFCQMSYLTDEZ0123456789:=-xp./ ", max_size=60).map(str.encode))
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
        (b"Q3:1/0", "Fraction\\(1, 0\\)"),
        (b"Q%d:1/%s" % (DIGITS + 4, b"9" * (DIGITS + 2)), "an integer of more than 4300 digits"),
        (b"M%d:%s" % (DIGITS + 11, b"9" * (DIGITS + 11)), "a Decimal of more than 4300 digits"),
        (b"M11:1E999999999", "an exponent beyond 400"),
        (b"M12:0E-999999999", "an exponent beyond 400"),
        (b"M5:words", "ConversionSyntax"),
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


LARGE = 2**61 - 1  # integers that differ by it have equal hashes
LIKE_ONE = [1 + k * LARGE for k in range(EQUAL_HASHES + 2)]


def twice(depth: int, number: int) -> frozenset[Any]:
    """Two members at each level, all of whose hashes are equal: comparing two such takes the square of their size."""
    if not depth:
        return frozenset([1 + 2 * number * LARGE, 1 + (2 * number + 1) * LARGE])
    return frozenset([twice(depth - 1, 2 * number), twice(depth - 1, 2 * number + 1)])


@pytest.mark.parametrize(
    "members",
    [LIKE_ONE, [(k,) for k in LIKE_ONE], [frozenset([k]) for k in LIKE_ONE], [twice(9, 0), twice(9, 1)]],
    ids=["integers", "tuples", "sets", "sets of two"],
)
def test_members_of_equal_hashes_are_few(members: list[Any]) -> None:
    """Each costs a comparison with all others, in one step that no alarm can end."""
    for container in (set(members), frozenset(members), dict.fromkeys(members)):
        with pytest.raises(Malformed, match="more than 1000 members of sets, or keys, have equal hashes"):
            decode(encoded(container))


def test_some_members_of_equal_hashes_are_read() -> None:
    grid = {(x, y) for x in range(-9, 9) for y in range(-9, 9)}  # -1 and -2 have equal ones
    assert decode(encoded([grid] * 9)) == [grid] * 9


@pytest.mark.parametrize("value", [object(), print, iter([]), range(3), [lambda: 0], {"a": type}])
def test_what_is_no_literal_is_not_sent(value: object) -> None:
    with pytest.raises(NotLiteral, match="is given to the candidate"):
        literal(value)
