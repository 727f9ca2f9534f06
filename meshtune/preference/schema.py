"""The database of a preference study: its tables, and how it is made. It knows answers by id, never whose they are.

A changed vote is another revision in `vote`, and the last one counts; votes are removed only where who gave them asks.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from meshtune.errors import Fault, InputError, StorageError
from meshtune.export import takeaway
from meshtune.preference import private
from meshtune.preference.design import plan
from meshtune.preference.private import DATABASE
from meshtune.preference.questions import Answer, Question
from meshtune.system import whole_file

LAYOUT = 1
Origin = Literal["people", "simulated", "model judgements"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE question (id INTEGER PRIMARY KEY, source TEXT NOT NULL, text TEXT NOT NULL, category TEXT NOT NULL);
CREATE TABLE answer (
    id TEXT PRIMARY KEY, question INTEGER NOT NULL REFERENCES question, text TEXT NOT NULL, flag TEXT NOT NULL);
CREATE TABLE annotator (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1,
    revoked INTEGER NOT NULL DEFAULT 0, consented REAL, said TEXT, finished REAL);
CREATE TABLE task (
    annotator INTEGER NOT NULL REFERENCES annotator, position INTEGER NOT NULL,
    question INTEGER NOT NULL REFERENCES question,
    a TEXT NOT NULL REFERENCES answer, b TEXT NOT NULL REFERENCES answer,
    PRIMARY KEY (annotator, position)) WITHOUT ROWID;
CREATE TABLE vote (
    annotator INTEGER NOT NULL, position INTEGER NOT NULL, revision INTEGER NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'bad')),
    strength INTEGER CHECK (strength BETWEEN 1 AND 3), comment TEXT NOT NULL, seconds REAL, at REAL NOT NULL,
    PRIMARY KEY (annotator, position, revision),
    FOREIGN KEY (annotator, position) REFERENCES task) WITHOUT ROWID;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that commits only when told to, and whose commits are on disk. Raises StorageError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be opened as a database ({error})") from error
    return connection


@dataclass(frozen=True)
class Plan:
    """What a study asks.

    Attributes:
        answers: by model name, then by question id: every model answers every question.
        annotators: how many; origin: of their votes, one of `ORIGINS`. asks: screening questions, may be none.
        made: how the answers came about, for the seal. seed: of orders and sides.
    """

    questions: Sequence[Question]
    answers: Mapping[str, Mapping[str, Answer]]
    annotators: int
    seed: int
    origin: str = "people"
    asks: Sequence[str] = ()
    made: Mapping[str, Any] | None = None


def check(study: Plan) -> None:
    """Raises InputError with all that is missing: two models, an annotator, a question, an answer of each model."""
    faults = []
    if len(study.answers) < 2:
        faults.append(f"a comparison needs two models' answers; there are those of {len(study.answers)}")
    if not 1 <= study.annotators <= 10_000:
        faults.append(f"--annotators {study.annotators}: give 1 to 10000")
    for name, answers in study.answers.items():
        missing = [question.id for question in study.questions if question.id not in answers]
        if missing:
            what = f"`{name}` has no answer to {len(missing)} of {len(study.questions)} questions"
            faults.append(f"{what}, such as `{missing[0]}`: every model must answer every question")
    if faults:
        raise InputError("\n".join(faults))


def opened(folder: Path) -> sqlite3.Connection:
    """A connection to the study's database. Raises InputError: none there, damaged, or of another version."""
    path = folder / DATABASE
    if not path.is_file():
        raise InputError(Fault("there is no preference study; `meshtune prefer create` makes one", folder))
    connection = connect(path)
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
        for table in ("question", "answer", "annotator", "task", "vote"):
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise InputError(Fault(f"is damaged, or no preference study ({error}): put back a copy of it", path)) from error
    if row is None or row[0] != str(LAYOUT):
        connection.close()
        made = "none" if row is None else row[0]
        raise InputError(Fault(f"was made by another version of meshtune (layout {made}, not {LAYOUT})", path))
    return connection


def check_free(folder: Path) -> None:
    """Raise InputError where something stands there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty, and nothing in it is overwritten: name another folder with --out")


def create(folder: Path, study: Plan) -> None:
    """Make the study's folder, whole or not at all. Raises InputError where something stands there, StorageError."""
    check(study)
    check_free(folder)
    with whole_file.writing(folder), takeaway.written_aside(folder) as aside:
        aside.chmod(0o700)
        _fill(aside, study)


def _fill(folder: Path, study: Plan) -> None:
    models = tuple(study.answers)
    ids = {(name, question.id): secrets.token_hex(8) for name in models for question in study.questions}
    seal = private.Seal(models, {ids[key]: key[0] for key in ids}, study.made or {})
    (folder / DATABASE).touch(mode=0o600)
    digest = private.write_seal(folder, seal)
    private.write_secrets(folder)
    with contextlib.closing(connect(folder / DATABASE)) as connection:
        connection.executescript(TABLES)
        connection.execute("BEGIN")
        meta = {"layout": LAYOUT, "seal": digest, "asks": json.dumps(list(study.asks)), "seed": study.seed}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(key, str(value)) for key, value in meta.items()])
        _fill_questions(connection, study, ids)
        _fill_tasks(connection, study, models, ids)
        connection.execute("COMMIT")


def _fill_questions(connection: sqlite3.Connection, study: Plan, ids: Mapping[tuple[str, str], str]) -> None:
    rows = [(number, q.id, q.text, q.category) for number, q in enumerate(study.questions)]
    connection.executemany("INSERT INTO question VALUES (?, ?, ?, ?)", rows)
    number_of = {question.id: number for number, question in enumerate(study.questions)}
    answers = []
    for (name, question), key in ids.items():
        answer = study.answers[name][question]
        answers.append((key, number_of[question], answer.text, answer.flag))
    connection.executemany("INSERT INTO answer VALUES (?, ?, ?, ?)", sorted(answers))  # their order tells nothing


def _fill_tasks(
    connection: sqlite3.Connection, study: Plan, models: Sequence[str], ids: Mapping[tuple[str, str], str]
) -> None:
    digits = max(2, len(str(study.annotators)))
    for number, tasks in enumerate(plan(study.annotators, len(study.questions), len(models), study.seed), start=1):
        row = (number, f"p{number:0{digits}}", study.origin)
        connection.execute("INSERT INTO annotator (id, name, origin) VALUES (?, ?, ?)", row)
        rows = []
        for position, task in enumerate(tasks, start=1):
            question = study.questions[task.question].id
            sides = (ids[models[task.left], question], ids[models[task.right], question])
            rows.append((number, position, task.question, *sides))
        connection.executemany("INSERT INTO task VALUES (?, ?, ?, ?, ?)", rows)
