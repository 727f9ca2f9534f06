"""Parts of a micro-batch: what processes compute of their rows, against the whole. Between processes: test_ranks.py."""

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch

from meshtune.training import shared
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted
from meshtune.training.loss import Row, collate
from meshtune.training.packed.rank import Rank
from meshtune.training.packed.ranks import DONE, NO_ROOM, sent_part
from meshtune.training.recipe import Recipe

LABELS = 50


@pytest.mark.parametrize("again", [False, True])
def test_parts_add_up_to_the_whole(
    base: Any, train_rows: list[Row], make_recipe: Callable[..., Recipe], again: bool
) -> None:
    """Losses and gradients with dropout, of any number of parts, also of more than there are rows, which are empty; in
    lockstep these compute something, and add nothing.
    """
    recipe = make_recipe(dropout=0.3, use_dora=True)
    inputs = collate(train_rows[:5])
    with adapted(base, lora_config(base, recipe), 0) as model:
        model.train()
        if again:
            getattr(model, f"{shared.CHECKPOINTING}_enable")()
        adapter = shared.SharedAdapter(model)
        adapter.weights.add_(torch.randn_like(adapter.weights), alpha=0.1)  # both matrices, so that masks matter
        state = torch.get_rng_state()

        def computed(count: int, lockstep: bool) -> tuple[float, torch.Tensor]:
            adapter.begin()
            loss = 0.0
            parts = shared.parts(inputs, count)
            assert len(parts[0]) > 0
            assert sum(map(len, parts)) == 5
            for part in parts:
                shared.set_random_state(base.device, state)
                loss += shared.backward(model, part, LABELS, 2.0, "float32", lockstep)
            return loss, adapter.gradient.clone()

        loss, gradient = computed(1, False)
        assert gradient.abs().max() > 0
        for count, lockstep in ((2, False), (3, False), (7, False), (7, True)):
            found, summed = computed(count, lockstep)
            assert found == pytest.approx(loss, abs=1e-5)
            torch.testing.assert_close(summed, gradient, atol=1e-5, rtol=1e-4)
        if again:
            getattr(base, f"{shared.CHECKPOINTING}_disable")()


def test_another_process_says_that_it_has_no_room(
    base: Any, train_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """Of its rows; then it goes on, and in the end its base is as it was."""
    rank = Rank(base, None)
    recipe = json.loads(json.dumps(asdict(make_recipe(target_modules="q_proj,v_proj"))))
    assert rank.follow({"do": "adapt", "recipe": recipe}) == {"kind": DONE}
    (_, part) = shared.parts(collate(train_rows[:5]), 2)
    random = base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode()
    given = {"labels": LABELS, "scale": 1.0, "random": random, **sent_part(part)}
    asked = json.loads(json.dumps({"do": "part", "weights": [], **given}))
    before = rank.follow(asked)
    assert before["found"] > 0

    def short(*_: Any) -> None:
        raise MemoryError

    hook = base.model.layers[1].register_forward_pre_hook(short)
    assert rank.follow(asked) == {"kind": NO_ROOM}
    hook.remove()
    assert rank.follow(asked) == before
    assert rank.follow({"do": "close"}) == {"kind": DONE}
    assert not [name for name, _ in base.named_parameters() if "lora" in name]
