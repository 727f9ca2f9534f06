"""The pages in a real browser: nothing is asked for, nothing overflows, tables sort; and what a public page holds."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshtune.record.log import Record
from meshtune.report.page import StudyContent, study_page
from meshtune.report.write import report
from meshtune.space.goals import LOSS
from meshtune.system.lease import lease
from meshtune.system.text import number
from tests.report.made import SECRET, made_study

WIDE, PHONE = (1280, 900), (390, 844)
AXE = Path(os.environ.get("AXE", Path(__file__).parents[2] / "build/npm/node_modules/axe-core/axe.min.js"))


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> Any:
    """The page at this size, once its figures are drawn; fails on an error, a request or an overflow."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    errors, requests = list[str](), list[str]()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('svg'))")
    assert errors == []
    assert requests == [path.as_uri()]
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
    ink = "getComputedStyle(document.querySelector('#figure-history .narrow text')).fill"
    assert page.evaluate(ink) in ("rgb(230, 233, 239)", "rgb(154, 164, 181)")
    page.close()


def test_tables_and_the_history_fit_a_phone(browser: Any, page_of: Path) -> None:
    """Whole numbers without scrolling, each with the head of its column; the chart's legend is below its axis."""
    page = opened(browser, page_of, PHONE)
    boxes = "[...document.querySelectorAll('table:not(.tall table)')].map((table) => table.parentElement)"
    assert set(page.evaluate(f"{boxes}.map((box) => box.scrollWidth - box.clientWidth)")) == {0}
    assert "validation loss: " in page.evaluate(
        "getComputedStyle(document.querySelector('#result td'), '::before').content"
    )
    for plot in page.locator(".plot").all():
        box, svg = plot.bounding_box(), plot.locator("svg >> visible=true").first.bounding_box()
        assert svg["x"] + svg["width"] <= box["x"] + box["width"] + 1 <= PHONE[0]
    scrolls = "[...document.querySelectorAll('.scroll:not(.tall)')].filter((box) => box.scrollWidth > box.clientWidth)"
    assert page.evaluate(f"{scrolls}.length") == 0  # figures and code too: all trials alone are wider than a phone
    assert page.locator("#figure-history svg >> visible=true").count() >= 1
    assert not page.locator("#figure-history .wide").is_visible()
    page.close()


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_what_goes_on_below_has_a_shadow_at_its_lower_edge(
    browser: Any, tmp_path: Path, many: dict[str, Any], size: tuple[int, int]
) -> None:
    """In a long answer and the table of trials; at the end of either there is none."""
    path = tmp_path / "page.html"
    path.write_text(study_page(StudyContent(many, {}, None, {}, (), None, None), csv="trials.csv"), encoding="utf-8")
    page = opened(browser, path, size)
    page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('afterbegin', "
        "`<div class='answer best'><div class='text'>${'a line of an answer\\n'.repeat(60)}</div></div>`)"
    )
    page.add_style_tag(
        content="* { color: #0000 !important; border-color: #0000 !important } td { background: none !important }"
    )
    for name, inset in ((".text", 10), (".scroll.tall", size[0] // 2)):
        box = page.locator(name).first
        box.scroll_into_view_if_needed()
        frame = box.bounding_box()
        edge = {"x": frame["x"] + inset, "y": frame["y"] + frame["height"] - 5, "width": 2, "height": 3}
        before = page.screenshot(clip=edge)
        box.evaluate("(one) => one.scrollTo(0, one.scrollHeight)")
        assert page.screenshot(clip=edge) != before
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "failures"), [(1, 0.0), (1, 1.0), (30, 0.3), (30, 1.0)])
def test_any_number_of_trials_with_failures(browser: Any, tmp_path: Path, trials: int, failures: float) -> None:
    study = made_study(tmp_path / "one", trials, failures=failures, finished=trials != 30, pending=2)
    made = Path(report([study])["page"])
    assert made == study / "report" / "index.html"
    for size, scheme in ((WIDE, "dark"), (PHONE, "light")):
        page = opened(browser, made, size, scheme)
        assert len(column(page, 0)) == trials + 2
        page.close()


