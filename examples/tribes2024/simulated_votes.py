"""Votes of fair coins for a preference study that was made with `--simulated`: to try the analysis, and no evidence.

python simulated_votes.py STUDY OUT
"""

import json
import random
import sqlite3
import sys
from pathlib import Path

study, out = Path(sys.argv[1]), Path(sys.argv[2])
models = json.loads((study / "sealed.json").read_text(encoding="utf-8"))["answers"]
connection = sqlite3.connect(study / "preference.db")
tasks = connection.execute(
    "SELECT n.name, t.question, t.a, t.b FROM task t JOIN annotator n ON n.id = t.annotator ORDER BY n.name, t.position"
).fetchall()
coins = random.Random(0)
with out.open("w", encoding="utf-8") as file:
    for annotator, question, left, right in tasks:
        vote = {
            "annotator": annotator,
            "question": str(question),
            "left": models[left],
            "right": models[right],
            "choice": coins.choices(["a", "b", "tie"], [4, 4, 2])[0],
            "origin": "simulated",
        }
        file.write(json.dumps(vote) + "\n")
