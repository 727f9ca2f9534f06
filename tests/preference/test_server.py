"""The server as a real program over HTTP: what it takes, what it refuses, what it gives away (nothing)."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.preference import votes
from meshtune.preference.commands import analyze
from meshtune.preference.limits import BURST, LONGEST_BODY, Limits
from meshtune.preference.store import Store
from tests.preference.made import MODELS, Browser, Server, made, served, start

ASKS = ("First language", "Degree")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test takes annotators of its own."""
    return made(tmp_path_factory.mktemp("served") / "hidden-study", questions=4, annotators=9, asks=ASKS)


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[Server]:
    with served(study) as running:
        yield running


def held(study: Path, annotator: int) -> list[tuple[str, int]]:
    """Choice and revision of each vote that counts."""
    with contextlib.closing(Store(study)) as store:
        found = [store.current(annotator, position) for position in range(1, store.answered(annotator) + 1)]
        return [(vote.choice, vote.revision) for vote in found if vote is not None]


def test_a_person_goes_through(study: Path, server: Server) -> None:
    browser = Browser(server.url)
    page = browser.get(server.links["p01"])
    assert browser.at == "/"
    assert "agree" in page.body
    assert browser.post("/", page.fields("/")).status == 400  # without the tick
    page = browser.post("/", {**page.fields("/"), "agree": "yes"})
    assert browser.at == "/about-you"
    page = browser.post("/about-you", {**page.fields("/about-you"), "said0": "Frisian", "said1": "<b>"})
    assert browser.at == "/instructions"
    page = browser.get("/q/1")
    page = browser.vote(page, "a", strength="2", comment="short\0and clear \u202e")
    page = browser.vote(page, "bad")
    assert browser.at == "/q/3"
    assert "2 of 4 saved" in page.body
    browser.get("/")
    assert browser.at == "/q/3"  # resumed
    page = browser.get("/q/1")  # undo
    assert "A is better" in page.body
    assert "short" in page.body
    page = browser.vote(page, "tie")
    browser.get("/q/9")
    assert browser.at == "/q/3"
    page = browser.vote(browser.get("/q/3"), "b")
    page = browser.vote(page, "b")
    assert browser.at == "/end"
    page = browser.post("/end", page.fields("/end"))
    assert "Thank you" in page.body
    browser.get("/q/1")
    assert browser.at == "/end"
    browser.close()
    assert held(study, 1) == [("tie", 2), ("bad", 1), ("b", 1), ("b", 1)]


def test_nothing_tells_whose_an_answer_is(study: Path, server: Server) -> None:
    browser = Browser(server.url)
    page = browser.begin(server.links["p02"])
    for _ in range(4):
        page = browser.vote(page, "a")
    browser.get("/static/prefer.css")
    browser.get("/static/prefer.js")
    browser.get("/nothing")
    admin = Browser(server.url)
    admin.get(server.admin)
    seen = "\n".join([*browser.seen, *admin.seen])
    seal = json.loads((study / "sealed.json").read_text())
    for word in (*MODELS, *seal["answers"], "hidden-study", str(study), "meshtune", "sealed", "uvicorn"):
        if word == "meshtune":
            assert all(word not in text for text in browser.seen)
        else:
            assert word not in seen, word
    browser.close()
    admin.close()


def test_who_has_no_link_sees_nothing(server: Server) -> None:
    stranger = Browser(server.url)
    token = server.links["p01"].rpartition("/")[2]
    for path in ("/", "/q/1", "/end", "/instructions", "/about-you", "/admin", "/admin/x", f"/a/{token[:-1]}", "/a/x"):
        assert stranger.get(path).status == 401, path
    for path in ("/docs", "/openapi.json", "/redoc", "/static/../store.py", "/static/base.html", "/preference.db"):
        assert stranger.get(path).status == 404, path
    assert stranger.post("/q/1", {"choice": "a"}).status == 401
    assert stranger.post("/admin/close", {"sure": "yes"}).status == 401
    stranger.close()


def test_forms_of_others_are_refused(server: Server) -> None:
    browser = Browser(server.url)
    page = browser.begin(server.links["p04"])
    fields = {**page.fields("/q/1"), "choice": "a"}
    assert browser.post("/q/1", {**fields, "token": "x" * 22}).status == 403
    assert browser.once("POST", "/q/1", "choice=a", Content_Type="text/plain").status == 400
    assert browser.post("/q/1", {**fields, "choice": "c"}).status == 400
    assert browser.post("/q/1", {**fields, "revision": "-1"}).status == 400
    assert browser.once("POST", "/q/1", "token=%ff&choice=a").status == 400
    assert browser.once("POST", "/q/1", "&".join(f"a{n}=1" for n in range(99))).status == 400
    assert browser.once("POST", "/q/1", "a" * (LONGEST_BODY + 1)).status == 413
    browser.close()
    other = Browser(server.url, cookies=browser.cookies)
    other.begin(server.links["p05"])  # in the same browser
    reply = other.post("/q/1", fields)
    assert reply.status == 403
    assert "Traceback" not in reply.body
    other.close()


