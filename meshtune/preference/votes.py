"""Votes with the names of the models, as they are analysed and exported: from a closed study, or from a file.

A file is JSON lines: votes as they were exported, or reviews of FastChat's kind (a `score` of two numbers, or
two numbers before `text`), which are judgements of a model and are called so. Reading a study opens its seal.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from meshtune.errors import Fault, InputError, nearest
from meshtune.preference import private
from meshtune.preference.schema import Origin, opened
from meshtune.preference.store import Choice


@dataclass(frozen=True)
class Vote:
    """One judgement of one pair.

    Attributes:
        left, right: names of the models on side A and side B. choice: `a`, `b`, `tie` or `bad` (both bad).
        order: which of the annotator's pairs it was, from 1. strength: 1 to 3, or None. revisions: 1 where never
            changed. seconds: from page to vote, or None. at: ISO time, or "".
        left_length, right_length: characters of the answers. flags: what was found about them, such as `cut`.
        origin: one of `schema.ORIGINS`; only those of people are evidence.
    """

    annotator: str
    question: str
    left: str
    right: str
    choice: Choice
    order: int = 0
    strength: Annotated[int, Field(ge=1, le=3)] | None = None
    comment: str = ""
    seconds: float | None = None
    at: str = ""
    revisions: int = 1
    left_length: Annotated[int, Field(ge=0)] = 0
    right_length: Annotated[int, Field(ge=0)] = 0
    flags: str = ""
    category: str = ""
    origin: Origin = "people"

    def score(self, first: str) -> int:
        """1 where the model `first` won, -1 where the other did, 0 for a tie and for both bad."""
        side = {"a": 1, "b": -1}.get(self.choice, 0)
        return side if self.left == first else -side


_VOTE = TypeAdapter(Vote)


@dataclass(frozen=True)
class Votes:
    """All votes of a study, the models in the order in which they were given, and how answers were made."""

    models: tuple[str, ...]
    votes: tuple[Vote, ...]
    made: Mapping[str, Any]
    screening: tuple[Mapping[str, str], ...] = ()


def of_study(folder: Path, *, close: bool = False) -> Votes:
    """The votes of a closed study. Raises InputError where it is open and not to be closed, or its seal was changed."""
    with contextlib.closing(opened(folder)) as connection:
        connection.row_factory = sqlite3.Row
        meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if "closed" not in meta and not close:
            what = "the study is open, and nobody sees its votes before it is closed: close it on the admin page, "
            raise InputError(Fault(f"{what}or add --close; no more votes are taken then", folder))
        seal = private.open_seal(folder, meta["seal"])
        if "closed" not in meta:
            if connection.execute("SELECT count(*) FROM vote").fetchone()[0] == 0:
                raise InputError(Fault("there are no votes yet, so the study stays open", folder))
            now = datetime.datetime.now(datetime.UTC).timestamp()
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('closed', ?)", (repr(now),))
        query = """
            SELECT n.name, q.source, q.category, t.a, t.b, v.choice, v.position, v.strength, v.comment, v.seconds, v.at,
                max(v.revision) AS revisions, length(a.text) AS left_length, length(b.text) AS right_length,
                a.flag AS left_flag, b.flag AS right_flag, a.text = b.text AS same, n.origin
            FROM vote v JOIN task t USING (annotator, position) JOIN annotator n ON n.id = v.annotator
                JOIN question q ON q.id = t.question JOIN answer a ON a.id = t.a JOIN answer b ON b.id = t.b
            GROUP BY v.annotator, v.position ORDER BY v.annotator, v.position"""
        votes = tuple(_vote(row, seal) for row in connection.execute(query))
        said = connection.execute("SELECT name, said FROM annotator WHERE said IS NOT NULL ORDER BY id").fetchall()
    screening = tuple({"annotator": str(name), **json.loads(text)} for name, text in said)
    return Votes(seal.models, votes, seal.made, screening)


def _vote(row: sqlite3.Row, seal: private.Seal) -> Vote:
    flags = {row["left_flag"], row["right_flag"]} - {""}
    if row["same"]:
        flags.add("same")
    at = datetime.datetime.fromtimestamp(row["at"], datetime.UTC).isoformat(timespec="milliseconds")
    kept = ("choice", "strength", "comment", "seconds", "revisions", "left_length", "right_length", "category")
    return Vote(
        annotator=row["name"],
        question=row["source"],
        left=seal.answers[row["a"]],
        right=seal.answers[row["b"]],
        order=row["position"],
        at=at,
        flags=" ".join(sorted(flags)),
        origin=row["origin"],
        **{key: row[key] for key in kept},
    )


def of_file(path: Path) -> Votes:
    """Votes from JSON lines. Raises InputError with every fault."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Fault(f"cannot be read ({error})", path)) from error
    votes, faults = list[Vote](), list[Fault]()
    names, lines_of = _names(path), dict[tuple[str, ...], int]()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("it is no JSON object")
                vote = _review(value, names) if "answer1_id" in value else _exported(value)
                of = (vote.origin, vote.annotator, vote.question, *sorted((vote.left, vote.right)))
                if of in lines_of:
                    raise ValueError(f"line {lines_of[of]} is the same annotator's vote on the same pair")
                lines_of[of] = number
                votes.append(vote)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                why = f"it has no `{error.args[0]}`" if isinstance(error, KeyError) else error
                what = f"is no vote ({why}); give lines as `analyze` writes to votes.jsonl"
                faults.append(Fault(what, path, number))
    if faults or not votes:
        raise InputError(faults[:10] or Fault("holds no votes", path))
    models = tuple(dict.fromkeys(name for vote in votes for name in sorted((vote.left, vote.right))))
    return Votes(models, tuple(votes), {})


def _exported(value: Mapping[str, Any]) -> Vote:
    known = Vote.__dataclass_fields__
    wrong = [f"`{name}` is no key of one.{nearest(name, known)}" for name in value if name not in known]
    if "origin" not in value:
        wrong.append("`origin` is needed: it says whether the vote is evidence")
    try:
        vote = _VOTE.validate_python(value)
    except ValidationError as error:
        wrong += [f"`{fault['loc'][0]}`: {fault['msg']}" for fault in error.errors(include_url=False)]
    if wrong:
        raise ValueError("; ".join(wrong))
    if vote.left == vote.right:
        raise ValueError("`left` and `right` are the same model")
    return vote


def _review(value: Mapping[str, Any], names: tuple[str, str]) -> Vote:
    if "score" in value:
        left, right = (float(score) for score in value["score"])
    elif match := re.match(r"\s*(\d+(?:\.\d+)?)[\s,]+(\d+(?:\.\d+)?)", value["text"]):
        left, right = float(match[1]), float(match[2])
    else:
        raise ValueError("it has no `score`, and `text` does not begin with two scores")
    choice: Choice = "a" if left > right else "b" if right > left else "tie"
    judge = str(value.get("reviewer_id", "judge"))
    return Vote(judge, str(value["question_id"]), *names, choice, origin="model judgements")


def _names(path: Path) -> tuple[str, str]:
    """Models of a file of reviews: `review_A_B.jsonl`."""
    match = re.fullmatch(r"review_(.+)_(.+)", path.stem)
    return (match[1], match[2]) if match else ("assistant 1", "assistant 2")
