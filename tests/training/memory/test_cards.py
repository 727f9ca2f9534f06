"""GPUs by the names that people and drivers give them."""

import pytest

from meshtune.errors import InputError
from meshtune.training.memory.cards import CARDS, USUAL, cards, named


@pytest.mark.parametrize(
    ("given", "count", "name", "gigabytes"),
    [
        ("H100", 1, "H100", 80),
        ("4xA100", 4, "A100", 80),
        ("2 x a100-40gb", 2, "A100-40GB", 40),
        ("A100-80GB", 1, "A100", 80),
        ("RTX 4090", 1, "RTX4090", 24),
        ("4090", 1, "RTX4090", 24),
        ("24GB", 1, "L4", 24),
        ("8x20 GB", 8, "L4", 20),
        ("500GiB", 1, "B200", 500),
    ],
)
def test_names(given: str, count: int, name: str, gigabytes: int) -> None:
    """A plain memory is taken to be as slow as the slowest card that has so much."""
    found = cards(given)
    assert (found.count, found.card.name, found.card.memory) == (count, name, gigabytes * 10**9)
    assert found.exact == (name not in ("L4", "B200"))


@pytest.mark.parametrize("given", ["", "0xH100", "GB", "0GB", "TPU"])
def test_what_is_none(given: str) -> None:
    with pytest.raises(InputError, match="is no card that is known; there are B200"):
        cards(given)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA RTX A6000", "RTXA6000"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", USUAL.name),
    ],
)
def test_what_drivers_say(driver: str, name: str) -> None:
    assert named(driver).name == name


def test_the_table() -> None:
    """Bytes, operations and bytes a second, each plausible; no name twice."""
    assert len({card.name for card in CARDS}) == len(CARDS)
    for card in CARDS:
        assert 2e10 < card.memory < 3e11
        assert 1 < card.bfloat16 / card.float32 < 40
        assert 2e11 < card.bandwidth < 1e13
