"""Validation: golden against a plain loop, whatever the batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from meshtune.training.loss import IGNORED, Row, batches, collate, mean_loss, row_losses
from tests.training.architectures import LENGTHS, make


def one_at_a_time(model: Any, rows: list[Row]) -> list[tuple[float, int]]:
    """The plain loop."""
    found = []
    with torch.no_grad():
        for tokens, trained in rows:
            ids = torch.tensor(tokens, dtype=torch.long)
            losses = cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
            labels = torch.tensor(trained[1:])
            found.append((float(losses[labels].sum()), int(labels.sum())))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000, None])
def test_equals_a_plain_loop(base: Any, train_rows: list[Row], batch_tokens: int | None) -> None:
    """Row by row, in their order."""
    expected = one_at_a_time(base, train_rows)
    found = row_losses(base, train_rows, batch_tokens=batch_tokens)
    assert [count for _, count in found] == [count for _, count in expected]
    for (total, count), (golden, _) in zip(found, expected, strict=True):
        assert total / count == pytest.approx(golden / count, abs=1e-5)
    mean = sum(total for total, _ in expected) / sum(count for _, count in expected)
    assert mean_loss(found) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_beyond_the_original_length_change_no_other(name: str, train_rows: list[Row]) -> None:
    """In whatever order they come: dynamic NTK also remembers the longest row that it has seen."""
    base = make(LENGTHS[name]())
    rows = sorted(train_rows, key=lambda row: len(row[0]))
    expected = one_at_a_time(base, rows)  # the longest last, so that nothing longer came before any
    for _ in range(2):
        found = row_losses(base, rows, batch_tokens=100_000)
        assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], rel=1e-5)


def test_is_no_mean_of_batch_means() -> None:
    """A short row weighs as many tokens as it has."""
    assert mean_loss([(10.0, 1), (9.0, 9)]) == 1.9
    assert math.isnan(mean_loss([(0.0, 0)]))


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox", "gemma2", "qwen3", "bloom"])
def test_other_models(kind: str, train_rows: list[Row]) -> None:
    """Learned positions, heads tied or not, logits that are capped: padding and the head's rows change no loss."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind not in ("gpt2", "bloom"):
        sizes |= {
            "intermediate_size": 64,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
        }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, pad_token_id=0)).eval()
    expected, found = one_at_a_time(model, train_rows), row_losses(model, train_rows)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], rel=1e-5)


def test_a_head_that_is_no_module(base: Any, train_rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is then computed at all positions."""
    expected = row_losses(base, train_rows)
    monkeypatch.setattr(base, "get_output_embeddings", lambda: None)
    assert mean_loss(row_losses(base, train_rows)) == pytest.approx(mean_loss(expected), abs=1e-6)


def test_the_mode_is_put_back_also_when_it_is_interrupted(base: Any, train_rows: list[Row]) -> None:
    """What `tick` raises comes out."""

    def stop() -> None:
        raise TimeoutError

    base.train()
    row_losses(base, train_rows[:2])
    assert base.training
    with pytest.raises(TimeoutError):
        row_losses(base, train_rows, tick=stop)
    assert base.training


def test_padding_is_told_by_the_mask_and_first_tokens_are_no_labels() -> None:
    """The pad id may be a label: the end token of an answer, say."""
    end = 2
    rows = [
        (np.array([5, 6, end], dtype=np.int32), np.array([True, True, True])),
        (np.array([7], dtype=np.int32), np.array([True])),
    ]
    batch = collate(rows, pad=end)
    assert batch["labels"].tolist() == [[IGNORED, 6, end], [IGNORED] * 3]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"].tolist() == [[5, 6, end], [7, end, end]]


def test_a_row_without_labels_has_no_loss(base: Any) -> None:
    """And does not disturb the others."""
    row = (np.arange(6, dtype=np.int32), np.zeros(6, dtype=bool))
    assert row_losses(base, [row]) == [(0.0, 0)]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_and_bound_the_tokens(lengths: list[int], limit: int) -> None:
    """Padding included; a row that is too long stands alone."""
    found = batches(lengths, limit)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= limit for batch in found)


def test_memory_that_runs_out_makes_batches_smaller(base: Any, validation_rows: list[Row]) -> None:
    """Losses are the same, and what was measured is not measured anew; a single row without room is an error."""
    wanted = row_losses(base, validation_rows)
    seen: list[int] = []
    room = 100

    def short(module: Any, given: Any, kept: dict[str, Any]) -> None:
        seen.append(kept["input_ids"].numel())
        if seen[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with base.model.register_forward_pre_hook(short, with_kwargs=True):
        found = row_losses(base, validation_rows)
        assert sum(tokens > room for tokens in seen) <= 2
        room = 20
        with pytest.raises(torch.OutOfMemoryError):
            row_losses(base, validation_rows)
    assert [count for _, count in found] == [count for _, count in wanted]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in wanted], abs=1e-4)
