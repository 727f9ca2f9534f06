"""How busy devices are, and how soon a good point is found: blocks against `asynchronous: true`, by sampler.

`simulate` runs the real loop, record and samplers on a worker whose clock is made up; the loss is that of three
surfaces of `surfaces.py` with noise. One device trains one trial at a time.

- A trial's time is drawn from the trainings of its rank in `curves/embedded.jsonl` (270 of them, equal in tokens), with
  a mean of two hours. `epochs`: times 1 to 4 over 2.5, each as likely, as where the epochs are searched.
- One attempt of a hundred dies somewhere on its way and is made again.
- The processor time that loop and sampler take passes on that clock (that of NOMAD's own process does not).
- Utilisation: busy over all device time until the last trial has begun. The target: a loss within 0.01 of the least.

`order` asks what the order inside a block is worth: the longest first by what is predicted, packs balanced by it.

`workers` runs the real thing: 4 processes of this machine, and a program that sleeps for such a time (10 seconds on
average, epochs searched); `batch-gp` asynchronously and `mads` in blocks of 8, interleaved. Busy are the seconds that
the program itself counts, so that all between two programs is idle time.

    python benchmarks/utilisation.py simulate [--devices 1 8 64 512] [--seeds 3] [--cost fixed epochs] [--out FILE]
    python benchmarks/utilisation.py plot FILE PICTURE.svg
    python benchmarks/utilisation.py order
    python benchmarks/utilisation.py workers [--rounds 3] [--trials 40] [--seconds 10]
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from optimizer_plot import STYLE, interval, spread
from surfaces import FLOOR, NOISE, QUICK, SENSIBLE, Surface

from meshtune.config import presets
from meshtune.config.sections import Interval, SamplerConfig
from meshtune.objectives.build import ObjectiveSpec
from meshtune.plan.budget import Budget
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.study.loop import Started, TrialFinished, run
from meshtune.trial import Ending, Event, Outcome, Request
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import Packing, ProcessSpec

TABLE = Path(__file__).with_name("curves") / "embedded.jsonl"
SPACE = presets.build(
    {
        "rank_log2": Interval(low=2, high=9, integer=True),
        "dropout": Interval(low=0, high=0.3),
        "alpha": Interval(low=1, high=512, log=True, integer=True),
        "learning_rate": Interval(low=1e-6, high=1e-2, log=True),
    },
    lora=False,
)
START = {"rank_log2": 4, **{name: SENSIBLE[name] for name in ("dropout", "alpha", "learning_rate")}}
HOURS, CRASHES, NEAR = 2.0, 0.01, 0.01
NEVER = 1e6
TRIALS = {1: 60, 8: 120, 64: 256, 512: 1024}
COSTS = {"fixed": "trials of equal tokens", "epochs": "1 to 4 epochs"}


@dataclass(frozen=True)
class Side:
    """A sampler, and how it is asked: `block` times as many points as there are devices."""

    sampler: str
    asynchronous: bool = False
    block: int = 1

    def __str__(self) -> str:
        how = "asynchronous" if self.asynchronous else "in blocks" + (f" of {self.block} a device" * (self.block > 1))
        return f"{self.sampler}, {how}"


SIDES = (
    Side("batch-gp", asynchronous=True),
    Side("batch-gp"),
    Side("batch-gp", block=2),
    Side("tpe", asynchronous=True),
    Side("tpe"),
    Side("random", asynchronous=True),
    Side("mads"),
    Side("mads", block=2),
)


@cache
def measured() -> dict[int, list[float]]:
    """Times of trainings by log2 of their rank, over the mean of all."""
    lines = [json.loads(line) for line in TABLE.read_text().splitlines()[1:]]
    mean = sum(line["seconds"] for line in lines) / len(lines)
    found = defaultdict(list)
    for line in lines:
        found[round(math.log2(line["hyperparameters"]["rank"]))].append(line["seconds"] / mean)
    return dict(found)


def share(cost: str, rank_log2: int, chance: random.Random) -> float:
    """A trial's time, over the mean of all; the table's largest rank is 256."""
    times = measured()
    drawn = chance.choice(times[min(rank_log2, max(times))])
    return drawn * chance.randint(1, 4) / 2.5 if cost == "epochs" else drawn


class Simulated:
    """Devices whose clock is made up; `hours` of a request, and `answer` to it."""

    def __init__(self, devices: int, hours: Callable[[Request], float], answer: Callable[[Request], Outcome]):
        self.devices, self.hours, self.answer = devices, hours, answer
        self.now = self.last = 0.0
        self.spans: list[tuple[float, float]] = []
        self._running: list[tuple[float, int, Request, bool]] = []
        self._chance = random.Random(devices)
        self._looked = time.process_time()

    def _pass(self) -> None:
        looked = time.process_time()
        self.now += (looked - self._looked) / 3600
        self._looked = looked

    def free(self) -> int:
        return self.devices - len(self._running)

    def submit(self, requests: Sequence[Request]) -> None:
        self._pass()
        (request,) = requests
        hours, dies = self.hours(request), self._chance.random() < CRASHES
        end = self.now + hours * (self._chance.random() if dies else 1.0)
        self.spans.append((self.now, end))
        self.last = self.now if request.attempt == 1 else self.last
        heapq.heappush(self._running, (end, request.trial, request, dies))

    def events(self, timeout: float) -> list[Event]:
        self._pass()
        if not timeout or not self._running:
            return []
        end, _, request, dies = heapq.heappop(self._running)
        self.now = max(self.now, end)
        return [Outcome(request.trial, request.attempt, Ending.CRASHED) if dies else self.answer(request)]

    def suspend(self, seconds: float) -> None:
        """Nothing here is suspended."""

    def close(self) -> None:
        """Nothing is held."""

    @property
    def utilisation(self) -> float:
        """Until the last trial has begun."""
        busy = sum(max(0.0, min(end, self.last) - begin) for begin, end in self.spans)
        return busy / (self.last * self.devices)


def searched(folder: Path, side: Side, devices: int, worker: Any, trials: int, seed: int) -> Iterator[Any]:
    """A whole search by the loop, its events."""
    record = Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={})
    config = SamplerConfig(name=side.sampler, asynchronous=side.asynchronous)  # type: ignore[arg-type]
    made = build(config, distributions(SPACE), x0=START, block_size=devices * side.block, seed=seed)
    try:
        yield from run(record, made, worker, Budget(trials=trials), seed=seed, packing=Packing(devices))
    finally:
        made.close()
        worker.close()


def one(side: Side, devices: int, cost: str, surface: Surface, seed: int, trials: int) -> dict[str, Any]:
    """Utilisation of a simulated search, and hours and trials until a point near the least loss had ended."""

    def exact(point: Mapping[str, Any]) -> float:
        return surface({**point, "rank": 2 ** point["rank_log2"]})

    def answer(request: Request) -> Outcome:
        loss = exact(request.hyperparameters)
        if math.isnan(loss):
            return Outcome(request.trial, request.attempt, Ending.DIVERGED)
        noise = random.Random(f"{seed} {request.trial} noise").gauss(0, NOISE)
        return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=loss + noise)

    def hours(request: Request) -> float:
        chance = random.Random(f"{seed} {request.trial} hours")
        return HOURS * share(cost, int(request.hyperparameters["rank_log2"]), chance)

    worker = Simulated(devices, hours, answer)
    reached, ended, begun = math.inf, 0, time.process_time()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as folder:
        for event in searched(Path(folder), side, devices, worker, trials, seed):
            if isinstance(event, TrialFinished):
                ended += 1
                if reached == math.inf and exact(event.trial.hyperparameters) <= FLOOR + NEAR:
                    reached, needed = worker.now, ended
    return {
        "side": str(side),
        "devices": devices,
        "cost": cost,
        "surface": surface.name,
        "seed": seed,
        "trials": trials,
        "utilisation": worker.utilisation,
        "hours": worker.now,
        "hours_to_target": None if reached == math.inf else reached,
        "trials_to_target": None if reached == math.inf else needed,
        "coordinator_seconds_a_trial": (time.process_time() - begun) / trials,
    }


def simulate(
    devices: Sequence[int], seeds: int, costs: Sequence[str], surfaces: int, sides: Sequence[Side], out: Path | None
) -> None:
    """Every side on the same surfaces, seeds and times; one line a search, then the table."""
    lines = []
    for count in devices:
        for cost in costs:
            for seed in range(seeds):
                for surface in QUICK[:surfaces]:
                    for side in sides:
                        line = one(side, count, cost, surface, seed, TRIALS[count])
                        lines.append(line)
                        if out is not None:
                            with out.open("a") as file:
                                file.write(json.dumps(line) + "\n")
            table([line for line in lines if line["devices"] == count and line["cost"] == cost])


def grouped(lines: Sequence[Mapping[str, Any]], key: str) -> dict[str, np.ndarray]:
    """A figure's values by side; a target that was not reached counts as reached at NEVER."""
    found = defaultdict(list)
    for line in lines:
        found[line["side"]].append(NEVER if line[key] is None else line[key])
    return {side: np.array(values) for side, values in found.items()}


