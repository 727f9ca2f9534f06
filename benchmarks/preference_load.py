"""A preference study's server under load, beside bare inserts into SQLite: python benchmarks/preference_load.py

Each setting has a line of JSON at the end:
- durable votes a second of 400 annotators that vote as fast as the server answers, over durable inserts (WAL, FULL) of
  one process into a table of the same shape. To reach: half.
- the same votes over requests a second of a server with nothing behind it (uvicorn and FastAPI, which read the form and
  send the browser on): what HTTP alone takes of a processor.
- median time of a page with one annotator over that with 50, each thinking for 5 to 10 seconds (people need longer).
  To reach: a third.
- 50 kB over the size of the largest page of two answers of 2,000 characters each. To reach: 1.
All sides run interleaved, on the disk of the temporary folder. The clients of the first two are a process of their own,
of bare sockets; on two processors they take part of what the server could have.

`--sync-ms 2` lets every sync of a file take that much longer (by a library that is compiled with `cc` and preloaded),
as on a disk that keeps what it says; where syncing is free, that the server commits votes together gains nothing.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from meshtune.preference.limits import COOKIE
from meshtune.preference.questions import Answer, Question
from meshtune.preference.schema import Plan, create
from tests.preference.made import Browser, Server, served

TEXT = "Some words of an answer, as long as answers are. " * 41
FAST, PEOPLE = 400, 50
SYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int fd) { usleep(%(us)d); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { usleep(%(us)d); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"""


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


class Voter(asyncio.Protocol):
    """One annotator's connection: sends a vote, waits until it is saved, sends the next. `head` and `body` lack what
    differs between votes: the number of the question."""

    def __init__(self, head: str, body: str, begun: int):
        self.head, self.body, self.number, self.saved = head, body.encode(), begun, 0
        self.stopped = asyncio.get_running_loop().create_future()
        self.last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        self.transport.write((self.head % self.number).encode() + self.body)

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 303 "), data
        assert f"location: /q/{self.number + 1}\r\n".encode() in data, data
        self.saved, self.number = self.saved + 1, self.number + 1
        if self.last:
            self.transport.close()
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopped.done():
            self.stopped.set_result(self.saved)


def requests_a_second(port: int, forms: Sequence[tuple[str, str, int]], seconds: float) -> float:
    """Of as many connections as there are forms (head, body, number of the first question)."""

    async def run() -> float:
        begun = time.perf_counter()
        loop = asyncio.get_running_loop()
        made = [loop.create_connection(partial(Voter, *form), "127.0.0.1", port) for form in forms]
        voters = [voter for _, voter in await asyncio.gather(*made)]
        await asyncio.sleep(seconds)
        for voter in voters:
            voter.last = True
        saved: int = sum(await asyncio.gather(*(voter.stopped for voter in voters)))
        return saved / (time.perf_counter() - begun)

    return asyncio.run(run())


def apart(port: int, forms: Sequence[tuple[str, str, int]], seconds: float) -> float:
    """`requests_a_second` by a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rate: float = pool.apply(requests_a_second, (port, forms, seconds))
        return rate


def form(browser: Browser, fields: dict[str, str], first: int) -> tuple[str, str, int]:
    body = "&".join(f"{key}={value}" for key, value in fields.items()) + "&choice=a"
    lines = [
        "POST /q/%d HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        "Cookie: " + "; ".join(f"{name}={value}" for name, value in browser.cookies.items()),
    ]
    return "\r\n".join([*lines, "", ""]), body, first


def votes_a_second(server: Server, names: Sequence[str], seconds: float) -> tuple[float, list[tuple[str, str, int]]]:
    """And the forms that were sent."""
    forms = list[tuple[str, str, int]]()
    for name in names:
        link = server.links[name]
        browser = Browser(server.url, {COOKIE: link.rpartition("/")[2]})  # so that it is not limited as an address is
        page = browser.begin(link)
        forms.append(form(browser, page.fields(browser.at), int(browser.at.rpartition("/")[2])))
        browser.close()
    return apart(int(server.url.rpartition(":")[2]), forms, seconds), forms


def nothing_behind() -> FastAPI:
    """Reads the form and sends the browser on to the next question."""
    app = FastAPI()

    @app.post("/q/{number}")
    async def vote(request: Request, number: int) -> Response:
        await request.body()
        return RedirectResponse(f"/q/{number + 1}", status_code=303)

    return app


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """Its port."""
    code = (
        "import sys, uvicorn; sys.path[:0] = sys.argv[2:]; import preference_load as load;"
        "uvicorn.run(load.nothing_behind(), port=int(sys.argv[1]), log_level='warning', access_log=False,"
        "lifespan='off')"
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folders = (str(Path(__file__).parent), str(Path(__file__).parents[1]))
    process = subprocess.Popen([sys.executable, "-c", code, str(port), *folders])
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


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


def slow_syncs(milliseconds: float) -> None:
    """Start this program again with syncs that take longer, if they do not yet."""
    if not milliseconds or "MESHTUNE_SLOW_SYNCS" in os.environ:
        return
    library = Path(tempfile.mkdtemp()) / "sync.so"
    source = library.with_suffix(".c")
    source.write_text(SYNC % {"us": round(1000 * milliseconds)})
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "MESHTUNE_SLOW_SYNCS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of votes")
    parser.add_argument("--sync-ms", type=float, default=0, help="how much longer a sync takes")
    arguments = parser.parse_args()
    slow_syncs(arguments.sync_ms)
    rates, inserts, empty, alone, crowd, size = [], [], [], [], [], 0
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            inserts.append(bare(folder, arguments.seconds))
            with served(study(folder / "p", 200, FAST + PEOPLE + 1)) as server:
                names = list(server.links)
                rate, forms = votes_a_second(server, names[:FAST], arguments.seconds)
                rates.append(rate)
                alone.append(page_seconds(server, names[-1:], 40)[0])
                found, size = page_seconds(server, names[FAST : FAST + PEOPLE], 4)
                crowd.append(found)
            with bare_server() as port:
                empty.append(apart(port, forms, arguments.seconds))
        print(
            f"{repeat + 1}: {rates[-1]:.0f} votes/s, {inserts[-1]:.0f} bare inserts/s, {empty[-1]:.0f} bare requests/s,"
            f" a page {1000 * alone[-1]:.1f} ms alone, {1000 * crowd[-1]:.1f} ms with {PEOPLE}, {size} bytes",
            file=sys.stderr,
        )
    ratios = [ours / theirs for ours, theirs in zip(rates, inserts, strict=True)]
    setting = f"durable votes a second, a sync {arguments.sync_ms:g} ms longer"
    line("preference_load", statistics.median(rates), statistics.median(inserts), ratios, setting)
    ratios = [ours / theirs for ours, theirs in zip(rates, empty, strict=True)]
    line("preference_load", statistics.median(rates), statistics.median(empty), ratios, "votes over bare requests")
    ratios = [one / many for one, many in zip(alone, crowd, strict=True)]
    line("preference_load", statistics.median(crowd), statistics.median(alone), ratios, "median page, 50 annotators")
    line("preference_load", size, None, [50_000 / size], "bytes of a page, of 50000")


if __name__ == "__main__":
    main()
