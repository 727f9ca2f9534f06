"""`meshtune prefer analyze`: opens the seal of a closed study, and writes what its votes say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.errors import InputError
from meshtune.preference.locate import find, need_preference


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
    verdicts = [verdict(pair, analysis["stamp"]) for pair in analysis["pairs"]]
    return {**analysis, "files": files, "verdicts": verdicts}


def as_text(result: Mapping[str, Any]) -> str:
    """What the command prints."""
    lines = [f"{text}." for text in result["verdicts"]]
    strengths = (result["bradley_terry"] or {}).get("strengths", ())
    if strengths:
        stamp = f"{result['stamp']}. " if result["stamp"] else ""
        each = (f"{one['name']} {one['value']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]" for one in strengths)
        lines.append(f"{stamp}strength (Bradley-Terry, log odds): {', '.join(each)}.")
    lines += [f"not counted: {count} votes of {name}" for name, count in result["left_out"].items()]
    return "\n".join([*lines, f"wrote {result['files']['index.html']}"])
