"""A finished study of the tiny model, for tests of what is done with one, and one that was never trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshtune.config import presets
from meshtune.plan.locate import locate
from meshtune.record.log import Record
from meshtune.study.rounds import tune
from meshtune.trial import Ending, Outcome
from tests.conftest import WORDS
from tests.here import trials_here


def finished_study(folder: Path, model: Path, settings: str, *, rows: int) -> Path:
    """The study's folder. `settings` are the sections of its study.yaml but for the model and the worker."""
    lines = [
        {"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % len(WORDS)])}
        for n in range(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    worker = "worker: {name: local, processes: 1, threads: 1}\n"
    (folder / "study.yaml").write_text(f"model: {model}\n{settings}{worker}", encoding="utf-8")
    with trials_here():
        for _ in tune(locate(folder / "study.yaml")):
            pass
    return folder / "study"


def told_study(folder: Path, trials: Sequence[tuple[float, float]], objective: str = "") -> Path:
    """The folder of a study whose record was told (loss, perplexity) of each trial; `perplexity <= 2` constrains it."""
    study = folder / "study"
    study.mkdir()
    (study / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}')
    trained = "model: none\ndata: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
    (study / "study.yaml").write_text(objective or trained)
    limit = {"text": "perplexity <= 2", "quantity": "perplexity", "known": False}
    space = presets.recommended()
    record = Record(f"sqlite:///{study / 'study.db'}", "study", space, fixed={"constraints": [limit]})
    for number, (loss, perplexity) in enumerate(trials):
        point = {**presets.RECOMMENDED_BASELINE, "rank": 2 ** (2 + number)}
        record.enqueue(point, origin="enqueued" if number else "baseline", seed=0)
        outcome = Outcome(number, 1, Ending.COMPLETE, loss=loss, extra={"perplexity": perplexity})
        record.tell(outcome, elapsed=number)
    return study


def rewritten(study: Path, shares: Mapping[str, float]) -> None:
    """Give the stored answers other verdicts: right to items whose number, mixed, is below the candidate's share."""
    for path in (study / "evaluation" / "benchmarks" / "instruct-eval").glob("*/*.jsonl"):
        head, *lines = map(json.loads, path.read_text().splitlines())
        for line in lines:
            number = int(line["item"].rpartition("/")[2])
            line["correct"] = (number * 7) % 40 < 40 * shares[path.stem]
        path.write_text("\n".join(map(json.dumps, [head, *lines])) + "\n")
