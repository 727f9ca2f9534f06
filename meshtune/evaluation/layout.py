"""A benchmark as tokens: prompts that fit, what continues them, and batches that share what they begin with.

Depends on the items and the tokenizer alone, so that every candidate, and a run that goes on after a kill, is asked in
the same batches. Loads no model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.evaluation.benchmarks.items import Benchmark, Item

SHARED = 16  # tokens that are worth computing once for several prompts
ROWS = 64  # of a batch


@dataclass(frozen=True)
class Ask:
    """One item as it is asked.

    Attributes:
        number: of the item among the scored ones. sample: which of several answers to it.
        shots: that fitted; None: the prompt does not even fit without them, and is not asked.
        prompt: its tokens. continuations: tokens of each choice, or of the right answer alone; none where the model's
            window has no room for them. new_tokens: of the answer at most.
    """

    number: int
    sample: int
    shots: int | None
    prompt: tuple[int, ...] = ()
    continuations: tuple[tuple[int, ...], ...] = ()
    new_tokens: int = 0

    @property
    def rows(self) -> int:
        """Rows that it takes: a further one for each continuation of several tokens but the longest."""
        return max(1, sum(len(tokens) > 1 for tokens in self.continuations))

    @property
    def longest(self) -> int:
        """Tokens of its longest row, at most."""
        return len(self.prompt) + max(self.new_tokens, *map(len, self.continuations), 0)

    def tail(self, shared: int) -> int:
        """Tokens that are computed for it alone, where so many are shared: its prompt's rest and a continuation."""
        return len(self.prompt) - shared + max(map(len, self.continuations), default=0)


@dataclass(frozen=True)
class Batch:
    """Asks that are answered together; `prefix` tokens at the front of all of their prompts are the same."""

    prefix: int
    asks: tuple[Ask, ...]


def asks(benchmark: Benchmark, tokenizer: Any, *, window: int | None, samples: int = 1) -> list[Ask]:
    """Every scored item as it is asked, in order, each `samples` times.

    Shots are dropped from the end until the prompt has no more tokens than the benchmark allows and, with the answer,
    than the model's `window`, half of which it may take in any case: then the answer is shorter.
    """
    limit, new = benchmark.prompt_tokens, benchmark.new_tokens
    if window is not None:
        limit = min(limit, max(window - new, window // 2))
    items = benchmark.items
    whole = encode(tokenizer, [benchmark.prompt(item) for item in items])
    found = list[Ask]()
    for number, (item, tokens) in enumerate(zip(items, whole, strict=True)):
        shots = benchmark.most_shots(item)
        while len(tokens) > limit and shots > 0:
            shots -= 1
            tokens = encode(tokenizer, [benchmark.prompt(item, shots)])[0]
        if len(tokens) > limit:
            found += [Ask(number, sample, None) for sample in range(samples)]
            continue
        after = _continuations(benchmark, item, shots, tokenizer)
        room = math.inf if window is None else window - len(tokens)
        if max(map(len, after)) > room:
            after = ()
        most = int(min(new, room))
        found += [Ask(number, sample, shots, tuple(tokens), after, most) for sample in range(samples)]
    return found


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of prompts: with what the tokenizer puts first, without an end that it may put last."""
    found = [list(tokens) for tokens in tokenizer(list(texts))["input_ids"]] if texts else []
    end = tokenizer.eos_token_id
    return [tokens[:-1] if len(tokens) > 1 and tokens[-1] == end else tokens for tokens in found]


def batches(asked: Sequence[Ask], *, tokens: int, memory: int) -> list[Batch]:
    """All asks that fit, in batches of like length, those with the same beginning together.

    Args:
        tokens: that a batch computes at most before it decodes, padding included, what is shared not counted; one ask
            may have more, and so may asks whose answers are longer than that: most of their time is decoding, which
            costs about the same for one row as for many.
        memory: tokens that a batch holds at most, what is shared and the answers counted for each.
    """
    found, rest = list[Batch](), list[Ask]()
    for members in _alike([ask for ask in asked if ask.shots is not None]):
        shared = _shared(members)
        if shared >= SHARED and len(members) > 1:
            found += _cut(members, shared, tokens, memory)
        else:
            rest += members
    return [*found, *_cut(rest, 0, tokens, memory)]


def _continuations(benchmark: Benchmark, item: Item, shots: int, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    prompt = benchmark.prompt(item, shots)
    line = prompt[prompt.rstrip("\n").rfind("\n") + 1 :]
    before = "\n" + line
    return tuple(_continuation(tokenizer, before, text) for text in item.choices or (item.gold,))


@functools.lru_cache(maxsize=4096)
def _continuation(tokenizer: Any, before: str, text: str) -> tuple[int, ...]:
    """The tokens of what continues a prompt that ends in `before`, a line with the line end in front of it."""
    front = list(tokenizer(before, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(before + text, add_special_tokens=False)["input_ids"])
    if whole[: len(front)] == front and len(whole) > len(front):
        return tuple(whole[len(front) :])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # the text begins inside a token


def _alike(asked: Sequence[Ask]) -> list[list[Ask]]:
    """Runs of neighbours in sorted order that share a beginning worth sharing, and the others one by one."""
    found: list[list[Ask]] = []
    shared = 0
    for ask in sorted(asked, key=lambda ask: (ask.prompt, ask.number, ask.sample)):
        if found:
            common = _common(found[-1][-1].prompt, ask.prompt)
            held = min(common, shared) if len(found[-1]) > 1 else common
            # A neighbour that shares much less than the others do begins a run of its own.
            if held >= SHARED and 4 * held >= 3 * shared:
                found[-1].append(ask)
                shared = held
                continue
        found.append([ask])
        shared = 0
    return found


def _shared(members: Sequence[Ask]) -> int:
    """Tokens that all prompts begin with; each keeps one at least of its own."""
    first, last = min(ask.prompt for ask in members), max(ask.prompt for ask in members)
    return min(_common(first, last), min(len(ask.prompt) for ask in members) - 1)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _cut(members: Sequence[Ask], shared: int, tokens: int, memory: int) -> list[Batch]:
    found: list[list[Ask]] = []
    for ask in sorted(members, key=lambda ask: (-ask.tail(shared), ask.number, ask.sample)):
        if found:
            longest, rows = found[-1][0].tail(shared), sum(one.rows for one in found[-1]) + ask.rows
            computed = 0 if ask.new_tokens > longest else longest * rows
            if rows <= ROWS and computed <= tokens and (shared + longest + ask.new_tokens) * rows <= memory:
                found[-1].append(ask)
                continue
        found.append([ask])
    return [Batch(shared, tuple(batch)) for batch in found]
