"""The paper's claims by its own numbers: from Table 4 (docs/paper/table4_*.csv) and Figure 3, with our own statistics.

Writes the parts of docs/paper/claims.md that stand between `<!-- NAME -->` and `<!-- end of NAME -->`. What our own
runs show (`paper_ours`) comes from docs/paper/SCALE/, where there are any. Says nothing that is not computed here.

    python -m benchmarks.paper_claims
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import paper_ours, suspicions
from benchmarks.paper_ours import interval
from meshtune.preference import design
from meshtune.preference.statistics import share, sign_test
from meshtune.report import benchmark_tables, score_files
from meshtune.selection.candidates import ScoreTable
from meshtune.selection.ranks import correlation

PAPER = Path(__file__).parents[1] / "docs" / "paper"
PAGE = PAPER / "claims.md"
BEST = 10
WINS, LOSSES, QUESTIONS, ANNOTATORS = 158, 142, 30, 10  # Figure 3: a net preference of 5 % of 300 votes


@dataclass(frozen=True)
class Claim:
    """A line of the overview. `ours`: its name in `paper_ours.CLAIMS`; "" where our runs cannot speak of it."""

    ours: str
    claim: str
    believe: str
    firmly: str


OVERVIEW = (
    Claim(
        "tuned",
        "tuning beats the default",
        "yes on MMLU, by 1.5 to 3.8 points. On BBH, DROP and HumanEval it is open",
        "much, for this default: its rate of 1e-5 is low",
    ),
    Claim(
        "untuned",
        "the ten best outscore the ten worst and the untuned model on MMLU and HumanEval, not on BBH and DROP",
        "yes on MMLU, as means. NOMAD's ten best also outscore its worst on HumanEval and DROP, TPE's on BBH",
        "some",
    ),
    Claim(
        "alignment",
        "validation loss and scores are not aligned",
        "over good and bad models they are. Among the ten best it is open: one correlation of eight is clear",
        "some",
    ),
    Claim(
        "optimizers",
        "NOMAD's models score higher than TPE's",
        "open: .16 points apart on MMLU, where one score has a standard error of .42",
        "none",
    ),
    Claim(
        "losses",
        "TPE finds the lower loss",
        "open: the two losses were measured in different ways",
        "none",
    ),
    Claim(
        "ranks",
        "large ranks help",
        "open: NOMAD's best have large ranks, TPE's have small ones",
        "none",
    ),
    Claim(
        "point",
        "a rate near 10^-3.5 and alpha near 60 are best",
        "high rates did well. Alpha was cut off at 64, and rate and alpha can stand in for each other",
        "little",
    ),
    Claim(
        "drop",
        "the lowest validation losses go with the largest fall of the training loss",
        "plausible over so few epochs; no number is printed",
        "little",
    ),
    Claim(
        "third epoch",
        "a third epoch changes little",
        "plausible; no number is printed",
        "little",
    ),
    Claim(
        "last",
        "the best is found last, so more trials would help",
        "open: it is one search",
        "none",
    ),
    Claim(
        "explores",
        "TPE explores more",
        "its points are spread wider in Figure 2. Nothing follows for its result",
        "some",
    ),
    Claim(
        "",
        "round one's cache may have drawn round two to large ranks",
        "open: there is no run without the cache",
        "none",
    ),
    Claim(
        "",
        "people prefer the tuned model",
        "open: 158 votes to 142, p = .39",
        "none",
    ),
)


def tables() -> tuple[ScoreTable, ScoreTable]:
    """Table 4 of NOMAD and of NNI's TPE."""
    names = {"nomad": "NOMAD", "tpe": "NNI-TPE"}
    nomad, tpe = (replace(score_files.read(PAPER / f"table4_{file}.csv"), label=name) for file, name in names.items())
    return nomad, tpe


def scores(table: ScoreTable, benchmark: str, low: int = 1, high: int = BEST) -> list[float]:
    """Of the models of these ranks."""
    return [row.scores[benchmark] for row in table.ranked if row.rank is not None and low <= row.rank <= high]


def gap(benchmark: str) -> dict[str, float]:
    """NOMAD's ten best less TPE's: in points, by Welch's test over models, and in standard errors of one score."""
    nomad, tpe = tables()
    errors = [row.errors[benchmark] for row in nomad.ranked[:BEST]]
    one = statistics.fmean(error for error in errors if error is not None)
    return {**paper_ours.welch(scores(nomad, benchmark), scores(tpe, benchmark)), "error": one}


