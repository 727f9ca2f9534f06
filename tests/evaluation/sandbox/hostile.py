"""Completions that attack their judge, the machine, or each other, and what their verdict must say. A program too:

    python hostile.py PLACES.json

prints the verdict of each, as the user that runs it. Standard library and the sandbox only, so that it runs with any
Python, as `nobody` too. {marker}, {port}, {unix}, {secret_file} and {writable} are filled in.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from meshtune.evaluation.sandbox.judge import CodeProblem, Limits, check_many

SECRET = "open-sesame-4711"
LIMITS = Limits(cpu_seconds=1, wall_seconds=600, memory=256 * 2**20)
SHORT = Limits(cpu_seconds=1, wall_seconds=1.5, memory=256 * 2**20)

# It passes with the secret alone, which only the checker knows.
PROBLEM = CodeProblem(
    task_id="hostile",
    prompt="def f(x):\n",
    entry_point="f",
    test=f"def check(candidate):\n    assert candidate(1) == {SECRET!r}\n    assert candidate(2) == [2]\n",
    canonical_solution="    return [x]\n",
)
HARMLESS = CodeProblem(
    task_id="harmless",
    prompt="import string\n\ndef f(x):\n",
    entry_point="f",
    test="def check(candidate):\n    assert candidate({'a': [1.5]}) == [{'a': [1.5]}]\n",
    canonical_solution="    return [x]\n",
)

WORDS = {
    "READ_ONLY": r"OSError: \[Errno 30\] Read-only file system",
    "ABSENT": r"FileNotFoundError: \[Errno 2\] No such file or directory",
    "REFUSED": r"PermissionError: \[Errno 1\] Operation not permitted",
    "WRONG": r"assert candidate\(1\) == .* \(AssertionError\)",
    "PROCESSOR_TIME": "it used more than 1 s of processor time",
    "TIME": "(it used more than 1 s of processor time|it took more than 1.5 s)",
}
LIBC = """\
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def must(result):
        if result == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        raise RuntimeError("got through")
"""

# A line `# name => what the verdict's reason matches` before each.
COMPLETIONS = r"""
# fork bomb => BlockingIOError
    import os
    while True:
        os.fork()
# threads => RuntimeError: can't start new thread
    import threading, time
    while True:
        threading.Thread(target=time.sleep, args=(9,)).start()
# memory bomb => MemoryError
    return len(bytearray(10**10))
# growing memory bomb => MemoryError
    kept = []
    while True:
        kept.append(bytes(2**20))  # zeroed by the kernel: it takes no processor time, so the limit of memory ends it
# memory in a file => REFUSED
    import os
    os.memfd_create('x')
# shared memory => REFUSED
LIBC
    must(libc.shmget(0, 2**20, 0o1600))
# endless loop => PROCESSOR_TIME
    while True:
        pass
# endless output => PROCESSOR_TIME
    while True:
        print('x' * 10**6)
# endless output everywhere => the answer has 2021161080 bytes
    import os
    while True:
        for n in range(64):
            try:
                os.write(n, b'x' * 4096)
            except OSError:
                pass
# long answer => the answer has 20971[0-9]+ bytes; 1048576 are allowed
    return 'x' * 2**21
# write to home => READ_ONLY
    import os
    open(os.path.expanduser('~/{marker}'), 'w')
# write to /tmp => ABSENT
    open('/tmp/{marker}', 'w')
# make /tmp => READ_ONLY
    import os
    os.mkdir('/tmp')
# write to /usr => READ_ONLY
    open('/usr/{marker}', 'w')
# write to /usr/lib => READ_ONLY
    open('/usr/lib/{marker}', 'w')
# write where all may => ABSENT
    open('{writable}/{marker}', 'w')
# write to /dev => READ_ONLY
    open('/dev/{marker}', 'w')
# changing /dev/null => REFUSED
    import os
    os.chmod('/dev/null', 0o777)
# shared memory in a file => ABSENT
    open('/dev/shm/{marker}', 'w')
# symlink race => READ_ONLY
    import os
    os.symlink('/etc/passwd', '/usr/lib/{marker}')
# mount => REFUSED
LIBC
    must(libc.mount(b'none', b'/', b'tmpfs', 0, None))