def table(lines: Sequence[Mapping[str, Any]]) -> None:
    """Medians over surfaces and seeds, with 95 % intervals by the bootstrap; then JSON lines, each beside MADS."""
    first = lines[0]
    print(f"\n{first['devices']} devices, {COSTS[first['cost']]}, {first['trials']} trials, {len(lines)} searches")
    used, hours = grouped(lines, "utilisation"), grouped(lines, "hours_to_target")
    needed, own = grouped(lines, "trials_to_target"), grouped(lines, "coordinator_seconds_a_trial")
    print(f"{'':<32}{'utilisation':>24}{'hours to target, low, high':>28}{'trials':>8}{'own s a trial':>15}")
    for side, values in used.items():
        low, high = interval(values)
        soon, late = interval(hours[side])
        busy = f"{100 * np.median(values):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        reach = " ".join(
            "never" if each >= NEVER / 4 else f"{each:.1f}" for each in (np.median(hours[side]), soon, late)
        )
        print(f"{side:<32}{busy:>24}{reach:>28}{_count(needed[side]):>8}{np.mean(own[side]):>15.3f}")
    theirs = used.get(str(Side("mads")))
    for side in (str(Side("batch-gp", asynchronous=True)), str(Side("batch-gp"))):
        if theirs is None or side not in used:
            continue
        low, high = interval(used[side] / theirs)
        setting = f"simulated, {first['devices']} devices, {COSTS[first['cost']]}: {side} | mads, in blocks"
        printed(float(np.median(used[side])), float(np.median(theirs)), low, high, setting)


