"""What a study will take of cards that need not be here, for `check --device-like`: packs, memory and hours.

Memory is predicted as for this machine. Hours follow from `training.memory.speed`, a formula over the card's data sheet
that no card has measured yet, and from blocks of random points of the space, which stand for those of a search. Points
that do not fit are left out of these, and named. Imports torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from meshtune.config.sections import StudyConfig
from meshtune.data.store import Rows
from meshtune.errors import InputError
from meshtune.plan import forecast
from meshtune.plan.forecast import REPLAYED, replayed
from meshtune.plan.plan import Plan
from meshtune.plan.training import TrainingPlan
from meshtune.space.space import Parameter, Space
from meshtune.system.text import counted, number
from meshtune.training.memory import speed
from meshtune.training.memory.cards import Cards
from meshtune.training.memory.check import Largest, Setting, describe, gigabytes, largest, ranks, refuse_too_large
from meshtune.training.memory.formula import Batch
from meshtune.training.memory.pilot import Pilot
from meshtune.training.recipe import Recipe
from meshtune.workers.planner import MOST

BLOCKS = 8  # random ones, over which speeds are averaged


@dataclass(frozen=True)
class CardForecast:
    """What was found for some cards.

    Attributes:
        at: what decides the memory of trials there. largest: of the space. advice: what would help, where it does not
            fit. fitting: by rank, how many trials like the largest fit together with that rank, 0: none does.
        packs: the sizes of the packs of a usual block. peak: bytes of the largest of them.
        expected: None where nothing fits, or the budget says nothing about time. speeds: of a process.
        left_out: the share of the space's points that do not fit.
        gpu_hours: of a trial, by the way that it is trained; the first one is the study's own.
    """

    cards: Cards
    at: Setting
    largest: Largest
    advice: str | None
    fitting: Mapping[int, int]
    packs: tuple[int, ...]
    peak: int
    speeds: Pilot | None
    expected: forecast.Forecast | None
    left_out: float
    gpu_hours: Mapping[str, float]

    def lines(self, config: StudyConfig, processes: int) -> Iterator[tuple[str, str]]:
        """For people: a label and a text each."""
        card = self.cards.card
        each = "each with " if self.cards.count > 1 else ""
        yield self.cards.name, f"{each}{gigabytes(card.memory)}; {self.cards.speeds}"
        if self.at.unpackable is not None:
            yield "trainer", forecast.trainer_line(self.at.unpackable)
        memory = self.largest.memory
        parts = describe(memory, self.largest.hyperparameters["rank"], self.at.pack)
        fits = "does not fit" if self.advice else "fits, but closely" if self.largest.close else "fits"
        yield "memory", f"{parts} = {gigabytes(memory.total)}, the largest trial: {fits}"
        if self.advice:
            yield "", self.advice
        for text in self._pass_lines():
            yield "", text
        if self.at.trainer == "packed":
            yield "packs", f"trials that fit together: {_by_rank(self.fitting)}"
        if self.packs:
            largest_pack = f", the largest takes {gigabytes(self.peak)}"
            yield (
                "",
                f"a usual block of {sum(self.packs)}: {_packs(self.packs)} on {_processes(processes)}{largest_pack}",
            )
        if self.expected is None or self.speeds is None:
            yield "time", "cannot be told: " + ("nothing fits" if self.speeds is None else "of a budget in kWh alone")
            return
        yield "time", self._time(config, processes)
        yield "GPU hours", self._gpu_hours()
        low, high = REPLAYED["model"]
        own = next(iter(self.gpu_hours.values()))
        stopped = f"{number(own * (1 - high), 2)} to {number(own * (1 - low), 2)}"
        yield "", f"early_stopping: model, as in replays of real curves ({replayed('model')} saved): {stopped}"
        if self.left_out:
            yield "", f"without the {number(100 * self.left_out, 2)} % of the space's points that do not fit"
        assumed = f"{100 * speed.SHARE:.0f} % of the card's peak and {speed.LAUNCHES} launches a layer"
        yield "", f"assuming {assumed}: no card has measured that yet"

    def _pass_lines(self) -> Iterator[str]:
        if (tokens := self.at.training.pass_tokens) is not None and self.at.trainer == "packed":
            yield f"passes of {tokens:,} tokens"
        if self.at.training.gradient_checkpointing is True:
            yield "with gradient checkpointing: activations are computed again in the backward pass"

    def _time(self, config: StudyConfig, processes: int) -> str:
        assert self.expected is not None
        assert self.speeds is not None
        after = forecast.after_search(config)
        return forecast.time_line(self.speeds, self.expected, config.budget, processes, after)

    def _gpu_hours(self) -> str:
        return ", ".join(f"{number(hours, 2)} {way}" for way, hours in self.gpu_hours.items()) + " for a trial"

    def facts(self) -> dict[str, Any]:
        """The same as plain values, memory in bytes."""
        card, expected = self.cards.card, self.expected
        time = None
        if expected is not None and self.speeds is not None:
            assumed = {"share_of_peak": speed.SHARE, "launches_a_layer": speed.LAUNCHES}
            time = {**forecast.time_facts(self.speeds, expected), "assumed": assumed, "left_out": self.left_out}
            del time["seconds_a_step"]
        return {
            "device_like": self.cards.name,
            "cards": {"count": self.cards.count, **asdict(card), "exact": self.cards.exact},
            "memory": {**forecast.memory_facts(self.largest, self.at), "fits": self.advice is None},
            "advice": self.advice,
            "fitting": {str(rank): count for rank, count in self.fitting.items()},
            "packs": list(self.packs),
            "largest_pack": self.peak,
            "time": time,
            "gpu_hours_a_trial": dict(self.gpu_hours),
        }


def card_forecast(plan: Plan, training: TrainingPlan, cards: Cards, config: StudyConfig) -> CardForecast:
    """What the study will take of these cards."""
    at = training.memory
    advice = None
    try:
        refuse_too_large(plan.space, at, plan.baseline)
    except InputError as error:
        advice = "; ".join(fault.message.partition("; ")[2] or fault.message for fault in error.faults)
    points = random_points(plan.space, BLOCKS * plan.block_size, config.seed)
    fitting = [point for point in points if at.fits(point) and plan.goals.allowed(point)]
    packs = list(_blocks(plan, at, fitting))
    speeds = expected = None
    gpu_hours: dict[str, float] = {}
    if packs:
        speeds = _speeds(at, training, cards, packs)
        expected = _expected(plan, training, config, at, speeds, fitting)
    if expected is not None:
        devices = plan.processes[0].devices
        for way, other, cut in _ways(at, packs):
            found = _expected(plan, training, config, other, _speeds(other, training, cards, cut), fitting)
            gpu_hours[way] = 0.0 if found is None else devices * found.seconds_a_trial / 3600
    usual = packs[: _first_block(packs, plan.block_size)]
    return CardForecast(
        cards=cards,
        at=at,
        largest=largest(plan.space, at),
        advice=advice,
        fitting=_fitting(plan.space, at),
        packs=tuple(sorted(map(len, usual), reverse=True)),
        peak=max((at.pack_memory(pack).total for pack in usual), default=0),
        speeds=speeds,
        expected=expected,
        left_out=1 - sum(map(at.fits, points)) / len(points),
        gpu_hours=gpu_hours,
    )


def _ways(
    at: Setting, packs: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[str, Setting, Sequence[Sequence[Mapping[str, Any]]]]]:
    """How trials may be trained, in words: the trainer's setting, and the packs. The first is the study's own."""
    alone = [[point] for pack in packs for point in pack]
    if at.trainer == "packed":
        if any(len(pack) > 1 for pack in packs):
            yield "in packs", at, packs
        yield "one at a time", at, alone
    yield "with the transformers trainer, which pads rows", replace(at, trainer="transformers", pack=1), alone


def random_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Hyperparameters drawn evenly over a space, as the optimizer moves it."""
    numbers = np.random.default_rng([seed, count])
    return [space.decode({x.name: _random(x, numbers) for x in space.parameters}) for _ in range(count)]