def test_two_tabs_and_double_clicks(study: Path, server: Server) -> None:
    browser = Browser(server.url)
    page = browser.begin(server.links["p06"])
    second = Browser(server.url, cookies=browser.cookies)
    fields = page.fields("/q/1")
    clicks = [Browser(server.url, cookies=dict(browser.cookies)) for _ in range(6)]
    threads = [threading.Thread(target=one.post, args=("/q/1", {**fields, "choice": "b"})) for one in clicks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.at for one in clicks} == {"/q/2"}
    reply = second.post("/q/1", {**fields, "choice": "a"})
    assert reply.status == 409
    assert "stands" in reply.body
    for one in (*clicks, second, browser):
        one.close()
    assert held(study, 6) == [("b", 1)]


def test_the_admin_revokes_renews_and_removes(study: Path, server: Server) -> None:
    admin = Browser(server.url)
    page = admin.get(server.admin)
    person = Browser(server.url)
    first = person.begin(server.links["p03"])
    person.vote(first, "a")
    page = admin.get("/admin")
    assert "of 36 answers are saved" in page.body
    fields = {**page.fields("/admin/close"), "annotator": "3"}
    admin.post("/admin/revoke", fields)
    assert person.get("/q/2").status == 401
    assert person.get(server.links["p03"]).status == 401
    page = admin.post("/admin/renew", fields)
    assert person.get(server.links["p03"]).status == 401
    renewed = page.body.partition('aria-label="Link of p03"')[0].rpartition('href="')[2].partition('"')[0]
    person.get(renewed)
    assert person.at == "/q/2"
    gone = Browser(server.url)
    gone.vote(gone.begin(server.links["p09"]), "a")
    assert admin.post("/admin/withdraw", {**fields, "annotator": "9"}).status == 400
    admin.post("/admin/withdraw", {**fields, "annotator": "9", "sure": "yes"})
    assert gone.get("/q/2").status == 401
    assert held(study, 9) == []
    for one in (admin, person, gone):
        one.close()


def test_a_killed_server_has_every_vote_that_it_answered_and_a_closed_one_takes_none(tmp_path: Path) -> None:
    study = made(tmp_path / "p", questions=4, annotators=1, asks=ASKS)
    server = start(study)
    port = int(server.url.rpartition(":")[2])
    browser = Browser(server.url)
    page = browser.begin(server.links["p01"])
    page = browser.vote(page, "a")
    server.kill()
    browser.close()
    with pytest.raises(InputError, match="--close"):
        analyze(study)
    with served(study, port=port) as server:
        assert browser.at == "/q/2"
        page = browser.vote(browser.get("/q/2"), "b")
        admin = Browser(server.url)
        fields = admin.get(server.admin).fields("/admin/close")
        assert admin.post("/admin/close", {**fields, "token": "x", "sure": "yes"}).status == 403
        assert admin.post("/admin/close", fields).status == 400
        assert "closed" in admin.post("/admin/close", {**fields, "sure": "yes"}).body
        assert "closed" in browser.vote(page, "a").body
        browser.close()
        admin.close()
    found = votes.of_study(study)
    assert [(vote.order, vote.choice) for vote in found.votes] == [(1, "a"), (2, "b")]
    assert {vote.left for vote in found.votes} <= set(MODELS)
    assert found.screening == ({"annotator": "p01", "First language": "", "Degree": ""},)


def test_headers(server: Server) -> None:
    page = Browser(server.url)
    reply = page.get("/nothing")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store"
    assert "server" not in reply.headers
    page.once("GET", server.links["p07"])
    cookie = page.seen[-1].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    page.close()


def test_another_address_and_a_port_that_is_taken(study: Path, server: Server, tmp_path: Path) -> None:
    from meshtune.preference.serve import serve

    port = int(server.url.rpartition(":")[2])
    with pytest.raises(InputError, match="cannot be listened on"):
        serve(study, "127.0.0.1", port, None, lambda facts: None)
    with served(made(tmp_path / "p"), "--host", "0.0.0.0") as everywhere:
        assert everywhere.url.startswith(f"http://{socket.gethostname()}:")


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_the_rate_of_each_sender_is_limited() -> None:
    import asyncio

    now = [0.0]
    app = Limits(_ok, key=b"k", clock=lambda: now[0])
    statuses = list[int]()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def ask(client: str, times: int) -> None:
        scope = {"type": "http", "headers": [], "client": (client, 1)}
        for _ in range(times):
            await app(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(ask("a", int(BURST) + 5))
    assert statuses == [200] * int(BURST) + [429] * 5
    asyncio.run(ask("b", 1))
    now[0] = 1.0
    asyncio.run(ask("a", 1))
    assert statuses[-2:] == [200, 200]
    scope = {"type": "http", "client": ("c", 1), "headers": [(b"content-length", b"9" * 5000)]}  # Python reads no such
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    assert statuses[-1] == 413


def test_what_is_no_request_is_answered(server: Server) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    connection.putrequest("POST", "/q/1", skip_accept_encoding=True)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()
