"""Prompts as tokens: what fits, what is shared, and that every ask is in one batch."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation import layout
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.layout import Ask
from tests.data.made import make_tokenizer

FRONT = st.sampled_from([(), tuple(range(20)), tuple(range(40)), (9, *range(20))])
PROMPT = st.tuples(FRONT, st.lists(st.integers(0, 3), min_size=1, max_size=30)).map(lambda p: (*p[0], *p[1]))


@given(st.lists(PROMPT, max_size=12), st.integers(20, 100), st.sampled_from([0, 2, 200]))
def test_every_ask_is_in_one_batch_and_shares_its_prefix(prompts: list[tuple[int, ...]], tokens: int, new: int) -> None:
    asked = [Ask(number, 0, 0, prompt, ((1, 2),), new) for number, prompt in enumerate(prompts)]
    batches = layout.batches(asked, tokens=tokens, memory=4 * tokens)
    assert sorted(ask.number for batch in batches for ask in batch.asks) == list(range(len(prompts)))
    for batch in batches:
        assert len({ask.prompt[: batch.prefix] for ask in batch.asks}) == 1
        assert all(len(ask.prompt) > batch.prefix for ask in batch.asks)
        if len(batch.asks) > 1:
            longest = max(ask.tail(batch.prefix) for ask in batch.asks)
            assert new > longest or longest * len(batch.asks) <= tokens
            assert (batch.prefix + longest + new) * len(batch.asks) <= 4 * tokens


def test_long_answers_are_decoded_together_as_far_as_memory_goes() -> None:
    asked = [Ask(number, 0, 0, (number, 1, 2, 3), (), 28) for number in range(10)]
    batches = layout.batches(asked, tokens=8, memory=4 * 32)
    assert [len(batch.asks) for batch in batches] == [4, 4, 2]


def test_shots_of_a_group_are_shared(benchmarks: Sequence[Benchmark], tokenizer: Any) -> None:
    asked = layout.asks(benchmarks[0], tokenizer, window=None)
    batches = layout.batches(asked, tokens=10_000, memory=100_000)
    assert len(batches) == 2
    for batch in batches:
        text = tokenizer.decode(batch.asks[0].prompt[: batch.prefix])
        assert text.endswith("Answer: B\n\nWhat is ")
        assert len(batch.asks) == 6


def test_shots_are_dropped_until_it_fits(benchmarks: Sequence[Benchmark], tokenizer: Any) -> None:
    mmlu = benchmarks[0]
    whole = [len(ask.prompt) for ask in layout.asks(mmlu, tokenizer, window=None)]
    asked = layout.asks(mmlu, tokenizer, window=min(whole))
    assert all(ask.shots is not None and ask.shots < 5 for ask in asked)
    for ask in asked:
        assert tokenizer.decode(ask.prompt) == mmlu.prompt(mmlu.items[ask.number], ask.shots)
        assert len(ask.prompt) + ask.new_tokens <= min(whole)
        assert ask.new_tokens == 2
    assert all(ask.shots is None for ask in layout.asks(mmlu, tokenizer, window=60))


def test_a_tokenizer_that_puts_an_end_last(tmp_path: Any) -> None:
    tokenizer = make_tokenizer(tmp_path)
    (tokens,) = layout.encode(tokenizer, ["the quick"])
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] != tokenizer.eos_token_id
