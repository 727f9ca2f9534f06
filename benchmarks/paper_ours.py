"""What our own published runs (docs/paper/SCALE/) show of the paper's claims, a line a claim, with 95 % intervals.

Nothing is said of a scale whose pieces are not there. The scale `smoke` is none of these: its figures mean nothing.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from scipy import stats

from meshtune.report import score_files
from meshtune.selection.candidates import ScoreTable
from meshtune.selection.ranks import correlation, rank_correlation
from meshtune.selection.statistics import mean_interval, share_difference
from meshtune.system.text import counted

SCALES = ("small", "small-1", "small-2", "medium-0", "medium-1", "medium-2")
LABELS = {"mads": "MADS", "tpe": "NNI-TPE"}
PIECES = ("round1", "mads", "tpe", "mads-scores", "tpe-scores", "mads-choice", "tpe-choice", "comparison", "figure3")
PIECES += ("today",)
FOR, AGAINST, OPEN = "for", "against", "open"  # what an interval says of a claim
LEVEL = 0.05
AIM = 1 / 4  # of the tokens of MADS's two rounds, until their best loss
EQUAL = 0.01  # nats: what another seed moves a loss by, in short trainings of this model (suspicions: .005, both ways)


Said = Iterator[tuple[str, list[str]]]  # sentences of a claim, each with what its intervals say


@dataclass(frozen=True)
class Run:
    """A published scale."""

    scale: str
    facts: Mapping[str, Any]
    tables: Mapping[str, ScoreTable]

    @property
    def best(self) -> int:
        """How many of the best are scored."""
        return int(self.facts["best"])

    def study(self, name: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.facts["studies"].get(name)
        return found


def read(folder: Path) -> Run | None:
    """None where nothing is published."""
    if not (folder / "facts.json").exists():
        return None
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    found = {name: folder / f"{name}-candidates.csv" for name in LABELS}
    tables = {n: replace(score_files.read(p), label=LABELS[n]) for n, p in found.items() if p.exists()}
    return Run(folder.name, facts, tables)


def pieces(paper: Path) -> str:
    """Which pieces of which scale exist."""
    lines = ["| scale | seed | " + " | ".join(PIECES) + " | date |", "|---|---:|" + "---|" * (len(PIECES) + 1)]
    for scale in SCALES:
        run = read(paper / scale)
        done: Mapping[str, Any] = run.facts["steps"] if run else {}
        seeds = {str(each["seed"]) for each in run.facts["studies"].values()} if run else set[str]()
        cells = ["yes" if name in done else "no" for name in PIECES]
        name = f"[`{scale}`]({scale}.md)" if run else f"`{scale}`"
        lines.append(f"| {name} | {', '.join(seeds)} | {' | '.join(cells)} | {run.facts['date'] if run else ''} |")
    return "\n".join(lines)


def today(paper: Path) -> str:
    """Today's way beside MADS's two rounds: a line a scale that has both, and the median of the seeds of a size."""
    of_both = [f"{whose} | on test rows | its tokens" for whose in ("MADS's best", "today's best")]
    lines = [f"| scale | seed | {' | '.join(of_both)} | until MADS's best | share |", "|---|" + "---:|" * 9]
    shares = dict[str, list[float]]()
    for run in filter(None, (read(paper / scale) for scale in SCALES)):
        ours, rounds = run.facts.get("today"), [run.study(name) for name in ("round1", "mads")]
        theirs = [each for each in rounds if each is not None]
        if ours is None or len(theirs) < len(rounds):
            continue
        best, whole = min((each["best"] for each in theirs), key=itemgetter("loss")), tokens_of(theirs)
        needed, share = until_best(theirs, ours)
        shares.setdefault(run.scale.split("-")[0], []).append(share)
        cells = [run.scale, str(ours["seed"])]
        for found, tokens in ((best, whole), (ours["best"], ours["tokens"])):
            cells += [f"{found['loss']:.4f}", f"{found['test_loss']:.4f}", f"{tokens:,}"]
        cells += ["never", "-"] if needed is None else [f"{needed:,}", f"{100 * share:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    for size, each in shares.items():
        share = statistics.median(each)
        reached = "reached" if share <= AIM else "missed"
        text = "never reached" if math.isinf(share) else f"{100 * share:.1f} %"
        median = f"`{size}`, median of {counted(len(each), 'seed')}: {text}"
        lines.append(f"\n{median}. The aim, at most {100 * AIM:.0f} %, is {reached}.")
    return "\n".join(lines)


def until_best(theirs: Sequence[Mapping[str, Any]], ours: Mapping[str, Any]) -> tuple[int | None, float]:
    """Tokens that a search needed until the best loss of others, and these as a share of all of theirs; None and
    infinite where it never came so low.
    """
    needed = tokens_until(min(each["best"]["loss"] for each in theirs), [ours])
    return needed, math.inf if needed is None else needed / tokens_of(theirs)


def tokens_of(searches: Sequence[Mapping[str, Any]]) -> int:
    return sum(each["tokens"] for each in searches)


def tokens_until(loss: float, searches: Sequence[Mapping[str, Any]]) -> int | None:
    """Tokens of the searches, one after the other, up to the first trial with a loss as low; None: there is none."""
    tokens = 0
    for trial in (trial for each in searches for trial in each["all"]):
        tokens += trial["tokens"]
        if trial["ending"] == "complete" and trial["loss"] <= loss:
            return tokens
    return None


def said(paper: Path, claim: str) -> str:
    """What our runs show of a claim: a list with a line a scale and search, or that there is nothing."""
    runs = [run for scale in SCALES if (run := read(paper / scale)) is not None]
    lines = [f"- `{run.scale}`: {line}." for run in runs for line, _ in CLAIMS[claim](run)]
    return "\n".join(lines) or "Nothing yet: no scale that says anything of this has run."


def verdict(paper: Path, claim: str) -> str:
    """The same in a few words: how many comparisons speak for the claim, against it, or leave it open."""
    runs = [run for scale in SCALES if (run := read(paper / scale)) is not None]
    found = Counter(one for run in runs for _, all_ in CLAIMS[claim](run) for one in all_)
    return ", ".join(f"{found[kind]} {kind}" for kind in (FOR, AGAINST, OPEN) if found[kind]) or "nothing yet"


def tuned(run: Run) -> Said:
    for name in LABELS:
        each = run.study(name)
        if each is not None and each["against_baseline"] is not None:
            found = each["against_baseline"]
            what = f"{LABELS[name]}'s best less the default, test loss: {_difference(found)}"
            yield what, [speaks(found["low"], found["high"], for_=-1)]
    for table in run.tables.values():
        rows = [row for row in table.rows if row.baseline]
        if rows and (rows[0].rank or 0) > run.best:
            found = {c.title: over(table, run.best, c.name, rows[0].name) for c in table.verdicts}
            yield f"{table.label}'s {run.best} best less the default, points: {_each(found)}", _all(found)


def untuned(run: Run) -> Said:
    for table in run.tables.values():
        if any(row.name == "untuned" for row in table.rows):
            found = {c.title: over(table, run.best, c.name, "untuned") for c in table.verdicts}
            yield (
                f"{table.label}'s {run.best} best less the untuned model, points: {_each(found)}",
                [
                    _gains(c.name, None if one["low"] <= 0 <= one["high"] else one["low"] > 0)
                    for c, one in zip(table.verdicts, found.values(), strict=True)
                ],
            )
        ranks = [row.rank or 0 for row in table.ranked if not row.baseline]
        worst = [rank for rank in ranks if rank > run.best]
        if len(worst) >= 2:
            p, kinds = {}, []
            for column in table.verdicts:
                best = best_scores(table, run.best, column.name)
                others = [row.scores[column.name] for row in table.ranked if row.rank in worst]
                p[column.title] = float(stats.mannwhitneyu(best, others).pvalue)
                above = statistics.fmean(best) > statistics.fmean(others)
                kinds.append(_gains(column.name, above if p[column.title] < LEVEL else None))
            each = ", ".join(f"{title} {value:.3f}" for title, value in p.items())
            what = f"{table.label}: p of the {run.best} best against the {len(worst)} worst: {each}"
            yield what, kinds


def alignment(run: Run) -> Said:
    for table in run.tables.values():
        found = {}
        for column in table.verdicts:
            order = [float(row.rank or 0) for row in table.ranked]
            of = correlation(column.name, order, [row.scores[column.name] for row in table.ranked])
            found[column.title] = (of.value, of.low, of.high)
        each = ", ".join(f"{title} {_rho(value)}" for title, value in found.items())
        what = f"{table.label}, {len(table.ranked)} models, loss's rank with the score: {each}"
        # An interval that leaves out zero shows that they are aligned; none can show that they are not.
        yield what, [AGAINST if high is not None and high < 0 else OPEN for _, _, high in found.values()]


def optimizers(run: Run) -> Said:
    if len(run.tables) < len(LABELS):
        return
    mine, theirs = run.tables["mads"], run.tables["tpe"]
    found = {}
    shared = {column.name for column in theirs.verdicts}
    for column in (column for column in mine.verdicts if column.name in shared):
        a, b = (best_scores(table, run.best, column.name) for table in (mine, theirs))
        found[column.title] = welch(a, b)
    yield f"MADS less NNI-TPE, {run.best} best, points: {_each(found)} (over models; one seed of each)", _all(found)


def losses(run: Run) -> Said:
    if run.facts.get("mads_less_tpe"):
        found = run.facts["mads_less_tpe"]
        what = f"MADS's best less NNI-TPE's, on the same test rows: {_difference(found)}"
        yield what, [speaks(found["low"], found["high"], for_=1)]


def ranks(run: Run) -> Said:
    for name, each in run.facts["studies"].items():
        done = _complete(each)
        of = rank_correlation([t["hyperparameters"]["rank"] for t in done], [t["loss"] for t in done])
        best = sorted(done, key=lambda t: t["loss"])[:4]
        listed = ", ".join(f"{t['hyperparameters']['rank']}" for t in best)
        value = _rho((of.rho, of.low, of.high))
        what = f"{_name(name)}: rank with loss over {len(done)} trials {value}; ranks of the four best: {listed}"
        yield what, [speaks(of.low, of.high, for_=-1)]


def point(run: Run) -> Said:
    for name, each in run.facts["studies"].items():
        best = each["best"]["hyperparameters"]
        place, edge = math.log10(best["learning_rate"]), best["alpha"] >= 64
        bound = ", alpha's bound" if edge else ""
        what = f"{_name(name)}: the best has a learning rate of 10^{place:.1f} and alpha {best['alpha']:g}{bound}"
        yield what, [OPEN]


def drop(run: Run) -> Said:
    for name, each in run.facts["studies"].items():
        done = [t for t in _complete(each) if len(t["training_losses"]) > 1]
        fallen = [t["training_losses"][0] - t["training_losses"][-1] for t in done]
        of = rank_correlation(fallen, [t["loss"] for t in done]) if done else None
        if of is not None:
            value = _rho((of.rho, of.low, of.high))
            what = "fall of the training loss, from the first step to the last epoch, with the loss"
            yield f"{_name(name)}: {what}, {len(done)} trials: {value}", [speaks(of.low, of.high, for_=-1)]


def third_epoch(run: Run) -> Said:
    each = run.study("round1")
    changes = [t["losses"][2] - t["losses"][1] for t in _complete(each) if len(t["losses"]) > 2] if each else []
    if len(changes) > 1:
        mean = mean_interval(changes)
        small = sum(abs(change) < EQUAL for change in changes)
        inside = max(abs(mean.low), abs(mean.high)) < EQUAL
        what = (
            f"loss after epoch 3 less after epoch 2, mean of {len(changes)} trials: {mean.mean:+.4f} [{mean.low:+.4f}, "
            f"{mean.high:+.4f}]; {small} of them change by less than {EQUAL:g}"
        )
        yield what, [FOR if inside else AGAINST if mean.high < -EQUAL or mean.low > EQUAL else OPEN]


def last(run: Run) -> Said:
    for name, each in run.facts["studies"].items():
        at, count = each["best"]["trial"] + 1, len(each["all"])
        yield f"{_name(name)}: the best is number {at} of {count}", [FOR if at == count else AGAINST]


def explores(run: Run) -> Said:
    spread = {}
    for name in LABELS:
        if each := run.study(name):
            points = [t["hyperparameters"] for t in each["all"]]
            spread[name] = statistics.stdev(math.log10(p["learning_rate"]) for p in points)
            kinds = len({p["rank"] for p in points})
            what = f"{kinds} of 8 ranks, standard deviation of log10 of the rate {spread[name]:.2f}"
            wider = [FOR if spread["tpe"] > spread["mads"] else AGAINST] if len(spread) == len(LABELS) else []
            yield f"{LABELS[name]}: {what}, {len(points)} trials", wider


CLAIMS: Mapping[str, Callable[[Run], Said]] = {
    each.__name__.replace("_", " "): each
    for each in (tuned, untuned, alignment, optimizers, losses, ranks, point, drop, third_epoch, last, explores)
}


# -- parts


def best_scores(table: ScoreTable, best: int, benchmark: str) -> list[float]:
    """Of the models with the lowest losses."""
    return [row.scores[benchmark] for row in table.ranked if row.rank is not None and row.rank <= best]


def over(table: ScoreTable, best: int, benchmark: str, other: str) -> dict[str, float]:
    """The mean of the best less another row's, with the items' noise of both: Newcombe's interval of two shares.

    The mean of several has at most the noise of one, since all answer the same items; that of the difference is less
    where the answers agree.
    """
    row = next(row for row in table.rows if row.name == other)
    items = next(column.items for column in table.verdicts if column.name == benchmark)
    errors = [error for each in table.ranked[:best] if (error := each.errors[benchmark]) is not None]
    mine, theirs = statistics.fmean(best_scores(table, best, benchmark)) / 100, row.scores[benchmark] / 100
    sizes = _items(mine, statistics.fmean(errors), items), _items(theirs, row.errors[benchmark], items)
    low, high = (100 * end for end in share_difference(mine, theirs, *sizes))
    return {"gap": 100 * (mine - theirs), "low": low, "high": high}


def _items(share: float, error: float | None, items: int | None) -> float:
    """How many independent items have this standard error in points: fewer than were asked, for a mean of groups."""
    if error:
        return share * (1 - share) / (error / 100) ** 2
    assert items is not None
    return items


def welch(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The difference of two means with Welch's interval over models; nan where the models of each side score alike."""
    if max(mine) - min(mine) < 1e-9 and max(theirs) - min(theirs) < 1e-9:
        return {
            "gap": statistics.fmean(mine) - statistics.fmean(theirs),
            **dict.fromkeys(("low", "high", "t", "p"), math.nan),
        }
    test = stats.ttest_ind(mine, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    gap = statistics.fmean(mine) - statistics.fmean(theirs)
    found = {"gap": gap, "low": low, "high": high, "t": test.statistic, "p": test.pvalue}
    return {name: float(value) for name, value in found.items()}


def speaks(low: float | None, high: float | None, *, for_: int) -> str:
    """What an interval says of a claim that the value is above zero (`for_` 1) or below it (-1)."""
    if low is None or high is None or math.isnan(low) or low <= 0 <= high:
        return OPEN
    return FOR if (low > 0) == (for_ > 0) else AGAINST


def _gains(benchmark: str, above: bool | None) -> str:
    """What a difference says of the claim that there is a gain on MMLU and HumanEval only; None: none is shown."""
    if above is None:
        return OPEN
    return FOR if above == (benchmark in ("mmlu", "humaneval")) else AGAINST


def _all(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [speaks(one["low"], one["high"], for_=1) for one in found.values()]


def interval(found: Mapping[str, float]) -> str:
    if math.isnan(found["low"]):
        return f"{found['gap']:+.2f} (no spread, so no interval)"
    return f"{found['gap']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _each(found: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{title} {interval(value)}" for title, value in found.items())


def _difference(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['mean']:+.4f}"
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] ({found['rows']} rows)"


def _rho(found: tuple[float | None, float | None, float | None]) -> str:
    value, low, high = found
    if value is None:
        return "not known, all are alike"
    return f"{value:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")


def _complete(each: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [trial for trial in each["all"] if trial["ending"] == "complete"]


def _name(study: str) -> str:
    return {"round1": "round one", "mads": "MADS", "tpe": "NNI-TPE"}[study]
