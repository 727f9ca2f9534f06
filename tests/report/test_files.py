"""`--figures DIR`: every figure and every table of the page as a file, the methods paragraph and what to cite."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtune._version import __version__
from meshtune.errors import StorageError
from meshtune.report import files, methods
from meshtune.report.benchmark_tables import latex
from meshtune.report.write import report
from meshtune.system.text import number
from tests.kill import command
from tests.report.made import SECRET, made_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("figures")
    report([study], out=place / "page.html", figures=place / "all")
    return place


def test_every_figure_of_the_page_is_a_file(folder: Path) -> None:
    drawn = set(re.findall(r'id="figure-([\w-]+)"', (folder / "page.html").read_text()))
    assert {"history", "parallel", "curves", "endings", "importance", "plane", "slice-rank"} <= drawn
    for kind in ("svg", "png"):
        assert {path.stem for path in (folder / "all").glob(f"*.{kind}")} == drawn
    for path in (folder / "all").glob("*.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        width = int.from_bytes(content[16:20])
        assert width > 600


def test_tables_are_there_as_csv_and_latex(folder: Path, status: dict[str, Any]) -> None:
    names = {path.stem for path in (folder / "all").glob("table-*.csv")}
    assert {"table-result", "table-trials", "table-endings", "table-importance"} <= names
    assert {path.stem for path in (folder / "all").glob("*.tex")} == names
    with (folder / "all" / "table-endings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["trials"]) for row in rows) == len(status["all"])
    text = (folder / "all" / "table-result.tex").read_text()
    assert text.startswith("\\begin{table}")
    assert f"best, trial {status['best']['trial']}" in text
    assert "\\%" in text
    assert "\\begin{tabular}{lrrrrl}" in text  # words to the left, numbers to the right
    assert (folder / "all" / "trials.csv").read_text() == (folder / "page-trials.csv").read_text()


def test_a_table_has_the_columns_that_have_values_and_goes_on_over_pages(many: dict[str, Any]) -> None:
    models = {name: {**many[name], "test_loss": None} for name in ("untuned", "baseline", "best")}
    program = {**many, **models, "tokens": 0, "objective": "command"}
    tables = files.of_study(program, None, ())
    assert tables["result"].head == ("", "objective", "hyperparameters")
    assert tables["endings"].head == ("ending", "trials", "trials' time")
    text = latex(tables["trials"])
    assert text.startswith("\\begin{longtable}{")
    assert text.index("\\endhead") < text.index("\n0 & ") < text.index("\\end{longtable}")


def test_the_methods_paragraph_says_what_the_status_says(status: dict[str, Any], folder: Path) -> None:
    text = (folder / "all" / "methods.txt").read_text()
    count, best = len(status["all"]), status["best"]
    for words in ("MADS", f"{count} trials", number(best["loss"]), "1,600 rows", "50 test rows", "seed 5"):
        assert words in text
    difference = status["best_against_baseline"]
    assert f"lower by {-difference['mean']:.4f} (95 % interval over rows {-difference['high']:.4f}" in text
    page = (folder / "page.html").read_text()
    assert "@article{audet2022algorithm" in page
    for given in ({**status, "best": None}, {**status, "best_against_baseline": None, "model": None}):
        assert methods.paragraph(given, None)
    copy = "for the model HuggingFaceTB/SmolLM2-135M-Instruct, of which a 4-bit copy was used,"
    assert copy in methods.paragraph({**status, "model": "embedded"}, None)
    point = {"lora_plus_ratio": 2.0, "neftune_alpha": 5}
    given = {**status, "all": [{**one, "hyperparameters": point} for one in status["all"]]}
    given["space"] = [{"name": name} for name in point]
    assert "We searched LoRA+'s ratio and NEFTune's alpha of LoRA" in methods.paragraph(given, None)


def test_what_is_cited_is_what_the_citation_file_says() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cff["title"], cff["authors"][0]["name"]) == (methods.TITLE, methods.AUTHORS)
    assert int(str(cff["date-released"])[:4]) == methods.YEAR
    assert f"version = {{{__version__}}}" in methods.OWN
    (paper,) = cff["references"]
    assert f"title = {{{paper['title']}}}" in methods.PAPER
    names = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert f"author = {{{names}}}" in methods.PAPER
    assert paper["notes"].removeprefix("arXiv:") in methods.PAPER
    assert "akiba2019optuna" in methods.references(["tpe"])
    assert "audet2022algorithm" not in methods.references(["tpe"])


def test_a_public_folder_shows_no_row_and_no_path(study: Path, tmp_path: Path) -> None:
    made = report([study], out=tmp_path / "page.html", public=True, figures=tmp_path / "all")
    for name in made["figures"]:
        if not name.endswith(".png"):
            text = Path(name).read_text()
            assert SECRET not in text
            assert str(study.parent) not in text


def test_without_the_painter_all_the_rest_is_written(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    made = report([study], out=tmp_path / "page.html", figures=tmp_path / "all")
    assert "PNGs were not written: they need resvg-py" in made["missing"]
    assert "install" in made["missing"]
    assert (tmp_path / "all" / "history.svg").exists()
    assert not list((tmp_path / "all").glob("*.png"))


def test_several_studies_and_a_folder_that_cannot_be_made(study: Path, tmp_path: Path) -> None:
    other = made_study(tmp_path / "made", 3)
    done = command("report", study, other, "--out", tmp_path / "page.html", "--figures", tmp_path / "all", "--json")
    made = json.loads(done.stdout)
    assert made["missing"] == ""
    names = {Path(name).name for name in made["figures"]}
    assert {
        "comparison.svg",
        "comparison.png",
        "comparison-time.svg",
        "table-comparison.tex",
        "references.bib",
    } <= names
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(names)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        report([other], out=tmp_path / "page.html", figures=tmp_path / "file" / "all")
