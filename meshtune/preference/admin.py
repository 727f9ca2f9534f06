"""The page of those who run the study: who is how far, links, closing. It shows no vote and no tally.

It is opened by a token of its own, which a cookie for this page then stands for.
"""

from __future__ import annotations

import asyncio
import datetime

from fastapi import FastAPI, Request
from fastapi.responses import Response

from meshtune.preference import links
from meshtune.preference.pages import Pages, Refused, form, onward, whole
from meshtune.preference.private import Secrets
from meshtune.preference.store import Store

COOKIE = "admin"
_NO_TOKEN = "Open the admin link that `meshtune prefer serve` printed."


def add(app: FastAPI, store: Store, pages: Pages, secrets: Secrets, *, secure: bool) -> None:
    """Add the admin's pages. `secure`: the server is reached by https."""
    key = secrets.key

    def check(request: Request) -> None:
        if not links.same(request.cookies.get(COOKIE, ""), links.admin_cookie(key)):
            raise Refused(401, _NO_TOKEN)

    async def sent(request: Request) -> dict[str, str]:
        check(request)
        fields = await form(request)
        if not links.same(fields.get("token", ""), links.form_token(key, "admin")):
            raise Refused(403, _NO_TOKEN)
        return fields

    @app.get("/admin/{token}")
    async def enter(token: str) -> Response:
        if not links.same(token, secrets.admin):
            raise Refused(401, _NO_TOKEN)
        response = onward("/admin")
        response.set_cookie(
            COOKIE, links.admin_cookie(key), httponly=True, samesite="strict", secure=secure, path="/admin"
        )
        return response

    @app.get("/admin")
    async def show(request: Request) -> Response:
        check(request)
        rows = [
            {
                **row,
                "last": _time(row["last"]),
                "link": links.link(key, row["annotator"].id, row["annotator"].version),
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
            token=links.form_token(key, "admin"),
        )

    @app.post("/admin/{action}")
    async def act(request: Request, action: str) -> Response:
        fields = await sent(request)
        annotator = whole(fields.get("annotator"), 1, 999_999)
        if action == "close":
            if fields.get("sure") != "yes":
                raise Refused(400, "Tick that you are sure: a closed study takes no more votes.", onward="/admin")
            await asyncio.wrap_future(store.end())
        elif action == "withdraw" and annotator is not None:
            if fields.get("sure") != "yes":
                raise Refused(400, "Tick that you are sure: the answers are removed for good.", onward="/admin")
            await asyncio.wrap_future(store.withdraw(annotator))
        elif action == "revoke" and annotator is not None:
            await asyncio.wrap_future(store.revoke(annotator))
        elif action == "renew" and annotator is not None:
            await asyncio.wrap_future(store.renew(annotator))
        else:
            raise Refused(404, _NO_TOKEN, onward="/admin")
        return onward("/admin")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