def everything(status: dict[str, Any]) -> StudyContent:
    """A page with every figure: two objectives, rungs, replicates, a model, benchmarks, crashes and a lot of trials."""
    best = status["best"]["trial"]
    trials = [{**trial, "trial": 12 * turn + trial["trial"]} for turn in range(9) for trial in status["all"]][:100]
    early = {"ending": "stopped_early", "loss": None, "rungs": [[20_000, 3.1], [40_000, 2.9]]}
    for trial in trials:
        trial["quantities"] = {"adapter_parameters": 1e5 * (1 + trial["trial"] % 7)}
        trial["rungs"] = [[20_000, 3.0], [40_000, 2.8], [80_000, 2.5]]
    trials = [{**t, **early} if t["trial"] % 5 == 4 and t["trial"] != best else t for t in trials]
    noise = {"trial": best, "deviation": 0.02, "mean": 2.33, "count": 3, "losses": [2.31, 2.33, 2.35]}
    above = {"mean": 0.1, "low": 0.05, "high": 0.15}
    goals = [{"quantity": LOSS, "maximize": False}, {"quantity": "adapter_parameters", "maximize": False}]
    held = {
        **status,
        "all": trials,
        "seed_noise": {**noise, "above": above},
        "objectives": goals,
        "quantities": ["adapter_parameters"],
        "pareto": [best, 0],
    }
    line = {"mean": [2.6, 2.4, 2.5], "low": [2.5, 2.3, 2.4], "high": [2.7, 2.5, 2.6]}
    slices = [
        {"name": "step", "log": True, "ordered": True, "values": [1e-3, 1e-2, 1e-1], **line},
        {"name": "a_hyperparameter_with_a_very_long_name", "log": False, "ordered": False, "values": ["x"] * 3, **line},
    ]
    shares = [{"name": one["name"], "share": 0.5, "low": 0.25, "high": 0.75} for one in slices]
    plane = {"x": "step", "y": "rank", "log_x": True, "log_y": True, "xs": [1e-3, 1e-1], "ys": [4, 256]}
    plane["mean"] = [[2.6, 2.5], [2.4, 2.7]]
    response = {"trials": 9, "explained": 0.6, "at": best, "importances": shares, "slices": slices, "plane": plane}
    candidates = [
        {"name": name, "pareto": True, "merit": 0.5, "may_be_best": name != "2", "chance_best": 0.4} for name in "012"
    ]
    scores = {name: {"mmlu": 40.0 + int(name), "bbh": 30.0 - int(name)} for name in "012"}
    selection = {"chosen": "0", "candidates": candidates, "scores": scores, "benchmarks": ["mmlu", "bbh"]}
    selection |= {"sentences": ["Candidate 0 is chosen."], "notes": ["A note."]}
    return StudyContent(held, {"model": "embedded"}, None, {}, (), selection, response)


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_the_course_of_a_trial_pushes_no_loss_out_of_sight(
    browser: Any, tmp_path: Path, status: dict[str, Any], size: tuple[int, int]
) -> None:
    """However often it was stopped and went on: it stands on several lines. And code in the lead is code."""
    later = [{"event": "went_on", "trials": 17}, {"event": "froze", "rung": 2}] * 3
    course = {
        "ending": "stopped_early",
        "stopped_at": {"rung": 1, "of": 3},
        "after_stop": later,
        "tokens_saved": 80_000,
    }
    trials = [{**trial, **course} if trial["trial"] == 5 else trial for trial in status["all"]]
    other = {**status["best"], "trial": 7, "expected": 2.3, "deviation": 0.01}
    content = StudyContent(
        {**status, "all": trials, "recommended": other}, {"model": "embedded"}, None, {}, (), None, None
    )
    path = tmp_path / "page.html"
    path.write_text(study_page(content, csv="trials.csv"), encoding="utf-8")
    page = opened(browser, path, size)
    ending = page.locator("table.sortable tbody tr:nth-child(6) td:nth-child(3)")
    assert ending.inner_text().count("went on after 17 trials") == 3
    box = ending.bounding_box()
    assert box["x"] + box["width"] < min(size[0], 700)  # whole beside the trial's number, without scrolling
    assert page.locator(".lead code").inner_text() == "--trial recommended"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_everything_on_one_page_can_be_used_by_everybody(
    browser: Any, tmp_path: Path, status: dict[str, Any], size: tuple[int, int], scheme: str
) -> None:
    """No text of a figure lies over another or leaves it; axe finds nothing serious."""
    path = tmp_path / "page.html"
    path.write_text(study_page(everything(status), csv="trials.csv"), encoding="utf-8")
    page = opened(browser, path, size, scheme)
    drawn = {plot.get_attribute("id") for plot in page.locator(".plot").all()}
    names = ["history", "parallel", "curves", "rungs", "endings", "objectives", "seeds", "importance", "slice-step"]
    names += ["plane", "chances", "pareto"]
    assert {f"figure-{name}" for name in names} <= drawn
    for plot in page.locator(".plot:not(#figure-parallel)").all():  # none is an empty frame
        assert plot.locator("[data-says] >> visible=true").count(), plot.get_attribute("id")
    assert page.evaluate(OVERLAPS) == []
    page.close()
    if AXE.exists():
        assert audit(browser, path, size, scheme) == []


# Texts of a drawing that lie over each other, but for those of parallel coordinates, which stand beside lines.
OVERLAPS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll(".plot:not(#figure-parallel) svg[role=img]")) {
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.getClientRects().length);
    const frame = svg.getBoundingClientRect();
    const boxes = texts.map((text) => text.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push("outside: " + texts[i].textContent);
      boxes.slice(i + 1).forEach((b, j) => {
        const over = Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1;
        if (over && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4) {
          found.push(texts[i].textContent + " / " + texts[i + 1 + j].textContent);
        }
      });
    });
  }
  return found;
}"""


def audit(browser: Any, path: Path, size: tuple[int, int], scheme: str) -> list[str]:
    """What axe finds that is at least moderate."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    context.close()
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']][:5]}"
        for one in found
        if one["impact"] in ("serious", "critical", "moderate")
    ]


