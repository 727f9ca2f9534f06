"""DoRA, rsLoRA and every start weights that PEFT names: the base, and what is saved, over the base as published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import attached, new_adapter, save_adapter
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.models import load_model
from meshtune.training.recipe import Recipe
from meshtune.training.start_weights import as_saved
from meshtune.training.steps import Trained
from meshtune.training.trainer import train

MakeRecipe = Callable[..., Recipe]
KINDS = [
    {"use_dora": True},
    {"use_rslora": True, "init_lora_weights": "gaussian"},
    {"init_lora_weights": "orthogonal", "use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa", "use_dora": True, "use_rslora": True},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "olora", "rank": 64},  # more than the layers have
]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float32") for kind in KINDS), (KINDS[4], "bfloat16")],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(part) for part in value.values()),
)
def test_the_saved_adapter_over_the_published_base(
    tiny_model_folder: Path,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    kind: dict[str, Any],
    dtype: Any,
) -> None:
    """Has the loss that was told, in plain PEFT over a fresh load; the base that trained it is bitwise as before."""
    base = load_model(ModelConfig(name=str(tiny_model_folder), dtype=dtype), "cpu")
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    untuned = mean_loss(row_losses(base, validation_rows))
    *_, trained = train(base, train_rows, validation_rows, make_recipe(**kind), at="best")
    assert isinstance(trained, Trained)
    assert trained.loss < untuned - 0.02
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    save_adapter(tmp_path / "adapter", trained.weights, trained.config, str(tiny_model_folder))
    fresh = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=getattr(torch, dtype))
    with attached(fresh, tmp_path / "adapter") as model:  # PEFT's own loading
        assert mean_loss(row_losses(model.get_base_model(), validation_rows)) == pytest.approx(trained.loss, abs=1e-4)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_untrained_adapter_is_nothing(
    base: Any, validation_rows: list[Row], make_recipe: MakeRecipe, start: str
) -> None:
    """As it is saved, exactly; as it is trained, but for rounding; and the trained form comes back bitwise."""
    untuned = mean_loss(row_losses(base, validation_rows))
    with new_adapter(base, lora_config(base, make_recipe(init_lora_weights=start)), 0) as adapter:
        trained = {name: weight.clone() for name, weight in adapter.model.state_dict().items()}
        assert mean_loss(row_losses(base, validation_rows)) == pytest.approx(untuned, abs=1e-5)
        with as_saved(adapter):
            assert mean_loss(row_losses(base, validation_rows)) == pytest.approx(untuned, abs=1e-6)
        again = adapter.model.state_dict()
        assert all(torch.equal(trained[name], again[name]) for name in trained)
        assert (adapter.saved_config.r, adapter.saved_config.lora_alpha) == (8, 16)


def test_an_adapter_that_cannot_be_made_leaves_the_base_as_it_was(base: Any, make_recipe: MakeRecipe) -> None:
    """Half of the layers may have it already: here the last one cannot."""
    modules = [(name, type(part)) for name, part in base.named_modules()]
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    last = base.model.layers[1].mlp.down_proj
    config = lora_config(base, make_recipe(init_lora_weights="pissa"))
    last.weight.data = last.weight.data.to(torch.float64)
    with pytest.raises(TypeError), new_adapter(base, config, 0):
        pass
    last.weight.data = last.weight.data.to(torch.float32)
    assert [(name, type(part)) for name, part in base.named_modules()] == modules
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())


def test_what_start_weights_cannot_do(base: Any, make_recipe: MakeRecipe) -> None:
    """Is said before anything is built."""
    with pytest.raises(InputError, match="`orthogonal` needs an even rank, not 3"):
        lora_config(base, make_recipe(init_lora_weights="orthogonal", rank=3))
    transposed = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="Conv1D"):
        lora_config(transposed, make_recipe(init_lora_weights="olora"))
    lora_config(transposed, make_recipe(init_lora_weights="pissa"))
    with pytest.raises(InputError, match="which is the embedding too"):
        lora_config(transposed, make_recipe(init_lora_weights="pissa", target_modules="c_attn, lm_head"))
