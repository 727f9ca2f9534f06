"""Places that come free in running packs: how much sooner a search is done that fills them.

The real loop, record, rules (`asha`) and samplers, on packs of four whose clock is made up: the curves are those of
`learning_curves.py`'s table, all trials have equal tokens, and a pack takes the same time however many of it are left,
as on a device that a small batch starves. The same searches three times:

- joining: as studies do;
- within packs: a block is one pack a process, whose own trials wait in it, as it was before trials could join another;
- empty: nothing takes a free place, and a pack is waited for.

Time is in trainings of one trial alone. What is printed at the end are medians of the ratio of times to joining's.

With `--thaws` the rule is `model`, packs hold a block, and what is compared is where frozen trials thaw: in places that
come free in packs, as studies do, or each alone in a process, as soon as one is free. Beside the times stands the best
loss, ours less theirs: its mean over seeds, and half of its 95 % interval.

    python benchmarks/freed_places.py [--thaws] [--trials 60] [--seeds 6] [--samplers random batch-gp]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from learning_curves import Surrogate, Table
from optimizer_plot import interval
from replay import EPOCH_TOKENS, EPOCHS, SPACE, WHOLE, Course
from scipy.stats import t as student

from meshtune.config import presets
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import SamplerConfig
from meshtune.plan.budget import Budget
from meshtune.record.decisions import IN_PACK
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study import packs
from meshtune.study.loop import run
from meshtune.trial import Decision, Ending, Event, Outcome, Request, Rung, Verdict
from meshtune.workers.planner import Packing

TABLE = Path(__file__).with_name("curves") / "embedded.jsonl"
MEMBERS = 4
CELLS = ((1, True), (2, True), (2, False), (4, False))  # processes, whether asynchronous; blocks of two packs each
HOW = ("joining", "within packs", "empty")
THAWS = (8, 16)  # trials of a block, which is a pack


class Within(Packing):
    """A block is one pack a process."""

    def _number(self, count: int, most: int) -> int:
        return min(math.ceil(count / most), self.processes)

    def width(self, points: Sequence[object]) -> int | None:  # type: ignore[override]
        return min(self.most, len(points))


@dataclass
class Member:
    """A trial that trains, or waits in its pack. `begun`: when, or when it would have; None: it waits. `rung`: how many
    it has passed.
    """

    request: Request
    begun: float | None = None
    rung: int = 0

    def __post_init__(self) -> None:
        if self.request.thaws:
            self.rung = len(self.request.decided)


class Pack:
    """Trials that train together; `now` is its own clock, which stands where it waits for an answer."""

    def __init__(self, requests: Sequence[Request], now: float, course: Course, shares: Sequence[float]):
        self.name, self.width = (requests[0].trial, requests[0].attempt), requests[0].width or len(requests)
        self.members = {request.trial: Member(request) for request in requests}
        self.now, self.course, self.shares = now, course, shares

    @property
    def next(self) -> float:
        """When one of it comes to a rung or to its end; those for whom there is a place begin."""
        training = [member for member in self.members.values() if member.begun is not None]
        for member in [m for m in self.members.values() if m.begun is None][: max(0, self.width - len(training))]:
            member.begun = self.now - (self.shares[member.rung - 1] if member.rung else 0.0)
        return min(m.begun + [*self.shares, 1.0][m.rung] for m in self.members.values() if m.begun is not None)

    def events(self) -> list[Event]:
        """What is said then."""
        self.now = max(self.now, self.next)
        ends, asked = [], []
        for trial, member in self.members.items():
            if member.begun is None or member.begun + [*self.shares, 1.0][member.rung] > self.now + 1e-9:
                continue
            if member.rung == len(self.shares):
                ends.append(self._ended(trial, Ending.COMPLETE))
                continue
            loss = self.course.at(SPACE.encode(member.request.hyperparameters), self.shares[member.rung])
            member.rung += 1
            if member.request.asks:
                asked.append((trial, member.request.thresholds[member.rung - 1][0], loss))
        for outcome in ends:
            del self.members[outcome.trial]
        return [*ends, *([Rung(*self.name, tuple(asked))] if asked else [])]

    def decide(self, decision: Decision) -> list[Event]:
        """Those that stop leave at once."""
        stops = [trial for trial, _, verdict in decision.verdicts if verdict is Verdict.STOPS]
        found: list[Event] = [self._ended(trial, Ending.STOPPED_EARLY) for trial in stops]
        for trial in stops:
            del self.members[trial]
        return found

    def _ended(self, trial: int, ending: Ending) -> Outcome:
        member = self.members[trial]
        point, there = SPACE.encode(member.request.hyperparameters), self.shares[: member.rung]
        tokens = [each for each, _ in member.request.thresholds]
        rungs = tuple((at, self.course.at(point, share)) for at, share in zip(tokens, there, strict=False))
        whole = ending is Ending.COMPLETE
        loss, spent = (self.course.final(point), WHOLE) if whole else (rungs[-1][1], self.course.spent(there[-1]))
        return Outcome(trial, member.request.attempt, ending, loss=loss, rungs=rungs, tokens=spent)


class Simulated:
    """Processes that train a pack each."""

    def __init__(self, processes: int, course: Course, shares: Sequence[float]):
        self.processes, self.course, self.shares = processes, course, shares
        self.now, self.packs, self.said = 0.0, list[Pack](), list[Event]()

    def free(self) -> int:
        return self.processes - len(self.packs)

    def submit(self, requests: Sequence[Request]) -> None:
        self.packs.append(Pack(requests, self.now, self.course, self.shares))

    def events(self, timeout: float) -> list[Event]:
        if not self.said and timeout and self.packs:
            first = min(self.packs, key=lambda pack: pack.next)
            self.said, self.now = first.events(), first.now
        said, self.said = self.said, []
        self.packs = [pack for pack in self.packs if pack.members]
        return said

    def decide(self, decision: Decision) -> None:
        for pack in self.packs:
            if pack.name == (decision.pack, decision.attempt):
                self.said += pack.decide(decision)

    def join(self, pack: int, request: Request) -> bool:
        """A pack that has a place takes it at once: the clocks of packs differ by what has not been heard yet."""
        for each in self.packs:
            if each.name == (pack, request.attempt):
                each.members[request.trial] = Member(request)
                each.now = max(each.now, self.now)
                return True
        return False

    def suspend(self, seconds: float) -> None:
        """Nothing here is suspended."""

    def close(self) -> None:
        """Nothing is held."""


def searched(
    how: str,
    sampler: str,
    processes: int,
    block: int,
    asynchronous: bool,
    seed: int,
    trials: int,
    rule: Literal["asha", "model"] = "asha",
    members: int = MEMBERS,
) -> tuple[float, float]:
    """The time that a search takes, and the best loss."""
    config = EarlyStoppingConfig(rule=rule)
    early = EarlyStopping(config, EPOCHS, EPOCH_TOKENS, space=SPACE)
    worker = Simulated(processes, Course(Surrogate(Table.read(TABLE)), seed), config.rungs)
    kind = Within if how == "within packs" else Packing
    packing = kind(processes, members, exact=True, uneven=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as folder:
        record = Record(f"sqlite:///{folder}/study.db", "study", SPACE, fixed={})
        record.note(IN_PACK, True)
        start = presets.RECOMMENDED_BASELINE
        record.enqueue(start, origin="baseline", seed=0, thresholds=early.measured(start))
        named = SamplerConfig(name=sampler, asynchronous=asynchronous)  # type: ignore[arg-type]
        x0, space = SPACE.encode(start), distributions(SPACE)
        made = build(named, space, x0=x0, block_size=block, seed=seed, pruned="value")
        given = {"packing": packing, "share": packing.share(block), "early": early}
        if how == "alone":
            given["share"] = 1  # of use without blocks alone, but for this
        packs.LONGEST, usual = (0 if how != "joining" else packs.LONGEST), packs.LONGEST
        try:
            list(run(record, made, worker, Budget(trials), seed=seed, **given))  # type: ignore[arg-type]
        finally:
            packs.LONGEST = usual
            made.close()
    assert len(record.finished) == trials
    return worker.now, min(record.losses_in_search)


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--samplers", nargs="+", default=["random", "batch-gp"])
    parser.add_argument("--thaws", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if given.thaws:
        for sampler, block in itertools.product(given.samplers, THAWS):
            thawing(sampler, block, given.trials, given.seeds)
        return
    for sampler, (processes, asynchronous) in itertools.product(given.samplers, CELLS):
        block = 2 * processes * MEMBERS
        where = f"{sampler}, {'asynchronous' if asynchronous else 'in blocks'} of {block}, {processes} processes"
        own = sampler, processes, block, asynchronous
        compared = [how for how in HOW if not (asynchronous and how == "within packs")]  # a pack is what a process gets
        times = {
            how: np.array([searched(how, *own, s, given.trials)[0] for s in range(given.seeds)]) for how in compared
        }
        for other in compared[1:]:
            what = f"packs of {MEMBERS}, asha, {given.trials} trials, {given.seeds} seeds: joining | {other}"
            printed(times["joining"], times[other], f"{where}, {what}")


def thawing(sampler: str, block: int, trials: int, seeds: int) -> None:
    """The line of where frozen trials thaw."""
    found = np.array(
        [
            [searched(how, sampler, 1, block, False, seed, trials, "model", block) for how in ("joining", "alone")]
            for seed in range(seeds)
        ]
    )
    worse = found[:, 0, 1] - found[:, 1, 1]
    half = student.ppf(0.975, seeds - 1) * worse.std(ddof=1) / math.sqrt(seeds)
    what = f"{sampler}, packs of a block of {block}, model, {trials} trials, {seeds} seeds: thawed in places | alone"
    printed(found[:, 0, 0], found[:, 1, 0], what, loss=worse.mean(), loss_half=half)


def printed(ours: np.ndarray, theirs: np.ndarray, setting: str, **more: float) -> None:
    """A JSON line."""
    low, high = interval(theirs / ours)
    found = [np.median(ours), np.median(theirs), np.median(theirs / ours), low, high]
    values = {k: round(float(x), 3) for k, x in zip(("ours", "theirs", "ratio", "low", "high"), found, strict=True)}
    values |= {key: round(float(value), 4) for key, value in more.items()}
    print(json.dumps({"name": "freed_places", **values, "setting": setting}), flush=True)


if __name__ == "__main__":
    main()
