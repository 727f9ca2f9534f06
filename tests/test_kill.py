"""SIGKILL of any process at any moment, then the same command: the record of an uninterrupted study."""

import random
from collections import Counter
from pathlib import Path

import pytest

from meshtune.testing.processes import gone
from tests.kill import VICTIMS, command_study, kill_at_random, record_of, run


@pytest.mark.parametrize("sampler", ["mads", "tpe"])
@pytest.mark.parametrize(
    "lines", [(), pytest.param(("constraints: [y <= 1, size <= 4]",), marks=pytest.mark.slow)], ids=["", "constraints"]
)
def test_ten_kills_leave_the_record_of_an_uninterrupted_study(
    tmp_path: Path, sampler: str, lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")  # so that ten kills fall inside the study
    whole = command_study(tmp_path / "whole", *lines, sampler=sampler)
    assert run(whole).returncode == 0
    killed = command_study(tmp_path / "killed", *lines, sampler=sampler)
    victims, which = Counter(), VICTIMS if sampler == "mads" else VICTIMS[:2]

    def wait(chance: random.Random) -> float:
        return chance.uniform(0.4, 1.4)

    for victim, family in kill_at_random(killed, 10, seed=7, wait=wait, victims=which):
        victims[victim] += 1
        assert gone(family), f"processes outlived the kill of the {victim}"
    ended = run(killed)
    assert ended.returncode == 0, ended.stderr
    assert victims == Counter(which[number % len(which)] for number in range(10))
    assert record_of(killed) == record_of(whole)
    assert not list((tmp_path / "killed" / "study").glob("*lease*"))
    runs = Counter((tmp_path / "killed" / "finished.log").read_text().split())
    again = {trial: count for trial, count in runs.items() if count > 1}
    crashed = {str(t["trial"]) for t in record_of(killed) if t["ending"] == "crashed"}
    # A trial runs again only where a kill fell between its end and its tell (or as its own attempts do).
    assert sum(again[trial] - 1 for trial in again if trial not in crashed) <= 10 * 2
    assert run(killed).returncode == 0
    assert Counter((tmp_path / "killed" / "finished.log").read_text().split()) == runs
