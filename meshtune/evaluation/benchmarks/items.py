"""A benchmark: its items, how they are asked, and how answers are judged.

This is the seam of the evaluation: `mmlu.py`, `bbh.py`, `drop.py` and `humaneval.py` each read files into one
`Benchmark`, and who asks and scores knows none of them. Values only: nothing here reads files or loads a model.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

PROBABILITY = "probability of the right letter"
PER_BYTE = "log-likelihood of the right answer, nats a byte"


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in its benchmark, such as `anatomy/12`. group: the subject or task; "" where there are none.
        text: its own part of the prompt, up to where the answer begins.
        gold: the right answer as the text that continues the prompt, with the space or line end before it.
        choices: all answers that can be chosen, as continuations; empty where the answer is open.
        truth: what judging needs.
    """

    id: str
    group: str
    text: str
    gold: str
    choices: tuple[str, ...] = ()
    truth: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shots:
    """What stands before an item's own text: a header and solved examples, in their order."""

    header: str = ""
    blocks: tuple[str, ...] = ()

    def text(self, count: int) -> str:
        """The header and the first `count` examples."""
        return self.header + "".join(self.blocks[:count])


@dataclass(frozen=True)
class Judged:
    """A verdict. `others`: further scores by name, each from 0 to 1. `reason`: why it is wrong, where that is known."""

    correct: bool
    others: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


Judge = Callable[[Sequence[tuple[Item, str]]], Sequence[Judged]]


