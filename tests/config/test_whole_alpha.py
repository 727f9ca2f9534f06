"""Alpha is a whole number in what is searched; a study of an earlier version goes on with its real ones."""

from pathlib import Path

from meshtune.export.settings import export_settings
from meshtune.plan.locate import locate
from meshtune.record.log import Record
from meshtune.study.rounds import tune
from tests.finalists.made import finished_study
from tests.here import trials_here

SETTINGS = (
    "data: {sources: [{path: rows.jsonl}], validation: 4, test: 0}\ntraining: {batch_size: 8, epochs: 1}\n"
    "generation: {rows: 0}\nsampler: random\nbudget: {trials: 3}\n"
)


def test_what_is_trained_is_what_is_exported_and_earlier_studies_go_on(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = finished_study(tmp_path, tiny_model_folder, SETTINGS, rows=16)
    url = f"sqlite:///{folder / 'study.db'}"
    record = Record(url, "study")
    assert record.notes["largest_rank"] > 0
    assert all(float(trial.hyperparameters["alpha"]).is_integer() for trial in record.trials)
    notes = export_settings(folder, tmp_path / "settings", "axolotl", trial="2")["notes"]
    assert not any("is rounded" in note for note in notes)
    (written,) = (tmp_path / "settings").glob("*.y*ml")
    assert f"lora_alpha: {record.trials[2].hyperparameters['alpha']}\n" in written.read_text()

    fixed = record.notes["fixed"]
    assert fixed["space"].pop("alpha") == "whole"
    record.note("fixed", fixed)  # as an earlier version wrote it
    with trials_here():
        list(tune(locate(folder, overrides=("budget.trials=6",))))
    trials = Record(url, "study").trials
    assert len(trials) == 6
    assert not all(float(trial.hyperparameters["alpha"]).is_integer() for trial in trials[3:])
    real = next(trial for trial in trials if not float(trial.hyperparameters["alpha"]).is_integer())
    notes = export_settings(folder, tmp_path / "old", "axolotl", trial=real.number)["notes"]
    assert any("is rounded" in note for note in notes)
