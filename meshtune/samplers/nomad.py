"""A NOMAD run in a child process, driven block by block: `ask` for a block, `tell` its values.

Everything that would crash NOMAD is refused here, before the child starts. The child's death, a hang or nonsense is a
`SamplerError` with the last words of its log. What NOMAD proposes depends only on the `Segment` and the values told.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from meshtune.errors import SamplerError

Point = tuple[float, ...]

HANG_SECONDS = 300.0
LARGE = 1e20  # told for a start that failed: NOMAD ends at once where its only start has failed


@dataclass(frozen=True)
class Segment:
    """One run of NOMAD, from which its proposals follow.

    Attributes:
        integer: whether each variable is an integer. lower, upper: their bounds, lower < upper.
        start: the start point. cache: known points with their values (None: failed).
        seed, block_size, startup: NOMAD's SEED, BB_MAX_BLOCK_SIZE and the size of the Latin-hypercube start.
        options: further NOMAD parameters, such as `("VNS_MADS_SEARCH yes",)`.
    """

    integer: tuple[bool, ...]
    lower: Point
    upper: Point
    start: Point
    cache: tuple[tuple[Point, float | None], ...]
    seed: int
    block_size: int
    startup: int
    options: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """What NOMAD would crash on."""
        faults = []
        for low, high in zip(self.lower, self.upper, strict=True):
            if not low < high:
                faults.append(f"a variable has no room between {low} and {high}")
        for value, low, high, integer in zip(self.start, self.lower, self.upper, self.integer, strict=True):
            if not low <= value <= high or (integer and value != int(value)):
                faults.append(f"the start {self.start} is outside the bounds or not whole where it must be")
                break
        return faults

    def parameters(self) -> list[str]:
        """NOMAD's parameter lines."""
        lines = [
            f"DIMENSION {len(self.integer)}",
            f"BB_INPUT_TYPE ( {' '.join('I' if integer else 'R' for integer in self.integer)} )",
            "BB_OUTPUT_TYPE OBJ",
            f"BB_MAX_BLOCK_SIZE {self.block_size}",
            "MEGA_SEARCH_POLL yes",
            "EVAL_OPPORTUNISTIC no",
            "DISPLAY_DEGREE 0",
            f"SEED {self.seed % 2**31}",
            "MAX_BB_EVAL 1000000",
        ]
        if all(self.integer):
            # The mesh of an all-integer space cannot shrink below 1: NOMAD would spin on its cache for ever.
            lines += ["MAX_EVAL 1500", f"LH_SEARCH {self.startup} 4"]
        else:
            lines.append(f"LH_SEARCH {self.startup} 0")
        if len(self.integer) == 1:
            lines.append("DIRECTION_TYPE ORTHO 2N")  # the default crashes in one dimension
        return lines + list(self.options)

    def cache_text(self) -> str | None:
        """The known points in NOMAD's cache format, or None where there are none."""
        if not self.cache:
            return None
        lines = ["CACHE_HITS 0", "BB_OUTPUT_TYPE OBJ"]
        for point, value in self.cache:
            ending = "BB_EVAL_FAILED (  )" if value is None else f"BB_EVAL_OK ( {value:.17g} )"
            coordinates = " ".join(f"{coordinate:.15g}" for coordinate in point)
            lines.append(f"( {coordinates} ) {ending} SURROGATE_EVAL_NOT_STARTED ( )")
        return "\n".join(lines) + "\n"


class Nomad:
    """A running child. `ask` and `tell` alternate; `close` ends it."""

    def __init__(self, segment: Segment):
        if faults := segment.faults():
            raise SamplerError("NOMAD cannot be started: " + "; ".join(faults))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        read, write = os.pipe()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "meshtune.samplers.nomad_process", "--fd", str(write)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            start_new_session=True,  # keeps the terminal's Ctrl-C away
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        os.close(write)
        self._in = os.fdopen(read, "rb")
        run = {
            "start": segment.start,
            "lower": segment.lower,
            "upper": segment.upper,
            "parameters": segment.parameters(),
            "cache": segment.cache_text(),
        }
        self._send(run)

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._child.pid

    def ask(self) -> list[Point] | None:
        """The next block, or None where NOMAD has ended. Raises SamplerError where the child died or hangs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            if not selector.select(HANG_SECONDS):
                self._fail(f"gave no answer for {HANG_SECONDS:.0f} seconds")
        line = self._in.readline()
        if not line.endswith(b"\n"):
            self._fail("died")
        message = json.loads(line)
        if "end" in message:
            return None
        return [tuple(float(value) for value in point) for point in message["block"]]

    def tell(self, values: Sequence[float | None]) -> None:
        """Answer the block that `ask` gave: a finite value for each point, or None where the evaluation failed."""
        self._send([None if value is None else f"{value:.17g}" for value in values])

    def close(self) -> None:
        """End the child and wait for it. May be called twice."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it may be gone already
                self._child.stdin.close()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._in.close()
        self._log.close()

    def _send(self, message: object) -> None:
        if self._child.stdin is None:
            raise SamplerError("NOMAD's child process has no input")
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except OSError:
            self._fail("died")

    def _fail(self, what: str) -> None:
        if self._child.poll() is None:
            self._child.kill()
        code = self._child.wait()
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()[-5:]
        raise SamplerError(
            f"NOMAD's child process (pid {self._child.pid}) {what}, exit code {code}."
            + (" Its last words: " + " | ".join(words) if words else " It said nothing.")
            + " The study is safe: run the same command again."
        )
