"""What a model is made of, in numbers: enough to predict its memory, found without any of its weights.

The model is built from its configuration on torch's `meta` device, where tensors have a shape and no storage: an 8B
model takes a second and no memory. A model of the Hub that is not in the cache has its configuration fetched.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from meshtune.data.tokenizer import location
from meshtune.training.models import explained, quiet, reach_hub

if TYPE_CHECKING:
    from meshtune.config.sections import ModelConfig

_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
_OF_LINEAR_ATTENTION, _OF_MAMBA = 7, 21  # values a channel of the convolution
_SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # as configurations name them


@dataclass(frozen=True)
class Linear:
    """A module that can carry an adapter; `lookup`: an embedding (inputs: its entries), which saves no input."""

    name: str
    inputs: int
    outputs: int
    lookup: bool = False

    @property
    def attention(self) -> bool:
        """Whether it belongs to an attention, as every causal model of Transformers names them."""
        return "attn" in self.name or "attention" in self.name


@dataclass(frozen=True)
class Shape:
    """A causal language model in numbers.

    Attributes:
        parameters: of the whole model, tied ones counted once. linears: all that may carry an adapter, the head too.
        head: the name of the output head, or "". vocab: its outputs. hidden: width of the residual stream.
        layers, heads, head_dim: of the attention. norms: width of every norm's input, in values a token.
        activation: the name of the feed-forward's function. attention_dropout: whether the base's attention drops, for
            which no fused kernel without a (length x length) matrix exists on every device. scaled_logits: whether
            logits are scaled or capped behind the head. mixed: float32 values a token that are kept beside all that, by
            layers that mix tokens without attention, and by experts.
    """

    parameters: int
    linears: tuple[Linear, ...]
    head: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    head_dim: int
    norms: tuple[int, ...]
    activation: str
    attention_dropout: bool
    scaled_logits: bool = False
    mixed: int = 0

    def targets(self, names: str | tuple[str, ...]) -> tuple[Linear, ...]:
        """The modules that `target_modules` means, as PEFT reads it: `all-linear` leaves out the head."""
        if names not in self._targets:  # asked for each member of each pack that is tried
            self._targets[names] = tuple(x for x in self.linears if self._is_target(x, names))
        return self._targets[names]

    def _is_target(self, linear: Linear, names: str | tuple[str, ...]) -> bool:
        if isinstance(names, str):
            return not linear.lookup and linear.name != self.head
        return any(linear.name == name or linear.name.endswith(f".{name}") for name in names)

    @functools.cached_property
    def _targets(self) -> dict[str | tuple[str, ...], tuple[Linear, ...]]:
        return {}

    @functools.cached_property
    def feed_forward(self) -> tuple[list[Linear], list[Linear]]:
        """The layers of the feed-forwards that read the residual stream, and those that write to it."""
        linears = [x for x in self.linears if not (x.attention or x.lookup or x.name == self.head)]
        out = [x for x in linears if x.outputs == self.hidden and x.inputs != self.hidden]
        return [x for x in linears if x not in out], out

    @property
    def largest_rank(self) -> int:
        """The rank beyond which no layer gains anything: the most that the product of two matrices can have."""
        return max((min(linear.inputs, linear.outputs) for linear in self.targets("all-linear")), default=self.hidden)


def shape_of(model: ModelConfig) -> Shape:
    """The shape of a model, from its configuration (a GGUF file's head). Raises InputError where there is none."""
    name, options = location(model)
    if "revision" in options:
        reach_hub(model)
    with quiet(), explained(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about generation and attention: nothing is computed
        config = AutoConfig.from_pretrained(name, **options)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    return measure(built)


def measure(model: Any) -> Shape:
    """The shape of a model that is there, on whatever device."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    linears, norms = [], []
    head_name = ""
    for name, part in model.named_modules():
        if part is head:
            head_name = name
        match part:
            case Conv1D():
                linears.append(Linear(name, *part.weight.shape))
            case nn.Linear():
                linears.append(Linear(name, part.in_features, part.out_features))
            case nn.Embedding():
                linears.append(Linear(name, part.num_embeddings, part.embedding_dim, lookup=True))
            case _ if "Norm" in type(part).__name__ and getattr(part, "weight", None) is not None:
                # A norm as wide as a head stands before the rotation, once a query or key head.
                width = part.weight.numel()
                across = 1 if width >= hidden else heads if "q_" in name else _key_heads(config)
                norms.append(width * across)
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        linears=tuple(linears),
        head=head_name,
        vocab=int(config.vocab_size),
        hidden=hidden,
        layers=int(config.num_hidden_layers),
        heads=heads,
        head_dim=int(getattr(config, "head_dim", None) or hidden // heads),
        norms=tuple(norms),
        activation=next((str(getattr(config, name)) for name in _ACTIVATIONS if getattr(config, name, None)), ""),
        attention_dropout=any((getattr(config, name, 0) or 0) > 0 for name in ("attention_dropout", "attn_pdrop")),
        scaled_logits=any(getattr(config, name, None) not in (None, 1.0) for name in _SCALES),
        mixed=sum(_mixed(part, config) for part in model.modules()),
    )


def _mixed(part: Any, config: Any) -> int:
    """Values a token that a token mixer or the experts of a layer keep, but for their linear layers; measured on a CPU.

    Short convolutions keep next to nothing, linear attention and Mamba several times what goes through theirs. Of
    Mamba, whose code pads to 256 tokens, shorter rows take more. Experts keep four tensors of their inner width.
    """
    own = dict(part.named_parameters(recurse=False))
    through = sum(child.in_channels for child in part.children() if isinstance(child, nn.Conv1d))
    if through and own:
        return through * (_OF_MAMBA if "D" in own else _OF_LINEAR_ATTENTION)
    down = [weight for name, weight in own.items() if "down" in name and weight.dim() == 3]
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    return sum(4 * chosen * weight.numel() // (len(weight) * config.hidden_size) for weight in down)


def _key_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
