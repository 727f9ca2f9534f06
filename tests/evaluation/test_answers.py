"""Answers in batches are the answers that each prompt gets alone."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MptConfig,
    Phi3Config,
    Qwen2Config,
)

from meshtune.evaluation import answers, layout
from meshtune.evaluation.adapters import Candidate, on
from meshtune.evaluation.answers import Answerer, Decided, Decoding, Said
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.layout import Ask, Batch

WORDS, WINDOW = 200, 24
SIZE = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
GEMMA3 = {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
LLAMA4 = {"head_dim": 8, "layer_types": ["chunked_attention", "full_attention"], "intermediate_size_mlp": 64}
KINDS = {
    "llama": LlamaConfig(**SIZE),
    "mistral": MistralConfig(**SIZE, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SIZE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "gemma3": Gemma3TextConfig(**SIZE, **GEMMA3, sliding_window=WINDOW),
    "llama4": Llama4TextConfig(**SIZE, **LLAMA4, attention_chunk_size=WINDOW, num_local_experts=2),
    "gpt-neo": GPTNeoConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=128,
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
        initializer_range=0.3,
    ),
    "mpt": MptConfig(vocab_size=WORDS, d_model=32, n_layers=2, n_heads=4, max_seq_len=128, initializer_range=0.3),
}


class Spelled:
    """The tokenizer of models without words: tokens as numbers."""

    eos_token_id = 1

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, tokens))


def all_said(answerer: Answerer, asked: Sequence[Ask], decoding: Decoding, decided: Any, tokens: int) -> list[Said]:
    found = {}
    for batch in layout.batches(asked, tokens=tokens, memory=20 * tokens):
        for ask, said in zip(batch.asks, answerer.answer(batch, decoding, decided), strict=True):
            found[ask.number, ask.sample] = said
    return [found[ask.number, ask.sample] for ask in asked]


def short(asked: Sequence[Ask]) -> list[Ask]:
    return [replace(ask, new_tokens=min(12, ask.new_tokens)) for ask in asked]


def decided_of(benchmark: Benchmark) -> Decided:
    return lambda ask, text: benchmark.decided(benchmark.items[ask.number], text)


def never(*_: Any) -> bool:
    return False


@pytest.mark.parametrize("which", [0, 1])
def test_as_transformers_answers_one_prompt(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], benchmarks: Sequence[Benchmark], which: int
) -> None:
    """Greedy answers and likelihoods of all four kinds, without and with an adapter, by the plainest of means."""
    assert answers.sound(base, tokenizer)
    with on(base, candidates[which]) as model:
        answerer = Answerer(model, tokenizer)
        for benchmark in benchmarks:
            asked = short(layout.asks(benchmark, tokenizer, window=512))
            for ask, said in zip(asked, all_said(answerer, asked, Decoding(), never, 2000), strict=True):
                settings = {
                    "max_new_tokens": ask.new_tokens,
                    "do_sample": False,
                    "eos_token_id": tokenizer.eos_token_id,
                }
                whole = model.generate(input_ids=torch.tensor([ask.prompt]), **settings)[0]
                assert said.text == tokenizer.decode(whole[len(ask.prompt) :], skip_special_tokens=True)
                for continuation, value in zip(ask.continuations, said.log_likelihoods, strict=True):
                    logits = model(torch.tensor([[*ask.prompt, *continuation]])).logits[0, len(ask.prompt) - 1 : -1]
                    logs = torch.log_softmax(logits, -1).gather(1, torch.tensor(continuation)[:, None])
                    assert value == pytest.approx(logs.sum().item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_counts_in_places(kind: str) -> None:
    """Windows that slide, chunks and biases by distance see the same in a batch: no gap before what is decoded."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_config(KINDS[kind]).eval(), Spelled()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    draw = random.Random(0)
    shared = tuple(draw.choices(range(3, WORDS), k=40))
    asked = list[Ask]()
    for front, rest in [(40, 2), (40, 30), (40, 9), (18, 2), (18, 7), (0, 4), (0, 60), (0, 15)]:
        prompt, *after = (tuple(draw.choices(range(3, WORDS), k=length)) for length in (rest, 1, 4, 11))
        asked.append(Ask(len(asked), 0, 0, (*shared[:front], *prompt), tuple(after), 8))
    assert answers.sound(model, tokenizer)
    assert len({batch.prefix for batch in layout.batches(asked, tokens=2000, memory=40000)}) > 1
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 1, "pad_token_id": 2}
    for ask, said in zip(asked, all_said(Answerer(model, tokenizer), asked, Decoding(), never, 2000), strict=True):
        ids = torch.tensor([ask.prompt])
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :]
        assert said.text == tokenizer.decode([token for token in found.tolist() if token != tokenizer.eos_token_id])


