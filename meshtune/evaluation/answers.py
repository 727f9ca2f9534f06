"""Answers of one model to batches of prompts, with the likelihood of what would have been right.

What a batch's prompts begin with is computed once and kept for the batches after it; the rest of each prompt, with the
right answer behind it, is computed in one pass, which gives the likelihoods and the answer's first token. Then the
right answers are dropped and the prompts moved so that all end together: what is decoded stands right behind them, as
models need that count places and not positions (windows that slide, some linear biases). Decoding goes on greedily, or
sampled with a generator of its own for each answer, so that an answer does not depend, but for rounding, on what stands
beside it. It stops at the model's end token, at the length limit, or as soon as no more text can change a score.
Padding is hidden by the mask. Not run on a GPU yet.

A model that does not come to the same logits in this way, as one with recurrent states, is asked alone and without a
cache, which is slow and always right: see `sound`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meshtune.evaluation.growing_cache import align, growing
from meshtune.evaluation.layout import Ask, Batch
from meshtune.training.loss import alike, forget_lengths

CPU_TOKENS = 1024  # that a batch computes: products are at their peak from 300 rows
GPU_TOKENS = 16384
HELD = 16  # times as many tokens may be held by a batch, for each what it shares with the others too
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}  # of the largest logit


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        text: without what ends it. cut: it was ended because every score was decided.
        log_likelihoods: of the ask's continuations, in nats. greedy: whether each is what greedy decoding gives.
    """

    text: str
    cut: bool
    log_likelihoods: tuple[float, ...]
    greedy: tuple[bool, ...]


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded: greedily at temperature 0, else sampled; `seed` and the prompt decide each sample."""

    temperature: float = 0.0
    seed: int = 0


Decided = Callable[[Ask, str], bool]


class Answerer:
    """A model, with an adapter or without, that answers batches. It stays on its device and in evaluation mode.

    Args:
        model: of Transformers, or PEFT's around one. tokenizer: turns answers into text.
        alone: ask one by one and without a cache, see `sound`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, alone: bool = False):
        self.model, self.tokenizer, self.alone = model, tokenizer, alone
        settings = model.generation_config.eos_token_id
        own = [settings] if isinstance(settings, int) else list(settings or ())
        self.ends = frozenset([*own, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])])
        self._kept: tuple[tuple[int, ...], Any] | None = None
        self._alike = alike(model.config)

    @torch.inference_mode()
    def answer(self, batch: Batch, decoding: Decoding, decided: Decided) -> list[Said]:
        """Answer the asks of a batch, in their order."""
        replies = [_Reply(ask, decoding, self, decided) for ask in batch.asks]
        forget_lengths(self.model)
        if self.alone or max(ask.longest for ask in batch.asks) > self._alike:
            return [self._one(reply) for reply in replies]
        found = self._together(batch, replies)
        return [reply.said(likelihoods) for reply, likelihoods in zip(replies, found, strict=True)]

    def _together(self, batch: Batch, replies: Sequence[_Reply | _Given]) -> list[dict[int, tuple[float, bool]]]:
        """Bring every reply to its end; by ask and continuation, the likelihoods."""
        rows = [_Row(place, ask.prompt[batch.prefix :], ask) for place, ask in enumerate(batch.asks)]
        rows += [row for row in rows for row in row.others()]
        logits, state = self._begin(batch, rows)
        found: list[dict[int, tuple[float, bool]]] = [{} for _ in replies]
        for row, own in zip(rows, torch.split(logits, [row.wanted for row in rows]), strict=True):
            found[row.place] |= row.likelihoods(own)
            if row.main:
                replies[row.place].add(own[0])
        self._go_on(replies, state)
        return found

    def _begin(self, batch: Batch, rows: Sequence[_Row]) -> tuple[torch.Tensor, _State]:
        """The logits that the rows want, float32, row by row; and the state after them, of the asks alone."""
        prefix = batch.prefix
        longest = max(len(row.tokens) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        seen = torch.zeros(len(rows), prefix + longest, dtype=torch.long)
        seen[:, :prefix] = 1
        lengths = torch.tensor([len(row.tokens) for row in rows])
        for place, row in enumerate(rows):
            ids[place, : len(row.tokens)] = torch.tensor(row.tokens)
            seen[place, prefix : prefix + len(row.tokens)] = 1
        # A place behind a row's end is given the row's last position: a model may have none beyond.
        positions = prefix + torch.minimum(torch.arange(longest), lengths[:, None] - 1)
        where = [(place, row.first + step) for place, row in enumerate(rows) for step in range(row.wanted)]
        cache = self._prefix(batch.asks[0].prompt[:prefix], len(rows))
        logits = self._logits(ids, seen, positions, cache, where)
        before = torch.tensor([len(ask.prompt) for ask in batch.asks])
        align(cache, before)
        most = int(before.max())
        return logits, _State(cache, (torch.arange(most) >= most - before[:, None]).long(), before)

    def _go_on(self, replies: Sequence[_Reply | _Given], state: _State) -> None:
        """Decode until every reply has ended."""
        held = list(range(len(replies)))
        while any(not replies[number].ended for number in held):
            going = [place for place, number in enumerate(held) if not replies[number].ended]
            if 4 * len(going) <= 3 * len(held):
                held = [held[place] for place in going]
                state.keep(torch.tensor(going), self.model.device)
            ids = torch.tensor([[replies[number].last] for number in held])
            state.seen = torch.cat([state.seen, torch.ones(len(held), 1, dtype=torch.long)], 1)
            where = [(place, 0) for place in range(len(held))]
            logits = self._logits(ids, state.seen, state.next[:, None], state.cache, where)
            state.next = state.next + 1
            for number, row in zip(held, logits, strict=True):
                replies[number].add(row)

    def _prefix(self, tokens: tuple[int, ...], rows: int) -> Any:
        """A cache of some tokens for so many rows."""
        if not tokens:
            return growing(self.model.config)
        if self._kept is None or self._kept[0] != tokens:
            self._kept = None  # before there is another one
            cache = growing(self.model.config)
            ids = torch.tensor([tokens])
            self._logits(ids, torch.ones_like(ids), torch.arange(len(tokens))[None], cache, [(0, len(tokens) - 1)])
            self._kept = tokens, cache
        cache = copy.deepcopy(self._kept[1])
        cache.batch_repeat_interleave(rows)
        return cache

    def _logits(
        self,
        ids: torch.Tensor,
        seen: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        where: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """(places, words), float32: the logits at (row, column) of `ids` alone; the head sees no other place."""
        device = self.model.device
        rows, columns = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
        keep = _head(self.model).register_forward_pre_hook(
            lambda _, inputs: (inputs[0][rows, columns][None], *inputs[1:])
        )
        with keep:
            out = self.model(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                position_ids=positions.to(device),
                past_key_values=cache,
                use_cache=True,
            )
        return out.logits[0].float()  # type: ignore[no-any-return]

    def _one(self, reply: _Reply) -> Said:
        """An answer without a cache, the whole computed anew for each token."""
        ask, found = reply.ask, dict[int, tuple[float, bool]]()

        def logits(tokens: Sequence[int]) -> torch.Tensor:
            forget_lengths(self.model)
            ids = torch.tensor([tokens], device=self.model.device)
            return self.model(input_ids=ids, use_cache=False).logits[0].float()  # type: ignore[no-any-return]

        for number, continuation in enumerate(ask.continuations):
            whole = logits([*ask.prompt, *continuation[:-1]])
            found[number] = _likelihood(whole[len(ask.prompt) - 1 :], continuation)
        while not reply.ended:
            reply.add(logits([*ask.prompt, *reply.tokens])[-1])
        return reply.said(found)


class _Row:
    """A row of the first pass: the rest of an ask's prompt, with a continuation behind it but for its last token.

    The main row of an ask has the longest one, and gives also those of one token, which need no place of their own.
    """

    def __init__(self, place: int, prompt: tuple[int, ...], ask: Ask, number: int | None = None):
        longest = max(range(len(ask.continuations)), key=lambda n: len(ask.continuations[n]), default=None)
        self.main = number is None
        self.number = longest if number is None else number
        self.place, self.prompt, self.ask = place, prompt, ask
        self.continuation = () if self.number is None else ask.continuations[self.number]
        self.tokens = (*prompt, *self.continuation[:-1])
        self.first = len(prompt) - 1
        self.wanted = max(1, len(self.continuation))

    def others(self) -> list[_Row]:
        """Rows of the other continuations of several tokens."""
        several = [n for n, tokens in enumerate(self.ask.continuations) if len(tokens) > 1 and n != self.number]
        return [_Row(self.place, self.prompt, self.ask, number) for number in several]

    def likelihoods(self, logits: torch.Tensor) -> dict[int, tuple[float, bool]]:
        """By continuation, as `_likelihood` gives them: the row's own, and those of one token."""
        found = {} if self.number is None else {self.number: _likelihood(logits, self.continuation)}
        if self.main:
            single = [n for n, tokens in enumerate(self.ask.continuations) if len(tokens) == 1 and n != self.number]
            found |= {number: _likelihood(logits, self.ask.continuations[number]) for number in single}
        return found


@dataclass
class _State:
    """What decoding goes on from: the cache, which of its places each row sees, and each row's next position."""

    cache: Any
    seen: torch.Tensor
    next: torch.Tensor

    def keep(self, rows: torch.Tensor, device: torch.device) -> None:
        self.cache.batch_select_indices(rows.to(device))
        self.seen, self.next = self.seen[rows], self.next[rows]


class _Reply:
    """An answer as it grows."""

    def __init__(self, ask: Ask, decoding: Decoding, by: Answerer, decided: Decided):
        self.ask, self.decoding, self.by, self.decided = ask, decoding, by, decided
        self.tokens: list[int] = []
        self.cut, self.ended = False, ask.new_tokens == 0
        self.chance = torch.Generator()
        name = f"{decoding.seed}:{ask.prompt}:{ask.sample}".encode()
        self.chance.manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:7], "little"))

    @property
    def last(self) -> int:
        """The token that comes next into the model; any, once the reply has ended."""
        return self.tokens[-1] if self.tokens else 0

    def add(self, logits: torch.Tensor) -> None:
        """Take the next token, of logits (words,)."""
        if self.ended:
            return
        token = self._choose(logits)
        if token in self.by.ends:
            self.ended = True
            return
        self.tokens.append(token)
        self.cut = len(self.tokens) < self.ask.new_tokens and self.decided(self.ask, self.text)
        self.ended = self.cut or len(self.tokens) == self.ask.new_tokens

    def _choose(self, logits: torch.Tensor) -> int:
        if self.decoding.temperature == 0:
            return int(logits.argmax())
        shares = torch.softmax(logits.cpu() / self.decoding.temperature, -1)
        if shares.isnan().any():  # of a diverged adapter: nothing can be drawn
            return int(logits.argmax())
        return int(torch.multinomial(shares, 1, generator=self.chance))

    @property
    def text(self) -> str:
        """The answer so far."""
        return str(self.by.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def said(self, likelihoods: dict[int, tuple[float, bool]]) -> Said:
        """The whole answer."""
        values = [likelihoods[number] for number in range(len(self.ask.continuations))]
        return Said(self.text, self.cut, tuple(value for value, _ in values), tuple(greedy for _, greedy in values))


class _Given:
    """An answer whose tokens are given; keeps the log-likelihood that each has when its turn comes."""

    def __init__(self, tokens: tuple[int, ...]):
        self.tokens, self.logs = tokens, list[float]()

    @property
    def ended(self) -> bool:
        return len(self.logs) == len(self.tokens)

    @property
    def last(self) -> int:
        return self.tokens[len(self.logs) - 1]

    def add(self, logits: torch.Tensor) -> None:
        if not self.ended:
            self.logs.append(_likelihood(logits[None], self.tokens[len(self.logs) :][:1])[0])


@torch.inference_mode()
def sound(model: Any, tokenizer: Any) -> bool:
    """Whether prompts in one batch, with what they share computed once, have the likelihoods that each has alone.

    Two prompts of unlike length, of tokens made up here, are asked in both ways; what continues them is told in one
    pass and decoded token by token.
    """
    words = model.get_input_embeddings().weight.shape[0]
    tokens = tuple((3 + 7919 * place) % words for place in range(40))
    asks = (
        Ask(0, 0, 0, tokens[:24], (tokens[24:30],)),
        Ask(1, 0, 0, (*tokens[:16], *tokens[30:33]), (tokens[33:35],)),
    )
    decoded = [_Given(ask.continuations[0]) for ask in asks]
    try:
        together = Answerer(model, tokenizer)._together(Batch(16, asks), decoded)
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return False  # a model with another idea of a cache
    alone = Answerer(model, tokenizer, alone=True).answer(Batch(0, asks), Decoding(), lambda *_: False)
    close = CLOSE.get(model.dtype, 0.05)
    return all(
        abs(value - said.log_likelihoods[0]) <= close * max(1.0, abs(said.log_likelihoods[0]))
        for said, likelihoods, given in zip(alone, together, decoded, strict=True)
        for value in (likelihoods[0][0], sum(given.logs))
    )


def sizes(model: Any) -> dict[str, int]:
    """What `layout.batches` is to be given for the model's device."""
    tokens = CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS
    return {"tokens": tokens, "memory": HELD * tokens}


def _head(model: Any) -> Any:
    """The output layer, also below an adapter."""
    return model.get_output_embeddings() or model.get_base_model().get_output_embeddings()


def _likelihood(logits: torch.Tensor, tokens: Sequence[int]) -> tuple[float, bool]:
    """The log-likelihood of tokens under logits (at least as many, words), and whether they are the likeliest ones."""
    own = logits[: len(tokens)]
    right = torch.tensor(tokens, device=logits.device)
    logs = own.gather(1, right[:, None])[:, 0] - torch.logsumexp(own, 1)
    return float(logs.double().sum()), bool((own.argmax(1) == right).all())
