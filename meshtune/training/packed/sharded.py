"""A base whose layers are cut over the devices of a trial: each holds its part of a layer, and gathers it to compute.

torch's FSDP2 (`fully_shard`) over the frozen layers; embedding and head are whole everywhere. Forward and backward
gather a layer each, so all processes must compute a pass at the same time, forward or forward and backward: one that
has no rows in a round computes an empty pass. Gradients are none of FSDP's affair: the base has none, and adapters are
whole everywhere. Where rank 0 runs the model alone, as it does to measure, the others run it over one token.

A process that has no room in the middle of a pass cannot tell those that wait for it: it ends, and the group with it.
Not run on a GPU yet.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from meshtune.errors import Fault, InputError
from meshtune.training.loss import RowSet, alike
from meshtune.training.packed.rows import Portion
from meshtune.training.quantized import QuantizedLinear

# What a rank without rows computes: a label that counts nothing, of nobody's adapter.
EMPTY = Portion(None, [(np.zeros(2, dtype=np.int32), np.ones(2, dtype=np.bool_))], share=0.0)


def join(device: str, rank: int, count: int, store: Path, longest: timedelta) -> Any:
    """torch's default group of all ranks, which FSDP takes; it listens on this machine's loopback alone."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    backend = "gloo" if torch.device(device).type == "cpu" else "cpu:gloo,cuda:nccl"
    given: dict[str, Any] = {"world_size": count, "rank": rank, "timeout": longest}
    group: Any = dist
    group.init_process_group(backend, store=group.FileStore(str(store), count), **given)
    return group.group.WORLD


def shard(base: Any, device: str, count: int) -> Any:
    """Cut the layers of a base that is on the CPU, and put the rest of it on the device. Raises InputError."""
    layers = [part for part in base.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers or any(isinstance(part, QuantizedLinear) for part in base.modules()):
        what = "has no layers that it can be cut at" if not layers else "is quantized"
        raise InputError(Fault(f"the model {what}: leave it out", key="worker.shard_model"))
    mesh = init_device_mesh(torch.device(device).type, (count,))
    for layer in layers:
        layer.register_forward_hook(_no_view)  # before FSDP's, which go on what it returns
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # each is a root of its own, which is kept else
    base.to(device)
    step(base)  # the first gathering, outside of inference mode: its buffers are kept
    return base


def _no_view(_layer: Any, _given: Any, output: Any) -> Any:
    """What a layer returns (OPT's a view), in memory of its own: FSDP2 may lose its hook on a view, and warns of it."""
    viewed = isinstance(output, torch.Tensor) and output.requires_grad and output._is_view()
    return output.clone() if viewed else output


def check_lengths(base: Any, rows: RowSet) -> None:
    """Refuse rows that are computed in passes of their own, as many as there are on each device. Raises InputError."""
    limit, longest = alike(base.config), max(len(rows[row][0]) for row in range(len(rows)))
    if longest > limit:
        text = f"beyond {limit} tokens the model's positions are stretched, and a row has {longest}: give"
        text += f" `data.max_length: {limit}`, or `training.trainer: packed`"
        raise InputError(Fault(text, key="worker.shard_model"))


@torch.no_grad()
def step(base: Any) -> None:
    """Run the model over one token, while another process runs it over what it measures."""
    base.base_model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=base.device), use_cache=False)