def test_cut_answers_have_the_same_verdict(base: Any, tokenizer: Any, benchmarks: Sequence[Benchmark]) -> None:
    answerer, some = Answerer(base, tokenizer), 0
    for benchmark in benchmarks:
        decided = decided_of(benchmark)
        asked = short(layout.asks(benchmark, tokenizer, window=512))
        full = all_said(answerer, asked, Decoding(), never, 2000)
        cut = all_said(answerer, asked, Decoding(), decided, 2000)
        for ask, one, other in zip(asked, full, cut, strict=True):
            item = benchmark.items[ask.number]
            assert benchmark.judge([(item, one.text)]) == benchmark.judge([(item, other.text)])
            assert other.cut or one.text == other.text
            assert one.text.startswith(other.text.rstrip("\ufffd"))
        some += sum(said.cut for said in cut)
    assert some > 5


def test_samples_do_not_depend_on_the_batch(base: Any, tokenizer: Any, benchmarks: Sequence[Benchmark]) -> None:
    humaneval = benchmarks[3]
    asked = short(layout.asks(humaneval, tokenizer, window=512, samples=3))
    decoding = Decoding(temperature=0.8, seed=1)
    together = all_said(Answerer(base, tokenizer), asked, decoding, never, 4000)
    apart = all_said(Answerer(base, tokenizer), asked, decoding, never, 1)
    assert [said.text for said in together] == [said.text for said in apart]
    assert len({said.text for said in together}) > 8
    other = all_said(Answerer(base, tokenizer), asked, Decoding(temperature=0.8, seed=2), never, 4000)
    assert [said.text for said in together] != [said.text for said in other]
    few = short(layout.asks(humaneval.limited(2, 0), tokenizer, window=512, samples=3))
    some = all_said(Answerer(base, tokenizer), few, decoding, never, 4000)
    assert {said.text for said in some} <= {said.text for said in together}  # nor on which items are asked


def test_continuations_of_several_tokens(base: Any, tokenizer: Any) -> None:
    """Rows of their own for each; the likeliest is known as such."""
    prompt = tuple(range(40, 70))
    first = Answerer(base, tokenizer).answer(Batch(0, (Ask(0, 0, 0, prompt, (), 3),)), Decoding(), never)[0]
    likely = tuple(tokenizer(first.text, add_special_tokens=False)["input_ids"])[:3]
    ask = Ask(0, 0, 0, prompt, (likely, (5, 6), (7,), (*likely[:2], 9)), 3)
    both = [
        Answerer(base, tokenizer, alone=alone).answer(Batch(0, (ask, ask)), Decoding(), never)
        for alone in (False, True)
    ]
    for batched, alone in zip(*both, strict=True):
        assert batched.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=1e-4)
        assert batched.greedy == alone.greedy
        assert batched.text == alone.text
        assert math.fsum(batched.log_likelihoods) < 0


def test_models_of_other_kinds(tokenizer: Any) -> None:
    """Learned positions are answered in batches; a recurrent state, which padding would spoil, one by one."""
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=40, **size)).eval()
    assert answers.sound(gpt2, tokenizer)
    mamba = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=2, **size)).eval()
    assert not answers.sound(mamba, tokenizer)
    said = Answerer(mamba, tokenizer, alone=True).answer(
        Batch(0, (Ask(0, 0, 0, (5, 6, 7), ((8,),), 4),)), Decoding(), never
    )
    assert said[0].log_likelihoods[0] < 0


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZE, max_position_embeddings=32, rope_parameters={"rope_type": "dynamic", "factor": 8.0}),
        Phi3Config(
            **SIZE,
            pad_token_id=0,
            original_max_position_embeddings=32,
            rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 2.0, 3.0, 4.0]},
        ),
    ],
)
def test_positions_that_depend_on_the_longest_row(config: Any) -> None:
    """Of models whose frequencies change for all rows once one is long."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_config(config).eval(), Spelled()
    asks = tuple(
        Ask(number, 0, 0, tuple(range(3, 3 + length)), ((9, 8, 7),), 4) for number, length in enumerate((8, 20, 40))
    )
    together, alone = (
        Answerer(model, tokenizer, alone=alone).answer(Batch(0, asks), Decoding(), never) for alone in (False, True)
    )
    assert together == alone
    first = Answerer(model, tokenizer).answer(Batch(0, asks[:1]), Decoding(), never)
    assert first[0].log_likelihoods == pytest.approx(alone[0].log_likelihoods, abs=1e-4)
