"""`meshtune report`: one self-contained HTML page of a study, or of several side by side, and their trials as CSV.

Reads the record and the files of the studies at any time, also while they run; writes the page and the CSV aside and
renames them into place. With a folder for them, every figure and every table is written as a file too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshtune.config import file
from meshtune.errors import Fault, InputError, StorageError, need
from meshtune.plan.locate import Located, existing
from meshtune.record.log import Record
from meshtune.study.status import of_record, status_of
from meshtune.system import whole_file

DEFAULT = Path("report") / "index.html"  # in the study's folder
DEFAULT_OF_SEVERAL = Path("meshtune-report.html")  # in the working directory


def report(
    paths: Sequence[Path],
    *,
    folder: Path | None = None,
    out: Path | None = None,
    public: bool = False,
    figures: Path | None = None,
) -> dict[str, Any]:
    """Write the page; returns where it is and what it says: `page`, `csv`, `verdict`, `evidence`, `studies`.

    Several studies are compared. `public`: for people outside: no row of the data, no path, no name of a machine.
    `figures`: a folder for figures (SVG, PNG), tables (CSV, LaTeX), methods.txt and references.bib; then `figures` and
    `missing` are returned too: their paths, and what could not be made and why (empty: nothing).

    Raises InputError where a study was not started or a path is named twice, MissingExtra without plotly or Jinja2,
    StorageError where the page cannot be written.
    """
    need("the report", "plotly", "jinja2")
    if folder is not None and len(paths) > 1:
        raise InputError("`--folder` is of one study: name the folders of several studies instead of their YAMLs")
    studies = [existing(path, folder=folder) for path in paths]
    twice = {str(study.folder) for study in studies if [other.folder for other in studies].count(study.folder) > 1}
    if twice:
        raise InputError(f"{', '.join(sorted(twice))}: the same study is named twice")
    if len(studies) == 1:
        return _one(studies[0], out, figures, public=public)
    return _several(studies, out, figures, public=public)


def selection_of(folder: Path) -> dict[str, Any] | None:
    """What `meshtune select` chose for a study; None where it did not.

    Raises InputError where its file holds something else.
    """
    path = folder / "selection" / "selection.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("chosen", "candidates", "scores", "benchmarks", "sentences", "notes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"is no choice of `meshtune select` ({type(error).__name__}): remove it, or run that again"
        raise InputError(Fault(what, path)) from error


def _one(study: Located, out: Path | None, folder: Path | None, *, public: bool) -> dict[str, Any]:
    from meshtune.report import answers, files, methods, score_files, tables
    from meshtune.report.page import StudyContent, hidden_status, study_page, study_pictures
    from meshtune.report.public import hidden
    from meshtune.selection.response import response

    latest = study.latest
    record = Record(latest.url, latest.name)
    status = status_of(study, trials=True) if study.config.rounds else of_record(study, record, trials=True)
    page, csv = _places(out or study.folder / DEFAULT)
    facts = StudyContent(
        status=status,
        config=file.shown(study.config),
        data=_manifest(latest),
        answers=answers.read(latest.folder, status),
        scored=score_files.of_study(latest.folder),
        selection=selection_of(latest.folder),
        response=response(record),
    )
    text = study_page(facts, csv=csv.name, public=public)
    statuses = {study.folder.name: status}
    if study.rounds:
        statuses = {each.folder.name: status_of(each, trials=True) for each in study.rounds if each.started}
    shown = {name: hidden(held) if public else held for name, held in statuses.items()}
    table = tables.as_csv(shown, messages=not public)
    made = _written(page, text, csv, table, tables.headline(status), [study])
    if folder is None:
        return made
    told, found = (hidden_status(status), hidden(facts.response)) if public else (status, facts.response)
    texts = {
        "methods.txt": methods.paragraph(told, facts.data) + "\n",
        "references.bib": methods.references([told["sampler"]]),
        "trials.csv": table,
    }
    pictures, held = study_pictures(told, facts.selection, found), files.of_study(told, found, facts.scored)
    return made | _files(folder, files.write(folder, pictures, held, texts))


def _files(folder: Path, written: tuple[list[str], str]) -> dict[str, Any]:
    names, missing = written
    return {"figures": [str((folder / name).absolute()) for name in names], "missing": missing}


def _several(studies: Sequence[Located], out: Path | None, folder: Path | None, *, public: bool) -> dict[str, Any]:
    from meshtune.report import files, methods, tables
    from meshtune.report.groups import Compared, grouped
    from meshtune.report.page import comparison_page, comparison_pictures
    from meshtune.report.public import hidden

    compared = []
    for whole, name in zip(studies, _names(studies), strict=True):
        study = whole.latest
        record = Record(study.url, study.name)
        status = of_record(study, record, trials=True)
        data = study.config.data.model_dump(mode="json") if study.config.data is not None else None
        status = hidden(status) if public else status  # a hyperparameter can be a path
        compared.append(Compared(name, status, record.notes.get("fixed", {}), data))
    page, csv = _places(out or DEFAULT_OF_SEVERAL)
    text = comparison_page(compared, csv=csv.name)
    table = tables.as_csv({study.name: study.status for study in compared}, messages=not public)
    groups = grouped(compared)
    made = _written(page, text, csv, table, tables.comparison_headline(groups), studies)
    if folder is None:
        return made
    texts = {"references.bib": methods.references([each.status["sampler"] for each in compared]), "trials.csv": table}
    return made | _files(folder, files.write(folder, comparison_pictures(groups), files.of_comparison(groups), texts))


def _written(
    page: Path, text: str, csv: Path, table: str, headline: tuple[str, str], studies: Sequence[Located]
) -> dict[str, Any]:
    _write(csv, table)
    _write(page, text)
    return {
        "page": str(page.absolute()),
        "csv": str(csv.absolute()),
        "verdict": headline[0],
        "evidence": headline[1],
        "studies": [str(study.folder) for study in studies],
    }


def _places(page: Path) -> tuple[Path, Path]:
    """The page, and beside it the CSV: `trials.csv` for an `index.html`, else named after the page."""
    if page.is_dir():
        page = page / DEFAULT.name
    name = "trials.csv" if page.name == DEFAULT.name else f"{page.stem}-trials.csv"
    return page, page.with_name(name)


def _names(studies: Sequence[Located]) -> list[str]:
    """The shortest ends of the folders' paths that tell the studies apart."""
    for length in range(1, max(len(study.folder.parts) for study in studies)):
        names = ["/".join(study.folder.parts[-length:]) for study in studies]
        if len(set(names)) == len(names):
            return names
    return [str(study.folder) for study in studies]


def _manifest(study: Located) -> dict[str, Any] | None:
    """The manifest of the prepared data; None for a command, and where the data were cleaned away."""
    path = study.folder / "data" / "manifest.json"
    if study.config.data is None or not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, text)
    except OSError as error:
        raise StorageError(f"{path}: the report cannot be written ({error.strerror})") from error