def _random(parameter: Parameter, numbers: np.random.Generator) -> Any:
    if parameter.kind == "categorical":
        return parameter.choices[int(numbers.integers(len(parameter.choices)))]
    low, high, share = parameter.low, parameter.high, float(numbers.random())
    if parameter.log:
        value = low * (high / low) ** share
        return round(value) if parameter.kind == "int" else value
    return int(low + share * (high + 1 - low)) if parameter.kind == "int" else low + share * (high - low)


def _blocks(plan: Plan, at: Setting, points: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The packs of blocks of these points, one block after the other."""
    for begin in range(0, len(points), plan.block_size):
        block = points[begin : begin + plan.block_size]
        for pack in plan.packing.packs(block):
            yield [block[place] for place in pack]


def _first_block(packs: Sequence[Sequence[Any]], block_size: int) -> int:
    """How many packs make a block."""
    together = 0
    for count, pack in enumerate(packs, 1):
        together += len(pack)
        if together >= block_size:
            return count
    return len(packs)


def _speeds(at: Setting, training: TrainingPlan, cards: Cards, packs: Sequence[Sequence[Mapping[str, Any]]]) -> Pilot:
    """Tokens a second of a process, averaged over the time of these packs."""
    data = training.data
    row, labels = data.train.tokens / data.train.rows, data.train.label_tokens / data.train.tokens
    lengths = Rows.open(training.spec.data, "train").lengths
    tokens, seconds, validated = 0.0, 0.0, 0.0
    for pack in packs:
        members: list[Recipe] = [at.recipe(point) for point in pack]
        padded = 1.0 if at.trainer == "packed" else padding(lengths, members[0].batch_size)
        of_pack = speed.Speed(at.packs(pack[0]), cards.card, row * padded, labels / padded)
        trained = sum(recipe.epochs for recipe in members) * data.train.tokens
        tokens, seconds = tokens + trained, seconds + trained * padded / of_pack.training(members)
        validated = replace(of_pack, row=row, labels=labels).validation()  # of rows of like length
    mean = sum(map(len, packs)) / len(packs)
    return Pilot(tokens / seconds, validated, math.nan, Batch(0, 0, 0), None, max(1, round(mean)))


def padding(lengths: npt.ArrayLike, batch_size: int) -> float:
    """Tokens that are computed over those of the rows, in batches of rows of any length, each padded to its longest."""
    ordered = np.sort(np.asarray(lengths, dtype=float))
    places = np.arange(ordered.size + 1) / ordered.size
    longest = float(ordered @ np.diff(places ** min(batch_size, ordered.size)))
    return longest / float(ordered.mean())


def _expected(
    plan: Plan,
    training: TrainingPlan,
    config: StudyConfig,
    at: Setting,
    speeds: Pilot,
    points: Sequence[Mapping[str, Any]],
) -> forecast.Forecast | None:
    """None where the budget is one of energy alone, which is not known."""
    budget = config.budget
    if budget.trials is None and budget.tokens is None and budget.hours is None:
        return None
    epochs = sum(at.recipe(point).epochs for point in points) / len(points)
    return forecast.forecast(
        speeds,
        training.data,
        max(1, round(epochs)),
        budget,
        processes=len(plan.processes),
        loading=at.memory(points[0]).base / speed.LOADING,
        after=forecast.after_search(config),
        measuring=forecast.measuring_tokens(config, training),
    )


def _fitting(space: Space, at: Setting) -> dict[int, int]:
    """By rank: how many trials that are otherwise the largest fit together."""
    point = largest(space, at).hyperparameters
    found = {}
    for rank in ranks(space) or [point["rank"]]:
        like = {**point, "rank": rank}
        if at.trainer != "packed":
            found[rank] = int(at.fits(like))
            continue
        fits = (at.fit_together([like] * count) for count in range(1, MOST + 1))
        found[rank] = sum(itertools.takewhile(bool, fits))
    return found


def _by_rank(fitting: Mapping[int, int]) -> str:
    """`rank 4 to 16: 64 or more, 32: 12, 256: none`; ranks of one count together."""
    parts: list[tuple[int, int, int]] = []
    for rank, count in sorted(fitting.items()):
        if parts and parts[-1][2] == count:
            parts[-1] = (parts[-1][0], rank, count)
        else:
            parts.append((rank, rank, count))
    words = {0: "none", MOST: f"{MOST} or more"}
    texts = [f"{low if low == high else f'{low} to {high}'}: {words.get(n, str(n))}" for low, high, n in parts]
    return "rank " + ", ".join(texts)


def _packs(sizes: Sequence[int]) -> str:
    counts = {size: sizes.count(size) for size in dict.fromkeys(sizes)}
    return " and ".join(f"{counted(count, 'pack')} of {size}" for size, count in counts.items())


def _processes(count: int) -> str:
    return "one card" if count == 1 else f"{count} cards"
