"""How many kernels a GPU is asked for: by a dispatch mode that counts operations, on any device, `meta` included.

Where a small model is trained, a GPU waits for the next launch more than it computes; what a step costs is their
number. Counted is every operation that launches a kernel, as often as torch's CUDA kernels do so for it; views, sizes
and memory that is merely taken do not count. What a compiler or an own kernel does at once, the mode cannot see: such a
piece says its launches by `@launches(number)`, and what it does inside is not counted. Copies and reads of values that
make the host wait for the device are noted by name in `waits`.

The numbers of kernels are by the source of torch 2.13, not measured on a card.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch.utils._python_dispatch import TorchDispatchMode

P = ParamSpec("P")
T = TypeVar("T")

# Kernels of operations that launch another number than one. Sorting is many; none belongs into a layer.
_KERNELS = {
    name: number
    for number, names in {
        0: (
            "empty empty_like empty_strided new_empty new_empty_strided resize_ _reshape_alias _unsafe_view detach "
            "lift_fresh lift is_same_size sym_size sym_stride sym_numel _has_same_storage_numel set_ "
            "_nested_tensor_from_mask record_stream"
        ),
        2: (
            "_grouped_mm _fused_rms_norm_backward native_layer_norm_backward _varlen_attn _log_softmax_backward_data "
            "slice_backward select_backward linalg_vector_norm _scaled_dot_product_efficient_attention_backward"
        ),
        5: "_varlen_attn_backward _flash_attention_backward _scaled_dot_product_flash_attention_backward",
        8: "embedding_dense_backward index_put_ index_put _index_put_impl_",
        10: "nonzero sort argsort unique _unique2 masked_select",
    }.items()
    for name in names.split()
}
_WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique"})
_counting: list[LaunchCounter] = []


class LaunchCounter(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        kernels: launches by the name of the operation or of the piece that declares them.
        waits: operations after which the host waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._inside = 0

    @property
    def total(self) -> int:
        """All launches."""
        return self.kernels.total()

    def __enter__(self) -> LaunchCounter:
        _counting.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _counting.remove(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name in _WAITS:
            self.waits[name] += 1
        if self._inside or func.is_view:
            return found
        if name in ("_to_copy", "to") and found is args[0]:
            return found
        if kernels := _KERNELS.get(name, 1):
            self.kernels[name] += kernels
        return found


def launches(number: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Declare that a function launches so many kernels, whatever it is written with: they are fused, or one kernel.

    The number is also the function's attribute `launches`.
    """

    def declare(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> T:
            if not _counting:
                return function(*args, **given)
            counter = _counting[-1]
            if not counter._inside:
                counter.kernels[function.__name__] += number
            counter._inside += 1
            try:
                return function(*args, **given)
            finally:
                counter._inside -= 1

        call.launches = number  # type: ignore[attr-defined]
        return call

    return declare


def count(work: Callable[[], object]) -> LaunchCounter:
    """What some work launches."""
    with LaunchCounter() as counter:
        work()
    return counter
