"""What runs inside a sandbox: a process that forks one child a candidate, in which code that a model wrote is run.

A program, not a module: its text is handed to the sandbox's interpreter, with no other file of ours, so it keeps to the
standard library and to old syntax. It holds no secret and decides nothing. Whatever the code does to its process, all
that leaves it is bytes, which `meshtune.evaluation.sandbox.values` reads as literals.

The parent is process 1 of the sandbox's namespace, so no signal of a candidate's reaches it, and when a candidate is
over it kills all other processes that there are. Its standard input is a socket: `ready` is said first; then for each
candidate a message with two descriptors (calls, answers) comes, and later one that ends it (`w`: after a second's
patience for it to end itself), answered by its exit code in 4 bytes. It ends with the socket.

A child reads frames (4 bytes of length, then a Python literal) from calls: first (program, entry point), then
(arguments, keyword arguments). It writes frames to answers: `ready`, then one for each: `=` and a value, or `!` and
text. Whatever is printed goes nowhere. Arguments of the program: `NAME=soft:hard` resource limits of a child.
"""

import os
import random
import re  # noqa: F401 what completions import most is loaded once
import resource
import signal
import socket
import sys
import time
import typing

DEPTH = 64  # of a value
SCALARS = ((bool, b"B"), (int, b"I"), (float, b"F"), (complex, b"C"), (str, b"S"), (bytes, b"Y"), (bytearray, b"Y"))
NUMBERS = (("fractions", "Fraction", b"Q"), ("decimal", "Decimal", b"M"))  # known where the code has imported them
CONTAINERS: typing.Any = ((list, b"L"), (tuple, b"T"), (dict, b"D"), (set, b"E"), (frozenset, b"Z"))
NOT_YET = 256  # no exit code


def limit() -> None:
    """Set the limits of the arguments, none above what is inherited."""
    for argument in sys.argv[1:]:
        name, _, most = argument.partition("=")
        if hasattr(resource, "RLIMIT_" + name):  # not every system has each
            which = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(which)[1]
            wanted = [int(part) for part in most.split(":")]
            soft, hard = wanted if hard == resource.RLIM_INFINITY else [min(part, hard) for part in wanted]
            resource.setrlimit(which, (soft, hard))


def exactly(stream: int, count: int) -> bytes:
    """The next bytes; the process ends with its pipe."""
    parts = []
    while count:
        part = os.read(stream, count)
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read(stream: int) -> bytes:
    """The next frame."""
    return exactly(stream, int.from_bytes(exactly(stream, 4), "big"))


def write(stream: int, answer: bytes) -> None:
    """A frame."""
    rest = len(answer).to_bytes(4, "big") + answer
    while rest:
        rest = rest[os.write(stream, rest) :]


def text_of(value: typing.Any, kind: type) -> bytes:
    """A scalar's bytes, by the built-in type's own methods: those of a subclass are not asked."""
    if kind is str:
        return str.encode(value, "utf-8", "surrogatepass")
    if kind is bool:
        return b"1" if value else b"0"
    if kind is int:
        return int.__repr__(value).encode()
    if kind is float:
        return float.hex(value).encode()
    if kind is complex:
        plain = complex.__pos__(value)
        return (plain.real.hex() + " " + plain.imag.hex()).encode()
    return memoryview(value).tobytes()


def ratio_of(value: typing.Any) -> bytes:
    """A Fraction's bytes."""
    return (int.__repr__(value.numerator) + "/" + int.__repr__(value.denominator)).encode()


def encode(value: typing.Any, parts: typing.List[bytes], depth: int = 0) -> None:  # noqa: UP006
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
    for module, name, tag in NUMBERS:
        if getattr(sys.modules.get(module), name, None) in kinds:
            text = str(value).encode() if name == "Decimal" else ratio_of(value)
            parts.append(tag + str(len(text)).encode() + b":" + text)
            return
    for container, tag in CONTAINERS:
        if container in kinds:
            members = list(container.__iter__(value))
            parts.append(tag + str(len(members)).encode() + b":")
            for member in members:
                encode(member, parts, depth + 1)
                if container is dict:
                    encode(dict.__getitem__(value, member), parts, depth + 1)
            return
    raise TypeError("the answer is of the type " + type(value).__name__)


def attempt(work: typing.Callable[..., object], *given: object) -> bytes:
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


def serve(calls: int, answers: int) -> None:
    """The child: define one candidate, answer calls to it."""
    os.setsid()
    random.seed(0)  # a fork has seeded it anew
    limit()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    names = {"inf": float("inf"), "nan": float("nan")}
    write(answers, b"ready")
    program, entry_point = eval(read(calls), names)
    defined: typing.Dict[str, typing.Any] = {}  # noqa: UP006 so its `__name__` is `builtins`, as where others run it
    write(answers, attempt(lambda: exec(compile(program, "<completion>", "exec"), defined)))
    while True:
        arguments, keywords = eval(read(calls), names)
        write(answers, attempt(lambda a, k: defined[entry_point](*a, **k), arguments, keywords))


def exit_code(child: int, seconds: float) -> int:
    """Of a child that has ended by itself, or NOT_YET."""
    end = time.monotonic() + seconds
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return NOT_YET
        time.sleep(0.002)


def end_all(child: int) -> None:
    """Kill the child and, where this is a namespace of its own, whatever it has started."""
    try:
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def main() -> None:
    """Fork one child a candidate, until the socket ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is sent what it has a handler for, and Python has one
    control = socket.socket(fileno=os.dup(0))
    control.sendall(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        child = os.fork()
        if not child:
            try:
                control.close()
                serve(*descriptors)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        message = control.recv(1)
        code = exit_code(child, 1.0 if message == b"w" else 0.0)
        end_all(child)
        if not message:
            return
        control.sendall(code.to_bytes(4, "big", signed=True))


if __name__ == "__main__":
    main()
