"""The page of a published scale, docs/paper/SCALE.md: our tables and figures beside the paper's, by the same code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import paper_claims, paper_ours
from benchmarks.paper_ours import AIM, LABELS, PIECES, tokens_of, tokens_until, until_best
from meshtune.report import benchmark_tables, score_files
from meshtune.selection.candidates import ScoreTable, pareto
from meshtune.system.text import duration, number, point

NAMES = {"round1": "round one, MADS", "mads": "round two, MADS", "tpe": "round two, NNI's TPE"}
PAPERS = "the paper's: MADS, both rounds"
Ways = Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]]  # by name: files and searches
TABLE_3 = {"rank": "2^(r+1), r = 1..8", "dropout": "0 for d = 1, else 10^(d-6), d = 2..6", "alpha": "itself, 1..64"}
TABLE_3 |= {"learning_rate": "10^lr, lr = -6..-3"}


def page(scale: str, folder: Path) -> str:
    """The whole page. Written anew with each publication: nobody's words stand in it."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    missing = [name for name in PIECES if name not in facts["steps"]]
    parts = [
        f"# The paper's recipe at the scale `{scale}`",
        "Written by `python -m benchmarks.paper_runs`. [The paper's claims](claims.md) says what follows from it.",
        *how(facts),
        *([f"Left out at this scale, or not done yet: {', '.join(missing)}."] if missing else []),
        "## What the searches found",
        *searches(facts),
        *scored(folder, facts),
        *chosen(facts),
        *figures(scale, folder, facts),
        *space(facts),
        *today(folder, facts),
        *reports(scale, folder),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def how(facts: Mapping[str, Any]) -> Iterator[str]:
    """Seed, date and machine."""
    first = next(iter(facts["studies"].values()))
    machine, versions = first["machine"], first["versions"]
    rows = {
        "date": facts["date"],
        "seed": ", ".join(sorted({str(each["seed"]) for each in facts["studies"].values()})),
        "model": "SmolLM2-135M-Instruct, embedded" if first["model"] == "embedded" else first["model"],
        "machine": f"{machine.get('cores', '?')} cores, {machine.get('processor', 'processor unknown')}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "time of the steps": duration(sum(facts["steps"].values())) + ", each counted from its last start",
    }
    if facts.get("processor_seconds"):
        rows["processor time"] = duration(facts["processor_seconds"])
    if killed := facts.get("killed"):
        times = "once" if killed == 1 else f"{killed} times"
        rows["killed on the way"] = f"{times}, and started again by the same command"
    yield "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def searches(facts: Mapping[str, Any]) -> Iterator[str]:
    """A line a search: losses, and the best against the default on rows that the search never saw."""
    lines = [
        "| search | trials | untuned | default | best | best's trial and point | best less default, test rows |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for name, each in facts["studies"].items():
        best, losses = each["best"], [_loss(each[key]) for key in ("untuned", "baseline", "best")]
        at = "" if best is None else f"{best['trial']}: {point(best['hyperparameters'])}"
        cells = [NAMES[name], str(each["trials"]["complete"]), *losses, at, difference(each["against_baseline"])]
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)
    yield (
        "Losses are means over label tokens of the validation rows (nats). Intervals are 95 %, paired by test row. "
        "They know nothing of seeds."
    )
    if facts.get("mads_less_tpe"):
        yield f"MADS's best less TPE's, on the test rows: {difference(facts['mads_less_tpe'])}."


def scored(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Tables 1 and 4 and the Pareto sets, ours and then the paper's."""
    run, theirs = paper_ours.read(folder), list(paper_claims.tables())
    ours = list(run.tables.values()) if run else []
    if not ours:
        return
    yield "## Table 1, ours and the paper's"
    yield "Both by the same code; the paper's from its own Table 4."
    lost = {column.title for column in theirs[0].verdicts} - {column.title for column in ours[0].verdicts}
    if lost:
        yield f"Not scored here: {', '.join(sorted(lost))}, whose published file was not in `data/`."
    yield _table(benchmark_tables.statistics(ours, facts["best"]), "ours")
    yield _table(benchmark_tables.statistics(theirs, paper_claims.BEST), "the paper's")
    yield "## The Pareto sets"
    yield "\n".join(_fronts([*((table, "here") for table in ours), *((table, "in the paper") for table in theirs)]))
    yield "## Table 4, ours and the paper's"
    yield from (_table(benchmark_tables.candidates(table), "ours") for table in ours)
    yield from (_table(benchmark_tables.candidates(table), "the paper's") for table in theirs)


def _fronts(all_tables: Sequence[tuple[ScoreTable, str]]) -> Iterator[str]:
    for table, where in all_tables:
        ranked = {row.name: row.rank or 0 for row in table.ranked}
        on = sorted(ranked[name] for name in pareto(table.ranked, table.verdicts))
        first = "is" if 1 in on else "is not"
        numbers = ", ".join(map(str, on))
        yield (
            f"- {table.label} {where}: {len(on)} of the {len(ranked)} models shown are Pareto-optimal, those ranked "
            f"{numbers} by loss. The model with the lowest loss {first} one of them."
        )


def chosen(facts: Mapping[str, Any]) -> Iterator[str]:
    """What `select` chose, or why it chose nothing."""
    if facts["choices"]:
        yield "## The choice"
    for name, each in facts["choices"].items():
        yield "\n".join([f"**{LABELS[name]}.** {' '.join(each['said'])}", "", *(f"- {note}" for note in each["notes"])])


def figures(scale: str, folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Figures 1 to 3, as far as they are there."""
    captions = {
        "figure1": "Figure 1: every trial's loss and the best so far, round one",
        "figure2a": "Figure 2a: hyperparameters and losses, round two, MADS",
        "figure2b": "Figure 2b: the same, NNI's TPE",
        "figure3": "Figure 3, of SIMULATED VOTES: fair coins, no evidence",
    }
    there = {name: text for name, text in captions.items() if (folder / f"{name}.svg").exists()}
    if there:
        yield "## Figures 1 to 3"
    for name, text in there.items():
        yield f"{text}\n\n![{text}]({scale}/{name}.svg)"
    if votes := facts.get("votes"):
        low, mean, high = (100 * votes["net"][key] for key in ("low", "mean", "high"))
        yield (
            f"{votes['stamp']}. {votes['wins']} for the best, {votes['losses']} for the default, {votes['ties']} ties: "
            f"a net preference of {mean:+.1f} % [{low:+.1f}, {high:+.1f}], as coins give."
        )


def space(facts: Mapping[str, Any]) -> Iterator[str]:
    """Table 3, as the second round searched it."""
    each = facts["studies"].get("mads") or facts["studies"].get("tpe")
    if each is None:
        return
    lines = ["| hyperparameter | searched | the paper's variable | start |", "|---|---|---|---:|"]
    for one in each["space"]:
        values = one["choices"] or [one["low"], one["high"]]
        to = ", " if one["choices"] else " to "
        kind = ", powers of two" if one["power_of"] else ", by its logarithm" if one["log"] else ""
        start = each["baseline"]["hyperparameters"][one["name"]]
        searched = to.join(f"{value:g}" for value in values) + kind
        lines.append(f"| {one['name'].replace('_', ' ')} | {searched} | {TABLE_3[one['name']]} | {start:g} |")
    yield "## Table 3, as it was searched"
    yield "\n".join(lines)
    yield "Two slips of the printed table are mended: [why](../decisions/2026-11-24-table-3.md)."


def today(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Today's way beside the paper's: losses, scores, tokens and time, and the tokens until the paper's best losses."""
    ours, studies = facts.get("today"), facts["studies"]
    if ours is None or {"round1", "mads"} - studies.keys():
        return
    ways: Ways = {
        PAPERS: (["round1", "mads"], [studies["round1"], studies["mads"]]),
        **({"the paper's: NNI's TPE": (["tpe"], [studies["tpe"]])} if "tpe" in studies else {}),
        "today's": (["today"], [ours]),
    }
    share = ours["tokens"] / tokens_of(ways[PAPERS][1])
    yield "## Today's way"
    yield (
        "`today.yaml` has the model, rows, splits, prompt, batches and epochs of round two. The start is the advised "
        "one, the space and the sampler (batch-gp) are `meshtune`'s own, and adapters are on all linear layers, so a "
        f"token takes more time. It ran on {ours['date']}, with {100 * share:.0f} % of the tokens of MADS's two rounds."
    )
    trials, planned = (each["trials"]["complete"] for each in (ours, studies["mads"]))
    if trials < planned:
        yield f"So far it has {trials} of its {planned} trials."
    yield _ways(folder, facts, ways)
    yield (
        "Scores are of the model with the lowest loss of the last search. Test rows are the same for all. A search "
        "shares its machine with whatever else runs there: read processor time where it is known."
    )
    if "choice" in ours:
        yield f"The choice among today's models. {' '.join(ours['choice']['said'])}"
    table, shares = _until_papers_best(ways, ours)
    yield table
    reached = "reached" if shares[0] <= AIM else "missed"
    yield (
        "Trials count in the order in which they were proposed. **The aim, at most a quarter of the tokens of MADS's "
        f"two rounds until their best loss, is {reached}.** It is one seed; "
        "[the claims](claims.md#todays-way-beside-the-papers) have all that have run. What is advised rests on known "
        "runs, shorter trainings of the embedded model among them, so the start may be better here than elsewhere. "
        "How much of the lead is due to the layers is not measured."
    )


def _ways(folder: Path, facts: Mapping[str, Any], ways: Ways) -> str:
    """A table of losses, scores, tokens and time."""
    titles = ("way", "trials", "tokens", "best loss", "its test loss", "best less untuned, test rows", "scores")
    lines = [
        f"| {' | '.join((*titles, 'time of search', 'processor time'))} |",
        "|---|---:|---:|---:|---:|---|---|---:|---:|",
    ]
    for name, (files, searches) in ways.items():
        best = min(searches, key=lambda each: each["best"]["loss"])
        used = [facts.get("processor", {}).get(file) for file in files]
        cells = [
            name,
            str(sum(each["trials"]["complete"] for each in searches)),
            f"{tokens_of(searches):,}",
            *(number(best["best"][key]) for key in ("loss", "test_loss")),
            difference(best["against_untuned"]),
            _scores_of_best(folder / f"{files[-1]}-candidates.csv"),
            duration(sum(each["elapsed_seconds"] for each in searches)),
            duration(sum(used)) if all(used) else "not known",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _until_papers_best(ways: Ways, ours: Mapping[str, Any]) -> tuple[str, list[float]]:
    """A table of the tokens until the best loss of each other way, and today's as shares of all that the way had."""
    titles = ("until the best loss of", "loss", "its own tokens", "its tokens in all", "today's tokens", "share of all")
    lines = [f"| {' | '.join(titles)} |", "|---|---:|---:|---:|---:|---:|"]
    shares = []
    for name, (_, searches) in ways.items():
        if searches == [ours]:
            continue
        target = min(each["best"]["loss"] for each in searches)
        needed, share = until_best(searches, ours)
        shares.append(share)
        said = ["never so low", "-"] if needed is None else [f"{needed:,}", f"{100 * share:.1f} %"]
        own, whole = (f"{tokens:,}" for tokens in (tokens_until(target, searches), tokens_of(searches)))
        lines.append(f"| {name} | {' | '.join([number(target), own, whole, *said])} |")
    return "\n".join(lines), shares


def _scores_of_best(path: Path) -> str:
    """In words; "not scored" without a table."""
    if not path.exists():
        return "not scored"
    table = score_files.read(path)
    return ", ".join(f"{column.title} {table.ranked[0].scores[column.name]:.2f}" for column in table.verdicts)


def reports(scale: str, folder: Path) -> Iterator[str]:
    """Links to the reports."""
    there = [name for name in (*NAMES, "comparison", "today") if (folder / f"{name}.html").exists()]
    if there:
        names = {**NAMES, "comparison": "both searches of round two", "today": "today's way"}
        listed = [f"[{names[name]}]({scale}/{name}.html)" for name in there]
        yield "## Reports"
        yield f"Without rows of data, answers or paths: {', '.join(listed)}."


def difference(found: Mapping[str, Any] | None) -> str:
    """A difference of test losses with its interval."""
    if found is None:
        return "not measured"
    if found["low"] is None:
        return f"{found['mean']:+.4f}, {found['rows']} row"
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}], {found['rows']} rows"


def _loss(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None or entry["loss"] is None else number(entry["loss"])


def _table(table: benchmark_tables.TextTable, whose: str) -> str:
    return benchmark_tables.markdown(replace(table, title=f"{table.title} ({whose})"))
