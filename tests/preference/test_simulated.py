"""Ten simulated annotators through HTTP: the analysis finds the preference and the bias that they were made with."""

import contextlib
import csv
import json
import sqlite3
import threading
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.preference.commands import analyze
from tests.preference.made import MODELS, Browser, made, served
from tests.preference.simulate import Truth, chances


def answer(url: str, link: str, choices: list[str]) -> None:
    browser = Browser(url)
    page = browser.begin(link)
    for choice in choices:
        page = browser.vote(page, choice)
    browser.post("/end", page.fields("/end"))
    browser.close()


def choices(study: Path, truth: Truth, seed: int) -> dict[str, list[str]]:
    """What each annotator chooses, in order: the simulation alone knows whose the answers are."""
    generator = np.random.default_rng(seed)
    seal = json.loads((study / "sealed.json").read_text())["answers"]
    with contextlib.closing(sqlite3.connect(study / "preference.db")) as connection:
        query = "SELECT n.name, t.question, t.a FROM task t JOIN annotator n ON n.id = t.annotator"
        tasks = connection.execute(f"{query} ORDER BY t.annotator, t.position").fetchall()
    leads = generator.normal(0, truth.question_sd, 1000)
    own = {name: generator.normal(0, truth.annotator_sd) for name in dict.fromkeys(task[0] for task in tasks)}
    found: dict[str, list[str]] = {}
    for name, question, left in tasks:
        side = 1 if seal[left] == MODELS[0] else -1
        lead = truth.lead + truth.side * side + leads[question] + own[name]
        wins = float(chances(truth, np.array(lead)))
        drawn = generator.random()
        score = side * (1 if drawn < wins else 0 if drawn < wins + truth.ties else -1)
        found.setdefault(name, []).append({1: "a", 0: "tie", -1: "b"}[score])
    return found


def test_the_built_in_preference_and_bias_are_found(tmp_path: Path) -> None:
    truth = Truth(lead=0.3, side=0.2, question_sd=0.2, annotator_sd=0.05)
    study = made(tmp_path / "p", questions=30, annotators=10, origin="simulated")
    votes = choices(study, truth, 5)
    with served(study) as server:
        threads = [
            threading.Thread(target=answer, args=(server.url, link, votes[name])) for name, link in server.links.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    result = analyze(study, close=True)
    pair = result["pairs"][0]
    assert (pair["first"], pair["votes"], result["evidence"]) == (MODELS[0], 300, False)
    assert pair["net"]["low"] < truth.lead < pair["net"]["high"]
    assert pair["net"]["low"] > 0
    assert pair["mixed"]["side"]["low"] < truth.side < pair["mixed"]["side"]["high"]
    assert pair["left"]["share"] > 0.5
    assert pair["left"]["p"] < 0.05
    stamp = "SIMULATED VOTES"
    files = {name: Path(path).read_text(encoding="utf-8") for name, path in result["files"].items()}
    assert all(text.startswith(stamp) for text in result["verdicts"])
    tables = files["index.html"].count("<table>")
    assert files["index.html"].count('class="stamp"') == tables + 1 == 5  # and the head; the figure has its own
    assert stamp in files["figure3.svg"]
    for name in ("votes.csv", "questions.csv", "annotators.csv"):
        rows = list(csv.DictReader(files[name].splitlines()))
        assert {row["origin"] for row in rows} == {"simulated"}
    lines = [json.loads(line) for line in files["votes.jsonl"].splitlines()]
    assert len(lines) == 300
    assert {line["origin"] for line in lines} == {"simulated"}
    assert all(line["seconds"] is not None and line["at"] for line in lines)
    again = CliRunner().invoke(app, ["prefer", "analyze", result["files"]["votes.jsonl"], "--json"])
    assert json.loads(again.stdout)["pairs"][0]["net"] == pair["net"]
