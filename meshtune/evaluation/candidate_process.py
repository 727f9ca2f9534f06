"""The process in which code that a model wrote is run: it defines that code, then answers calls.

A program, not a module: its text is handed to the sandbox's interpreter, with no other file of ours, so it imports next
to nothing and keeps to old syntax. It holds no secret and decides nothing. Whatever the code does to this process, all
that leaves it is bytes, which `meshtune.evaluation.values` reads as literals.

Arguments: `NAME=soft:hard` resource limits. Standard input: frames (4 bytes of length, then a Python literal); the
first is (program, entry point), the others are (arguments, keyword arguments). Standard output: frames; `ready`, then
one answer a frame: `=` and a value, or `!` and text. Whatever is printed goes nowhere.
"""

import os
import resource
import sys

DEPTH = 64  # of a value
SCALARS = ((bool, b"B"), (int, b"I"), (float, b"F"), (complex, b"C"), (str, b"S"), (bytes, b"Y"), (bytearray, b"Y"))
CONTAINERS = ((list, b"L"), (tuple, b"T"), (dict, b"D"), (set, b"E"), (frozenset, b"Z"))


def limit() -> None:
    for argument in sys.argv[1:]:
        name, _, most = argument.partition("=")
        if hasattr(resource, "RLIMIT_" + name):  # not every system has each
            which = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(which)[1]
            wanted = [int(part) for part in most.split(":")]
            soft, hard = wanted if hard == resource.RLIM_INFINITY else [min(part, hard) for part in wanted]
            resource.setrlimit(which, (soft, hard))


def read(stream: int) -> bytes:
    """The next frame; the process ends with its pipe."""
    parts = []
    missing = 4
    header = True
    while missing:
        part = os.read(stream, missing)
        if not part:
            os._exit(0)
        parts.append(part)
        missing -= len(part)
        if header and not missing:
            missing = int.from_bytes(b"".join(parts), "big")
            parts = []
            header = False
    return b"".join(parts)


def write(stream: int, answer: bytes) -> None:
    rest = len(answer).to_bytes(4, "big") + answer
    while rest:
        rest = rest[os.write(stream, rest) :]


def text_of(value: object, kind: type) -> bytes:
    """A scalar's bytes, by the built-in type's own methods: those of a subclass are not asked."""
    if kind is str:
        return str.encode(value, "utf-8", "surrogatepass")  # type: ignore[arg-type]
    if kind is bool:
        return b"1" if value is True else b"0"
    if kind is int:
        return int.__repr__(value).encode()  # type: ignore[arg-type]
    if kind is float:
        return float.hex(value).encode()  # type: ignore[arg-type]
    if kind is complex:
        real, imaginary = complex.real.__get__(value), complex.imag.__get__(value)  # type: ignore[attr-defined]
        return (real.hex() + " " + imaginary.hex()).encode()
    return memoryview(value).tobytes()  # type: ignore[arg-type]


def encode(value: object, parts: list, depth: int = 0) -> None:  # type: ignore[type-arg]
    """Append a value: tag, size, `:`, then its bytes or its members. Subclasses of built-in types go as those."""
    if depth > DEPTH:
        raise ValueError("the answer is nested too deeply")
    if value is None:
        parts.append(b"N0:")
        return
    kinds = type(value).__mro__
    for kind, tag in SCALARS:
        if kind in kinds:
            text = text_of(value, kind)
            parts.append(tag + str(len(text)).encode() + b":" + text)
            return
    for kind, tag in CONTAINERS:
        if kind in kinds:
            members = list(kind.__iter__(value))  # type: ignore[attr-defined]
            parts.append(tag + str(len(members)).encode() + b":")
            for member in members:
                encode(member, parts, depth + 1)
                if kind is dict:
                    encode(dict.__getitem__(value, member), parts, depth + 1)  # type: ignore[arg-type]
            return
    raise TypeError("the answer is of the type " + type(value).__name__)


def attempt(work, *given) -> bytes:  # type: ignore[no-untyped-def]
    """What `work` returns as an answer, or what it raised: SystemExit and the like too."""
    try:
        parts = [b"="]
        encode(work(*given), parts)
        return b"".join(parts)
    except BaseException as error:
        try:
            said = str(error)[:300]
        except BaseException:
            said = ""
        return ("!" + type(error).__name__[:100] + ": " + said).encode("utf-8", "replace")


def main() -> None:
    limit()
    calls, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    names = {"inf": float("inf"), "nan": float("nan")}
    write(answers, b"ready")
    program, entry_point = eval(read(calls), names)
    defined = {"__name__": "candidate"}
    write(answers, attempt(lambda: exec(compile(program, "<completion>", "exec"), defined)))
    while True:
        arguments, keywords = eval(read(calls), names)
        write(answers, attempt(lambda a, k: defined[entry_point](*a, **k), arguments, keywords))  # type: ignore[operator]


main()
