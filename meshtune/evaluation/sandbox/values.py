"""Values that cross between a test and a candidate's process, as literals of exact built-in types. Never a pickle.

What comes back was written by code that must not be trusted: `decode` builds nothing but None, bool, int, float,
complex, Fraction, Decimal, str, bytes, list, tuple, dict, set and frozenset, bounded in depth and digits and, by its
caller, in bytes. So no method of the candidate's can be asked whether it is right. The work that it takes is bounded as
well: members of sets and keys whose hashes are equal, which cost the square of their number, are few. Standard library
only.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

DEPTH = 64
DIGITS = 4300  # of an integer: what Python itself reads by default
EXPONENT = 400  # of a Decimal; a little more than a float has
EQUAL_HASHES = 1000  # members in a whole answer; -1 and -2 have equal ones, so a right answer may have some


class Malformed(ValueError):
    """The bytes are no value, or one beyond the bounds."""


class NotLiteral(TypeError):
    """A test gave its candidate something that cannot be written down, such as a function."""


def literal(value: object) -> str:
    """Python source of a value of exact built-in types; `inf` and `nan` are names. Raises NotLiteral."""
    kind = type(value)
    if kind in (type(None), bool, int, float, str, bytes):
        return repr(value)
    if kind is complex:
        return f"complex({value.real!r}, {value.imag!r})"  # type: ignore[attr-defined]
    if kind in (Fraction, Decimal):
        return f"__import__({kind.__module__!r}).{value!r}"
    if kind is dict:
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"  # type: ignore[attr-defined]
    if kind in (list, tuple, set, frozenset):
        members = "".join(literal(member) + ", " for member in value)  # type: ignore[attr-defined]
        match kind.__name__:
            case "list":
                return f"[{members}]"
            case "tuple":
                return f"({members})"
            case name:
                return f"{name}([{members}])"
    raise NotLiteral(f"a {kind.__name__} is given to the candidate; only values of built-in types can be")


def _integer(text: bytes) -> int:
    if len(text) > DIGITS + 1:
        raise Malformed(f"an integer of more than {DIGITS} digits")
    return int(text)


def _complex(text: bytes) -> complex:
    real, imaginary = text.split(b" ")
    return complex(_float(real), _float(imaginary))


def _float(text: bytes) -> float:
    return float.fromhex(text.decode("ascii"))


def _fraction(text: bytes) -> Fraction:
    above, below = text.split(b"/")
    return Fraction(_integer(above), _integer(below))


def _decimal(text: bytes) -> Decimal:
    if len(text) > DIGITS + 10:
        raise Malformed(f"a Decimal of more than {DIGITS} digits")
    value = Decimal(text.decode("ascii"))
    if abs(value.adjusted()) > EXPONENT:
        raise Malformed(f"a Decimal with an exponent beyond {EXPONENT}")
    return value


SCALARS: dict[bytes, Callable[[bytes], object]] = {
    b"N": lambda text: None,
    b"B": lambda text: text == b"1",
    b"I": _integer,
    b"F": _float,
    b"C": _complex,
    b"Q": _fraction,
    b"M": _decimal,
    b"S": lambda text: text.decode("utf-8", "surrogatepass"),
    b"Y": bytes,
}
CONTAINERS: dict[bytes, type] = {b"L": list, b"T": tuple, b"E": set, b"Z": frozenset}
SETS = (b"E", b"Z")


def decode(data: bytes) -> object:
    """The value that `candidate_process.encode` wrote. Raises Malformed for anything else."""
    try:
        value, end = _Reader(data).value(0, 0)
    except Malformed:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:  # no number, no UTF-8, a list as a key
        raise Malformed(str(error)) from error
    if end != len(data):
        raise Malformed("bytes after the value")
    return value


class _Reader:
    """One answer that is read."""

    def __init__(self, data: bytes):
        self._data = data
        self._equal = 0  # hashes that were there before in their set or dict

    def value(self, start: int, depth: int) -> tuple[object, int]:
        """The value at `start`, and where it ends."""
        data = self._data
        if depth > DEPTH:
            raise Malformed(f"nested deeper than {DEPTH}")
        colon = data.find(b":", start, start + 12)
        tag, size = data[start : start + 1], data[start + 1 : colon]
        if colon < 0 or not size.isdigit():
            raise Malformed("no value")
        count, at = int(size), colon + 1
        if tag in SCALARS:
            if at + count > len(data):
                raise Malformed("a value that is cut off")
            return SCALARS[tag](data[at : at + count]), at + count
        if tag == b"D":
            pairs: dict[object, object] = {}
            seen: set[int] = set()
            for _ in range(count):
                key, at = self.value(at, depth + 1)
                self._hashed(key, seen)
                pairs[key], at = self.value(at, depth + 1)
            return pairs, at
        if tag not in CONTAINERS:
            raise Malformed("an unknown type")
        members, seen = [], set()
        for _ in range(count):
            member, at = self.value(at, depth + 1)
            if tag in SETS:
                self._hashed(member, seen)
            members.append(member)
        return CONTAINERS[tag](members), at

    def _hashed(self, member: object, seen: set[int]) -> None:
        """Count a member of a set, or a key, whose hash has been there. Raises Malformed for too many."""
        number = hash(member)
        self._equal += number in seen
        if self._equal > EQUAL_HASHES:
            raise Malformed(f"more than {EQUAL_HASHES} members of sets, or keys, have equal hashes")
        seen.add(number)
