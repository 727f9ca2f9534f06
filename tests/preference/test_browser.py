"""The pages in a real browser: looks, keys, accessibility; and ten people at once while the server is killed."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from meshtune.preference import votes
from meshtune.preference.questions import Answer, Question
from meshtune.preference.schema import Plan, create
from meshtune.preference.store import Store
from tests.preference.made import MODELS, Server, served, start

ROOT = Path(__file__).parents[2]
AXE = Path(os.environ.get("AXE", ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"))
WIDE, PHONE = (1280, 800), (390, 844)
WORDS = {"a": "A is better", "b": "B is better", "tie": "Tie", "bad": "Both bad"}
SEALED = {"learning_rate": 3.25e-4, "rank": 64, "trial": 7, "folder": "some/hidden/place"}

NASTY = [
    "<script>document.title = 'taken'; fetch('/admin/close')</script>",
    "<img src=x onerror=\"document.title='taken'\"> <b onmouseover=alert(1)>bold</b>",
    "[click](javascript:document.title='taken') [data](data:text/html,<script>1</script>)",
    "**open `code ```\n| a | b\n|--\n> > > *x _y\n\n[[[((",
    "word " * 20_000,
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\n\n- \u0648\u0627\u062d\u062f\n- two",
    "```python\ndef f(x):\n    return '" + "x" * 300 + "'\n```\n\n| name | value |\n|---|---|\n| a | 1 |",
    "",
]


def made(folder: Path, count: int, annotators: int) -> Path:
    asked = [Question(f"q{n}", f"Question {n}: what is\n{n} plus {n}?") for n in range(count)]
    answers = {
        model: {
            q.id: Answer(q.id, NASTY[(n + shift) % len(NASTY)] if n % 3 == 0 else f"It is **{2 * n}**, side {shift}.")
            for n, q in enumerate(asked)
        }
        for shift, model in enumerate(MODELS)
    }
    create(folder, Plan(asked, answers, annotators, seed=1, made=SEALED, asks=("First language",)))
    return folder


def agree(page: Any, link: str) -> None:
    page.goto(link)
    page.check("#agree")
    page.click("button.main")
    page.click("button.main")
    page.click("a.main")
    page.wait_for_url("**/q/*")  # and loaded: a key that is pressed before that goes nowhere


def number(page: Any) -> int:
    """Which question is shown; one beyond the last at the end."""
    return int(page.url.rpartition("/q/")[2]) if "/q/" in page.url else 10_000


def choose(page: Any, choice: str) -> None:
    page.click(f'button[value="{choice}"]')


def test_keys_undo_and_what_is_shown(browser: Any, tmp_path: Path) -> None:
    study = made(tmp_path / "p", 8, 1)
    with served(study) as server:
        context = browser.new_context(viewport={"width": PHONE[0], "height": PHONE[1]})
        page = context.new_page()
        errors = list[str]()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        agree(page, server.links["p01"])
        for key in ("ArrowLeft", "ArrowRight", "t", "b", "u", "ArrowLeft", "ArrowLeft"):
            at = page.url
            assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE[0]
            page.keyboard.press(key)
            page.wait_for_url(lambda url, at=at: url != at)
        page.click("summary")
        page.fill("#comment", "tab")  # its letters choose nothing
        page.press("#comment", "t")
        assert number(page) == 6
        page.uncheck("#keys")
        page.click("h1")
        page.keyboard.press("b")
        choose(page, "tie")
        assert "taken" not in page.title()
        assert errors == []
        context.close()
        with contextlib.closing(Store(study)) as store:
            found = [store.current(1, position) for position in range(1, 7)]
    assert [vote.choice for vote in found if vote] == ["a", "b", "tie", "a", "a", "tie"]
    assert [vote.revision for vote in found if vote] == [1, 1, 1, 2, 1, 1]
    assert found[5] is not None
    assert found[5].comment == "tabt"


def _audit(page: Any) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    return [
        f"{page.url}: {one['id']} {[node['target'] for node in one['nodes']]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical", "moderate")
    ]


@pytest.mark.slow
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm install --prefix build/npm axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_axe_finds_nothing(browser: Any, tmp_path: Path, scheme: str, size: tuple[int, int]) -> None:
    study = made(tmp_path / "p", 8, 2)
    faults = list[str]()
    with served(study) as server:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, bypass_csp=True
        )
        page = context.new_page()
        page.goto(server.links["p01"])
        faults += _audit(page)
        page.check("#agree")
        page.click("button.main")
        faults += _audit(page)
        page.click("button.main")
        faults += _audit(page)
        page.click("a.main")
        for _ in range(8):
            faults += _audit(page)
            choose(page, "a")
        faults += _audit(page)
        page.goto(server.url + "/q/3")
        faults += _audit(page)
        page.goto(server.url + "/end")
        page.click("button.main")
        faults += _audit(page)
        page.goto(server.url + "/nothing")
        faults += _audit(page)
        page.goto(server.admin)
        faults += _audit(page)
        context.close()
    assert faults == []


class Person:
    """One annotator in a browser of their own; remembers what was said to be saved."""

    def __init__(self, browser: Any, server: Server, name: str, turn: int):
        self.context = browser.new_context()
        self.page = self.context.new_page()
        self.link, self.turn = server.links[name], turn
        self.saved: dict[int, str] = {}
        self.seen = list[str]()
        self.context.on("response", self._keep)
        self.page.on("dialog", lambda dialog: pytest.fail(dialog.message))

    def _keep(self, response: Any) -> None:
        self.seen.append(f"{response.url} {response.headers}")

    def step(self, server: Server, count: int, *, kill: bool = False) -> None:
        """One vote, in one of several ways; `kill` has the server killed while it is on its way."""
        page = self.page
        at = number(page)
        if at > count:
            return
        choice = ("a", "b", "tie", "bad")[(at * 7 + self.turn) % 4]
        self.seen.append(page.content())
        way = (at + self.turn) % 6
        if kill:
            with contextlib.suppress(Exception):
                page.click(f'button[value="{choice}"]', no_wait_after=True)
            return
        if way == 1:
            page.reload()
        if way == 2:
            page.dblclick(f'button[value="{choice}"]')
        elif way == 3:  # two tabs: the other one is slower, and chooses otherwise
            other = self.context.new_page()
            other.goto(page.url)
            choose(page, choice)
            page.wait_for_url(lambda url: not url.endswith(f"/q/{at}"))
            choose(other, "b" if choice != "b" else "a")
            other.wait_for_selector("h1")
            assert "another tab" in other.inner_text("h1")
            other.close()
        else:
            choose(page, choice)
        page.wait_for_url(lambda url: not url.endswith(f"/q/{at}"))
        self.saved[at] = choice
        if way == 4 and at < count:
            page.go_back()
            page.wait_for_selector(".note")
            page.click(".note a")
            page.wait_for_url(f"**/q/{at + 1}")

    def resume(self, server: Server, count: int, tried: str | None = None) -> None:
        """Open the study again after the server came back; a vote that was on its way is there, or it is not."""
        at = len(self.saved) + 1
        self.page.goto(self.link)
        if tried is not None and number(self.page) == min(at + 1, 10_000):
            self.saved[at] = tried
        assert number(self.page) in (len(self.saved) + 1, 10_000)


@pytest.mark.slow
def test_ten_people_at_once_and_a_server_that_is_killed(browser: Any, tmp_path: Path) -> None:
    count, people = 30, 10
    study = made(tmp_path / "hidden-study", count, people)
    server = start(study)
    port = int(server.url.rpartition(":")[2])
    try:
        everybody = [Person(browser, server, f"p{n:02}", n) for n in range(1, people + 1)]
        for person in everybody:
            agree(person.page, person.link)
        for round_ in range(count + 4):
            for person in everybody:
                person.step(server, count)
            if round_ in (7, 19):
                tried = {}
                for person in everybody[:5]:
                    at = number(person.page)
                    tried[person.turn] = ("a", "b", "tie", "bad")[(at * 7 + person.turn) % 4]
                    person.step(server, count, kill=True)
                server.kill()
                server = start(study, port=port)
                for person in everybody:
                    person.resume(server, count, tried.get(person.turn))
        for person in everybody:
            assert person.page.url.endswith("/end")
            person.seen.append(person.page.content())
            person.page.click("button.main")
            assert "Thank you" in person.page.inner_text("h1")
            assert person.page.title() != "taken"
    finally:
        server.kill()
    found = votes.of_study(study, close=True).votes
    assert len(found) == count * people
    held = {(vote.annotator, vote.order): vote.choice for vote in found}
    assert len(held) == count * people
    for person in everybody:
        assert {order: held[f"p{person.turn:02}", order] for order in person.saved} == person.saved
    assert all(vote.revisions == 1 for vote in found)
    received = "\n".join(text for person in everybody for text in person.seen)
    for word in (*MODELS, "hidden-study", str(tmp_path), "0.000325", "3.25e-4", "hidden/place", "learning_rate"):
        assert word not in received, word
