"""Fewer tokens a pass where memory is short: on a CPU for a trial, on a GPU for two that are trained together."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from meshtune.config import presets
from meshtune.config.sections import Interval, TrainingConfig
from meshtune.training.memory.check import Setting, fewer_tokens, largest
from meshtune.training.memory.formula import full_batch
from meshtune.training.memory.shape import measure
from meshtune.training.packed.limits import LEAST, token_limit
from tests.training.memory.test_packs import LLAMA_8B

SPACE = presets.build({"rank": Interval(low=4, high=64, power_of=2)}, lora=True)


def setting(device: str, length: int = 200) -> Setting:
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(LLAMA_8B))
    training = TrainingConfig(precision="bfloat16", batch_size=16)
    return Setting(shape, training, device, "bfloat16", lambda rows: full_batch(rows, length), None, trainer="packed")


@pytest.mark.parametrize(("device", "members"), [("cpu", 1), ("cuda", 2)])
def test_as_many_as_fit(device: str, members: int) -> None:
    given, usual = setting(device, 200 if device == "cpu" else 2048), token_limit(device)

    def needed(tokens: int | None, count: int) -> int:
        training = given.training.model_copy(update={"pass_tokens": tokens})
        return largest(SPACE, replace(given, training=training, pack=count)).memory.total

    assert fewer_tokens(SPACE, given, needed(None, members)) is None
    assert fewer_tokens(SPACE, given, needed(None, members) - 1) == usual // 2
    assert fewer_tokens(SPACE, given, needed(usual // 4, members)) == usual // 4
    assert needed(usual // 4, members) < needed(None, members)
    assert fewer_tokens(SPACE, given, 0) == (LEAST if device == "cpu" else 2048)
    assert fewer_tokens(SPACE, setting(device, 20_000), 0) is None, "a row is not cut"
