"""The pages in a real browser: nothing is asked for, nothing overflows, tables sort; and what a public page holds."""

from pathlib import Path
from typing import Any

import pytest

from meshtune.record.log import Record
from meshtune.report.page import StudyContent, study_page
from meshtune.report.write import report
from meshtune.system.lease import lease
from tests.report.made import SECRET, made_study

WIDE, PHONE = (1280, 900), (390, 844)


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> Any:
    """The page at this size, once its figures are drawn; fails on an error, a request or an overflow."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    errors, requests = list[str](), list[str]()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))")
    assert errors == []
    assert [url for url in requests if not url.startswith("blob:")] == [path.as_uri()]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= size[0]
    return page


def column(page: Any, index: int) -> list[str]:
    texts: list[str] = page.locator(f"table.sortable tbody tr td:nth-child({index + 1})").all_inner_texts()
    return texts


@pytest.fixture(scope="module")
def page_of(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(report([study], out=tmp_path_factory.mktemp("page") / "page.html")["page"])


def test_the_page_sorts_its_trials(browser: Any, page_of: Path) -> None:
    page = opened(browser, page_of, WIDE)
    numbers = column(page, 0)
    head = page.locator("table.sortable th:nth-child(4)")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    losses = [float(text) for text in column(page, 3) if text != "-"]
    assert losses == sorted(losses)
    assert column(page, 0)[0].split()[-1] == "best"
    assert column(page, 3)[-1] == "-"  # what failed stays last, either way
    head.locator("button").click()
    assert [float(text) for text in column(page, 3) if text != "-"] == sorted(losses, reverse=True)
    assert column(page, 3)[-1] == "-"
    page.locator("table.sortable th:nth-child(1) button").click()
    assert column(page, 0) == numbers
    assert page.locator("#answers article").count() == 4
    assert page.locator("#answers script").count() == 0  # text of the data stays text
    page.close()


def test_on_a_phone_in_the_dark(browser: Any, page_of: Path) -> None:
    page = opened(browser, page_of, PHONE, "dark")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in paper[4:-1].split(",")) < 60
    assert page.evaluate("document.getElementById('figure-history').layout.font.color") == "#e6e9ef"
    page.close()


def test_tables_and_the_history_fit_a_phone(browser: Any, page_of: Path) -> None:
    """Whole numbers without scrolling, each with the head of its column; the chart's legend is below its axis."""
    page = opened(browser, page_of, PHONE)
    boxes = "[...document.querySelectorAll('table:not(.tall table)')].map((table) => table.parentElement)"
    assert set(page.evaluate(f"{boxes}.map((box) => box.scrollWidth - box.clientWidth)")) == {0}
    assert "validation loss: " in page.evaluate(
        "getComputedStyle(document.querySelector('#result td'), '::before').content"
    )
    box = page.locator("#figure-history").bounding_box()
    svg = page.locator("#figure-history .main-svg").first.bounding_box()
    assert svg["x"] + svg["width"] <= box["x"] + box["width"] + 1 <= PHONE[0]
    legend, axis = (page.locator(f"#figure-history .{part}").bounding_box() for part in ("legend", "xtitle"))
    assert legend["y"] >= axis["y"] + axis["height"]
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "failures"), [(1, 0.0), (1, 1.0), (30, 0.3), (30, 1.0), (500, 0.15)])
def test_any_number_of_trials_with_failures(browser: Any, tmp_path: Path, trials: int, failures: float) -> None:
    study = made_study(tmp_path / "one", trials, failures=failures, finished=trials != 30, pending=2)
    made = Path(report([study])["page"])
    assert made == study / "report" / "index.html"
    for size, scheme in ((WIDE, "dark"), (PHONE, "light")):
        page = opened(browser, made, size, scheme)
        assert len(column(page, 0)) == trials + 2
        page.close()


@pytest.mark.slow
def test_studies_side_by_side(browser: Any, tmp_path: Path) -> None:
    studies = [
        made_study(tmp_path / f"{sampler}{seed}", 12, sampler=sampler, seed=seed)
        for sampler in ("mads", "tpe")
        for seed in (0, 1)
    ]
    made = report(studies, out=tmp_path / "both.html")
    for size in (WIDE, PHONE):
        page = opened(browser, Path(made["page"]), size)
        assert "mads" in page.locator("#result").inner_text()
        assert len(column(page, 0)) == 4
        page.close()


def test_a_public_page_shows_no_row_no_path_and_no_host(study: Path, tmp_path: Path) -> None:
    made = report([study], out=tmp_path / "public.html", public=True)
    own = report([study], out=tmp_path / "own.html")
    hidden = (SECRET, "launch code", "says of row", str(study.parent), str(study.parent.parent), "logs/trial")
    for text in (Path(made["page"]).read_text(), Path(made["csv"]).read_text()):
        for words in hidden:
            assert words not in text
    own_text = Path(own["page"]).read_text()
    assert all(words in own_text for words in hidden)
    assert "secret-rows.jsonl" in Path(made["page"]).read_text()
    assert "&lt;script&gt;alert(1)" in own_text


def test_a_public_comparison_shows_no_path(tmp_path: Path) -> None:
    studies = [made_study(tmp_path / name, 2) for name in ("a", "b")]
    for key, shown in (("model", "model.name b"), ("objective", "objective.command.0 b")):
        for study in studies:
            record = Record(f"sqlite:///{study / 'study.db'}", "study")
            value = {"name": str(study.parent)} if key == "model" else {"command": [str(study.parent)]}
            record.note("fixed", {**record.notes["fixed"], "model": None, key: value})
        made = report(studies, out=tmp_path / "public" / "both.html", public=True)
        text = Path(made["page"]).read_text()
        assert shown in text
        assert str(tmp_path) not in text + Path(made["csv"]).read_text()


def test_no_page_names_the_machine_that_holds_the_study(status: dict[str, Any]) -> None:
    held = {**status, "state": "running", "coordinator": {"host": "render-node-17", "pid": 1, "since": "now"}}
    for public in (True, False):
        assert "render-node-17" not in study_page(StudyContent(held, {}, None, {}), csv="trials.csv", public=public)


def test_the_page_says_how_to_do_it_again(study: Path, page_of: Path) -> None:
    text = page_of.read_text()
    best = [line for line in text.splitlines() if "AutoPeftModelForCausalLM.from_pretrained" in line]
    assert len(best) == 1
    assert str(study / "adapters") in best[0]
    assert "3 of 50 test rows are nearly a training row (4/5 of their phrases)." in text
    for words in ("meshtune tune study.yaml", "arXiv:2312.00949", "NOMAD version 4", "ab" * 32, "price_per_hour: 2.5"):
        assert words in text
    assert text.count("<html") == 1


def test_a_running_study_says_so(tmp_path: Path) -> None:
    study = made_study(tmp_path / "one", 3, finished=False, pending=1, test_rows=0)
    with lease(study):
        text = Path(report([study])["page"]).read_text()
    assert "still running" in text
    assert "so the lead of the best is partly luck" in text
