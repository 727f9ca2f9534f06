"""On a GPU the peaks of packs that have ended decide how many trials go into the next ones, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshtune.record.log import Record
from meshtune.study.tune import LEAST_SHARE, measured
from meshtune.training.memory.check import Setting
from meshtune.trial import Ending, Outcome
from tests.training.memory.test_passes import SPACE, setting

POINT = {"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 2e-4}


@pytest.fixture(scope="module")
def memory() -> Setting:
    return setting("cuda")


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(f"sqlite:///{tmp_path / 'study.db'}", "study", SPACE, fixed={})


def ended(record: Record, peak: int | None, **fields: int) -> None:
    trial = record.enqueue(POINT, origin="search", seed=0)
    record.tell(Outcome(trial.number, 1, Ending.COMPLETE, loss=1.0, peak_memory=peak, **fields), elapsed=0.0)


def test_the_largest_of_the_measured_activations_counts(memory: Setting, record: Record) -> None:
    predicted = memory.pack_memory([POINT])
    alone = predicted.total - predicted.overhead
    assert measured(record, memory) == 1
    ended(record, None)
    assert measured(record, memory) == 1
    ended(record, alone + predicted.activations // 2)
    ended(record, alone)
    assert measured(record, memory) == pytest.approx(1.5)
    ended(record, alone + 9 * predicted.activations, pass_tokens=512)  # memory had run out: other passes
    assert measured(record, memory) == pytest.approx(1.5)


def test_a_tiny_peak_does_not_make_packs_endless(memory: Setting, record: Record) -> None:
    ended(record, 1)
    assert measured(record, memory) == LEAST_SHARE


def test_more_activations_than_predicted_make_packs_smaller(memory: Setting) -> None:
    four = [POINT] * 4
    tight = replace(memory, available=memory.pack_memory(four).total)
    assert tight.fit_together(four)
    assert not tight.fit_together(four, 1.1)
    assert tight.fit_together([*four, POINT], LEAST_SHARE)
    assert replace(memory, available=None).fit_together(four, 9.0)
