"""Values that cross between a test and a candidate's process, as literals of exact built-in types. Never a pickle.

What comes back was written by code that must not be trusted: `decode` builds nothing but None, bool, int, float,
complex, str, bytes, list, tuple, dict, set and frozenset, bounded in depth and digits and, by its caller, in bytes. So
no method of the candidate's can be asked whether it is right. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable

DEPTH = 64
DIGITS = 4300  # of an integer: what Python itself reads by default


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


SCALARS: dict[bytes, Callable[[bytes], object]] = {
    b"N": lambda text: None,
    b"B": lambda text: text == b"1",
    b"I": _integer,
    b"F": _float,
    b"C": _complex,
    b"S": lambda text: text.decode("utf-8", "surrogatepass"),
    b"Y": bytes,
}
CONTAINERS: dict[bytes, type] = {b"L": list, b"T": tuple, b"E": set, b"Z": frozenset}


def decode(data: bytes) -> object:
    """The value that `candidate_process.encode` wrote. Raises Malformed for anything else."""
    try:
        value, end = _decode(data, 0, 0)
    except Malformed:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # no number, no UTF-8, a list as a key
        raise Malformed(str(error)) from error
    if end != len(data):
        raise Malformed("bytes after the value")
    return value


def _decode(data: bytes, start: int, depth: int) -> tuple[object, int]:
    """The value at `start`, and where it ends."""
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
        for _ in range(count):
            key, at = _decode(data, at, depth + 1)
            pairs[key], at = _decode(data, at, depth + 1)
        return pairs, at
    if tag not in CONTAINERS:
        raise Malformed("an unknown type")
    members = []
    for _ in range(count):
        member, at = _decode(data, at, depth + 1)
        members.append(member)
    return CONTAINERS[tag](members), at
