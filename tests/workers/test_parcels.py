"""Files cross through any URL of fsspec, once each, and what cannot work is said before there are any."""

from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.workers.parcels import SMALL, Parcels, received, sent

pytest.importorskip("fsspec")

FILES = {"adapters/0/a": b"x" * SMALL, "b": b"few", "gone": None}


@pytest.mark.parametrize("protocol", ["local", "memory"])
def test_large_files_cross_through_the_folder_and_leave_it(tmp_path: Path, protocol: str) -> None:
    """Small ones, and the word that a file is gone, cross beside it."""
    url = f"{protocol}://{tmp_path}/bucket/study"
    ours, theirs = Parcels(url), Parcels(url)
    ours.begin()
    assert theirs.fault() is None
    crossing = theirs.send(FILES)
    assert isinstance(crossing["adapters/0/a"], str)
    assert (crossing["b"], crossing["gone"]) == (b"few", None)
    assert ours.receive(crossing) == FILES
    with pytest.raises(FileNotFoundError):
        ours.receive(crossing)
    ours.end()
    assert not (tmp_path / "bucket" / "study").exists()
    assert "FileNotFoundError" in str(theirs.fault())


def test_without_a_url_files_cross_as_bytes() -> None:
    assert received(None, sent(None, FILES)) == FILES


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s4://bucket", "s4://bucket cannot be used: Protocol not known: s4. Give a URL that fsspec knows"),
        ("local:///proc/none", "local:///proc/none cannot be written and read: .*all nodes can write"),
    ],
)
def test_what_cannot_be_used_is_one_message(url: str, why: str) -> None:
    with pytest.raises(InputError, match=f"worker.files: {why}"):
        Parcels(url).begin()
