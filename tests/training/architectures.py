"""Tiny random models of the architectures that the packed trainer is tested on, and of some that it refuses.

Weights are larger than Transformers starts them, so that attention and norms matter; the base's own dropout is off, as
in a pack.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    JambaConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OlmoHybridConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

WORDS = 256
_USUAL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FEWER: dict[str, Any] = {**_USUAL, "num_key_value_heads": 2}
_NO_DROPOUT: dict[str, Any] = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_GPT: dict[str, Any] = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **_NO_DROPOUT}
_ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# Windows are shorter than the rows.
PACKABLE: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_FEWER),
    "qwen2": lambda: Qwen2Config(**_FEWER),
    "qwen3": lambda: Qwen3Config(**_FEWER, head_dim=16),
    "mistral": lambda: MistralConfig(**_FEWER, sliding_window=6),
    "gemma2": lambda: Gemma2Config(**_FEWER, head_dim=16, sliding_window=6, query_pre_attn_scalar=16),
    "gemma3": lambda: Gemma3TextConfig(
        **_FEWER, head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi": lambda: PhiConfig(**_USUAL),
    "phi3": lambda: Phi3Config(**_FEWER),
    "gpt-neox": lambda: GPTNeoXConfig(**_USUAL),
    "opt": lambda: OPTConfig(
        vocab_size=WORDS,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        dropout=0.0,
        **_ENDS,
    ),
    "gpt2": lambda: GPT2Config(**_GPT, **_ENDS),
    "olmo2": lambda: Olmo2Config(**_FEWER),
    "granite": lambda: GraniteConfig(**_FEWER, logits_scaling=4.0, residual_multiplier=0.5),
}
# Layers that mix tokens by convolutions and recurrences, beside those with attention.
_THREE: dict[str, Any] = {**_FEWER, "num_hidden_layers": 3}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_CONVOLUTIONS = ["conv", "full_attention", "conv"]
HYBRID: dict[str, Callable[[], Any]] = {
    "qwen3.5": lambda: Qwen3_5TextConfig(**_THREE, **_LINEAR, head_dim=16),
    "lfm2": lambda: Lfm2Config(**_THREE, layer_types=_CONVOLUTIONS, block_auto_adjust_ff_dim=False),
    "olmo-hybrid": lambda: OlmoHybridConfig(**_THREE, **{**_LINEAR, "linear_num_key_heads": 4}),
    "bamba": lambda: BambaConfig(
        **_FEWER, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8
    ),
}
# Mixtures of experts, some of them hybrid too; adapters on `NOT_EXPERTS`.
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
NOT_EXPERTS = "q_proj,k_proj,v_proj"
MIXTURES: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: MixtralConfig(**_FEWER, num_local_experts=4),
    "qwen3-moe": lambda: Qwen3MoeConfig(**_FEWER, **_EXPERTS, head_dim=16),
    "qwen3-next": lambda: Qwen3NextConfig(
        **_THREE, **_LINEAR, **_EXPERTS, shared_expert_intermediate_size=16, head_dim=16
    ),
    "lfm2-moe": lambda: Lfm2MoeConfig(**_THREE, **_EXPERTS, layer_types=_CONVOLUTIONS, num_dense_layers=1),
    "jamba": lambda: JambaConfig(
        **_FEWER, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4
    ),
}
# Their positions change for all rows of a pass once one is longer than 16 tokens, as most rows are.
LENGTHS: dict[str, Callable[[], Any]] = {
    "dynamic": lambda: LlamaConfig(
        **{**_FEWER, "max_position_embeddings": 16}, rope_parameters={"rope_type": "dynamic", "factor": 8.0}
    ),
    "longrope": lambda: Phi3Config(
        **_FEWER,
        original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 2.0, 3.0, 4.0]},
    ),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "gpt-j": (lambda: GPTJConfig(**_GPT, rotary_dim=8, **_ENDS), "ignores the name of the attention"),
    "bloom": (
        lambda: BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4, **_ENDS),
        "ignores the name of the attention",
    ),
    "falcon": (
        lambda: FalconConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **_ENDS),
        "cannot be run",
    ),
    "olmo": (lambda: OlmoConfig(**_USUAL, clip_qkv=8.0), "modified inplace"),
}


def make(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a configuration: random, frozen, in evaluation mode."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).to(dtype).requires_grad_(False).eval()
    for weight in base.parameters():
        if weight.dim() >= 2:
            weight.mul_(5)
    return base
