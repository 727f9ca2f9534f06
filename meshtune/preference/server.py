"""What an annotator sees: welcome, screening, instructions, one pair a page, the end. And the page of those who run the
study: who is how far, links, closing.

Guarantees: nothing that is sent tells whose an answer is (the server does not know); a page says an answer is saved
only when it is on disk; a reload, a double click or another tab adds nothing; without JavaScript all of it works. The
administrators' page shows no vote and no tally; it is opened by a token of its own, which a cookie then stands for.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from markupsafe import Markup

from meshtune.errors import StorageError, last_words
from meshtune.preference import private
from meshtune.preference.limits import COOKIE, Limits
from meshtune.preference.markdown import render
from meshtune.preference.pages import Pages, Refused, form, onward, whole, words
from meshtune.preference.private import Secrets
from meshtune.preference.store import CHOICES, Annotator, Saved, Store, Vote

LONGEST_COMMENT = 2000
LONGEST_SAID = 200
_NO_LINK = "This study is for invited people: open the link that you were given."


class Desk:
    """The study as its pages need it. `secure`: the server is reached by https."""

    def __init__(self, store: Store, secrets: Secrets, *, secure: bool):
        self.store, self.secrets, self.secure = store, secrets, secure
        self.pages = Pages()
        # All at once and before the first visit, so that how long a page takes says nothing about an answer.
        self.answers = {key: Markup(render(text)) for key, text in store.answers().items()}

    def who(self, request: Request) -> Annotator:
        """Whose browser it is. Raises Refused where the link is not, or no longer, one of this study."""
        found = private.read_link(self.secrets.key, request.cookies.get(COOKIE, ""))
        annotator = self.store.annotator(found[0]) if found is not None else None
        if found is None or annotator is None:
            raise Refused(401, _NO_LINK)
        if annotator.revoked or annotator.version != found[1]:
            raise Refused(401, "This link is no longer valid: ask for another one.")
        return annotator

    def token(self, annotator: Annotator) -> str:
        """What the annotator's forms carry: it shows a form of another person's tab."""
        return private.form_token(self.secrets.key, private.link(self.secrets.key, annotator.id, annotator.version))

    async def sent(self, request: Request) -> tuple[Annotator, dict[str, str]]:
        """Who sent a form, and its fields. Raises Refused where another page or person made it."""
        annotator = self.who(request)
        fields = await form(request)
        if not private.same(fields.get("token", ""), self.token(annotator)):
            raise Refused(403, "In the meantime another link was opened in this browser: open your own link again.")
        return annotator, fields

    def next_path(self, annotator: Annotator) -> str:
        """Where the annotator goes on."""
        if annotator.finished is not None or self.store.closed:
            return "/end"
        if annotator.consented is None:
            return "/"
        if self.store.asks and annotator.said is None:
            return "/about-you"
        answered = self.store.answered(annotator.id)
        if answered == 0:
            return "/instructions"
        return f"/q/{answered + 1}" if answered < self.store.positions else "/end"

    def shared(self, annotator: Annotator, title: str) -> dict[str, Any]:
        """What every page of an annotator shows."""
        return {
            "title": title,
            "token": self.token(annotator),
            "count": self.store.positions,
            "answered": self.store.answered(annotator.id),
        }


def build(store: Store, secrets: Secrets, *, secure: bool = False) -> Limits:
    """The application, as ASGI. `secure`: it is reached by https."""
    desk = Desk(store, secrets, secure=secure)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _entrance(app, desk)
    _questions(app, desk)
    _administration(app, store, desk.pages, secrets, secure=secure)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return desk.pages.refused(error)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def missing(request: Request, error: Exception) -> Response:
        return desk.pages.refused(Refused(404, "Check the address, or open your link again."))

    @app.exception_handler(StorageError)
    async def unwritten(request: Request, error: StorageError) -> Response:
        print(f"meshtune: {error}", file=sys.stderr, flush=True)
        return desk.pages.refused(Refused(503, "It is not stored. Tell those who run the study, and try again later."))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        print(f"meshtune: {request.method}: {last_words(error)}", file=sys.stderr, flush=True)
        return desk.pages.refused(Refused(500, "Your saved answers are safe. Load the page again."))

    return Limits(app, key=secrets.key)


def _entrance(app: FastAPI, desk: Desk) -> None:
    store = desk.store

    @app.get("/a/{token}")
    async def enter(token: str) -> Response:
        if private.read_link(desk.secrets.key, token) is None:
            raise Refused(401, _NO_LINK)
        response = onward("/")
        response.set_cookie(
            COOKIE, token, max_age=90 * 86400, httponly=True, samesite="lax", secure=desk.secure, path="/"
        )
        return response

    @app.get("/")
    async def welcome(request: Request) -> Response:
        annotator = desk.who(request)
        path = desk.next_path(annotator)
        return desk.pages.page("welcome", **desk.shared(annotator, "Welcome")) if path == "/" else onward(path)

    @app.post("/")
    async def consent(request: Request) -> Response:
        annotator, fields = await desk.sent(request)
        if fields.get("agree") != "yes":
            raise Refused(400, "Only who agrees can take part.", onward="/")
        await asyncio.wrap_future(store.consent(annotator.id))
        return onward("/about-you" if store.asks and annotator.said is None else "/instructions")

    @app.get("/about-you")
    async def about(request: Request) -> Response:
        annotator = desk.who(request)
        if annotator.consented is None or not store.asks:
            return onward("/")
        return desk.pages.page("about", asks=store.asks, **desk.shared(annotator, "About you"))

    @app.post("/about-you")
    async def say(request: Request) -> Response:
        annotator, fields = await desk.sent(request)
        if annotator.finished is None and not store.closed:
            said = {ask: words(fields.get(f"said{n}", ""), LONGEST_SAID) for n, ask in enumerate(store.asks)}
            await asyncio.wrap_future(store.say(annotator.id, said))
        return onward("/instructions")

    @app.get("/instructions")
    async def instructions(request: Request) -> Response:
        annotator = desk.who(request)
        if annotator.consented is None:
            return onward("/")
        return desk.pages.page("instructions", **desk.shared(annotator, "How it works"))

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        return desk.pages.static(name)

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)


def _questions(app: FastAPI, desk: Desk) -> None:
    store = desk.store

    @app.get("/q/{number}")
    async def ask(request: Request, number: str) -> Response:
        annotator = desk.who(request)
        position = whole(number, 1, store.positions)
        answered = store.answered(annotator.id)
        if annotator.finished is not None or store.closed or annotator.consented is None:
            return onward(desk.next_path(annotator))
        if position is None or position > answered + 1:
            return onward(f"/q/{answered + 1}" if answered < store.positions else "/end")
        page = store.page(annotator.id, position)
        return desk.pages.page(
            "question",
            position=position,
            question=page.question,
            sides={"A": desk.answers[page.a], "B": desk.answers[page.b]},
            vote=store.current(annotator.id, position),
            now=int(1000 * time.time()),
            longest=LONGEST_COMMENT,
            **desk.shared(annotator, f"Question {position} of {store.positions}"),
        )

    @app.post("/q/{number}")
    async def vote(request: Request, number: str) -> Response:
        annotator, fields = await desk.sent(request)
        given = _vote(whole(number, 1, store.positions), fields)
        if given is None or annotator.consented is None:
            raise Refused(400, "Go back to the question and choose again.", onward=desk.next_path(annotator))
        saved = await asyncio.wrap_future(store.vote(annotator.id, given))
        if saved is Saved.STALE:
            text = "The answer that was saved first stands. You can still change it on its page."
            raise Refused(409, text, onward=f"/q/{given.position}")
        is_last = saved is Saved.CLOSED or given.position == store.positions
        return onward("/end" if is_last else f"/q/{given.position + 1}")

    @app.get("/end")
    async def end(request: Request) -> Response:
        annotator = desk.who(request)
        if annotator.finished is not None:
            return desk.pages.page("thanks", closed=False, **desk.shared(annotator, "Thank you"))
        if store.closed:
            return desk.pages.page("thanks", closed=True, **desk.shared(annotator, "The study is closed"))
        if store.answered(annotator.id) < store.positions:
            return onward(desk.next_path(annotator))
        return desk.pages.page("end", **desk.shared(annotator, "Almost done"))

    @app.post("/end")
    async def finish(request: Request) -> Response:
        annotator, _ = await desk.sent(request)
        done = await asyncio.wrap_future(store.finish(annotator.id))
        return onward("/end" if done else desk.next_path(annotator))


def _vote(position: int | None, fields: Mapping[str, str]) -> Vote | None:
    """The vote of a form; None where it is none."""
    revision = whole(fields.get("revision"), 1, 10_000)
    choice = next((name for name in CHOICES if name == fields.get("choice")), None)
    if position is None or revision is None or choice is None:
        return None
    shown = whole(fields.get("shown"), 1, 10**14)
    took = -1.0 if shown is None else time.time() - shown / 1000
    strength, comment = whole(fields.get("strength"), 1, 3), words(fields.get("comment", ""), LONGEST_COMMENT)
    seconds = round(took, 3) if 0 <= took < 86400 else None
    return Vote(position, revision, choice, strength, comment, seconds)


ADMIN_COOKIE = "admin"
_NO_TOKEN = "Open the admin link that `meshtune prefer serve` printed."
_FOR_GOOD = {"close": "a closed study takes no more votes", "withdraw": "the answers are removed for good"}


def _administration(app: FastAPI, store: Store, pages: Pages, secrets: Secrets, *, secure: bool) -> None:
    """Add the admin's pages. `secure`: the server is reached by https."""
    key = secrets.key

    def check(request: Request) -> None:
        if not private.same(request.cookies.get(ADMIN_COOKIE, ""), private.admin_cookie(key)):
            raise Refused(401, _NO_TOKEN)

    async def sent(request: Request) -> dict[str, str]:
        check(request)
        fields = await form(request)
        if not private.same(fields.get("token", ""), private.form_token(key, "admin")):
            raise Refused(403, _NO_TOKEN)
        return fields

    @app.get("/admin/{token}")
    async def enter(token: str) -> Response:
        if not private.same(token, secrets.admin):
            raise Refused(401, _NO_TOKEN)
        response = onward("/admin")
        response.set_cookie(
            ADMIN_COOKIE, private.admin_cookie(key), httponly=True, samesite="strict", secure=secure, path="/admin"
        )
        return response

    @app.get("/admin")
    async def show(request: Request) -> Response:
        check(request)
        rows = [
            {
                **row,
                "last": _time(row["last"]),
                "link": private.link(key, row["annotator"].id, row["annotator"].version),
            }
            for row in store.progress()
        ]
        return pages.page(
            "admin",
            title="Progress",
            rows=rows,
            count=store.positions,
            total=sum(row["answered"] for row in rows),
            closed=store.closed,
            token=private.form_token(key, "admin"),
        )

    @app.post("/admin/{action}")
    async def act(request: Request, action: str) -> Response:
        fields = await sent(request)
        annotator = whole(fields.get("annotator"), 1, 999_999)
        of_one = {"withdraw": store.withdraw, "revoke": store.revoke, "renew": store.renew}
        if action != "close" and (action not in of_one or annotator is None):
            raise Refused(404, _NO_TOKEN, onward="/admin")
        if action in _FOR_GOOD and fields.get("sure") != "yes":
            raise Refused(400, f"Tick that you are sure: {_FOR_GOOD[action]}.", onward="/admin")
        await asyncio.wrap_future(store.end() if action == "close" or annotator is None else of_one[action](annotator))
        return onward("/admin")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
