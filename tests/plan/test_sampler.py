"""`sampler: auto`: what it stands for is printed with its reason, recorded, and kept on a resume."""

import json
from pathlib import Path

import pytest

from meshtune.errors import InputError, StudyMismatch
from meshtune.plan.locate import locate
from meshtune.study.check import check
from meshtune.study.loop import Opened
from meshtune.study.status import status
from meshtune.study.tune import tune
from tests.kill import command, command_study, record_of, run


def opened(path: Path) -> tuple[str, str | None]:
    """Run a study; the sampler that it shows, and why."""
    events = list(tune(locate(path)))
    return next((event.sampler, event.why) for event in events if isinstance(event, Opened))


def test_the_choice_is_printed_recorded_and_kept(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="auto", trials=5)
    text, facts = check(path)
    assert "sampler    batch-gp" in text
    why = facts["sampler"]["why"]
    assert why in text
    assert opened(path) == ("batch-gp", why)
    found = status(path)
    assert (found["sampler"], found["why_sampler"]) == ("batch-gp", why)
    shown = command("status", path).stdout
    assert f"sampler batch-gp: {why}" in shown
    later = path.read_text().replace("trials: 5", "trials: 7")
    path.write_text(later)
    assert opened(path) == ("batch-gp", why)  # the reason of then
    path.write_text(later.replace("name: auto", "name: batch-gp").replace("trials: 7", "trials: 8"))
    assert opened(path) == ("batch-gp", None)
    assert status(path)["trials"]["proposed"] == 8
    path.write_text(later.replace("name: auto", "name: mads"))
    with pytest.raises(StudyMismatch, match=r"sampler\.name"):
        list(tune(locate(path)))


def test_a_study_of_another_sampler_goes_on_with_it(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="random", trials=4)
    list(tune(locate(path)))
    path.write_text(path.read_text().replace("name: random", "name: auto").replace("trials: 4", "trials: 6"))
    assert opened(path) == ("random", "as the study began")
    whole = command_study(tmp_path / "whole", sampler="random", trials=6)
    list(tune(locate(whole)))
    assert record_of(path) == record_of(whole)
    assert status(path)["why_sampler"] is None


def test_a_sampler_of_ones_own_is_named_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from optuna.samplers import RandomSampler as Mine\n")
    path = command_study(tmp_path, sampler="random", trials=2, block=2)
    named = path.read_text().replace("name: random", "import: ./mine.py:Mine")
    path.write_text(named)
    list(tune(locate(path)))
    path.write_text(named.replace("import: ./mine.py:Mine", "name: auto"))
    with pytest.raises(InputError, match="sampler: the study began with a sampler of your own"):
        check(path)


def test_options_are_of_a_sampler(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="auto")
    path.write_text(path.read_text().replace("name: auto,", "name: auto, options: {n_startup: 3},"))
    with pytest.raises(InputError, match=r"`auto` takes none"):
        check(path)
    ended = run(path)
    assert ended.returncode == 2


def test_several_objectives_are_for_mads(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="auto", trials=6)
    path.write_text(path.read_text() + "objectives: [loss, k]\n")
    text, facts = check(path)
    assert facts["sampler"]["name"] == "mads"
    assert "2 objectives" in text
    assert opened(path)[0] == "mads"


def test_json_says_it_too(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="auto", trials=2)
    ended = run(path, "--json")
    events = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    opening = next(event for event in events if event["event"] == "opened")
    assert opening["sampler"] == "batch-gp"
    assert opening["why_sampler"] == json.loads(ended.stdout)["why_sampler"]
