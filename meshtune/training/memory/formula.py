"""How much memory a trial takes, by formula: from the model's shape, the recipe and the largest batch. No weights.

The tensors that autograd keeps for the backward pass are counted one by one, as Transformers' decoder layers and PEFT's
LoRA make them (the test counts the real ones with `saved_tensors_hooks` and compares). Per token of a batch:

- a norm keeps its input, in float32; an attention its query, key, value and output, keys repeated to all heads, and
  where rows are padded a mask of (length x length) a layer; a feed-forward the inputs and outputs of its function, and
  of its gate;
- an adapted module keeps its input (shared between modules only in plain float32 without dropout), with dropout also
  the mask, and `rank` values between its two matrices; DoRA two more outputs, and a square of its inputs once;
- under autocast a frozen weight's rounded copy is kept too, half the size of a float32 base;
- at labels only, the logits: their log-softmax and two gradients of its size, all float32.

An adapter's parameter is 16 bytes: weight, gradient and Adam's two moments in float32 (ZeRO, Rajbhandari et al. 2020,
section 3.1, without the half-precision copies), and 4 more where the best epoch's copy lies in the same memory.

Not counted: models with experts, attention kernels that are not Transformers' default, a trainer of one's own. The
CUDA side follows from the same counts and has not been run. Errors are in docs/decisions/2026-11-24-memory.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meshtune.data.store import epoch_order
from meshtune.training.loss import CPU_TOKENS, GPU_TOKENS, RowSet
from meshtune.training.memory.shape import Linear, Shape
from meshtune.training.recipe import Recipe, recipe

if TYPE_CHECKING:
    from meshtune.config.sections import TrainingConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a weight in few bits, and how many have a scale of 4 bytes; None: those of an output.
CODES: dict[str, tuple[float, int | None]] = {"int8": (1, None), "nf4": (0.5, 64)}
# What a process holds before there is a model: Python, torch and Transformers with their libraries (measured), or on a
# GPU the context and the libraries' workspaces (as NVIDIA's tools show it).
CPU_OVERHEAD = 600 << 20
GPU_OVERHEAD = 700 << 20
# What allocators lose to holes where batches differ in length, as a factor of the activations: glibc's heap grows over
# the first thirty steps or so (measured); the GPU's is not measured.
CPU_SPARE, GPU_SPARE = 1.4, 1.1


@dataclass(frozen=True)
class Batch:
    """A micro-batch: its rows, the tokens of its longest row, and its labels.

    `tokens`: without padding, for packs, which have none: the most of any micro-batch, which may be another one; None:
    all rows are as long as the longest.
    """

    rows: int
    length: int
    labels: int
    tokens: int | None = None

    @property
    def unpadded(self) -> int:
        """Tokens without padding."""
        return self.rows * self.length if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the peak of a trial.

    Attributes:
        base: the frozen model.
        adapter: its weights, and on a CPU the copy of the best epoch of several.
        optimizer: gradients and Adam's moments. activations: kept for the backward pass of the largest batch, with the
            logits and rounded weights; or what validation takes, where that is more.
        overhead: of the process.
    """

    base: int
    adapter: int
    optimizer: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.adapter + self.optimizer + self.activations + self.overhead

    def to_dict(self) -> dict[str, int]:
        """Plain values, with the total."""
        return {**asdict(self), "total": self.total}


def predict(
    shape: Shape,
    training: TrainingConfig,
    hyperparameters: Mapping[str, Any],
    batch: Batch,
    *,
    device: str,
    dtype: str,
    quantization: str | None = None,
    shards: int = 1,
) -> Memory:
    """The memory of a trial.

    Args:
        training: with a resolved precision. hyperparameters: decoded, as `recipe` takes them.
        batch: the largest. device: as torch names it. dtype, quantization: of the base (`auto` is float32).
        shards: devices over which its layers are cut.
    """
    made = recipe(training, hyperparameters, 0)
    found = of_recipe(shape, made, batch, device=device, dtype=dtype, quantization=quantization)
    return replace(found, base=found.base - elsewhere(shape, BYTES.get(dtype, 4), shards))


def of_recipe(
    shape: Shape, recipe: Recipe, batch: Batch, *, device: str, dtype: str, quantization: str | None = None
) -> Memory:
    """As `predict`, for what one adapter is trained with."""
    base_bytes = BYTES.get(dtype, 4)
    on_cpu = device.startswith("cpu")
    targets = shape.targets(recipe.target_modules)
    parameters = adapter_parameters(shape, recipe)
    training = _training(shape, recipe, targets, batch, base_bytes, on_cpu, quantization is not None)
    # A GPU's optimizer steps over all weights at once, when the activations are gone, and needs room for one more copy.
    step = 0 if on_cpu else 4 * parameters
    # The best epoch's copy stands beside the training of the next one.
    copies = 2 if on_cpu and recipe.epochs > 1 else 1
    spare = CPU_SPARE if on_cpu else GPU_SPARE
    return Memory(
        base=of_base(shape, dtype, quantization) + written_out(shape, base_bytes, quantization),
        adapter=4 * copies * parameters + (_start_weights(recipe, targets, base_bytes) if on_cpu else 0),
        optimizer=parameters * 12,
        activations=round(spare * max(training, _validation(shape, batch, base_bytes, on_cpu), step)),
        overhead=CPU_OVERHEAD if on_cpu else GPU_OVERHEAD,
    )


