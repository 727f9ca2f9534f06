"""Greedy answers: those of a plain loop, whatever stands beside them."""

from typing import Any

import numpy as np
import pytest
import torch

from meshtune.training.generate import generate
from meshtune.training.loss import forget_lengths
from tests.training.architectures import LENGTHS, make

PROMPTS = [np.arange(5, 5 + length, dtype=np.int32) for length in (3, 17, 9, 3)]


def plain(model: Any, prompt: Any, stops: set[int], count: int) -> list[int]:
    """One token at a time, without a cache."""
    forget_lengths(model)
    ids = [int(token) for token in prompt]
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < count:
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in stops:
                break
            answer.append(token)
            ids.append(token)
    return answer


def test_answers_are_those_of_a_plain_loop(base: Any) -> None:
    end = int(base.generation_config.eos_token_id)
    given = generate(base, PROMPTS, ends=[], max_new_tokens=12)
    assert given == [plain(base, prompt, {end}, 12) for prompt in PROMPTS]
    assert all(len(answer) <= 12 for answer in given)


@pytest.mark.parametrize("name", LENGTHS)
def test_a_prompt_beyond_the_original_length_changes_no_other_answer(name: str) -> None:
    """Nor do the places that a cache keeps: an answer that grows beyond it is what it is alone."""
    model = make(LENGTHS[name]())
    end = int(model.generation_config.eos_token_id or 2)
    prompts = [np.arange(5, 5 + length, dtype=np.int32) for length in (40, 7, 18, 9)]
    given = generate(model, prompts, ends=[end], max_new_tokens=20)
    assert given == [plain(model, prompt, {end}, 20) for prompt in prompts]


def test_an_answer_ends_at_an_end_which_is_left_out(base: Any) -> None:
    whole = generate(base, PROMPTS[:1], ends=[], max_new_tokens=12)[0]
    end = whole[4]
    assert generate(base, PROMPTS[:1], ends=[end], max_new_tokens=12)[0] == whole[: whole.index(end)]


def test_the_mode_is_put_back_and_a_tick_can_end_it(base: Any) -> None:
    class Enough(Exception):
        pass

    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            raise Enough

    base.train()
    with pytest.raises(Enough):
        generate(base, PROMPTS, ends=[], max_new_tokens=12, tick=tick)
    assert base.training


def test_nothing_asked_nothing_answered(base: Any) -> None:
    assert generate(base, [], ends=[2], max_new_tokens=4) == []
