"""Which slow tests CI runs for a change: those of what it touches, as many as its time is for.

    python -m tools.slow_tests BASE SECONDS

prints the test files, and on standard error those that are left out. Nothing is run or measured here: the times are
those of `tests/slow.txt`, and `make test-slow` runs all of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
UNTIMED = 120  # seconds that a file counts as which nobody has timed
EVERY_CHANGE = ("", "compatibility")  # folders of tests that bear on the whole


def main() -> None:
    """Print the files for the commits since BASE."""
    base, seconds = sys.argv[1:]
    command = ["git", "diff", "--name-only", base, "HEAD", "--", "meshtune", "tests"]
    touched = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    known = times()
    files = chosen(known, touched, int(seconds))
    for file in sorted(known.keys() - set(files)):
        print(f"left to `make test-slow`: {file} ({known[file]} s)", file=sys.stderr)
    print(" ".join(files))


def times() -> dict[str, int]:
    """Seconds by file that has slow tests."""
    lines = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()
    timed = {file: int(seconds) for seconds, file, *_ in (line.split() for line in lines if not line.startswith("#"))}
    slow = [path for path in ROOT.glob("tests/**/test_*.py") if "pytest.mark.slow" in path.read_text(encoding="utf-8")]
    return {name: timed.get(name, UNTIMED) for name in (path.relative_to(ROOT).as_posix() for path in slow)}


def chosen(known: Mapping[str, int], touched: Collection[str], limit: int) -> list[str]:
    """Files of touched modules first, then those of touched rooms, the shortest first; together within the limit."""
    files, taken = list[str](), 0
    for rank, seconds, file in sorted((_rank(file, touched), seconds, file) for file, seconds in known.items()):
        if rank < 2 and taken + seconds <= limit:
            files, taken = [*files, file], taken + seconds
    return files


def _rank(file: str, touched: Collection[str]) -> int:
    """0: it is touched, or a module that its name begins with; 1: its room is; 2: nothing that it is for."""
    path = PurePosixPath(file)
    room = "/".join(path.parts[1:-1])
    for other in map(PurePosixPath, touched):
        tested = path.stem.removeprefix("test_").startswith(other.stem)
        if str(other) == file or ("/".join(other.parts[1:-1]) == room and other.parts[0] == "meshtune" and tested):
            return 0
    rooms = {other.parts[1] for other in map(PurePosixPath, touched)}
    return 1 if touched and (room in EVERY_CHANGE or path.parts[1] in rooms) else 2


if __name__ == "__main__":
    main()
