"""How much memory a pack takes, by formula: one base, its rounded copy, each adapter, and one pass of all of them.

Counted as in `formula.py`, but as the packed trainer computes (the test counts the real tensors and compares):

- the base: its weights as they were loaded, since validation is computed in them; where training computes in a lower
  type, a copy of all linear weights in that type too, once for the whole pack; of weights in few bits one at a time;
- an adapter: weight, gradient and Adam's two moments in float32 (16 bytes a parameter). On a CPU also the copy that
  products of a lower type read, and the best epoch's where there are several; on a GPU the stacks that products read,
  in their type, in which every member has the largest rank;
- a pass, whose tokens have a limit however many members there are. Per token a norm keeps its input, linear layers that
  read the same tensor keep it once, an attention query, key, value and output in float32 (on a GPU in the type of the
  products), a feed-forward what it always keeps; an adapted layer `rank` values, and in the CPU's
  memory, with dropout, a mask of 2 bytes each. There is no padding and no attention mask, and of the logits one
  chunk of rows, but for models that scale or cap them.

The CUDA side follows from the same counts and has not been run. Errors are in docs/decisions/2026-11-25-pack-memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshtune.training.loss import CPU_TOKENS as VALIDATION_CPU_TOKENS
from meshtune.training.loss import GPU_TOKENS as VALIDATION_GPU_TOKENS
from meshtune.training.memory.formula import (
    BYTES,
    CPU_OVERHEAD,
    GPU_OVERHEAD,
    Batch,
    Memory,
    elsewhere,
    feed_forward,
    of_base,
    residual_writers,
    written_out,
)
from meshtune.training.memory.shape import Shape
from meshtune.training.packed.label_head import CHUNK
from meshtune.training.packed.limits import LEAST, LOW_MULTIPLE, token_limit
from meshtune.training.recipe import Recipe

# What allocators lose to holes, as a factor of a pass: sizes differ between passes.
CPU_SPARE, GPU_SPARE = 1.2, 1.1


@dataclass(frozen=True)
class PackSetting:
    """What decides the memory of packs beside their members.

    Attributes:
        batch: the largest micro-batch of a member. device: as torch names it.
        dtype, quantization: of the base (`auto` is float32). shards: devices over which its layers are cut.
    """

    shape: Shape
    batch: Batch
    device: str
    dtype: str
    quantization: str | None = None
    shards: int = 1

    def memory(self, members: Sequence[Recipe], pass_tokens: int | None = None) -> Memory:
        """Of a pack at its peak.

        Args:
            members: one at least, all of one precision. pass_tokens: at most in a pass, as `train_pack` takes it; a
                member's portion has as many as its recipe says.
        """
        parameters = sum(self.parameters(recipe) for recipe in members)
        return Memory(
            base=self.base(members[0]),
            adapter=sum(self.adapter(recipe) for recipe in members) - 12 * parameters + self._filling(members),
            optimizer=12 * parameters,
            activations=self.activations(members, self.tokens(members, pass_tokens)),
            overhead=CPU_OVERHEAD if self._on_cpu else GPU_OVERHEAD,
        )

    def pass_tokens(self, members: Sequence[Recipe], available: int) -> int:
        """Tokens for their recipes with which this pack fits: the trainer's own limit, or as often halved as is needed.

        Not below `LEAST`, nor the longest row, which is never cut.
        """
        tokens, least = token_limit(self.device), max(LEAST, self.batch.length)
        while tokens > least and self.memory([replace(x, pass_tokens=tokens) for x in members]).total > available:
            tokens //= 2
        return tokens

    def parameters(self, recipe: Recipe) -> int:
        """Of a member's adapter."""
        return sum(recipe.rank * (x.inputs + x.outputs) for x in self.shape.targets(recipe.target_modules))

    def base(self, recipe: Recipe) -> int:
        """Bytes of the base, with the copy of its weights that training computes with."""
        shape, own, low = self.shape, BYTES.get(self.dtype, 4), self._width(recipe)
        read = [x for x in shape.linears if not x.lookup and (self.quantization is None or x.name == shape.head)]
        copied = sum(x.inputs * x.outputs for x in read) if low < own else 0
        written = written_out(shape, own, self.quantization)  # by validation, in the base's type
        whole = of_base(shape, self.dtype, self.quantization) + low * copied + written
        return whole - elsewhere(shape, own, self.shards)

    def adapter(self, recipe: Recipe) -> int:
        """Bytes of one more member, but for the tokens that it brings to a pass."""
        low = self._width(recipe) if self._width(recipe) < 4 or not self._on_cpu else 0
        best = 4 if self._on_cpu else 0
        return self.parameters(recipe) * (16 + low + best)

    def _filling(self, members: Sequence[Recipe]) -> int:
        """Bytes of a GPU's stacks beyond what the members' own matrices take there."""
        if self._on_cpu:
            return 0
        sizes = [self.parameters(recipe) for recipe in members]
        return self._width(members[0]) * (len(sizes) * max(sizes) - sum(sizes))

    def tokens(self, members: Sequence[Recipe], pass_tokens: int | None = None) -> int:
        """Tokens of the largest pass: those of all members up to a limit, but of one member's portion at least."""
        usual = token_limit(self.device)
        portion = min(usual, members[0].pass_tokens or usual)
        of_one = min(self.batch.unpadded, max(portion, self.batch.length))
        limit = portion if pass_tokens is None else pass_tokens
        return max(of_one, min(len(members) * of_one, limit)) + LOW_MULTIPLE * len(members)

    def activations(self, members: Sequence[Recipe], tokens: int) -> int:
        """Bytes at the begin of a pass's backward, or with checkpoints at its largest layer; or of a validation."""
        shape, own = self.shape, BYTES.get(self.dtype, 4)
        first = members[0]
        kept = tokens * max(self.kept(recipe) for recipe in set(members))
        # Of the layer in work: the gradients of its widest output and input, once more in float32.
        working = tokens * 8 * (feed_forward(shape) // shape.layers + shape.hidden)
        if first.gradient_checkpointing:
            kept = tokens * shape.layers * shape.hidden * own + kept // shape.layers
        # A GPU's optimizer steps over all weights of an adapter at once, when the activations are gone.
        step = 0 if self._on_cpu else 4 * max(self.parameters(recipe) for recipe in members)
        spare = CPU_SPARE if self._on_cpu else GPU_SPARE
        training = kept + max(self._head(tokens, min(own, self._width(first))), working)
        return round(spare * max(training, self._validation(), step))

    def kept(self, recipe: Recipe) -> int:
        """Bytes a token that are kept for the backward pass, but for what belongs to the logits."""
        shape, width = self.shape, self._width(recipe)
        targets = [x for x in shape.targets(recipe.target_modules) if not x.lookup]
        attended = 4 if self._on_cpu else width
        # All that an attention reads: queries, and the fewer keys and values. What it writes is as wide as its queries.
        reading = sum(x.outputs for x in shape.linears if x.attention) - shape.layers * shape.hidden
        writing = shape.layers * shape.heads * shape.head_dim
        if not self._on_cpu and width == 4:  # there no kernel takes fewer keys in float32: all heads have their own
            reading = 3 * writing
        values = 4 * sum(shape.norms) + attended * (reading + writing)
        if width == attended:  # then a value is a view of a tensor that holds queries and keys too, before rotation
            values += width * (reading + writing) // 2
        inputs = 2 * shape.layers * shape.hidden + writing + sum(x.inputs for x in residual_writers(shape))
        values += width * (inputs + feed_forward(shape) + recipe.rank * len(targets)) + 4 * shape.mixed
        return values + (2 * sum(x.inputs for x in targets) if recipe.dropout > 0 and self._on_cpu else 0)

    def _validation(self) -> int:
        """Bytes of a pass that measures: one layer's values in the base's type, and the logits."""
        tokens = max(VALIDATION_CPU_TOKENS if self._on_cpu else VALIDATION_GPU_TOKENS, self.batch.length)
        own = BYTES.get(self.dtype, 4)
        a_layer = tokens * own * (4 * self.shape.hidden + feed_forward(self.shape) // self.shape.layers)
        return a_layer + self._head(tokens, own)

    def _head(self, tokens: int, width: int) -> int:
        """Bytes of the logits: of a chunk, in float32 and in a lower type of the products; or of all labels."""
        labels = min(tokens, -(-tokens * self.batch.labels // max(1, self.batch.unpadded)))
        if self.shape.scaled_logits:  # the model's own way is taken: they, their log-softmax, and two gradients
            return 12 * labels * self.shape.vocab
        return min(labels, CHUNK) * self.shape.vocab * (4 + (width if width < 4 else 0))

    def _width(self, recipe: Recipe) -> int:
        """Bytes of a value of the adapters' products in training."""
        return 2 if recipe.precision == "bfloat16" else 4

    @property
    def _on_cpu(self) -> bool:
        return self.device.startswith("cpu")
