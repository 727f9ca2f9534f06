"""How a process is started under bubblewrap, and why it cannot be.

Inside: no network, no other process, no environment, no /proc, nothing writable, no program but the interpreter and
none of its additional packages; the rights of an ordinary user. Root starts it as `nobody`, since limits on processes
do not bind root. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from meshtune.evaluation.sandbox import seccomp

NOBODY = 65534
INSTALL = "install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3")  # one under a home folder cannot be read by `nobody`
OPTIONS = ("-s", "-S")  # no site packages: the same modules on every machine
ENVIRONMENT = {"PYTHONHASHSEED": "0", "HOME": "/", "LANG": "C.UTF-8"}  # sets are walked in the same order each time
PROBE = "import os, resource, socket; os.waitstatus_to_exitcode; socket.recv_fds; open(os.devnull)"  # Python 3.9
ABOUT_NAMESPACES = ("namespace", "uid map", "loopback")  # in what bubblewrap says where it may not have them
SYSTEM_LINKS = ("/lib", "/lib64", "/lib32")


def missing() -> str | None:
    """What the sandbox lacks here, with what to do about it."""
    if sys.platform != "linux":
        return "the sandbox (bubblewrap) exists for Linux only"
    if not seccomp.supported():
        return "the sandbox is known for x86-64 and ARM64 processors only"
    if shutil.which("bwrap") is None:
        return f"bubblewrap is not installed; {INSTALL}"
    if interpreter() is None:
        return f"the sandbox needs a Python that every user can read: {' or '.join(INTERPRETERS)}"
    return None


def unavailable() -> str | None:
    """Why code cannot be sandboxed here, with what to do about it; None where it can. It starts a sandbox to see."""
    if (reason := missing()) is not None:
        return reason
    try:
        process = start(["-c", PROBE], subprocess.DEVNULL)
        said = process.communicate()[1].decode(errors="replace").strip()
        if process.returncode == 0:
            return None
        said = said or f"it ended with exit code {process.returncode} and said nothing"
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    reason = f"bubblewrap is installed but cannot start a sandbox here: {said}"
    if any(words in said for words in ABOUT_NAMESPACES):
        reason += (
            ". Containers and some systems forbid user namespaces; allow them (Ubuntu: sysctl -w "
            "kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    return reason


def interpreter() -> Path | None:
    """The system's Python, its links followed."""
    return next((Path(path).resolve() for path in INTERPRETERS if Path(path).exists()), None)


def start(arguments: Sequence[str], control: int) -> subprocess.Popen[bytes]:
    """Start the system's Python in a sandbox, as process 1 of it; `control` is its input, standard error a pipe.

    Killing the returned process ends all in the sandbox. Raises OSError or SubprocessError where nothing was started;
    a sandbox that could not be set up says so on standard error and ends.
    """
    python = interpreter()
    bwrap = shutil.which("bwrap")
    if bwrap is None or python is None:
        raise FileNotFoundError(missing())
    readable, writable = os.pipe()
    try:
        os.write(writable, seccomp.program())  # far smaller than a pipe holds
        os.close(writable)
        root = os.geteuid() == 0
        return subprocess.Popen(
            [bwrap, *_view(python), "--seccomp", str(readable), "--", str(python), *OPTIONS, *arguments],
            stdin=control,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(readable,),
            env=ENVIRONMENT,
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=() if root else None,
        )
    finally:
        os.close(readable)


def _view(python: Path) -> list[str]:
    """Options of bubblewrap: what the process sees of the machine."""
    options = ["--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    libraries = ["/usr/lib", "/usr/lib64"] + (["/usr/local/lib"] if python.is_relative_to("/usr/local") else [])
    for path in (str(python), *(path for path in libraries if Path(path).is_dir()), "/etc/ld.so.cache"):
        options += ["--ro-bind-try", path, path]
    for path in SYSTEM_LINKS:
        if Path(path).is_symlink():
            options += ["--symlink", os.readlink(path), path]
        elif Path(path).is_dir():
            options += ["--ro-bind", path, path]
    return [*options, "--dev-bind", "/dev/null", "/dev/null", "--remount-ro", "/", "--chdir", "/"]
