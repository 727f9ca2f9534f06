"""Attention over sequences end to end: which path is taken, and that paths agree where a CPU can compute them."""

import pytest
import torch

from meshtune.training.packed.attention import Path, Setting, by_sequence, capped, chosen, efficient, flash
from meshtune.training.packed.launches import count

META = torch.device("meta")
LENGTHS = (19, 1, 40, 7, 22, 23, 6)


def states(device: torch.device, kind: torch.dtype = torch.float32, keys: int = 2) -> list[torch.Tensor]:
    """Queries of 8 heads, keys, values, and a gradient of what is made of them."""
    chance = torch.Generator().manual_seed(0)
    shapes = [(sum(LENGTHS), heads, 16) for heads in (8, keys, keys, 8)]
    made = [torch.randn(shape, generator=chance).to(device, kind) for shape in shapes]
    return [*(x.requires_grad_() for x in made[:3]), made[3]]


def setting(device: torch.device, window: int | None, softcap: float | None) -> Setting:
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(device)
    return Setting(LENGTHS, starts, 0.2, window, softcap)


def computed(path: Path, device: torch.device, wanted: Setting, kind: torch.dtype) -> list[torch.Tensor]:
    """What a path makes, and the gradients of queries, keys and values."""
    *own, grad = states(device, kind)
    out = path(*own, wanted)
    return [out.detach(), *torch.autograd.grad(out, own, grad)]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_padded_groups_are_computed_like_each_alone(window: int | None, softcap: float | None) -> None:
    wanted = setting(torch.device("cpu"), window, softcap)
    together, alone = (computed(path, torch.device("cpu"), wanted, torch.float32) for path in (capped, by_sequence))
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("path", [flash, efficient, capped])
def test_paths_of_a_gpu_have_shapes(path: Path, window: int | None, kind: torch.dtype) -> None:
    found = computed(path, META, setting(META, window, 2.0 if path is capped else None), kind)
    assert [(x.shape, x.dtype) for x in found] == [((sum(LENGTHS), heads, 16), kind) for heads in (8, 8, 2, 2)]


@pytest.mark.parametrize(
    ("device", "kind", "size", "softcap", "expected"),
    [
        ("cpu", torch.float32, 64, None, by_sequence),
        ("cpu", torch.float32, 64, 50.0, by_sequence),
        ("meta", torch.bfloat16, 64, None, flash),
        ("meta", torch.float16, 256, None, flash),
        ("meta", torch.float32, 64, None, efficient),
        ("meta", torch.bfloat16, 512, None, efficient),
        ("meta", torch.bfloat16, 12, None, efficient),
        ("meta", torch.bfloat16, 64, 50.0, capped),
        ("meta", torch.float32, 64, 50.0, capped),
    ],
)
def test_the_path_follows_from_device_type_and_model(
    device: str, kind: torch.dtype, size: int, softcap: float | None, expected: Path
) -> None:
    assert chosen(torch.device(device), kind, 8, 2, size, size, softcap) is expected


@pytest.mark.parametrize(("path", "most"), [(flash, 12), (efficient, 12), (capped, 160)])
def test_launches_do_not_grow_with_the_sequences(path: Path, most: int) -> None:
    kind = torch.float32 if path is efficient else torch.bfloat16

    def launched(times: int) -> int:
        lengths = LENGTHS * times
        starts = torch.tensor([0, *lengths]).cumsum(0).int().to(META)
        made = [torch.empty(sum(lengths), heads, 16, device=META, dtype=kind) for heads in (8, 2, 2, 8)]
        own = [x.requires_grad_() for x in made[:3]]
        wanted = Setting(lengths, starts, None, 5, 2.0 if path is capped else None)
        return count(lambda: torch.autograd.grad(path(*own, wanted), own, made[3])).total

    assert launched(2) == launched(9) <= most
