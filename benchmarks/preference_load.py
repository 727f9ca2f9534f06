"""A preference study's server under load, beside bare inserts into SQLite: python benchmarks/preference_load.py

Three settings, each with a line of JSON at the end:
- durable votes a second of 48 annotators that vote as fast as the server answers, over durable inserts (WAL, FULL) of
  one process into a table of the same shape. To reach: half.
- median time of a page with one annotator over that with 50, each thinking for 5 to 10 seconds (people need longer).
  To reach: a third.
- 50 kB over the size of the largest page of two answers of 2,000 characters each. To reach: 1.
Both sides run interleaved, on the disk of the temporary folder. Clients are threads of this process, and share its
processor with the server: what they cost counts against it.
"""

import argparse
import contextlib
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from meshtune.preference.questions import Answer, Question
from meshtune.preference.schema import Plan, create
from tests.preference.made import Browser, Server, served

TEXT = "Some words of an answer, as long as answers are. " * 41
FAST, PEOPLE = 48, 50


def study(folder: Path, questions: int, annotators: int) -> Path:
    asked = [Question(str(n), f"Question {n}?") for n in range(questions)]
    answers = {model: {q.id: Answer(q.id, f"{model} {TEXT}") for q in asked} for model in ("one", "two")}
    create(folder, Plan(asked, answers, annotators, seed=0, origin="simulated"))
    return folder


def bare(folder: Path, seconds: float) -> float:
    """Durable inserts a second, one after the other."""
    with contextlib.closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS vote (a, b, c, d, e, f, PRIMARY KEY (a, b)) WITHOUT ROWID")
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            connection.execute("INSERT INTO vote VALUES (?, ?, 'a', NULL, '', ?)", (begun, count, time.time()))
            count += 1
        return count / (time.perf_counter() - begun)


def together(servers: Server, names: Sequence[str], one: Callable[[str], None]) -> None:
    threads = [threading.Thread(target=one, args=(servers.links[name],)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def votes_a_second(server: Server, names: Sequence[str], seconds: float) -> float:
    rates, ready = list[float](), threading.Barrier(len(names))

    def vote(link: str) -> None:
        browser = Browser(server.url)
        page = browser.begin(link)
        fields, count = page.fields(browser.at), 0
        at = int(browser.at.rpartition("/")[2])
        ready.wait()
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            reply = browser.once("POST", f"/q/{at}", "&".join(f"{k}={v}" for k, v in fields.items()) + "&choice=a")
            assert reply.status == 303, reply.body
            assert reply.headers["location"] == f"/q/{at + 1}"
            at, count = at + 1, count + 1
            time.sleep(0.055)  # below the limit of requests of one annotator
        browser.close()
        rates.append(count / passed)

    together(server, names, vote)
    return sum(rates)


def page_seconds(server: Server, names: Sequence[str], pages: int) -> tuple[float, int]:
    """Median seconds of a page, and the size of the largest in bytes."""
    times, sizes = list[float](), list[int]()

    def read(link: str) -> None:
        browser = Browser(server.url)
        browser.begin(link)
        for _ in range(pages):
            time.sleep(random.uniform(5, 10) if len(names) > 1 else 0.05)
            begun = time.perf_counter()
            page = browser.get(browser.at)
            times.append(time.perf_counter() - begun)
            sizes.append(len(page.body.encode()))
            browser.vote(page, "a")
        browser.close()

    together(server, names, read)
    return statistics.median(times), max(sizes)


def line(name: str, ours: float, theirs: float | None, ratios: Sequence[float], setting: str) -> None:
    middle = statistics.median(ratios)
    spread = {"ratio": round(middle, 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}
    print(json.dumps({"name": name, "ours": ours, "theirs": theirs, **spread, "setting": setting}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of votes")
    arguments = parser.parse_args()
    rates, inserts, alone, crowd, size = [], [], [], [], 0
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            inserts.append(bare(folder, arguments.seconds))
            with served(study(folder / "p", 400, FAST + PEOPLE + 1)) as server:
                names = list(server.links)
                rates.append(votes_a_second(server, names[:FAST], arguments.seconds))
                alone.append(page_seconds(server, names[-1:], 40)[0])
                found, size = page_seconds(server, names[FAST : FAST + PEOPLE], 4)
                crowd.append(found)
        print(
            f"{repeat + 1}: {rates[-1]:.0f} votes/s, {inserts[-1]:.0f} bare inserts/s, a page"
            f" {1000 * alone[-1]:.1f} ms alone, {1000 * crowd[-1]:.1f} ms with {PEOPLE}, {size} bytes",
            file=sys.stderr,
        )
    ratios = [ours / theirs for ours, theirs in zip(rates, inserts, strict=True)]
    line("preference_load", statistics.median(rates), statistics.median(inserts), ratios, "durable votes a second")
    ratios = [one / many for one, many in zip(alone, crowd, strict=True)]
    line("preference_load", statistics.median(crowd), statistics.median(alone), ratios, "median page, 50 annotators")
    line("preference_load", size, None, [50_000 / size], "bytes of a page, of 50000")


if __name__ == "__main__":
    main()
