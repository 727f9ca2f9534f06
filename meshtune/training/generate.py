"""Answers of a model, decoded greedily: but for rounding they do not depend on what stands beside them in a batch.

Or drawn with a seed: then they are the same again on the same device, with the same prompts, and only so.
Prompts are tokens, as the model is asked in training. An answer ends at the model's end tokens or at what ends the
answers that it was trained on. Batches are padded on the left. Where positions depend on the longest row (see
`loss.py`), a row that may come to be so long is alone, and is computed anew for each token: what is cached has
the positions of a shorter one. Runs under no autocast. Not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from meshtune.config.sections import ModelConfig
from meshtune.training.checkpoints import attached
from meshtune.training.loss import alike, batch_limit, batches, forget_lengths
from meshtune.training.models import load_model, quiet, resolve_device


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: at a temperature above 0, from the tokens that hold `top_p` of the weight."""

    temperature: float
    top_p: float
    seed: int


def generate(
    model: Any,
    prompts: Sequence[NDArray[Any]],
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    tick: Callable[[], None] | None = None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """For each prompt the tokens of its answer, in order, without what ends it.

    Args:
        model: on its device; its mode is put back afterwards.
        prompts: tokens of each. ends: tokens that end an answer, besides the model's own.
        max_new_tokens: of an answer; a longer one is cut.
        tick: called before each step; what it raises ends the generation.
        sampling: None for greedy decoding.
    """
    ending = model.generation_config.eos_token_id
    own = [ending] if isinstance(ending, int) else list(ending or ())
    stops = sorted({*ends, *own})
    found: list[list[int]] = [[] for _ in prompts]
    limit, apart = batch_limit(model.device), alike(model.config)
    training = model.training
    model.eval()
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=stops[0]
    )
    if sampling is not None:
        settings.update(do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0)
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            if sampling is not None:
                torch.manual_seed(sampling.seed)
            lengths = [len(prompt) + max_new_tokens for prompt in prompts]
            for batch in batches(lengths, limit * 4, apart):
                forget_lengths(model)
                settings.use_cache = lengths[batch[0]] <= apart
                chosen = [prompts[index] for index in batch]
                for index, tokens in zip(batch, _batch(model, chosen, stops, settings, tick), strict=True):
                    found[index] = tokens
    finally:
        model.train(training)
    return found


def _batch(
    model: Any,
    prompts: Sequence[NDArray[Any]],
    stops: list[int],
    settings: GenerationConfig,
    tick: Callable[[], None] | None,
) -> Iterator[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), stops[0], dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, longest - len(prompt) :] = torch.tensor(prompt.tolist(), dtype=torch.long)
        mask[index, longest - len(prompt) :] = 1
    with quiet(), torch.inference_mode():
        whole = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([_Tick(tick)] if tick is not None else []),
        )
    for answer in whole[:, longest:].tolist():
        end = next((place for place, token in enumerate(answer) if token in stops), len(answer))
        yield answer[:end]


class _Tick(StoppingCriteria):  # type: ignore[misc]  # untyped
    """Never stops anything; it only gives the caller a turn at each step."""

    def __init__(self, tick: Callable[[], None]):
        self.tick = tick

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def answer_all(
    model: ModelConfig,
    adapters: Mapping[str, Path | None],
    prompts: Sequence[NDArray[Any]],
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling | None,
    tick: Callable[[], None] | None = None,
) -> Iterator[tuple[str, list[list[int]]]]:
    """For each adapter's name (None: the base as it is) the tokens of its answers, in the order of the prompts.

    An answer of `max_new_tokens` tokens was cut. `tick` is called before each token. Raises InputError.
    """
    base = load_model(model, resolve_device(model))
    for name, folder in adapters.items():
        with attached(base, folder) if folder is not None else contextlib.nullcontext():
            given = generate(base, prompts, ends=ends, max_new_tokens=max_new_tokens, sampling=sampling, tick=tick)
        yield name, given
