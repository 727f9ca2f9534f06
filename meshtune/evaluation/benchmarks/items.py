"""What a benchmark is: its items, how they are asked, how answers are judged, and where its files are found.

Each of `mmlu.py`, `bbh.py`, `drop.py` and `humaneval.py` describes one as a `Benchmark` without items, and reads files
into the same one with items. Who asks and scores knows this class alone. Nothing here reads files or loads a model.

Answers are text as the model gave it. `begins` is the rule of Instruct-Eval: right where the stripped answer begins
with the target. It is ambiguous where one target begins with another, as the targets of `dyck_languages` do.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

PROBABILITY = "probability of the right letter"
PER_BYTE = "log-likelihood of the right answer, nats a byte"
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate
_UNFINISHED = "\ufffd"  # what a tokenizer shows for the first bytes of a character


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
class JudgedAnswer:
    """Whether an answer is right.

    Attributes:
        others: further scores by name, each from 0 to 1. reason: why it is wrong, where that is known.
    """

    correct: bool
    others: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


Reader = Callable[[], "Benchmark"]  # reads files that were found. Raises InputError
# Runs completions against their problems (`Item.truth`), in order; each gives whether it passed, and why not.
CodeCheck = Callable[[Sequence[tuple[Mapping[str, str], str]]], Iterable[tuple[bool, str]]]


@dataclass(frozen=True)
class Benchmark:
    """Items, and how they are asked and judged.

    Attributes:
        name, title: `mmlu` and `MMLU`. published: items of the published set. new_tokens: of an answer at most.
        judge: of answers; takes `check` too where the benchmark `runs_code`. decided: whether more text changes no
            score. find: what reads the benchmark's files in a folder, None where there are none; it is also told
            whether the folder is named after the benchmark. of_hub: reads it from the Hugging Face hub.
        files: the published files and those of the Hugging Face data set, for people.
        folders: how names of folders of its files begin, where that is not `name`.
        kind: what a group is, in the plural (`subjects`), "" where there are none. prompt_tokens: of a prompt at most.
        average: `micro` is the mean over items, `macro` the mean of the means of the groups.
        likelihood: how the likelihood of the right answer is told (`PROBABILITY` or `PER_BYTE`).
        others: names of further scores. runs_code: answers are code that is run in a sandbox, of which several may be
            sampled (pass@k).
        all_items: in their order; the scored ones are `items`. shots: by group. chance: the share that guessing gets
            right, by group; 0 where there is none to speak of. chosen: numbers of the scored items, None for all.
        note: how they were chosen.
    """

    name: str
    title: str
    published: int
    new_tokens: int
    judge: Callable[..., Sequence[JudgedAnswer]]
    decided: Callable[[Item, str], bool]
    find: Callable[[Path, bool], Reader | None]
    of_hub: Reader
    files: str
    folders: tuple[str, ...] = ()
    kind: str = ""
    prompt_tokens: int = 2048
    average: Literal["micro", "macro"] = "micro"
    likelihood: str = PER_BYTE
    others: tuple[str, ...] = ()
    runs_code: bool = False
    all_items: tuple[Item, ...] = ()
    shots: Mapping[str, Shots] = field(default_factory=lambda: {"": Shots()})
    chance: Mapping[str, float] = field(default_factory=lambda: {"": 0.0})
    chosen: tuple[int, ...] | None = None
    note: str = ""

    @property
    def _numbers(self) -> Sequence[int]:
        """Numbers of the scored items among all."""
        return range(len(self.all_items)) if self.chosen is None else self.chosen

    @property
    def items(self) -> tuple[Item, ...]:
        """The items that are scored."""
        return tuple(self.all_items[number] for number in self._numbers)

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
        chance = random.Random(f"{seed}:{self.name}")
        groups: dict[str, list[int]] = {}
        for number in self._numbers:
            groups.setdefault(self.all_items[number].group, []).append(number)
        order = [groups[name] for name in chance.sample(sorted(groups), len(groups))]
        mixed = [number for members in order for number in chance.sample(members, len(members))]
        chosen = sorted(mixed[place * len(mixed) // limit] for place in range(limit))
        return self._of(chosen, f"{limit:,} of them, chosen with seed {seed}")

    def part(self, numbers: Collection[int]) -> Benchmark:
        """The benchmark of some of the scored items, by their numbers among these; its digest is another one."""
        return self._of([place for number, place in enumerate(self._numbers) if number in numbers], "")

    def without(self, ids: Collection[str]) -> Benchmark:
        """The benchmark without the items that guided a search: they say nothing about what it found."""
        kept = [number for number in self._numbers if self.all_items[number].id not in ids]
        out = len(self._numbers) - len(kept)
        return self._of(kept, f"{out:,} left out that guided the search") if out else self

    def _of(self, numbers: Sequence[int], note: str) -> Benchmark:
        return replace(self, chosen=tuple(numbers), note="; ".join(part for part in (self.note, note) if part))


def faults(benchmark: Benchmark) -> list[str]:
    """What would make its scores wrong: items of one name, right answers that are empty, and what is no text."""
    counts = Counter(item.id for item in benchmark.all_items)
    twice = [name for name, count in counts.items() if count > 1]
    empty = [item.id for item in benchmark.all_items if not item.gold.strip()]
    texts = [(item.id, (item.id, item.text, item.gold, *item.choices)) for item in benchmark.all_items]
    texts += [(f"the shots of {group}", shots.blocks) for group, shots in benchmark.shots.items()]
    torn = [name for name, parts in texts if _HALF.search("".join(parts))]
    found = (
        (twice, "names of items that stand there more than once"),
        (empty, "items whose right answer is empty"),
        (torn, "items with half of a character (a lone surrogate)"),
    )
    return [
        f"{benchmark.name}: {what}: {len(names):,}, such as `{_HALF.sub(lambda half: ascii(half[0])[1:-1], names[0])}`;"
        " fetch the data again"
        for names, what in found
        if names
    ]


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


def begins(answer: str, target: str) -> bool:
    """Whether the stripped answer begins with the target."""
    return answer.strip().startswith(target)


def begins_decided(answer: str, target: str) -> bool:
    """Whether `begins` stays what it is, whatever follows the answer."""
    text = answer.lstrip().rstrip(_UNFINISHED)
    if not target.startswith(text[: len(target)]):
        return True
    return len(text) >= len(target) and target == target.rstrip()


def judge_begins(pairs: Sequence[tuple[Item, str]]) -> list[JudgedAnswer]:
    """Judge each answer by how it begins; the target is the item's `truth["target"]`."""
    return [JudgedAnswer(begins(answer, item.truth["target"])) for item, answer in pairs]


def decided_begins(item: Item, answer: str) -> bool:
    """See `begins_decided`."""
    return begins_decided(answer, item.truth["target"])