# namespace => REFUSED
    import ctypes, os
LIBC
    must(libc.unshare(0x10000000))
# environment => RuntimeError: \['HOME', 'LANG'(, 'LC_CTYPE')?(, 'PWD')?, 'PYTHONHASHSEED'\]
    import os
    raise RuntimeError(sorted(os.environ))
# environment of process 1 => ABSENT
    return open('/proc/1/environ').read()
# other processes => ABSENT
    import os
    return os.listdir('/proc')
# the study's database => ABSENT
    return open('{secret_file}').read()
# password file => ABSENT
    return open('/etc/passwd').read()
# other programs => ABSENT
    import subprocess
    subprocess.run(['/bin/sh', '-c', 'id'])
# socket to localhost => REFUSED
    import socket
    socket.create_connection(('127.0.0.1', {port}), 2)
    raise RuntimeError('connected')
# unix socket => REFUSED
    import socket
    socket.socket(socket.AF_UNIX).connect('{unix}')
    raise RuntimeError('connected')
# killing the parent => WRONG
    import os
    for process in (1, os.getppid()):
        for number in range(1, 65):
            os.kill(process, number)
    return 0
# killing all others => ProcessLookupError
    import os
    os.kill(-1, 9)
# killing its group => it was ended by signal 9
    import os
    os.kill(0, 9)
# starving the parent => REFUSED
    import resource
    resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))
    raise RuntimeError('done')
# slowing the parent => REFUSED
    import os
    os.setpriority(os.PRIO_PROCESS, 1, 19)
# os._exit => it ended itself \(exit code 0\)
    import os
    os._exit(0)
# os._exit while it is defined => it ended itself \(exit code 0\)
    pass
import os
os._exit(0)
# success words => WRONG
    print('passed', 'OK', 'ready', '{"passed": true}', flush=True)
    return True
# replacing asserts => WRONG
    return 0
import builtins, sys
builtins.AssertionError = type('E', (), {})
sys.exit = lambda *a: None
builtins.compile = builtins.exec = lambda *a: None
builtins.isinstance = lambda *a: True
# replacing the checker => WRONG
    return 0
import sys
main = sys.modules['__main__']
def check(*a):
    return None
main.check = check
main.encode = lambda value, parts, depth=0: parts.append(b'B1:1')
# SystemExit => SystemExit: 0
    raise SystemExit(0)
# SystemExit while it is defined => SystemExit: 0
    pass
raise SystemExit(0)
# KeyboardInterrupt => KeyboardInterrupt
    raise KeyboardInterrupt
# BaseException without words => E: 
    class E(BaseException):
        def __str__(self):
            raise self
    raise E
# control characters => ValueError:  \[2J  next$
    raise ValueError('\x1b[2J\x07\nnext')
# deep recursion => RecursionError
    return f(x)
# deep answer => nested too deeply
    deep = []
    for _ in range(10**5):
        deep = [deep]
    return deep
# endless answer => nested too deeply
    a = []
    a.append(a)
    return a
# million-digit integer => ValueError: Exceeds the limit
    return 10**1000000
# million-digit integer, let out => the answer is no value: an integer of more than 4300 digits
    import sys
    sys.set_int_max_str_digits(0)
    return 10**20000
# daemon => WRONG
    import ctypes, os, time
    libc = ctypes.CDLL(None)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            libc.prctl(1, 0, 0, 0, 0)
            libc.prctl(15, b"{marker}", 0, 0, 0)
            for n in range(64):
                try:
                    os.close(n)
                except OSError:
                    pass
            while True:
                time.sleep(60)
        os._exit(0)
    return 0
# ptrace => REFUSED
LIBC
    must(libc.ptrace(16, 1, 0, 0))
# ptrace of itself => REFUSED
LIBC
    must(libc.ptrace(0, 0, 0, 0))
# memory of process 1 => REFUSED
LIBC
    must(libc.process_vm_readv(1, ctypes.create_string_buffer(16), 1, None, 0, 0))
# lying __eq__ => TypeError: the answer is of the type V
    class V:
        def __eq__(self, other):
            return True
    return V()
# lying __eq__ of a str => WRONG
    class V(str):
        def __eq__(self, other):
            return True
        __hash__ = str.__hash__
    return V('x')
