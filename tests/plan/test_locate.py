"""A study is found by what its record calls it, whatever its folder is called now."""

import shutil
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.plan.locate import locate
from meshtune.report.write import report
from meshtune.study.status import status
from meshtune.study.tune import tune
from tests.kill import command_study


def small(folder: Path, *lines: str) -> Path:
    path = command_study(folder, *lines, trials=2, sampler="random", block=2)
    list(tune(locate(path)))
    return folder / "study"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("name", ["renamed", "an odd # name"])
def test_a_copied_or_renamed_folder_is_the_same_study(finished: Path, tmp_path: Path, name: str) -> None:
    before = status(finished, trials=True)
    folder = Path(shutil.copytree(finished, tmp_path / "first")).rename(tmp_path / name)
    assert status(folder, trials=True)["all"] == before["all"]
    assert status(folder)["folder"] == str(folder)
    assert report([folder])["studies"] == [str(folder)]
    list(tune(locate(folder, overrides=("budget.trials=4",))))
    went_on = status(folder, trials=True)
    assert went_on["all"][:2] == before["all"]
    assert (went_on["state"], len(went_on["all"])) == ("finished", 4)
    assert status(finished, trials=True)["all"] == before["all"]


def test_studies_in_a_storage_elsewhere_keep_their_names(tmp_path: Path) -> None:
    """And a renamed folder begins no second study there."""
    storage = f"storage: sqlite:///{tmp_path / 'all.db'}"
    first, second = small(tmp_path / "a", storage, "folder: first"), small(tmp_path / "b", storage, "folder: second")
    first, second = first.with_name("first"), second.with_name("second")
    renamed = first.rename(first.with_name("renamed"))
    words = r"holds no study called `renamed`; it holds `first`, `second`\. .*: give the folder that name"
    with pytest.raises(InputError, match=words):
        list(tune(locate(renamed)))
    with pytest.raises(InputError, match=words):
        status(renamed)
    renamed.rename(first)
    assert [status(each)["trials"]["complete"] for each in (first, second)] == [2, 2]
