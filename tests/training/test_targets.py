"""Target modules, and the models that have none of the kind that `all-linear` means."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from meshtune.errors import InputError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, tensors
from meshtune.training.models import check_targets, targeted
from tests.training.test_start_weights import MakeRecipe

TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16},
}


def test_all_linear_is_what_peft_takes(base: Any, make_recipe: MakeRecipe) -> None:
    """All but the output head; names are their endings, with as much of the path as is given."""
    with new_adapter(base, lora_config(base, make_recipe()), 0) as adapter:
        adapted = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors(adapter.model)}
    assert {name for name, _ in targeted(base, "all-linear")} == adapted
    assert [name for name, _ in targeted(base, ["0.mlp.up_proj"])] == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_of_experts(kind: str, make_recipe: MakeRecipe) -> None:
    """`all-linear` is refused with the names to write; with them the experts are left alone."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **MIXTURES[kind]))
    with pytest.raises(InputError, match=r"mixture of experts.* of k_proj, o_proj, q_proj, v_proj"):
        check_targets(skeleton, "all-linear")
    with pytest.raises(InputError, match="no module `gate_up_proj`; it has embed_tokens"):
        check_targets(skeleton, ("gate_up_proj",))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **MIXTURES[kind]))
    recipe = make_recipe(target_modules="q_proj,v_proj")
    with new_adapter(model, lora_config(model, recipe), 0) as adapter:
        assert len(tensors(adapter.model)) == 4
