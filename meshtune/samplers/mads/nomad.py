"""A NOMAD run in a child process, driven block by block: `ask` for a block, `tell` its outputs.

Everything that would crash NOMAD is refused here, before the child starts. A child that was killed, as by a machine
that is short of memory, is started again and given the same answers, once a block. Its death otherwise, a hang or
nonsense is a `SamplerError` with the last words of its log. What NOMAD proposes depends only on the `NomadRun` and its
answers.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.logging import get_logger

from meshtune.errors import SamplerError
from meshtune.samplers.encoding import Point
from meshtune.samplers.outcomes import Outputs
from meshtune.system.children import SamplerChild

_logger = get_logger(__name__)
SEEDS = 1_000_003  # NOMAD draws as many numbers at its start as its seed says: seconds where that is large
PROGRAM = Path(__file__).with_name("nomad_process.py")
# By itself NOMAD crashes, on Windows by an access violation, or leaves (0) where a full cache holds nearly all points.
CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, 0xC0000005, 0)
REFUSED = "Parameter Error"  # said before NOMAD crashes on a value that it does not take
UNKNOWN = "Unknown parameter:"  # all that NOMAD does about one
OURS = {  # NOMAD's parameters that follow from the sampler's arguments
    "BB_EXE": "it is the study's objective",
    "BB_INPUT_TYPE": "it follows from the search space",
    "BB_MAX_BLOCK_SIZE": "give `block_size`",
    "BB_OUTPUT_TYPE": "it follows from the study's directions and constraints",
    "CACHE_FILE": "give `warm_start`",
    "DIMENSION": "it follows from the search space",
    "DMULTIMADS_OPTIMIZATION": "it follows from the study's directions",
    "FIXED_VARIABLE": "fix values in the search space or by `PartialFixedSampler`",
    "GRANULARITY": "give distributions with a `step`",
    "LOWER_BOUND": "it follows from the search space",
    "MAX_BB_EVAL": "give `n_trials` to `study.optimize`",
    "SEED": "give `seed`",
    "UPPER_BOUND": "it follows from the search space",
    "X0": "give `x0`",
}


@dataclass(frozen=True)
class NomadRun:
    """One run of NOMAD, from which its proposals follow.

    Attributes:
        integer: whether each variable is an integer. lower, upper: their bounds, lower < upper.
        start: the start point. cache: evaluated points with their outputs (None: failed).
        seed, block_size: NOMAD's SEED and BB_MAX_BLOCK_SIZE.
        outputs: of a point: `OBJ` for each objective, then `PB` or `EB` for each constraint.
        options: further NOMAD parameters, such as `("VNS_MADS_SEARCH yes",)`.
    """

    integer: tuple[bool, ...]
    lower: Point
    upper: Point
    start: Point
    cache: tuple[tuple[Point, Outputs | None], ...]
    seed: int
    block_size: int
    outputs: tuple[str, ...] = ("OBJ",)
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
        several = self.outputs.count("OBJ") > 1
        lines = [
            f"DIMENSION {len(self.integer)}",
            f"BB_INPUT_TYPE ( {' '.join('I' if integer else 'R' for integer in self.integer)} )",
            f"BB_OUTPUT_TYPE {' '.join(self.outputs)}",
            f"BB_MAX_BLOCK_SIZE {self.block_size}",
            "DISPLAY_DEGREE 0",
            f"SEED {self.seed % SEEDS}",
            "MAX_BB_EVAL 1000000",
            "QUAD_MODEL_MAX_EVAL 500",  # with constraints the default (2000) takes seconds for some points
        ]
        if all(self.integer):
            # The mesh of an all-integer space cannot shrink below 1: NOMAD would spin on its cache for ever.
            lines += ["MAX_EVAL 1500", "LH_SEARCH 0 4"]
        if several:
            lines.append("DMULTIMADS_OPTIMIZATION yes")
        if self.block_size > 1:
            # Without these most blocks have one point; one at a time they cost more than they find. Several objectives
            # cannot mix search and poll.
            lines += ["NM_SEARCH no", *([] if several else ["MEGA_SEARCH_POLL yes"])]
        if several or self.block_size > 1 or len(self.integer) == 1:
            # The default (N+1 directions, one by a model) is refused for several objectives, and crashes in one
            # dimension and, here and there, with the mixture of search and poll.
            lines.append("DIRECTION_TYPE ORTHO 2N")
        given = {option.split()[0].upper() for option in self.options}
        return [line for line in lines if line.split()[0] not in given] + list(self.options)

    def cache_text(self) -> str | None:
        """The evaluated points in NOMAD's cache format, or None where there are none."""
        if not self.cache:
            return None
        lines = ["CACHE_HITS 0", f"BB_OUTPUT_TYPE {' '.join(self.outputs)}"]
        for point, outputs in self.cache:
            ending = "BB_EVAL_FAILED (  )" if outputs is None else f"BB_EVAL_OK ( {_text(outputs)} )"
            coordinates = " ".join(f"{coordinate:.15g}" for coordinate in point)
            lines.append(f"( {coordinates} ) {ending} SURROGATE_EVAL_NOT_STARTED ( )")
        return "\n".join(lines) + "\n"


