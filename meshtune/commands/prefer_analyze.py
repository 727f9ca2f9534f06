"""`meshtune prefer analyze`: opens the seal of a closed study, and writes what its votes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshtune.commands.prefer import find, need_preference
from meshtune.errors import InputError


def analyze(path: Path, *, close: bool = False, origin: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Analyse a study, or a file of votes; returns the analysis with its `files` and `verdicts`.

    Args:
        close: close the study first. origin: which votes, where there are several kinds. out: the folder to write to.

    Raises InputError: nothing there, an open study, no votes.
    """
    need_preference("statsmodels", "krippendorff", "jinja2")
    from meshtune.preference import votes, written
    from meshtune.preference.analysis import analyse, verdict

    if path.is_file() and path.suffix in (".jsonl", ".json"):
        if close:
            raise InputError(f"--close: {path} is a file of votes, no study that could be closed")
        study = votes.of_file(path)
        folder = out or path.with_name(f"{path.stem}-analysis")
    else:
        where = find(path)
        study = votes.of_study(where, close=close)
        folder = out or where / "analysis"
    analysis = analyse(study, origin)
    files = written.write(folder, study, analysis)
    told = [verdict(pair, analysis["stamp"]) for pair in analysis["pairs"]]
    return {**analysis, "files": files, "verdicts": told}