def _count(values: np.ndarray) -> str:
    return "-" if np.median(values) >= NEVER / 4 else f"{np.median(values):.0f}"


def printed(ours: float, theirs: float, low: float, high: float, setting: str) -> None:
    """A JSON line."""
    found = {"name": "utilisation", "ours": ours, "theirs": theirs, "ratio": ours / theirs, "low": low, "high": high}
    print(
        json.dumps(
            {key: round(value, 4) if not isinstance(value, str) else value for key, value in found.items()}
            | {"setting": setting}
        ),
        flush=True,
    )


# -- the order inside a block


def order(devices: Sequence[int], blocks: int) -> None:
    """Utilisation of blocks whose trials, or packs of four, are given out as they were proposed, or the longest first.

    What is predicted: the mean time of a rank, times the epochs. A pack takes the sum of its members' times, as where
    the device has no idle units; `balanced`: each next trial by predicted time goes to the pack that has least.
    """
    means = {rank: float(np.mean(times)) for rank, times in measured().items()}
    for cost in COSTS:
        for count in devices:
            for per_device, pack in ((1, 1), (2, 1), (4, 1), (4, 4), (8, 4)):
                used = np.array([_of_block(cost, means, count, per_device, pack, seed) for seed in range(blocks)])
                where = f"simulated, {count} devices, blocks of {per_device * count}, packs of {pack}, {COSTS[cost]}"
                for column, what in ((1, "longest first"), (2, "longest first, packs balanced")):
                    if column == 1 or pack > 1:
                        ratios = used[:, column] / used[:, 0]
                        draws = np.random.default_rng(0).choice(ratios, (1000, blocks)).mean(axis=1)
                        low, high = np.quantile(draws, (0.025, 0.975))
                        ours, theirs = used.mean(axis=0)[[column, 0]]
                        printed(ours, theirs, float(low), float(high), f"{where}: {what} | as proposed")