def adapter_parameters(shape: Shape, recipe: Recipe) -> int:
    """How many parameters the adapter has: two matrices a target module, with DoRA a magnitude an output too."""
    targets = shape.targets(recipe.target_modules)
    magnitudes = sum(linear.outputs for linear in targets) if recipe.use_dora else 0
    return sum(recipe.rank * (linear.inputs + linear.outputs) for linear in targets) + magnitudes


def of_state(shape: Shape, recipe: Recipe, *, validated: bool) -> int:
    """Bytes on the disk of a trial that was stopped: weights in float32, the optimizer's moments, and where an epoch
    was validated the best weights too.

    AdamW has two moments in float32; of eight bits, two float32 scales for each 256 numbers beside them; Muon has one.
    """
    moments = {"adamw_8bit": 2 + 8 / 256, "muon": 4.0}.get(recipe.optimizer, 8.0)
    return round(adapter_parameters(shape, recipe) * (4 * (1 + validated) + moments))


def of_base(shape: Shape, dtype: str, quantization: str | None) -> int:
    """Bytes of the frozen base: in few bits its linear layers but for the output head, else all of it in its type."""
    own = BYTES.get(dtype, 4)
    if quantization is None:
        return own * shape.parameters
    a_weight, with_scale = CODES[quantization]
    held = _quantized(shape)
    weights = sum(x.inputs * x.outputs for x in held)
    scales = sum(x.outputs if with_scale is None else -(-x.inputs * x.outputs // with_scale) for x in held)
    return round(own * (shape.parameters - weights) + a_weight * weights + 4 * scales)


def elsewhere(shape: Shape, width: int, shards: int) -> int:
    """Bytes of the base, whose values have so many, that a device does not hold where layers are cut over several."""
    if shards == 1:
        return 0
    # It holds a part of each layer, and one that is gathered while the next one is.
    cut = width * sum(x.inputs * x.outputs for x in _quantized(shape))
    return cut - cut // shards - 2 * cut // max(1, shape.layers)


def written_out(shape: Shape, width: int, quantization: str | None) -> int:
    """Bytes of the largest weight in few bits while it is written out in values of so many bytes."""
    if quantization is None:
        return 0
    return width * max((x.inputs * x.outputs for x in _quantized(shape)), default=0)


def validating(shape: Shape, device: str) -> int:
    """Bytes of a process that only measures, with the base in float32 and every token a label."""
    on_cpu = device.startswith("cpu")
    work = _validation(shape, full_batch(1, CPU_TOKENS if on_cpu else GPU_TOKENS), 4, on_cpu)
    overhead = CPU_OVERHEAD if on_cpu else GPU_OVERHEAD
    return 4 * shape.parameters + round(work * (CPU_SPARE if on_cpu else GPU_SPARE)) + overhead


def _quantized(shape: Shape) -> list[Linear]:
    return [x for x in shape.linears if not x.lookup and x.name != shape.head]


def batches_of(rows: RowSet, seed: int, epochs: int) -> Callable[[int], Batch]:
    """By batch size: the micro-batch that takes most memory, of those that training with this seed makes.

    With padding and by its longest row it is one of them; its tokens without padding are the most of any.
    """
    lengths = np.array([len(rows[index][0]) for index in range(len(rows))])
    labels = np.array([np.count_nonzero(rows[index][1][1:]) for index in range(len(rows))])
    orders = [epoch_order(len(rows), seed, epoch) for epoch in range(epochs)]

    @functools.cache
    def largest(batch_size: int) -> Batch:
        found = [
            (members.size * int(lengths[members].max()), int(labels[members].sum()), members)
            for order in orders
            for members in np.split(order, range(batch_size, len(rows), batch_size))
        ]
        padded, trained, members = max(found, key=lambda item: item[:2])
        unpadded = max(int(lengths[members].sum()) for _, _, members in found)
        return Batch(members.size, padded // members.size, trained, unpadded)

    return largest


def full_batch(batch_size: int, length: int) -> Batch:
    """The largest batch that may come where rows are not known: all rows of this length, every token a label."""
    return Batch(batch_size, length, batch_size * length)


def _start_weights(recipe: Recipe, targets: Sequence[Linear], base_bytes: int) -> int:
    """Bytes on the CPU of the base's weights that PiSSA and OLoRA change, kept to be put back, and of their start."""
    if recipe.init_lora_weights not in ("pissa", "olora"):
        return 0
    return sum(base_bytes * x.inputs * x.outputs + 8 * recipe.rank * (x.inputs + x.outputs) for x in targets)


def _training(
    shape: Shape,
    recipe: Recipe,
    targets: Sequence[Linear],
    batch: Batch,
    base_bytes: int,
    on_cpu: bool,
    quantized: bool,
) -> int:
    """Bytes at the begin of the backward pass, or with checkpoints at its largest layer."""
    kept = _kept(shape, recipe, targets, batch, base_bytes, on_cpu, quantized)
    tokens, width = batch.rows * batch.length, 2 if recipe.precision != "float32" else base_bytes
    logits = 12 * batch.labels * shape.vocab
    if recipe.gradient_checkpointing:
        of_head = 2 * shape.hidden * shape.vocab if recipe.precision != "float32" and base_bytes == 4 else 0
        return tokens * shape.layers * shape.hidden * base_bytes + max(kept // shape.layers, logits + of_head)
    return kept + max(logits, 2 * width * tokens * feed_forward(shape) // shape.layers)


def _kept(
    shape: Shape,
    recipe: Recipe,
    targets: Sequence[Linear],
    batch: Batch,
    base_bytes: int,
    on_cpu: bool,
    quantized: bool = False,
) -> int:
    """Bytes that are kept for the backward pass, but for what belongs to the logits."""
    autocast = recipe.precision != "float32"
    width = 2 if autocast else base_bytes  # of what matrix products give
    a_token = _base_kept(shape, width) + _adapter_kept(shape, recipe, targets, base_bytes, on_cpu) + 4 * shape.mixed
    squares = shape.layers * batch.rows * batch.length**2
    kept = batch.rows * batch.length * a_token
    kept += squares * (width + (12 * shape.heads if shape.attention_dropout else 0))
    if recipe.use_dora:
        kept += sum(4 * linear.inputs**2 for linear in targets)
    if autocast and base_bytes == 4:  # the copy of each product's weight, kept for the gradient of its input
        written = {x.name for x in _quantized(shape)} if quantized else set()  # anew for each product, and not kept
        kept += sum(2 * x.inputs * x.outputs for x in shape.linears if not (x.lookup or x.name in written))
    return kept


def _base_kept(shape: Shape, width: int) -> int:
    """Bytes a token that the base keeps, whatever is adapted: gradients pass through all of it."""
    attention = 4 * shape.layers * shape.heads * shape.head_dim
    return 4 * sum(shape.norms) + width * (attention + feed_forward(shape))


def feed_forward(shape: Shape) -> int:
    """Values a token that the feed-forwards of all layers keep."""
    into, out = shape.feed_forward
    readers, writers = sum(linear.outputs for linear in into), sum(linear.inputs for linear in out)
    gated = readers >= 2 * writers
    steps = 3 if shape.activation == "gelu_new" else 0  # written out in single operations
    return readers + (writers if gated else 0) + steps * writers


def residual_writers(shape: Shape) -> list[Linear]:
    """The feed-forward layers that write to the residual stream."""
    return shape.feed_forward[1]


def _adapter_kept(shape: Shape, recipe: Recipe, targets: Sequence[Linear], base_bytes: int, on_cpu: bool) -> int:
    """Bytes a token that the adapter keeps."""
    targets = [linear for linear in targets if not linear.lookup]
    plain = recipe.precision == "float32" and base_bytes == 4
    width = 4 if recipe.precision == "float32" else 2
    inputs = sum(linear.inputs for linear in targets)
    if recipe.dropout > 0:
        values = inputs * (width + (4 if on_cpu else 1))
    elif plain:
        # One normed input a norm, shared by its readers; an attention's output is kept by the attention itself.
        writers = {x.name for x in residual_writers(shape)}
        readers = shape.hidden * 2 * shape.layers if any(x.inputs == shape.hidden for x in targets) else 0
        values = width * (readers + sum(x.inputs for x in targets if x.name in writers))
    else:
        values = inputs * width
    if recipe.use_dora:
        values += 2 * width * sum(linear.outputs for linear in targets)
    return values + width * recipe.rank * len(targets)


def _validation(shape: Shape, batch: Batch, base_bytes: int, on_cpu: bool) -> int:
    """Bytes of a validation batch: one layer's values and the logits, in the base's type, and the loss in float32."""
    tokens = max(CPU_TOKENS if on_cpu else GPU_TOKENS, batch.length)
    labels = tokens * batch.labels // max(1, batch.rows * batch.length)
    layer = tokens * base_bytes * (4 * shape.hidden + feed_forward(shape) // shape.layers)
    return layer + labels * shape.vocab * (8 if base_bytes == 4 else 10)
