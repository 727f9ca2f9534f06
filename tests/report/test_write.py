"""`meshtune report` as a user meets it, on studies that were really run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError, StorageError
from meshtune.record.log import Record
from meshtune.report.write import report
from meshtune.space.space import Space, choice
from meshtune.study.status import status
from meshtune.trial import Ending, Outcome
from tests.kill import command, command_study, run
from tests.report.made import made_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight points of a command, of which some are out of memory or crash."""
    path = command_study(tmp_path_factory.mktemp("ran"), sampler="random", trials=8, block=2)
    path.write_text(path.read_text().replace("attempts: 10", "attempts: 1"))
    ended = run(path)
    assert ended.returncode == 0, ended.stderr
    return path


def test_the_command_writes_the_page_and_the_trials(study: Path) -> None:
    done = command("report", study, "--json")
    made = json.loads(done.stdout)
    folder = study.parent / "study" / "report"
    assert (made["page"], made["csv"]) == (str(folder / "index.html"), str(folder / "trials.csv"))
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "trials.csv"]
    with open(made["csv"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(n) for n in range(8)]
    assert set(rows[0]) >= {"x", "y", "k", "loss", "ending"}
    text = (folder / "index.html").read_text()
    assert made["verdict"] in text
    assert "untuned" not in text.partition("<main>")[2].partition("<script>")[0]  # a command has none


def test_several_studies_and_a_place_of_ones_own(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = made_study(tmp_path / "made", 3)
    monkeypatch.chdir(tmp_path)
    made = report([study, other])
    assert Path(made["page"]) == tmp_path / "meshtune-report.html"
    assert Path(made["csv"]) == tmp_path / "meshtune-report-trials.csv"
    assert len(made["studies"]) == 2
    own = report([other], out=tmp_path / "own" / "page.html")
    assert Path(own["csv"]) == tmp_path / "own" / "page-trials.csv"


def test_a_public_report_cuts_hyperparameters_that_are_paths(tmp_path: Path) -> None:
    models = [str(tmp_path / "tiny"), str(tmp_path / "small")]
    studies = [tmp_path / name / "study" for name in ("one", "two")]
    for study in studies:
        study.mkdir(parents=True)
        (study / "study.yaml").write_text(f"objective: {{command: [run, '{{model}}']}}\nspace: {{model: {models}}}\n")
        space = Space((choice("model", models),), lora=False)
        record = Record(f"sqlite:///{study / 'study.db'}", "study", space, fixed={"objective": {"command": ["run"]}})
        record.enqueue({"model": models[0]}, origin="baseline", seed=0)
        record.tell(Outcome(0, 1, Ending.COMPLETE, loss=1.0), elapsed=1.0)
    for given in (studies[:1], studies):
        made = report(given, out=tmp_path / "public" / "page.html", public=True)
        for key in ("page", "csv"):
            text = Path(made[key]).read_text()
            assert "tiny" in text
            assert str(tmp_path) not in text


def test_what_cannot_be_reported(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        report([study, study.parent / "study"])
    with pytest.raises(InputError, match="has not been started"):
        report([command_study(tmp_path)])
    with pytest.raises(InputError, match="of one study"):
        report([study, tmp_path / "study.yaml"], folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        report([study], out=tmp_path / "file" / "page.html")


def test_the_status_has_what_reports_are_made_from(study: Path) -> None:
    found: dict[str, Any] = status(study, trials=True)
    x, y, k = found["space"]
    assert (x["name"], x["low"], x["high"], x["log"], x["choices"]) == ("x", -5.0, 5.0, False, None)
    assert (y["low"], y["high"], y["log"]) == (1e-3, 10.0, True)
    assert (k["integer"], k["power_of"]) == (True, None)
    assert (found["sampler"], found["seed"], found["model"], found["objective"]) == ("random", 0, None, "command")
    assert sorted(trial["order"] for trial in found["all"]) == list(range(8))
    assert all(trial["elapsed"] > 0 and trial["adapter"] is None for trial in found["all"])
    assert found["versions"]["meshtune"]
    (ran,) = found["ran_on"]
    assert ran["machine"]["devices"] == ["cpu", "cpu"]
    assert json.loads(json.dumps(found)) == found


def test_the_status_of_one_test_row_is_json(tmp_path: Path) -> None:
    found = status(made_study(tmp_path / "made", 3, test_rows=1))
    assert found["best_against_untuned"]["rows"] == 1
    json.dumps(found, allow_nan=False)