@pytest.mark.slow
def test_on_paper_nothing_is_cut_off_and_it_is_light(browser: Any, page_of: Path) -> None:
    page = opened(browser, page_of, (718, 1000), "dark")  # an A4 page with margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 718
    inside = "[...document.querySelectorAll('.scroll, .text')].every((box) => box.scrollWidth <= box.clientWidth + 1)"
    assert page.evaluate(inside)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


@pytest.mark.slow
def test_a_range_on_an_axis_picks_trials_and_a_mark_says_what_it_is(browser: Any, page_of: Path, study: Path) -> None:
    """Also where the axes lie, on a phone."""
    for size, shown in ((PHONE, ".narrow"), (WIDE, ".wide")):
        page = opened(browser, page_of, size)
        picked = page.locator(f"#figure-parallel {shown} .line:not(.out)")
        count = picked.count()
        axis = page.locator(f"#figure-parallel {shown} .axis rect:not(.brush)").last
        axis.scroll_into_view_if_needed()
        box = axis.bounding_box()

        def spot(share: float, box: Any = box, lies: bool = size is PHONE) -> tuple[float, float]:
            """So far along the axis from its low end."""
            left, low, wide, tall = box["x"], box["y"] + box["height"], box["width"], box["height"]
            return (left + share * wide, low - tall / 2) if lies else (left + wide / 2, low - share * tall)

        page.mouse.move(*spot(0.01))
        page.mouse.down()
        page.mouse.move(*spot(1 / 3))
        page.mouse.up()
        assert 0 < picked.count() < count
        page.mouse.click(*spot(0.5))
        assert picked.count() == count
    mark = page.locator("#figure-history .wide circle[data-says]").first
    mark.scroll_into_view_if_needed()
    at = mark.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2 + 2, at["y"] + at["height"] / 2)
    assert page.locator("#says").inner_text().startswith("trial 0: ")
    page.mouse.move(5, 5)
    assert not page.locator("#says").is_visible()
    page.close()


def test_a_thousand_trials_make_a_page_of_less_than_3_mb(status: dict[str, Any]) -> None:
    trials = [{**trial, "trial": 12 * turn + trial["trial"]} for turn in range(84) for trial in status["all"]][:1000]
    text = study_page(StudyContent({**status, "all": trials}, {}, None, {}), csv="trials.csv")
    assert len(text.encode()) < 3e6
    assert f"trial 999: {number(trials[999]['loss'])}" in text


@pytest.mark.slow
def test_studies_side_by_side(browser: Any, tmp_path: Path) -> None:
    studies = [
        made_study(tmp_path / f"{sampler}{seed}", 6, sampler=sampler, seed=seed)
        for sampler in ("mads", "tpe")
        for seed in (0, 1)
    ]
    made = report(studies, out=tmp_path / "both.html")
    for size in (WIDE, PHONE):
        page = opened(browser, Path(made["page"]), size)
        assert "mads" in page.locator("#result").inner_text()
        assert len(column(page, 0)) == 4
        assert page.locator("#figure-comparison-time").count() == 1
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
    for words in (
        "meshtune tune study.yaml",
        "arXiv:2312.00949",
        "audet2022algorithm",
        "ab" * 32,
        "price_per_hour: 2.5",
    ):
        assert words in text
    assert text.count("<html") == 1


def test_what_is_certain_and_what_is_cut_off_is_said(status: dict[str, Any]) -> None:
    """A number stays with its sign of per cent; of all of the variation nothing is left; curves say that they end."""
    facts = everything(status)
    response = {**facts.response, "explained": 0.999} if facts.response else None
    high = [{**t, "losses": [9.0, 8.0] if t["trial"] == 7 else t["losses"]} for t in facts.status["all"]]
    text = study_page(replace(facts, response=response, status={**facts.status, "all": high}), csv="trials.csv")
    assert "95\N{NO-BREAK SPACE}%" in text[text.index("<h1>") : text.index("<dl")]
    assert "predicts 100\N{NO-BREAK SPACE}% of the variation among them, each trial left out in turn.</p>" in text
    assert "Lines leave the picture at its top" in text
    assert "The rest is noise" in study_page(facts, csv="trials.csv")


def test_a_running_study_says_so(tmp_path: Path) -> None:
    study = made_study(tmp_path / "one", 3, finished=False, pending=1, test_rows=0)
    with lease(study):
        text = Path(report([study])["page"]).read_text()
    assert "still running" in text
    assert "so the lead of the best is partly luck" in text