def option_lines(options: Mapping[str, object]) -> tuple[str, ...]:
    """NOMAD parameters by name as its lines; truth values as yes and no. Raises ValueError on those that are ours."""
    if not isinstance(options, Mapping):
        raise ValueError(f"nomad_options is {options!r}; it has parameters by name, as {{QUAD_MODEL_SEARCH: false}}")
    faults = [
        f"`{name}` cannot be given in nomad_options: {OURS[name.upper()]}" for name in options if name.upper() in OURS
    ]
    if faults:
        raise ValueError("; ".join(faults))
    words = {True: "yes", False: "no"}
    return tuple(f"{name} {words[v] if isinstance(v, bool) else v}" for name, v in options.items())


class NomadCrashed(SamplerError):
    """NOMAD crashed by itself, it was not killed: from the same record it would do so again."""


class NomadKilled(SamplerError):
    """The child was killed from outside: with the same answers another one would go on."""


class Nomad:
    """A running child. `ask` and `tell` alternate; `close` ends it."""

    def __init__(self, problem: NomadRun):
        if faults := problem.faults():
            raise SamplerError("NOMAD cannot be started: " + "; ".join(faults))
        self._asked = False
        self._problem = problem
        self._block: list[list[float]] = []
        self._answered: list[tuple[list[list[float]], list[str | None]]] = []  # blocks and their answers
        self._child = self._started()

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._child.pid

    def ask(self) -> list[Point] | None:
        """The next block, or None where NOMAD has ended. Raises SamplerError where the child died or hangs."""
        try:
            message = self._child.receive()
        except NomadKilled as error:
            self._start_again(error)
            message = self._child.receive()
        if not self._asked:
            self._asked = True
            if unknown := [word for word in self._child.words() if word.startswith(UNKNOWN)]:
                self.close()
                raise SamplerError(f"nomad_options: NOMAD does not know them. {'; '.join(unknown)}")
        if "end" in message:
            return None
        self._block = message["block"]
        return [tuple(float(value) for value in point) for point in self._block]

    def tell(self, answers: Sequence[Outputs | None]) -> None:
        """Answer the block that `ask` gave: finite outputs for each point, or None where the evaluation failed."""
        self._answered.append((self._block, [None if outputs is None else _text(outputs) for outputs in answers]))
        try:
            self._child.send(self._answered[-1][1])
        except NomadKilled as error:
            self._start_again(error)

    def close(self) -> None:
        """End the child and wait for it. May be called twice."""
        self._child.close()

    def _started(self) -> SamplerChild:
        problem, child = self._problem, SamplerChild("NOMAD", PROGRAM, died=_died)
        child.send(
            {
                "start": problem.start,
                "lower": problem.lower,
                "upper": problem.upper,
                "parameters": problem.parameters(),
                "cache": problem.cache_text(),
            }
        )
        return child

    def _start_again(self, error: NomadKilled) -> None:
        """Bring a fresh child to where the other one was. Raises SamplerError where that dies too, or differs."""
        _logger.warning(f"{str(error).partition(' The study is safe')[0]} It was started again.")
        self._child = self._started()
        for block, answers in self._answered:
            if self._child.receive() != {"block": block}:
                self.close()
                raise SamplerError(
                    "NOMAD, started again, proposes other points. The study is safe: run the same again."
                )
            self._child.send(answers)


def _died(code: int, words: Sequence[str]) -> type[SamplerError]:
    if code in CRASHES:
        return SamplerError if any(REFUSED in word for word in words) else NomadCrashed
    return NomadKilled if code < 0 else SamplerError


def _text(outputs: Outputs) -> str:
    return " ".join(f"{value:.17g}" for value in outputs)  # with fewer digits a replay would differ
