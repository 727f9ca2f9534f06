"""The simulator of utilisation: its clock, what it finds of blocks, and its picture."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


def test_devices_are_busy_without_blocks_and_wait_for_the_slowest_in_them() -> None:
    from surfaces import QUICK
    from utilisation import Side, one

    free = one(Side("random", asynchronous=True), 4, "epochs", QUICK[0], 0, 40)
    waits = one(Side("random"), 4, "epochs", QUICK[0], 0, 40)
    assert free["utilisation"] > 0.99
    assert 0.4 < waits["utilisation"] < 0.9
    assert free["hours"] < waits["hours"]


def test_the_order_inside_a_block_by_hand() -> None:
    """Four trials on two devices: 1, 1, 1 and 3 hours."""
    from utilisation import _used

    hours = [[(each, each)] for each in (1.0, 1.0, 1.0, 3.0)]
    assert _used(hours, 2) == pytest.approx(6 / 8)
    assert _used(hours[::-1], 2) == pytest.approx(1)


def test_trials_take_as_long_as_those_that_were_measured() -> None:
    import random

    from utilisation import measured, share

    chance = random.Random(0)
    shares = [share("epochs", chance.randint(2, 8), chance) for _ in range(4000)]
    assert math.fsum(shares) / len(shares) == pytest.approx(1, abs=0.05)
    assert sum(map(len, measured().values())) == 270


def test_the_picture_is_drawn_from_the_lines(tmp_path: Path) -> None:
    from utilisation import DASHED, KINDS, plot

    lines = [
        {
            "side": side,
            "devices": count,
            "cost": cost,
            "utilisation": 0.9,
            "hours_to_target": None if count == 8 else 9.0,
        }
        for side in (*KINDS, *DASHED)
        for count in (1, 8)
        for cost in ("fixed", "epochs")
    ]
    (tmp_path / "lines").write_text("\n".join(json.dumps(line) for line in lines))
    plot(tmp_path / "lines", tmp_path / "picture.svg")
    drawn = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert sum(element.tag.endswith("polyline") for element in drawn.iter()) == 4 * len({*KINDS, *DASHED})
