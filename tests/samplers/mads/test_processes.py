"""MADS with several processes on one storage: claims, shared segments, processes that die."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers import MadsSampler
from meshtune.samplers.mads.ledger import NOTE, owner
from meshtune.testing.processes import descendants, gone
from tests.postgresql import postgresql
from tests.shared_study import SPACES, fills, note, objective, points

S = TypeVar("S", bound=optuna.storages.RDBStorage)
ROOT = Path(__file__).parents[3]
MIXED = SPACES["mixed"]

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@contextlib.contextmanager
def opened(url: str, kind: type[S] = optuna.storages.RDBStorage) -> Iterator[S]:  # type: ignore[assignment]
    """A storage whose connections are closed at the end."""
    storage = kind(url)
    yield storage
    storage.engine.dispose()


def url_of(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    return f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else request.getfixturevalue("server")


def process(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.shared_study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def run_four(url: str, name: str, space: str, trials: int, seeds: tuple[int, ...]) -> list[FrozenTrial]:
    with opened(url) as storage:
        study = optuna.create_study(study_name=name, storage=storage)
        started = [process(url, name, space, seed, trials, 4) for seed in seeds]
        said = [program.communicate(timeout=300) for program in started]
        assert said == [("", "")] * 4
        assert [program.returncode for program in started] == [0] * 4
        return study.trials


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("kind", "space", "trials", "seeds"),
    [
        ("sqlite", "integers", 7, (0, 1, 2, 3)),
        ("postgresql", "mixed", 7, (5, 5, 5, 5)),
        pytest.param("sqlite", "mixed", 25, (0, 1, 2, 3), marks=pytest.mark.slow),
        pytest.param("sqlite", "integers", 11, (5, 5, 5, 5), marks=pytest.mark.slow),
        pytest.param("postgresql", "integers", 11, (0, 1, 2, 3), marks=pytest.mark.slow),
        pytest.param("postgresql", "integers", 11, (5, 5, 5, 5), marks=pytest.mark.slow),
        pytest.param("postgresql", "mixed", 25, (0, 1, 2, 3), marks=pytest.mark.slow),
    ],
)
def test_four_processes_share_one_study(
    kind: str, space: str, trials: int, seeds: tuple[int, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, name = url_of(kind, tmp_path, request), f"{space}-{seeds[1]}"
    done = run_four(url, name, space, trials, seeds)
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 4 * trials
    assert len(points(done)) == 4 * trials  # none is evaluated twice

    # Who begins a trial after another one that began a segment has ended is in that segment or in a later one.
    lent = [trial for trial in done if "slot" in note(trial)]
    openers = [trial for trial in lent if "open" in note(trial)]
    ends = [(opener.number, opener.datetime_complete) for opener in openers]
    for trial in lent:
        assert trial.datetime_start is not None
        seen = [number for number, end in ends if end is not None and end < trial.datetime_start]
        assert note(trial)["segment"] >= max(seen, default=0)
    runners = [{note(t)["by"] for t in lent if note(t)["segment"] == opener.number} for opener in openers]
    # And a segment is shared, as each process waits for the others' first trials.
    assert max(map(len, runners)) > 1
    assert len({note(trial)["by"] for trial in done}) == 4

    # As good as one process, by a wide margin: random points are worth 8 in the mean.
    alone = optuna.create_study(study_name=name, sampler=MadsSampler(search_space=SPACES[space], seed=0))
    alone.optimize(objective, n_trials=4 * trials)
    alone.sampler.close()  # type: ignore[attr-defined]
    assert min(trial.values[0] for trial in done) < alone.best_value + 2.0


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_point_of_a_killed_process_is_lent_again(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = url_of(kind, tmp_path, request)
    with opened(url) as storage:
        kill_one_and_assert_that_its_point_is_lent_again(url, storage)


def kill_one_and_assert_that_its_point_is_lent_again(url: str, storage: optuna.storages.RDBStorage) -> None:
    sampler = MadsSampler(search_space=MIXED, n_startup=4, block_size=4, seed=0)
    study = optuna.create_study(study_name="killed", storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=5)  # the opening, and the first point of NOMAD's first block
    victim = process(url, "killed", "mixed", 1, 1, "hold")
    assert victim.stdout is not None
    number = int(victim.stdout.readline())
    children = descendants(victim.pid)
    assert children
    lent = note(study.trials[number])
    assert (lent["segment"], lent["block"], lent["slot"]) == (4, 0, 1)
    while not fills(study.trials):
        study.optimize(objective, n_trials=1)  # the rest of the block, then what does not wait

    victim.kill()  # it is not waited for: a zombie counts as gone
    assert gone([victim.pid, *children])
    study.optimize(objective, n_trials=1)
    again = study.trials[-1]
    assert {**note(again), "by": "", "trial": number} == {**lent, "by": ""}
    victim.communicate()

    before = len(study.trials)
    newcomer = process(url, "killed", "mixed", 2, 6)
    assert newcomer.communicate(timeout=120) == ("", "")
    assert newcomer.returncode == 0
    study.optimize(objective, n_trials=6)
    sampler.close()
    later = study.trials[before:]
    assert len(later) == 12
    assert fills(later) == 0
    assert min(note(trial)["segment"] for trial in later) >= 4
    finished = [trial for trial in study.trials if trial.number != number]
    assert {trial.state for trial in finished} == {TrialState.COMPLETE}
    assert len(points(finished)) == len(finished)


@pytest.mark.usefixtures("environment")
def test_a_trial_that_was_asked_for_outlives_its_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    ask = (
        "import optuna\nfrom meshtune.samplers import MadsSampler\nfrom tests.shared_study import SPACES\n"
        f"study = optuna.load_study(study_name='asked', storage={url!r})\n"
        "study.sampler = MadsSampler(search_space=SPACES['mixed'], n_startup=4, seed=0)\n"
        "study.ask(SPACES['mixed'])\n"
    )
    with opened(url) as storage:
        study = optuna.create_study(study_name="asked", storage=storage)
        for _ in range(2):
            subprocess.run([sys.executable, "-c", ask], check=True, cwd=ROOT)
        assert [note(trial)["slot"] for trial in study.trials] == [0, 1]
        assert all(trial.state is TrialState.RUNNING for trial in study.trials)


@pytest.mark.parametrize(
    ("by", "again"),
    [
        (lambda realm, pid, began: f"{realm}:{pid}:{began}", False),
        (lambda realm, pid, began: f"{realm}:{pid}:1", True),  # its number was given to another process since
        (lambda realm, pid, began: f"elsewhere:{pid}:1", False),  # of which nothing is known here
    ],
    ids=["alive", "number_reused", "another_machine"],
)
def test_whose_point_is_lent_again(by: Callable[[str, str, str], str], again: bool, tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/study.db") as storage:
        sampler = MadsSampler(search_space=MIXED, n_startup=4, block_size=4, seed=0)
        study = optuna.create_study(storage=storage, sampler=sampler)
        trial = study.ask(MIXED)
        lent = note(study.trials[0])
        assert "by" not in lent
        storage.set_trial_system_attr(trial._trial_id, NOTE, {**lent, "by": by(*owner().rsplit(":", 2))})
        study.optimize(objective, n_trials=5)
        assert fills(study.trials) == (0 if again else 2)
        assert any(other.params == trial.params for other in study.trials[1:]) is again

        # The old trial ends long after: the replay is told what was told.
        study.tell(trial, state=TrialState.FAIL)
        other = MadsSampler(search_space=MIXED, n_startup=4, block_size=4, seed=0)
        assert other.available(study) == sampler.available(study)
        study.sampler = other
        study.optimize(objective, n_trials=8)
        other.close()
        sampler.close()
        assert fills(study.trials[6:]) == 0


class Interleaved(optuna.storages.RDBStorage):
    """Lets a rival act in the moment before a claim is written."""

    rival: Callable[[], object] | None = None

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if key == NOTE and self.rival is not None:
            rival, self.rival = self.rival, None
            rival()
        super().set_trial_system_attr(trial_id, key, value)


def test_who_loses_a_claim_when_both_begin_a_segment_takes_another_point(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with opened(url) as one, opened(url, Interleaved) as two:
        samplers = [MadsSampler(search_space=MIXED, n_startup=4, block_size=4, seed=0) for _ in range(2)]
        first = optuna.create_study(study_name="race", storage=one, sampler=samplers[0])
        second = optuna.load_study(study_name="race", storage=two, sampler=samplers[1])
        early = first.ask()
        two.rival = lambda: objective(early)
        late = second.ask(MIXED)
        lent = [note(trial) for trial in first.trials]
        assert ["open" in place for place in lent] == [True, True]
        assert lent[0]["point"] != lent[1]["point"]
        for study, trial in ((first, early), (second, late)):
            study.tell(trial, objective(trial))
        for _ in range(6):
            for study in (first, second):
                study.optimize(objective, n_trials=1)
        for sampler in samplers:
            sampler.close()
        assert len(points(first.trials)) == 14
        begun = {trial.number for trial in first.trials if "open" in note(trial)}
        assert {note(trial)["segment"] for trial in first.trials} == begun
