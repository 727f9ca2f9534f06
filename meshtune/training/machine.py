"""The process that trains: its GPUs, threads, free and peak memory, and whether an error means that memory ran out.

On a CPU the peak is the resident memory of the whole process (Linux: its high-water mark, reset at the start;
elsewhere it cannot be reset, so there is none). On a GPU it is what torch's allocator held at most.
Devices are named as torch names them. Not run on a GPU yet.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from meshtune.system.machine import memory_available, nvidia_gpus, query_gpus

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's
# What allocators say: torch's on a CPU, cuBLAS and cuDNN on a GPU (which raise plain RuntimeErrors), the system's.
_WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|_STATUS_ALLOC_FAILED|Cannot allocate memory", re.I
)

_LOST = re.compile(r"\b(CUDA|HIP|cuDNN|NCCL) error\b|Triton Error \[|\bgloo\b|Connection closed by peer", re.I)
_APART = re.compile(r"\bNCCL\b|\bgloo\b|Connection closed by peer", re.I)


class RankLost(RuntimeError):
    """A process that computes a share of a trial is gone, or failed: this one cannot go on without it."""


def why_no_cuda() -> str | None:
    """What keeps torch from this machine's NVIDIA GPUs, and what to do; None where it has them, or there are none."""
    if torch.cuda.is_available() or not (gpus := nvidia_gpus()):
        return None
    there = f"this machine has {gpus[0]}" + (f" and {len(gpus) - 1} more" if len(gpus) > 1 else "")
    if torch.version.cuda is None:
        return (
            f"{there}, but the installed torch {torch.__version__} is built for CPUs only: install a build with CUDA, "
            "as https://pytorch.org/get-started shows"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return f"{there}, but CUDA_VISIBLE_DEVICES hides it: unset it"
    return f"{there}, but torch, built for CUDA {torch.version.cuda}, cannot use it: its driver may be too old for that"


def use_threads(threads: int | None) -> None:
    """Compute with this many CPU threads from here on; None leaves it to torch."""
    if threads is not None:
        torch.set_num_threads(threads)


def reset_peak(device: str) -> None:
    """Start measuring the peak from here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")  # sets the high-water mark to what is resident now


def peak(device: str) -> int | None:
    """Bytes at most since `reset_peak`, or None where it cannot be measured."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    if device != "cpu" or not _STATUS.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.M)
    return int(found[1]) * 1024 if found else None


def free(device: str) -> None:
    """Give back what an ended evaluation leaves behind."""
    gc.collect()  # Trainer and its callbacks hold each other
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif _TRIM is not None:
        _TRIM(0)  # else the next evaluation's peak would be that of the largest before it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or what it was raised from, says that memory ran out."""
    if isinstance(error, RankLost):  # whose words may tell of memory too
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError | OSError) and _WORDS.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def is_group_lost(error: BaseException) -> bool:
    """Whether another process of the trial is gone, or cannot be reached."""
    if isinstance(error, RankLost) or (isinstance(error, RuntimeError) and _APART.search(str(error))):
        return True
    return error.__cause__ is not None and is_group_lost(error.__cause__)


def is_device_lost(error: BaseException) -> bool:
    """Whether nothing more can be computed in this process: a GPU failed otherwise than for want of memory, or another
    process of the trial is gone.
    """
    if isinstance(error, RankLost):
        return True
    if is_out_of_memory(error):
        return False
    kind: type[BaseException] | None = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if (kind is not None and isinstance(error, kind)) or (isinstance(error, RuntimeError) and _LOST.search(str(error))):
        return True
    return error.__cause__ is not None and is_device_lost(error.__cause__)


def available(device: str, gpus: Sequence[str] = ()) -> int | None:
    """Bytes that new processes may take on a device now, all of them together; None where it cannot be known.

    On a CPU what the system can free without swapping, less where a control group (a container, a batch job) allows
    less. On CUDA what is free on the one of `gpus` (numbers or names; none: torch's first) that has least; it is asked
    of `nvidia-smi`, since asking CUDA would itself take half a gigabyte there. Not run on a GPU yet.
    """
    match torch.device(device).type:
        case "cpu":
            return memory_available()
        case "cuda":
            return _gpu_free(gpus) or int(torch.cuda.mem_get_info()[0])
        case "mps":
            return int(torch.mps.recommended_max_memory())
        case _:
            return None


def _gpu_free(gpus: Sequence[str]) -> int | None:
    lines = query_gpus("memory.free", "-i", ",".join(gpus)) if gpus else []
    free = [int(words[0]) for line in lines if (words := line.split())[0].isdigit()]  # MiB
    return min(free) << 20 if free else None