def over(benchmark: str, other: str) -> dict[str, float]:
    """The mean of NOMAD's ten best less the default's or the untuned model's, with the items' noise of both."""
    nomad, _ = tables()
    row = next(row for row in nomad.rows if (row.baseline if other == "default" else row.name == other))
    return paper_ours.over(nomad, BEST, benchmark, row.name)


def best_and_worst(table: ScoreTable, benchmark: str) -> float:
    """p of Mann and Whitney: the ten best against the ten worst."""
    return float(stats.mannwhitneyu(scores(table, benchmark), scores(table, benchmark, 91, 100)).pvalue)


def preference() -> dict[str, float]:
    """Figure 3: the sign test as if votes were independent, the interval of the net preference, wins needed, power."""
    votes = np.array([1.0] * WINS + [-1.0] * LOSSES)
    of = share(WINS, WINS + LOSSES)
    assert of is not None
    needed = next(w for w in range(WINS, 301) if stats.binomtest(w, WINS + LOSSES).pvalue < 0.05)
    power = design.power(0.05, QUESTIONS, ANNOTATORS)
    return {"p": sign_test(votes).p, "low": 2 * of.low - 1, "high": 2 * of.high - 1, "needed": needed, "power": power}


def written() -> dict[str, str]:
    """The parts of the page, by name."""
    nomad, tpe = tables()
    names = {column.name: column.title for column in nomad.verdicts}
    head = "| | " + " | ".join(names.values()) + " |\n|---|" + "---:|" * len(names)

    def lines(*rows: tuple[str, Callable[[str], str]]) -> str:
        return "\n".join([head, *(f"| {what} | " + " | ".join(map(of, names)) + " |" for what, of in rows)])

    gaps = {name: gap(name) for name in names}
    both = (nomad, tpe)
    return {
        "table 1": benchmark_tables.markdown(benchmark_tables.statistics(both, BEST)),
        "table 4": "\n".join(benchmark_tables.markdown(benchmark_tables.candidates(table)) for table in both),
        "tuned": lines(
            *((f"ten best less {x}", lambda name, x=x: interval(over(name, x))) for x in ("default", "untuned"))
        ),
        "optimizers": lines(
            ("NOMAD less TPE, ten best", lambda name: interval(gaps[name])),
            ("p over models", lambda name: f"{gaps[name]['p']:.3f}"),
            ("standard error of one score", lambda name: f"{gaps[name]['error']:.2f}"),
        ),
        "alignment": lines(
            *(
                (f"{t.label}, {what}", lambda name, t=t, high=high: _aligned(t, name, high))
                for t in both
                for what, high in (("20 models", 100), ("ten best", 10))
            ),
            *(
                (f"{t.label}: p, ten best against ten worst", lambda name, t=t: f"{best_and_worst(t, name):.4f}")
                for t in both
            ),
        ),
        "people": _people(),
        "suspicions": suspicions.written(),
        "overview": overview(),
        "pieces": paper_ours.pieces(PAPER),
        "today's way": paper_ours.today(PAPER),
        **{f"ours: {claim}": paper_ours.said(PAPER, claim) for claim in paper_ours.CLAIMS},
    }


def _aligned(table: ScoreTable, name: str, high: int) -> str:
    """The correlation of a benchmark's scores with the loss's rank, of models up to a rank."""
    rows = [row for row in table.ranked if row.rank is not None and row.rank <= high]
    of = correlation(name, [float(row.rank or 0) for row in rows], [row.scores[name] for row in rows])
    return f"{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"


def _people() -> str:
    people = preference()
    return (
        f"- {WINS} wins to {LOSSES}: a net preference of 5 % [{100 * people['low']:+.0f} %, "
        f"{100 * people['high']:+.0f} %]; sign test p = {people['p']:.2f}, as if all {WINS + LOSSES} votes were "
        f"independent, which they are not.\n- {people['needed']:.0f} wins are needed for p below .05. The chance "
        f"that this design sees a true 5 %: {people['power']:.2f}."
    )


def overview() -> str:
    """A line a claim."""
    lines = ["| | claim of the paper | what to believe | how firmly | our runs |", "|---:|---|---|---|---|"]
    for number, one in enumerate(OVERVIEW, start=1):
        ours = paper_ours.verdict(PAPER, one.ours) if one.ours else "cannot tell"
        lines.append(f"| {number} | {one.claim} | {one.believe} | {one.firmly} | {ours} |")
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with its parts as they are now."""
    for name, text in written().items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern, part = f"{begin}.*?{end}", f"{begin}\n{text.strip()}\n{end}"
        page, count = re.subn(pattern, part.replace("\\", r"\\"), page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE} has no part `{name}`")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
