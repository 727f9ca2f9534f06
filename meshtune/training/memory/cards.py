"""GPUs by name: what NVIDIA's data sheets say of their memory and speed, for plans that no GPU is needed for.

Speeds are peaks of dense matrix products ("with sparsity" halved), of bfloat16 with sums in float32, and of float32
without tensor cores, as torch computes it by default. A card's memory is counted as 10^9 bytes a gigabyte of its name,
while it has 2^30: the 7 % between are about what the driver and error correction take.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from meshtune.errors import InputError, nearest


@dataclass(frozen=True)
class Card:
    """A GPU: bytes for a process, multiply-adds counted twice a second in bfloat16 and float32, bytes read a second."""

    name: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float


def _card(name: str, gigabytes: int, bfloat16: float, float32: float, bandwidth: float) -> Card:
    return Card(name, gigabytes * 10**9, bfloat16 * 1e12, float32 * 1e12, bandwidth * 1e9)


# Gigabytes, TFLOP/s in bfloat16 and in float32, GB/s. NVIDIA's data sheets of each (SXM where there are several); of
# GeForce cards the white papers of GA102, Ada and Blackwell (RTX). Of an A10G AWS and NVIDIA name 70 and 35.
CARDS = (
    _card("B200", 180, 2250, 75, 7700),
    _card("H200", 141, 989, 67, 4800),
    _card("H100", 80, 989, 67, 3350),
    _card("H100-PCIE", 80, 756, 51, 2000),
    _card("A100", 80, 312, 19.5, 2039),
    _card("A100-40GB", 40, 312, 19.5, 1555),
    _card("L40S", 48, 362, 91.6, 864),
    _card("L40", 48, 181, 90.5, 864),
    _card("A40", 48, 149.7, 37.4, 696),
    _card("RTXA6000", 48, 154.8, 38.7, 768),
    _card("RTX5090", 32, 209.5, 104.8, 1792),
    _card("RTX4090", 24, 165.2, 82.6, 1008),
    _card("RTX3090", 24, 71, 35.6, 936),
    _card("A10G", 24, 70, 35, 600),
    _card("L4", 24, 121, 30.3, 300),
)
_OTHER_NAMES = {"A10080GB": "A100", "H10080GB": "H100", "H100SXM": "H100", "A6000": "RTXA6000"}
USUAL = next(card for card in CARDS if card.name == "A100")  # of a GPU that is not in the table


@dataclass(frozen=True)
class Cards:
    """As many GPUs of one kind: `name` as it was given; `exact`: the table has it, else its speed is another one's."""

    name: str
    count: int
    card: Card
    exact: bool = True

    @property
    def speeds(self) -> str:
        """In words, with what they are taken from."""
        card = self.card
        peaks = f"at most {card.bfloat16 / 1e12:.3g} TFLOP/s in bfloat16 and {card.float32 / 1e12:.3g} in float32"
        like = "" if self.exact else f", as the {card.name}: the slowest card of the table with so much memory"
        return f"{peaks}, {card.bandwidth / 1e12:.3g} TB/s{like}"


def cards(text: str) -> Cards:
    """What `H100`, `4xA100`, `RTX 4090` or `24GB` means: as many cards of a kind, or of a memory. Raises InputError."""
    found = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?(.+)", text.strip(), re.I)  # noqa: RUF001
    count, name = (int(found[1] or 1), _plain(found[2])) if found else (0, "")
    by_name = {_plain(card.name): card for card in CARDS}
    by_name |= {other: by_name[_plain(name)] for other, name in _OTHER_NAMES.items()}
    for known in (name, f"RTX{name}"):
        if known in by_name and count:
            return Cards(text, count, by_name[known])
    if count and (size := re.fullmatch(r"(\d{1,4})G(?:I?B)?", name)) and int(size[1]):
        memory = int(size[1]) * 10**9
        large = [card for card in CARDS if card.memory >= memory] or CARDS[:1]
        as_fast = min(large, key=lambda card: (card.memory, card.bandwidth))
        own = Card(as_fast.name, memory, as_fast.bfloat16, as_fast.float32, as_fast.bandwidth)
        return Cards(text, count, own, exact=False)
    known = ", ".join(card.name for card in CARDS)
    near = nearest(name, list(by_name))
    what = f"`{text}` is no card that is known; there are {known}, a memory such as 24GB, and several such as 4xA100"
    raise InputError(f"--device-like: {what}.{near}")


def named(name: str) -> Card:
    """The card that a driver names so, such as `NVIDIA A100-SXM4-80GB`; where the table lacks it the usual one."""
    words = re.split(r"[\s_-]+", name.upper())
    there = {*words, *(first + second for first, second in itertools.pairwise(words))}
    if "A100" in there and "40GB" in there:
        there.add("A10040GB")
    return max((card for card in CARDS if _plain(card.name) in there), key=lambda card: len(card.name), default=USUAL)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).upper()
