"""What the race against the plain way counts, from made-up pieces."""

import argparse
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from benchmarks import today, today_page


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


def test_the_page_counts_seeds_that_have_all_sides(tmp_path: Path) -> None:
    for seed, sides in enumerate((today.SIDES, today.SIDES[:2])):
        (tmp_path / f"seed-{seed}").mkdir()
        for side in sides:
            losses = (3.0, 1.9, 1.5) if side == "ours" else (3.0, 2.5, 2.0)
            (tmp_path / f"seed-{seed}" / f"{side}.json").write_text(json.dumps(piece(40, *losses)))
    found = today_page.lines(tmp_path, "made up")
    assert [(line["name"].split()[-1], line["seeds"], line["ratio"]) for line in found] == [
        ("plain-threads", 1, 1.53),
        ("plain-processes", 1, 1.53),
    ]
    assert "| plain-threads | 1 | 29.0, 19.0 | 1.53 (1.53 to 1.53) |" in today_page.table(found)
    assert today_page.headline(found) == "", "one seed is no headline"
    assert "3.42 times" in today_page.headline([{**line, "seeds": 3} for line in found])


def test_the_page_says_what_was_found() -> None:
    found = json.loads(today_page.FOUND.read_text(encoding="utf-8"))
    for path, text in (
        (today_page.PAGE, f"\n{today_page.table(found)}\n\n"),
        (today_page.README, today_page.headline(found)),
    ):
        page = path.read_text(encoding="utf-8")
        assert "<!-- today -->" in page
        assert today_page.filled(page, text) == page, "run python -m benchmarks.today_page FOLDER"


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