# lying __class__ => TypeError: the answer is of the type V
    class V:
        __class__ = str
        def __eq__(self, other):
            return True
    return V()
# lying __reduce__ => TypeError: the answer is of the type V
    class V:
        def __reduce__(self):
            return (print, ('passed',))
    return V()
# lying metaclass => TypeError
    class M(type):
        __mro__ = (int, object)
        def __eq__(self, other):
            return True
        __hash__ = type.__hash__
    class V(metaclass=M):
        pass
    return V()
# members of equal hashes => the answer is no value: more than 1000 members of sets, or keys, have equal hashes
    import os
    members = b''.join(b'I%d:%d' % (len(str(n)), n) for n in range(1, 2**75, 2**61 - 1))
    said = b'=E%d:' % (members.count(b'I')) + members
    for n in range(3, 64):
        try:
            os.write(n, len(said).to_bytes(4, 'big') + said)
        except OSError:
            pass
# forged answers => the answer is no value
    import os
    for n in range(64):
        for said in (b'ready', b'=B1:1', b'=B1:1', b'=N0:'):
            try:
                os.write(n, len(said).to_bytes(4, 'big') + said)
            except OSError:
                pass
    return 0
# closed answers => it closed its answers
    import os, time
    os.closerange(0, 64)
    time.sleep(1000)
# reading all that is open => RuntimeError: b''$
    import os
    found = b''
    for n in range(64):
        try:
            os.set_blocking(n, False)
            found += os.read(n, 10**6)
        except OSError:
            pass
    raise RuntimeError(found)
# searching frames and memory => WRONG
    import gc, sys
    start = 'open' + '-sesame'
    stack = [sys._getframe(), sys.argv, sys.modules, gc.get_objects()]
    seen, found = set(), []
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str) and start in thing and len(thing) < 200:
            return thing[thing.index(start):][:16]
        stack.extend(gc.get_referents(thing))
        stack.extend(filter(None, (getattr(thing, 'f_back', None), getattr(thing, 'f_locals', None))))
    return len(seen)
"""

# Some of these end by the wall clock alone.
ENDLESS = r"""
# patient fork bomb => TIME
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
# endless loop while it is defined => TIME
    pass
while True:
    pass
# endless loop in C => TIME
    return sum(iter(int, 1))
# deaf endless loop => it was ended by signal 9|TIME
    import signal
    for n in range(1, 65):
        try:
            signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass
# endless sleep => it took more than 1.5 s
    import time
    time.sleep(10**6)
# bottomless recursion => it was ended by signal 11|MemoryError|TIME
    import sys
    sys.setrecursionlimit(2**31 - 1)
    return f(x)
"""


@dataclass(frozen=True)
class Attack:
    """A completion, and a pattern of the reason why it does not pass."""

    name: str
    code: str
    reason: str


def attacks(text: str) -> Iterator[Attack]:
    for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        head, code = part.split("\n", 1)
        name, reason = head.split(" => ")
        for word, pattern in WORDS.items():
            reason = reason.replace(word, pattern)
        yield Attack(name, code.replace("LIBC\n", LIBC), reason)


ALL = {attack.name: attack for attack in (*attacks(COMPLETIONS), *attacks(ENDLESS))}


def verdicts(places: dict[str, str]) -> dict[str, dict[str, object]]:
    """Each verdict by name; after most comes that of a harmless completion, as `after NAME`."""

    def pair(attack: Attack) -> tuple[CodeProblem, str]:
        code = attack.code
        for field, place in places.items():
            code = code.replace("{" + field + "}", place)
        return PROBLEM, code

    mixed = {}
    for attack in attacks(COMPLETIONS):
        mixed[attack.name] = pair(attack)
        mixed[f"after {attack.name}"] = (HARMLESS, HARMLESS.canonical_solution)
    seen = dict(zip(mixed, check_many(mixed.values(), workers=2, limits=LIMITS), strict=True))
    endless = {attack.name: pair(attack) for attack in attacks(ENDLESS)}
    seen |= zip(endless, check_many(endless.values(), workers=2, limits=SHORT), strict=True)
    return {name: vars(verdict) for name, verdict in seen.items()}


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(json.dumps(verdicts(json.load(file))))
