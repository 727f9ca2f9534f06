"""Publishes what a scale of examples/tribes2024 has come to, under docs/paper/SCALE/, and its page docs/paper/SCALE.md.

    python -m benchmarks.paper_runs SCALE [--out FOLDER] [--to FOLDER] [--killed N] [--processor SECONDS] [--add]

Reads the results' folder of `meshtune run` (out/SCALE beside the pipeline) at any time: steps that are not done yet are
named as missing. With `--add`, what has been published before stays, and steps that are done here are added to it.
Writes `facts.json` (everything that the pages say of the runs), the tables of scores, the public
reports and the figures. Refuses to publish a path or the name of this machine, or a row of the benchmarks or questions.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import html
import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import paper_claims, paper_page
from meshtune.plan.locate import existing
from meshtune.preference import analysis, votes
from meshtune.report.public import hidden
from meshtune.report.write import selection_of
from meshtune.selection.statistics import paired_difference
from meshtune.study import finals
from meshtune.study.status import status_of

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "tribes2024"
STUDIES = ("round1", "mads", "tpe")
SEARCHES = ("mads", "tpe")  # of the second round, whose models are scored
KEPT = ("sampler", "seed", "model", "trials", "elapsed_seconds", "tokens", "space", "untuned", "baseline", "best")
OF_A_TRIAL = ("trial", "origin", "ending", "loss", "losses", "training_losses", "hyperparameters", "seconds", "tokens")
FIGURES = {"figure1": "round1", "figure2a": "mads", "figure2b": "tpe"}
DRAWN = {"figure1": "history", "figure2a": "parallel", "figure2b": "parallel"}
WINDOW = 40  # characters of a row that must not stand in what is published


def publish(out: Path, to: Path, scale: str, more: dict[str, Any], *, add: bool = False) -> None:
    """Everything but the page. `more`: facts that the results' folder does not hold. `add`: to what stands there."""
    done = {path.stem: json.loads(path.read_text()) for path in sorted((out / "steps").glob("*.json"))}
    ended = {name: mark for name, mark in done.items() if mark.get("ended")}
    if not ended:
        raise SystemExit(f"{out}: no step is done yet: `meshtune run {EXAMPLE / 'pipeline.yaml'} --scale {scale}`")
    latest = max((out / "steps" / f"{name}.json").stat().st_mtime for name in ended)
    facts: dict[str, Any] = {
        "scale": scale,
        "date": f"{datetime.datetime.fromtimestamp(latest, datetime.UTC):%Y-%m-%d}",
        "steps": {name: mark["seconds"] for name, mark in ended.items()},
        "processor": {name: mark["processor_seconds"] for name, mark in ended.items() if "processor_seconds" in mark},
        "begun": sorted(done.keys() - ended.keys()),
        "studies": {name: study(out / name) for name in STUDIES if name in ended},
        "choices": {name: choice(out / name) for name in SEARCHES if f"{name}-choice" in ended},
        **more,
    }
    if all(name in ended for name in SEARCHES):
        facts["mads_less_tpe"] = bests(out)
    for name in SEARCHES:
        if f"{name}-scores" in ended:
            facts["best"] = json.loads((newest_scores(out / name).parent / "scores.json").read_text())["best"]
    if "figure3" in ended:
        facts["votes"] = preferred(out / "votes.jsonl")
    if "today" in ended:
        facts["today"] = {**study(out / "today"), "date": facts["date"]}
    if "today-choice" in ended:
        facts["today"]["choice"] = choice(out / "today")
    if add:
        facts = added(json.loads((to / "facts.json").read_text(encoding="utf-8")), facts)
    else:
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
    for name in ended:
        copy(name, out, to)
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (to / "facts.json").write_text(re.sub(r"\[\s+([^][{}]*?)\s+\]", _in_one_line, text) + "\n", encoding="utf-8")


