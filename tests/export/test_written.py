"""What `train` and `export` write: modes of files, and no path that names somebody."""

import stat
from pathlib import Path

import pytest

from meshtune.export.takeaway import _way, readable


def test_the_way_to_the_study_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "alice"
    monkeypatch.setenv("HOME", str(home))
    assert _way(home / "projects" / "study", home / "model") == "../projects/study"
    assert _way(tmp_path / "data" / "study", tmp_path / "out") == "../data/study"
    assert _way(home / "study", tmp_path / "public" / "model") is None
    assert _way(tmp_path / "home" / "bob" / "study", tmp_path / "model") is None


def test_folders_inside_stay_readable(tmp_path: Path) -> None:
    """A tokenizer with several chat templates has them in a folder."""
    (tmp_path / "additional_chat_templates").mkdir()
    inside = tmp_path / "additional_chat_templates" / "tool_use.jinja"
    inside.write_text("{{ messages }}")
    inside.chmod(0o600)
    readable(tmp_path, 0o644)
    assert stat.S_IMODE(inside.stat().st_mode) == 0o644
    assert stat.S_IMODE(inside.parent.stat().st_mode) & 0o111
