"""What the race against the plain way counts, from made-up pieces."""

import argparse
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from benchmarks import today


def piece(seconds: float, *losses: float) -> dict[str, Any]:
    """Trials of 10 tokens and 10 seconds each, one after the other."""
    trials = [
        {"loss": loss, "begun": 10.0 * n, "ended": 10.0 * (n + 1) - 1, "tokens": 10} for n, loss in enumerate(losses)
    ]
    return {"clock": [(0, 0), (seconds / 2, seconds / 2), (seconds, 3 * seconds)], "trials": trials}


def test_until_the_best_loss_of_the_other() -> None:
    ours, theirs = piece(40, 3.0, 1.9, 1.5), piece(40, 3.0, 2.5, 2.0)
    assert today.until(ours, today.best(theirs)) == (19.0, 19.0, 20, True)
    assert today.until(theirs, today.best(ours)) == (40, 120.0, 30, False)
    line = today.line("plain-threads", [(ours, theirs)], "made up")
    assert (line["ours"], line["theirs"], line["ratio"]) == (19.0, 29.0, 1.53)
    assert (line["processor"], line["processor_ratio"]) == ([19.0, 65.0], 3.42)
    assert (line["tokens_ratio"], line["reached"], line["whole"], line["whole_processor"]) == (
        1.5,
        1,
        [40, 40],
        [120, 120],
    )


@pytest.mark.slow
def test_two_processes_of_the_plain_way_make_no_trial_too_many(tmp_path: Path) -> None:
    options = argparse.Namespace(model="embedded", rows=10, trials=1, cores=2)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(today.study(options, 0)))
    (tmp_path / "plain").mkdir()
    found = today.plain(tmp_path / "plain", options, 0, processes=2, precision="float32")
    (trial,), (seconds, used) = found["trials"], found["clock"][-1]
    assert trial["loss"] > 0
    assert trial["tokens"] > 0
    assert 0 < trial["begun"] < trial["ended"] <= seconds
    assert used > 0
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "plain" / "plain.log"))
    others = optuna.load_study(study_name="plain", storage=optuna.storages.JournalStorage(backend)).trials[1:]
    assert len(others) == 2  # one of each process, which asked for nothing
    assert not any(other.params for other in others)