def added(stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Facts with those of more steps. What the stored ones say of all steps together stays: date, kills, time."""
    joined = {key: {**stored.get(key, {}), **new[key]} for key in ("steps", "processor", "studies", "choices")}
    begun = sorted({*stored["begun"], *new["begun"]} - joined["steps"].keys())
    return {**new, **stored, **joined, "begun": begun, **{key: new[key] for key in ("today",) if key in new}}


def study(folder: Path) -> dict[str, Any]:
    """What there is to say of a search; no path."""
    status = status_of(existing(folder), trials=True)
    found: dict[str, Any] = {key: status[key] for key in KEPT}
    for name in ("untuned", "baseline", "best"):
        if found[name] is not None:
            found[name] = {key: value for key, value in found[name].items() if key not in ("adapter", "quantities")}
    machine = status["ran_on"][-1] if status["ran_on"] else {"versions": status["versions"], "machine": {}}
    return {
        **hidden(found),
        "against_baseline": status["best_against_baseline"],
        "against_untuned": status["best_against_untuned"],
        "earlier_trials": (status["warm_start"] or {}).get("trials"),
        "versions": machine["versions"],
        "machine": machine["machine"],
        "all": [{key: trial[key] for key in OF_A_TRIAL} for trial in status["all"]],
    }


def choice(folder: Path) -> dict[str, Any]:
    """What `select` said."""
    found = selection_of(folder) or {}
    kept = ("name", "verdict", "merit", "chance_best", "chance_pareto", "may_be_best")
    candidates = [{key: one[key] for key in kept} for one in found["candidates"]]
    return {"chosen": found["chosen"], "said": found["sentences"], "notes": found["notes"], "candidates": candidates}


def bests(out: Path) -> dict[str, Any] | None:
    """Test loss of the MADS search's best less that of TPE's, paired by row."""
    rows = []
    for name in SEARCHES:
        best = status_of(existing(out / name))["best"]
        measured = finals.read(out / name)
        if best is None or f"trial-{best['trial']}" not in measured:
            return None
        rows.append([(loss, count) for loss, count in measured[f"trial-{best['trial']}"]["rows"]])
    return asdict(paired_difference(*rows))


def preferred(path: Path) -> dict[str, Any]:
    """What Figure 3 is made of."""
    found = analysis.analyse(votes.of_file(path))
    kept = ("first", "second", "wins", "losses", "ties", "net", "sign_test")
    return {"stamp": found["stamp"], **{key: found["pairs"][0][key] for key in kept}}


def newest_scores(folder: Path) -> Path:
    """The table that `meshtune evaluate` wrote last."""
    return max((folder / "evaluation" / "benchmarks").glob("*/candidates.csv"), key=lambda path: path.stat().st_mtime)


def copy(step: str, out: Path, to: Path) -> None:
    """The files of a step that are published."""
    if step.endswith("-scores"):
        name = step.removesuffix("-scores")
        shutil.copyfile(newest_scores(out / name), to / f"{name}-candidates.csv")
    elif step == "figure3":
        shutil.copyfile(out / "figure3" / "figure3.svg", to / "figure3.svg")
    elif step == "comparison":
        shutil.copyfile(out / "comparison.html", to / "comparison.html")
    elif step.endswith("-report"):
        name = step.removesuffix("-report")
        shutil.copyfile(out / f"{name}.html", to / f"{name}.html")
        for figure, of in FIGURES.items():
            if of == name:
                shutil.copyfile(out / f"{name}-figures" / f"{DRAWN[figure]}.svg", to / f"{figure}.svg")


def check(folder: Path, page: Path, secret: list[str], data: list[Path]) -> None:
    """Refuse what must not be published: names and paths of this machine, and rows of files of data."""
    texts = {path: path.read_text(encoding="utf-8") for path in (*sorted(folder.iterdir()), page)}
    for path, text in texts.items():
        for word in secret:
            if re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", text):
                raise SystemExit(f"{path}: it holds `{word}`, which must not be published")
        shown = " ".join(html.unescape(text).split())
        windows = {shown[at : at + WINDOW] for at in range(max(0, len(shown) - WINDOW + 1))}
        for row in rows(data):
            if row in windows:
                raise SystemExit(f"{path}: it holds a row of the data (`{row}..`), which must not be published")


def rows(data: list[Path]) -> Iterator[str]:
    """The first characters of each long text in files of JSON, JSON lines and CSV."""
    for path in data:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix == ".csv":
                with file.open(newline="", encoding="utf-8") as opened:
                    found = [text for line in csv.reader(opened) for text in line]
            elif file.suffix in (".json", ".jsonl"):
                found = re.findall(r'"((?:[^"\\]|\\.)*)"', file.read_text(encoding="utf-8"))
                found = [json.loads(f'"{text}"', strict=False) for text in found]
            else:
                continue
            yield from (short[:WINDOW] for text in found if len(short := " ".join(text.split())) >= WINDOW)


def in_navigation(scale: str) -> None:
    """Name the page in mkdocs.yml, below the page of the claims."""
    site = ROOT / "mkdocs.yml"
    text = site.read_text(encoding="utf-8")
    claims, line = "      - The paper's claims: docs/paper/claims.md\n", f"docs/paper/{scale}.md\n"
    if line not in text:
        site.write_text(text.replace(claims, f"{claims}      - The paper's recipe, {scale}: {line}"), encoding="utf-8")


def _in_one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("scale")
    parser.add_argument("--out", type=Path, help="the results' folder (default: out/SCALE beside the pipeline)")
    parser.add_argument("--to", type=Path, default=paper_claims.PAPER, help="where SCALE/ and SCALE.md go")
    parser.add_argument("--data", type=Path, action="append", default=[], help="files of which no row may be published")
    parser.add_argument("--killed", type=int, default=0, help="how often the run was killed on its way")
    parser.add_argument("--processor", type=float, help="seconds of processor time that it took in all")
    parser.add_argument("--add", action="store_true", help="to what has been published of this scale")
    given = parser.parse_args()
    out = (given.out or EXAMPLE / "out" / given.scale).absolute()
    to, page = given.to / given.scale, given.to / f"{given.scale}.md"
    more = {"killed": given.killed, "processor_seconds": given.processor}
    publish(out, to, given.scale, more, add=given.add)
    page.write_text(paper_page.page(given.scale, to), encoding="utf-8")
    secret = [platform.node(), str(Path.home()), str(ROOT), str(out), *map(str, out.parents[:-2])]
    studies = [path for name in (*STUDIES, "today") for path in (out / name / "data").glob("*.jsonl")]
    check(to, page, [word for word in secret if len(word) > 3], [*given.data, EXAMPLE / "data", out / "data", *studies])
    if given.to == paper_claims.PAPER:
        in_navigation(given.scale)
    print(f"wrote {to} and {page}; now `python -m benchmarks.paper_claims`")


if __name__ == "__main__":
    main()
