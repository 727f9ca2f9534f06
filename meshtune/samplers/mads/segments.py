"""What a segment is: its definition, which stands on its first trial, and where its blocks come from.

A segment is a list of points (`points`: the opening of a study, and what is tried after NOMAD has converged) or a run
of NOMAD from the record. The opening is drawn here and not by NOMAD (`LH_SEARCH`): with all of it known and its best as
NOMAD's start the regret is lower (docs/decisions/2026-11-25-mads-race.md).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from meshtune.samplers.allowed import Allows, start_point
from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.mads.ledger import Ledger, members, ranges
from meshtune.samplers.mads.nomad import Nomad, NomadRun
from meshtune.samplers.outcomes import Outputs, Pruned, TrialReader, WarmStart, constraint_names

Barrier = Literal["progressive", "extreme"]


@dataclass(frozen=True)
class MadsSettings:
    """The arguments of `MadsSampler`, see there."""

    seed: int
    x0: Mapping[str, Any] = field(default_factory=dict)
    block_size: int | None = None
    n_startup: int | None = None
    warm_start: WarmStart | None = None
    first: tuple[Mapping[str, Any], ...] = ()  # points after the start
    barrier: Barrier = "progressive"
    a_priori: Allows | None = None
    hidden: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    pruned: Pruned = "failed"


DRAWS = 100  # tries to draw a point that is allowed
RECENT = 100  # trials that show how many run at once

Definition = dict[str, Any]


class Points:
    """A list of points, block by block, driven as NOMAD is."""

    def __init__(self, points: Sequence[Point], block_size: int):
        self._blocks = [list(points[i : i + block_size]) for i in range(0, len(points), block_size)]

    def ask(self) -> list[Point] | None:
        """The next block, or None after the last."""
        return self._blocks.pop(0) if self._blocks else None

    def tell(self, answers: Sequence[Outputs | None]) -> None:
        """Nothing follows from the answers."""

    def close(self) -> None:
        """Nothing is held."""


class Segments:
    """Defines segments and opens them. MadsSettings, space and directions are the study's."""

    def __init__(self, settings: MadsSettings, encoding: Encoding, directions: Sequence[StudyDirection]):
        self.settings, self.encoding = settings, encoding
        self._directions = tuple(directions)
        warm = settings.warm_start
        if warm is not None and warm.directions not in (None, self._directions):
            raise ValueError("warm_start: the earlier study has other directions than this one")

    # -- definitions

    def opening(self, ledger: Ledger) -> Definition | None:
        """The first points of a study; None where enough is known."""
        settings, encoding = self.settings, self.encoding
        known, warm = len(ledger.finished()), settings.warm_start
        points = [self._x0()] if settings.x0 or (warm is None and known < len(encoding.space)) else []
        if warm is None and points:
            first = [encoding.encode(point) for point in settings.first if encoding.has(point) and self.allows(point)]
            points += [point for point in dict.fromkeys(first) if point not in points]
        if warm is not None:
            if warm.values == "shifted" and len(self._directions) > 1:
                raise ValueError("warm_start_values: with several objectives only `as_is` is allowed")
            reader = self._reader(constraint_names(warm.trials, settings.hidden))
            points += [encoding.encode(trial.params) for trial in warm.again(encoding, reader)]
            known += sum(outputs is not None for _, outputs in warm.by_point(encoding, reader).values())
        return self._points(points + self._drawn(self._n_startup - known - len(points), ledger, 0), ledger, 0)

    def widening(self, ledger: Ledger, empty: int) -> Definition | None:
        """Points all over the space, after NOMAD has converged."""
        return self._points(self._drawn(self._n_startup, ledger, empty), ledger, empty)

    def rest(self, ledger: Ledger, refused: Collection[Point], *, crashed: bool = False) -> Definition | None:
        """The last points of a finite space: NOMAD spins, or crashes, where there are few left to find.

        Where it has crashed, up to half of the points are the last ones.
        """
        encoding = self.encoding
        if encoding.size == math.inf:
            return None
        tried = len(ledger.visited().union(refused))
        if not 0 < encoding.size - tried <= (tried if crashed else 2 * len(encoding.space)):
            return None
        points = {encoding.key(encoding.decode(point)): point for point in encoding.points()}
        return self._points(
            [p for key, p in points.items() if key not in refused and not ledger.is_taken(key)], ledger, 0
        )

    def descent(self, ledger: Ledger, empty: int) -> Definition:
        """A run of NOMAD from all that is known, with the best of it as the start."""
        settings = self.settings
        numbers = ledger.finished()
        warm = settings.warm_start
        names = constraint_names([*ledger.trials, *(warm.trials if warm else ())], settings.hidden)
        reader = self._reader(names)
        known = self._known(ledger, numbers, reader)
        valued = [(point, outputs) for point, outputs in known.items() if outputs is not None]
        leader = reader.leader([outputs for _, outputs in valued])
        return {
            "start": list(self._x0() if leader is None else valued[leader][0]),
            "known": ranges(numbers),
            "constraints": list(names),
            **self._common(ledger, empty),
        }

    def fits(self, definition: Definition) -> bool:
        """Whether a segment was defined with the present settings, as far as these are given.

        A segment with `fill` is of version 0.1, when points of other samplers were part of a block: a new one begins.
        """
        given = self._given | ({"block_size": self.settings.block_size} if self.settings.block_size else {})
        return all(value == definition.get(name) for name, value in ({"pruned": None, "fill": None} | given).items())

    # -- opening

    def open(self, definition: Definition, ledger: Ledger) -> tuple[Nomad | Points, TrialReader]:
        """The segment's source of blocks, and how it reads trials."""
        if "points" in definition:
            points = [tuple(point) for point in definition["points"]]
            return Points(points, definition["block_size"]), self._reader(())
        encoding = self.encoding
        reader = self._reader(tuple(definition["constraints"]))
        known = self._known(ledger, members(definition["known"]), reader)
        start = tuple(definition["start"])
        several = len(self._directions) > 1  # where NOMAD crashes if it knows its start: it asks again
        kept = [(p, o) for p, o in known.items() if p != start or not (several or o is None)]
        barrier = "EB" if definition["barrier"] == "extreme" else "PB"
        problem = NomadRun(
            integer=encoding.integer,
            lower=encoding.lower,
            upper=encoding.upper,
            start=start,
            cache=tuple(kept),
            seed=definition["seed"],
            block_size=definition["block_size"],
            outputs=("OBJ",) * len(self._directions) + (barrier,) * len(definition["constraints"]),
            options=tuple(definition["options"]),
        )
        return Nomad(problem), reader

    def allows(self, params: Mapping[str, Any]) -> bool:
        """Whether a point may be evaluated, by what is known before."""
        return self.settings.a_priori is None or self.settings.a_priori(dict(params))

    # -- inside

    @property
    def _n_startup(self) -> int:
        settings = self.settings
        if settings.n_startup is not None:
            return settings.n_startup
        # Measured: beside the start point a wide opening costs more than it finds, but where a block has room for it.
        block = settings.block_size or 1
        return block if len(self._directions) == 1 else max(block, 2 * len(self.encoding.space))

    def _reader(self, constraints: Sequence[str]) -> TrialReader:
        return TrialReader(self._directions, tuple(constraints), self.settings.hidden, self.settings.pruned)

    def _common(self, ledger: Ledger, empty: int) -> Definition:
        block_size = self.settings.block_size or at_once(ledger.trials)
        return {"seed": self._seed(ledger, empty), "block_size": block_size, **self._given}

    @property
    def _given(self) -> Definition:
        """What the settings alone say of a segment."""
        settings = self.settings
        return {
            "barrier": settings.barrier,
            "hidden": sorted(settings.hidden),
            "options": list(settings.options),
            "warm_start": None if settings.warm_start is None else settings.warm_start.digest,
            **({"pruned": settings.pruned} if settings.pruned != "failed" else {}),
        }

    def _seed(self, ledger: Ledger, empty: int) -> int:
        """Of the next segment; `empty` counts those that left no trial."""
        return self.settings.seed + len(ledger.openers) + empty

    def _points(self, points: Sequence[Point], ledger: Ledger, empty: int) -> Definition | None:
        if not points:
            return None
        common = self._common(ledger, empty)
        # With no block size given nothing needs to wait for anything.
        return {**common, "points": [list(point) for point in points]} | (
            {} if self.settings.block_size else {"block_size": len(points)}
        )

    def _x0(self) -> Point:
        return self.encoding.encode(start_point(self.settings.x0, self.encoding))

    def _drawn(self, count: int, ledger: Ledger, empty: int) -> list[Point]:
        """A Latin hypercube; in place of what is not allowed, random points that are."""
        encoding, n = self.encoding, len(self.encoding.space)
        if count <= 0:
            return []
        random = np.random.default_rng([self._seed(ledger, empty), 1])
        cells = np.array([random.permutation(count) for _ in range(n)]).T
        points = [encoding.at(row.tolist()) for row in (cells + random.random((count, n))) / count]
        for index in range(count):
            for _ in range(DRAWS):
                if self.allows(encoding.decode(points[index])):
                    break
                points[index] = encoding.at(random.random(n).tolist())
        return points

    def _known(self, ledger: Ledger, numbers: Sequence[int], reader: TrialReader) -> dict[Point, Outputs | None]:
        """What NOMAD's cache holds: coordinates with outputs, of these trials and of the earlier study's."""
        known: dict[Point, Outputs | None] = {}
        here: dict[Point, Outputs | None] = {}
        for number in numbers:
            trial = ledger.trials[number]
            outputs, params = reader.outputs(trial), ledger.params(trial)
            known.setdefault(self.encoding.encode(params), outputs)
            here.setdefault(self.encoding.key(params), outputs)
        warm = self.settings.warm_start
        if warm is not None:
            trials = {key: trial for key, (trial, _) in warm.by_point(self.encoding, reader).items()}
            for key, outputs in warm.outputs(self.encoding, reader, here).items():
                known.setdefault(self.encoding.encode(trials[key].params), outputs)
        return known


def at_once(trials: Sequence[FrozenTrial]) -> int:
    """How many of the last trials ran at the same time, by their clocks."""
    spans = [(t.datetime_start, t.datetime_complete) for t in trials[-RECENT:] if t.datetime_start is not None]
    overlap = (
        sum(other <= begin and (end is None or end > begin) for other, end in spans if other is not None)
        for begin, _ in spans
        if begin is not None
    )
    return max([1, *overlap])  # trials that were added, not run, begin and end at once
