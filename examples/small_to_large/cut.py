"""Writes a smaller model out of a Llama-like one: a narrower residual stream, the rest as it was.

python cut.py OUT [--model FOLDER] [--hidden-size 432] [--layers 30] [--tokens 1024]

The directions that are kept are those in which the model's own states vary most on the docstrings of the standard
library (one rotation for all layers, as in SliceGPT, arXiv 2401.15024). Heads and their sizes stay. With the whole
hidden size the model computes what it did before. Nothing is trained, so the smaller model is much worse: it is for
finding out how its loss depends on the hyperparameters, not for use.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from meshtune.data.embedded import documentation
from meshtune.training.models import embedded_folder

WINDOW = 256


def directions(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The residual stream's directions, one a column, those first in which its states vary most. Each state counts
    alike, whatever its length, as in the norms that read them.
    """
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    flat = torch.cat([state.flatten(0, 1) for state in states[:-1]]).double()
    flat /= flat.norm(dim=1, keepdim=True)
    return torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)


def cut(model: Any, kept: torch.Tensor, layers: int) -> LlamaForCausalLM:
    """The model with its first layers, seen in these directions only.

    Args:
        kept: orthonormal columns, of shape (hidden size, smaller hidden size).
    """
    size, smaller = kept.shape
    config = type(model.config)(
        **{
            **model.config.to_dict(),
            "hidden_size": smaller,
            "num_hidden_layers": layers,
            "head_dim": model.model.layers[0].self_attn.head_dim,
            "tie_word_embeddings": False,  # the last norm's weights go into the head alone
        }
    )
    weights = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        if parts[1] == "layers" and int(parts[2]) >= layers:
            continue
        if parts[-2].endswith("norm"):  # its weights go into what reads it; the root mean square is over fewer numbers
            weights[name] = torch.full((smaller,), (size / smaller) ** 0.5)
        elif parts[-2] == "embed_tokens":
            weights[name] = weight.double() @ kept
        elif parts[-2] in ("o_proj", "down_proj"):  # these write into the stream
            weights[name] = kept.T @ weight.double()
        else:
            weights[name] = (weight * _norm_before(model, parts)).double() @ kept
    small = LlamaForCausalLM(config)
    small.load_state_dict({name: weight.float() for name, weight in weights.items()})
    small.generation_config = model.generation_config
    return small


def _norm_before(model: Any, parts: list[str]) -> torch.Tensor:
    """The weights of the norm whose result a matrix reads."""
    if parts[0] == "lm_head":
        return model.model.norm.weight.detach()
    layer = model.model.layers[int(parts[2])]
    norm = layer.input_layernorm if parts[3] == "self_attn" else layer.post_attention_layernorm
    return norm.weight.detach()


def main() -> None:
    """Read the model, cut it, write it."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("out", type=Path)
    options.add_argument("--model", type=Path, help="folder of a Llama-like model; without it the embedded one")
    options.add_argument("--hidden-size", type=int, default=432, help="a multiple of the number of heads")
    options.add_argument("--layers", type=int, help="the first so many; without it all")
    options.add_argument("--tokens", type=int, default=1024, help="of text that the directions are found on")
    given = options.parse_args()
    folder = given.model or embedded_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    size, layers = model.config.hidden_size, given.layers or model.config.num_hidden_layers
    if not (0 < given.hidden_size <= size and 0 < layers <= model.config.num_hidden_layers):
        options.error(f"the model has a hidden size of {size} and {model.config.num_hidden_layers} layers")
    if given.hidden_size % model.config.num_attention_heads:
        options.error(f"--hidden-size must be a multiple of the {model.config.num_attention_heads} heads")
    text = tokenizer(documentation()[: 8 * given.tokens], return_tensors="pt").input_ids[0]
    windows = text[: given.tokens // WINDOW * WINDOW].reshape(-1, WINDOW)
    small = cut(model, directions(model, windows)[:, : given.hidden_size], layers)
    small.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    print(
        f"{given.out}: hidden size {given.hidden_size} of {size}, {layers} layers, {small.num_parameters():,} weights"
    )


if __name__ == "__main__":
    main()
