"""Studies that the tests of the report share, made once."""

from pathlib import Path
from typing import Any

import pytest

from tests.report.made import made_study, status_of


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve trials, some of which failed, with answers."""
    return made_study(tmp_path_factory.mktemp("made") / "one", 12, failures=0.25, sampler="mads", seed=5, answers=True)


@pytest.fixture(scope="session")
def status(study: Path) -> dict[str, Any]:
    return status_of(study)


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Nothing completed."""
    return status_of(made_study(tmp_path_factory.mktemp("failed") / "one", 4, failures=1.0))


@pytest.fixture(scope="session")
def many(status: dict[str, Any]) -> dict[str, Any]:
    """Five hundred trials: the twelve again and again."""
    trials = [{**trial, "trial": 12 * turn + trial["trial"]} for turn in range(42) for trial in status["all"]][:500]
    return {**status, "all": trials}