@dataclass(frozen=True)
class Benchmark:
    """Items, and how they are asked and judged.

    Attributes:
        name, title: `mmlu` and `MMLU`. kind: what a group is, in the plural (`subjects`), "" where there are none.
        all_items: in their order; the scored ones are `items`. shots: by group.
        new_tokens: of an answer at most. prompt_tokens: of a prompt at most.
        average: `micro` is the mean over items, `macro` the mean of the means of the groups.
        chance: the share that guessing gets right, by group; 0 where there is none to speak of.
        likelihood: how the likelihood of the right answer is told (`PROBABILITY` or `PER_BYTE`).
        published: items of the published set. judge: of answers. decided: whether more text changes no score.
        others: names of further scores. chosen: numbers of the scored items, None for all. note: how they were chosen.
    """

    name: str
    title: str
    kind: str
    all_items: tuple[Item, ...]
    shots: Mapping[str, Shots]
    new_tokens: int
    prompt_tokens: int
    average: Literal["micro", "macro"]
    chance: Mapping[str, float]
    likelihood: str
    published: int
    judge: Judge
    decided: Callable[[Item, str], bool]
    others: tuple[str, ...] = ()
    chosen: tuple[int, ...] | None = None
    note: str = ""

    @property
    def items(self) -> tuple[Item, ...]:
        """The items that are scored."""
        return self.all_items if self.chosen is None else tuple(self.all_items[number] for number in self.chosen)

    @property
    def guessed(self) -> float:
        """What guessing scores."""
        groups = [item.group for item in self.items]
        counted = groups if self.average == "micro" else set(groups)
        return math.fsum(self.chance[group] for group in counted) / len(counted)

    @functools.cached_property
    def digest(self) -> str:
        """Names the content of the scored items and their shots: the same items from another format have the same."""
        content = hashlib.sha256()
        for group, shots in sorted(self.shots.items()):
            content.update(json.dumps([group, shots.header, shots.blocks]).encode())
        for item in self.items:
            truth = json.dumps(item.truth, sort_keys=True)
            content.update(json.dumps([item.id, item.group, item.text, item.gold, item.choices, truth]).encode())
        return content.hexdigest()[:12]

    @property
    def set_name(self) -> str:
        """The set by its counts, as tables name it: `mmlu: 57 subjects, 14,079 items, not the published 14,042`."""
        groups = f"{len({item.group for item in self.all_items})} {self.kind}, " if self.kind else ""
        items = f"{len(self.all_items):,} item{'s' * (len(self.all_items) != 1)}"
        known = "" if len(self.all_items) == self.published else f", not the published {self.published:,}"
        return f"{self.name}: {groups}{items}{known}{f'; {self.note}' if self.note else ''}"

    def prompt(self, item: Item, shots: int | None = None) -> str:
        """The whole prompt with so many shots (None: all)."""
        before = self.shots[item.group]
        return before.text(len(before.blocks) if shots is None else shots) + item.text

    def most_shots(self, item: Item) -> int:
        """The shots that there are."""
        return len(self.shots[item.group].blocks)

    def limited(self, limit: int | None, seed: int) -> Benchmark:
        """A subset of `limit` items that depends on the items and the seed alone, spread evenly over the groups."""
        if limit is None or limit >= len(self.items):
            return self
        numbers = range(len(self.all_items)) if self.chosen is None else self.chosen
        chance = random.Random(f"{seed}:{self.name}")
        groups: dict[str, list[int]] = {}
        for number in numbers:
            groups.setdefault(self.all_items[number].group, []).append(number)
        order = [groups[name] for name in chance.sample(sorted(groups), len(groups))]
        mixed = [number for members in order for number in chance.sample(members, len(members))]
        chosen = sorted(mixed[place * len(mixed) // limit] for place in range(limit))
        note = f"{limit:,} of them, chosen with seed {seed}"
        return replace(self, chosen=tuple(chosen), note="; ".join(part for part in (self.note, note) if part))

    def part(self, numbers: Collection[int]) -> Benchmark:
        """The benchmark of some of the scored items, by their numbers among these; its digest is another one."""
        places = range(len(self.all_items)) if self.chosen is None else self.chosen
        return replace(self, chosen=tuple(place for number, place in enumerate(places) if number in numbers))

    def without(self, ids: Collection[str]) -> Benchmark:
        """The benchmark without the items that guided a search: they say nothing about what it found."""
        numbers = range(len(self.all_items)) if self.chosen is None else self.chosen
        kept = tuple(number for number in numbers if self.all_items[number].id not in ids)
        out = len(numbers) - len(kept)
        if not out:
            return self
        note = f"{out:,} left out that guided the search"
        return replace(self, chosen=kept, note="; ".join(part for part in (self.note, note) if part))


def faults(benchmark: Benchmark) -> list[str]:
    """What would make its scores wrong: items of one name, right answers that are empty, and what is no text."""
    counts = Counter(item.id for item in benchmark.all_items)
    twice = [name for name, count in counts.items() if count > 1]
    empty = [item.id for item in benchmark.all_items if not item.gold.strip()]
    torn = [
        _whole(item.id)
        for item in benchmark.all_items
        if _torn("".join((item.id, item.text, item.gold, *item.choices)))
    ]
    torn += [f"the shots of {group}" for group, shots in benchmark.shots.items() if _torn("".join(shots.blocks))]
    told = (
        (twice, "names of items that stand there more than once"),
        (empty, "items whose right answer is empty"),
        (torn, "items with half of a character (a lone surrogate)"),
    )
    return [
        f"{benchmark.name}: {what}: {len(names):,}, such as `{names[0]}`; fetch the data again"
        for names, what in told
        if names
    ]


def _whole(text: str) -> str:
    """The text with halves of characters written out, so that it can be shown."""
    return text.encode(errors="backslashreplace").decode()


def _torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def guesses(items: Sequence[Item], right: Callable[[Item], str], most: int = 20) -> dict[str, float]:
    """By group, the share that guessing gets right: one over the number of different answers.

    An answer set is closed where it has at most `most` answers and each item's answer is met twice on average.
    """
    found: dict[str, Counter[str]] = {}
    for item in items:
        found.setdefault(item.group, Counter())[right(item)] += 1
    return {
        group: 1 / len(answers) if len(answers) <= most and answers.total() >= 2 * len(answers) else 0.0
        for group, answers in found.items()
    }