def _of_block(
    cost: str, means: Mapping[int, float], devices: int, per_device: int, pack: int, seed: int
) -> tuple[float, float, float]:
    chance = random.Random(seed)
    trials = []
    for _ in range(devices * per_device):
        rank, epochs = chance.randint(2, 8), chance.randint(1, 4) if cost == "epochs" else 1
        trials.append((means[rank] * epochs, chance.choice(measured()[rank]) * epochs))
    as_proposed = [trials[begin : begin + pack] for begin in range(0, len(trials), pack)]
    balanced: list[list[tuple[float, float]]] = [[] for _ in as_proposed]
    for trial in sorted(trials, reverse=True):
        room = [members for members in balanced if len(members) < pack]
        min(room, key=lambda members: sum(predicted for predicted, _ in members)).append(trial)

    def longest(packs: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
        return sorted(packs, key=lambda members: -sum(predicted for predicted, _ in members))

    return tuple(_used(packs, devices) for packs in (as_proposed, longest(as_proposed), longest(balanced)))


def _used(packs: Sequence[Sequence[tuple[float, float]]], devices: int) -> float:
    """Of a block that is waited for as a whole."""
    ends = [0.0] * devices
    for members in packs:
        heapq.heapreplace(ends, ends[0] + sum(seconds for _, seconds in members))
    return sum(ends) / (devices * max(ends))


# -- the picture

KINDS = {"batch-gp, asynchronous": "one", "mads, in blocks": "two", "tpe, asynchronous": "three"}
DASHED = {"batch-gp, in blocks": "5 3", "tpe, in blocks": "1.5 3", "random, asynchronous": "8 3 2 3"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 500, 300, 56, 190, 40, 44


def plot(table_file: Path, picture: Path) -> None:
    """Utilisation for both costs, against devices."""
    lines = [json.loads(line) for line in table_file.read_text().splitlines()]
    costs = [cost for cost in COSTS if any(line["cost"] == cost for line in lines)]
    panels = [(f"{COSTS[cost]}: devices that are busy", cost, "utilisation") for cost in costs]
    panels += [
        (f"{COSTS[cost]}: hours to a loss within {NEAR} of the least", cost, "hours_to_target") for cost in costs
    ]
    size = 2 * WIDTH, math.ceil(len(panels) / 2) * HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        'aria-label="Utilisation and time to target by number of devices">',
        f"<style>{STYLE}</style>",
    ]
    for index, (title, cost, key) in enumerate(panels):
        chosen = [line for line in lines if line["cost"] == cost]
        parts.append(f'<g transform="translate({index % 2 * WIDTH} {index // 2 * HEIGHT})">')
        parts += panel(title, chosen, key)
        parts.append("</g>")
    note = "Medians over three surfaces and seeds; bars: 95 % intervals of the median. Simulated; two hours a trial."
    parts += [f'<text class="faint" x="12" y="{size[1] - 8}">{escape(note)}</text>', "</svg>"]
    picture.write_text("\n".join(parts) + "\n")


def panel(title: str, lines: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """One of them: a line a side."""
    devices = sorted({line["devices"] for line in lines})
    by = {count: grouped([line for line in lines if line["devices"] == count], key) for count in devices}
    percent = key == "utilisation"
    shown = [np.median(by[count][side]) for count in devices for side in (*KINDS, *DASHED) if side in by[count]]
    finite = [value for value in shown if value < NEVER / 4]
    low, high = (0.0, 1.0) if percent else (math.log10(min(finite) * 0.7), math.log10(max(finite) * 1.4))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(count: float) -> float:
        return LEFT + width * math.log(count) / math.log(devices[-1])

    def y(value: float) -> float:
        at = value if percent else math.log10(value)
        return TOP + height * (high - min(max(at, low), high)) / (high - low)

    ticks = (0.0, 0.25, 0.5, 0.75, 1.0) if percent else [t for t in (3, 10, 30, 100) if low <= math.log10(t) <= high]
    parts = [f'<text class="title" x="{LEFT - 40}" y="18">{escape(title)}</text>', '<g class="faint">']
    for tick in ticks:
        name = f"{100 * tick:.0f} %" if percent else f"{tick} h"
        parts += [
            f'<line class="mesh" x1="{LEFT}" x2="{LEFT + width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>',
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{name}</text>',
        ]
    for count in devices:
        parts.append(f'<text x="{x(count):.1f}" y="{TOP + height + 16}" text-anchor="middle">{count}</text>')
    parts += [
        f'<text x="{LEFT + width / 2}" y="{TOP + height + 34}" text-anchor="middle">devices</text></g>',
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{TOP + height}H{LEFT + width}"/>',
    ]
    ends = []
    for place, side in enumerate((*DASHED, *KINDS)):
        kind, dash = KINDS.get(side, ""), DASHED.get(side, "")
        there = [count for count in devices if side in by[count] and np.median(by[count][side]) < NEVER / 4]
        points = " ".join(f"{x(count):.1f},{y(float(np.median(by[count][side]))):.1f}" for count in there)
        parts.append(f'<polyline class="side {kind}" stroke-dasharray="{dash}" points="{points}"/>')
        for count in there:
            least, most = interval(by[count][side])
            at = x(count) + 2.2 * (place - 3)
            if most < NEVER / 4:
                bar = f'x1="{at:.1f}" x2="{at:.1f}" y1="{y(least):.1f}" y2="{y(most):.1f}"'
                parts.append(f'<line class="bar {kind}" {bar}/>')
        if there:
            ends.append((y(float(np.median(by[there[-1]][side]))), side, kind, x(there[-1])))
    for to, (at, side, kind, right) in zip(spread([end[0] for end in ends]), sorted(ends), strict=True):
        parts += [
            f'<path class="side {kind}" style="stroke-width:1" d="M{right + 2:.1f} {at:.1f}'
            f'L{LEFT + width + 16} {to:.1f}"/>',
            f'<text class="name {kind}" x="{LEFT + width + 20}" y="{to + 4:.1f}">{escape(side)}</text>',
        ]
    return parts


# -- real processes


def _warm(worker: LocalWorker) -> None:
    """Until all processes have started, which is no matter of a sampler."""
    for number in range(-4, 0):
        worker.submit([Request(number, dict.fromkeys(START, 1), seed=0)])
    ended = 0
    while ended < 4:
        ended += sum(isinstance(event, Outcome) for event in worker.events(1.0))


def slept(folder: Path, side: Side, trials: int, seconds: float, seed: int, block: int) -> tuple[float, float]:
    """Share of the time of four real processes in which the program ran, from the first trial's start: until the last
    one began, and to the end of all.
    """
    chance = random.Random(seed)
    shares = [share("epochs", chance.randint(2, 8), chance) for _ in range(trials)]
    program = folder / "program.py"
    program.write_text(
        "import json, sys, time\n"
        "begun = time.time()\n"
        f"shares = {shares!r}\n"
        "x = [float(value) for value in sys.argv[2:]]\n"
        f"time.sleep({seconds} * shares[int(sys.argv[1])] if int(sys.argv[1]) >= 0 else 0)\n"
        "loss = (x[0] - 6) ** 2 / 10 + x[1] + abs(x[2]) / 512\n"
        "print(json.dumps({'loss': loss, 'begun': begun, 'ended': time.time()}))\n"
    )
    command = [sys.executable, "-S", str(program), "{trial}", "{rank_log2}", "{dropout}", "{alpha}"]
    options = {"command": command, "result": "loss", "folder": str(folder), "directory": str(folder)}
    places = [ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1)] * 4
    worker = LocalWorker(ObjectiveSpec("command", {**options, "also": ["begun", "ended"]}), places, folder)
    _warm(worker)
    submitted: dict[int, float] = {}
    starts, spans, waits = [], [], []
    made = Side(side.sampler, side.asynchronous, block // 4)
    for event in searched(folder, made, 4, worker, trials, seed):
        if isinstance(event, Started):
            starts.append(time.time())
            submitted[event.request.trial] = starts[-1]
        elif isinstance(event, TrialFinished) and event.trial.outcome is not None:
            extra = event.trial.outcome.extra
            spans.append((extra["begun"], extra["ended"]))
            waits.append((extra["begun"] - submitted[event.trial.number], time.time() - extra["ended"]))
    began, last, end = starts[0], starts[-1], max(ended for _, ended in spans)
    start, tell = np.mean(waits, axis=0)
    print(f"a trial's program starts in {start:.2f} s, its answer is in the record after {tell:.2f} s", flush=True)
    until = sum(max(0.0, min(ended, last) - begun) for begun, ended in spans) / (4 * (last - began))
    return until, sum(ended - begun for begun, ended in spans) / (4 * (end - began))


def workers(rounds: int, trials: int, seconds: float) -> None:
    """Both sides in turn on the same times."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sides = {
        "asynchronous": (Side("batch-gp", asynchronous=True), 4),
        "mads": (Side("mads"), 8),
    }
    for seed in range(rounds):
        for name, (side, block) in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(slept(Path(folder), side, trials, seconds, seed, block))
            print(
                f"round {seed}: {name} {100 * found[name][-1][0]:.1f} % (to the end {100 * found[name][-1][1]:.1f} %)",
                flush=True,
            )
    ours = np.array([until for until, _ in found["asynchronous"]])
    theirs = np.array([until for until, _ in found["mads"]])
    ratios = ours / theirs
    setting = (
        f"4 real processes, {trials} trials of {seconds:g} s on average (1 to 4 epochs), until the last has begun:"
        f" batch-gp asynchronous | mads in blocks of 8; {rounds} rounds"
    )
    printed(float(np.median(ours)), float(np.median(theirs)), float(ratios.min()), float(ratios.max()), setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    simulated = parts.add_parser("simulate")
    simulated.add_argument("--devices", type=int, nargs="+", default=list(TRIALS), choices=list(TRIALS))
    simulated.add_argument("--seeds", type=int, default=3)
    simulated.add_argument("--cost", nargs="+", default=list(COSTS), choices=list(COSTS))
    simulated.add_argument("--surfaces", type=int, default=len(QUICK))
    simulated.add_argument("--sides", type=int, nargs="+", default=list(range(len(SIDES))), help="numbers of SIDES")
    simulated.add_argument("--out", type=Path)
    drawn = parts.add_parser("plot")
    drawn.add_argument("table", type=Path)
    drawn.add_argument("picture", type=Path)
    ordered = parts.add_parser("order")
    ordered.add_argument("--devices", type=int, nargs="+", default=[2, 8, 64])
    ordered.add_argument("--blocks", type=int, default=100)
    real = parts.add_parser("workers")
    real.add_argument("--rounds", type=int, default=3)
    real.add_argument("--trials", type=int, default=40)
    real.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    match given.what:
        case "simulate":
            sides = [SIDES[number] for number in given.sides]
            simulate(given.devices, given.seeds, given.cost, given.surfaces, sides, given.out)
        case "plot":
            plot(given.table, given.picture)
        case "order":
            order(given.devices, given.blocks)
        case "workers":
            workers(given.rounds, given.trials, given.seconds)


if __name__ == "__main__":
    main()
