"""The benchmark of free places: a search that fills them is done sooner, and its packs are timed as they should be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield


def test_places_that_are_filled_save_time() -> None:
    from freed_places import searched

    filled, empty = (searched(how, "random", 1, 8, True, 0, 30)[0] for how in ("joining", "empty"))
    assert 30 / 4 * 0.3 < filled < empty < 30, "four at once, of which most stop on their way"


def test_what_froze_takes_no_time_of_its_own_in_places_that_come_free() -> None:
    from freed_places import searched

    in_places, alone = (searched(how, "tpe", 1, 8, False, 0, 25, "model", 8)[0] for how in ("joining", "alone"))
    assert in_places < 3.5 < 4.0 < alone
