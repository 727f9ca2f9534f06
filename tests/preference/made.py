"""Preference studies that tests share: how they are made, served as a real program, and answered over HTTP."""

import contextlib
import html
import http.client
import json
import re
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshtune.preference.questions import Answer, Question
from meshtune.preference.schema import Plan, create

MODELS = ("secret-model-one", "secret-model-two")


def made(folder: Path, questions: int = 6, annotators: int = 2, models: Sequence[str] = MODELS, **plan: Any) -> Path:
    """A study whose answers say, in words that only the tests know, whose they are."""
    asked = [Question(f"q{n}", f"What is {n} times 2?", "sums") for n in range(questions)]
    answers = {
        model: {q.id: Answer(q.id, f"Answer {chr(97 + number)}{n} is **{2 * n}**.") for n, q in enumerate(asked)}
        for number, model in enumerate(models)
    }
    create(folder, Plan(asked, answers, annotators, seed=3, **plan))
    return folder


@dataclass
class Server:
    """A server as a program of its own."""

    process: subprocess.Popen[str]
    url: str
    admin: str
    links: dict[str, str]

    def kill(self) -> None:
        """SIGKILL, as a lost machine would."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def start(folder: Path, *arguments: str, port: int = 0) -> Server:
    command = [sys.executable, "-m", "meshtune.cli", "prefer", "serve", str(folder), "--port", str(port), "--json"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the server ended at once"
    return Server(process, **json.loads(line))


@contextlib.contextmanager
def served(folder: Path, *arguments: str, port: int = 0) -> Iterator[Server]:
    server = start(folder, *arguments, port=port)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)
            server.process.wait(timeout=120)
            assert server.process.stdout is not None
            server.process.stdout.close()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: str

    def fields(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that is sent to `action`."""
        inside = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', self.body, re.DOTALL)
        assert inside is not None, self.body
        return {
            name: html.unescape(value)
            for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', inside[0])
        }


@dataclass
class Browser:
    """Cookies and redirects, and nothing else of a browser. `seen` is all that was received."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    at: str = ""
    _connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Reply:
        return self.send("POST", path, urllib.parse.urlencode(fields), **headers)

    def send(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        reply = self.once(method, path, body, **headers)
        while reply.status == 303:
            path = reply.headers["location"]
            reply = self.once("GET", path)
        self.at = path
        return reply

    def once(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        """One request, no redirect followed."""
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        path = path.removeprefix(self.url)
        if self._connection is None:
            self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=60)
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        got = {name.lower(): value for name, value in answer.getheaders()}
        for cookie in answer.headers.get_all("set-cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        self.seen.append(f"{path}\n{answer.headers}\n{text}")
        return Reply(answer.status, got, text)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def begin(self, link: str) -> Reply:
        """Open a link, agree, and go to the first pair."""
        reply = self.get(link)
        if self.at == "/":
            reply = self.post("/", {**reply.fields("/"), "agree": "yes"})
        if self.at == "/about-you":
            self.post("/about-you", reply.fields("/about-you"))
        return self.get("/q/1000")

    def vote(self, page: Reply, choice: str, **more: str) -> Reply:
        """Vote on the page that was got last."""
        return self.post(self.at, {**page.fields(self.at), "choice": choice, **more})
