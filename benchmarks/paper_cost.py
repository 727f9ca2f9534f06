"""GPU hours of one of the paper's evaluations, and of one candidate's scores, by formula, beside what was measured.

The evaluation is what `check --device-like 4xA100` says of examples/tribes2024/round1.yaml, with a configuration of
Llama-2-7B without weights and made-up rows of Table 2's mean lengths. The scores are of Instruct-Eval's protocol with
one prompt at a time, by the same assumptions of `training.memory.speed`.
Writes the lines of docs/paper/claims.md between `<!-- cost -->` and `<!-- end of cost -->`.

    python -m benchmarks.paper_cost
"""

from __future__ import annotations

import re
import runpy
import tempfile
from pathlib import Path

from benchmarks.paper_claims import PAGE
from meshtune.plan.forecast import REPLAYED
from meshtune.study.check import check
from meshtune.training.memory.cards import cards
from meshtune.training.memory.speed import LAUNCH, LAUNCHES, SHARE

EXAMPLE = Path(__file__).parents[1] / "examples" / "tribes2024"
ROWS, TRAINED = 1000, 53_610  # made up; the paper's
# GPU hours: 2 h 15 min of four cards; and the logs of a later experiment by the authors, 4,296 to 4,355 s of four cards
# for as many epochs of the same rows, with three validations of 187 s in them.
PAPER, LOGGED = 9.0, 4.8
WEIGHTS = 6_476_005_376  # of Llama-2-7B's 32 layers, the embedding and the head left out
LAYERS = 32
# Of the protocol: items, mean tokens of a prompt (made up: 5 shots of MMLU, 3 of the others), tokens of an answer, and
# minutes of a GPU by the authors' command line (a range where they gave one).
SCORED = {
    "MMLU": (14_042, 700, 2, (48, 48)),
    "BBH": (6_430, 600, 32, (94, 120)),
    "DROP": (6_285, 1200, 8, (47, 47)),
    "HumanEval": (164, 180, 512, (20, 30)),
}


def hours() -> dict[str, float]:
    """GPU hours of an evaluation by the way that it is trained, validation with it."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.json"
        runpy.run_path(str(EXAMPLE / "made_up_rows.py"))["main"](str(rows), str(ROWS))
        given = (f"model={EXAMPLE / 'Llama-2-7b'}", f"data.sources=[{{path: {rows}}}]", "data.mixture=union")
        folder = Path(scratch) / "study"
        _, facts = check(EXAMPLE / "round1.yaml", overrides=given, device_like=("4xA100",), folder=folder)
    (device,) = facts["devices"]
    share = TRAINED / facts["data"]["train"]["rows"]
    return {way: share * found for way, found in device["gpu_hours_a_trial"].items()}


def scoring(prompt: int, new: int, card: str = "A100") -> float:
    """Seconds of an item that is answered alone: its prompt's products or launches, then a pass a token.

    A pass of one token reads all weights in two bytes, and starts a third of the kernels of a training pass; it takes
    the longer of the two. What an adapter that is not merged adds is left out.
    """
    of = cards(card).card
    launches = LAYERS * LAUNCHES / 3 * LAUNCH
    a_token = max(2 * WEIGHTS / of.bandwidth, launches)
    return max(2 * WEIGHTS * prompt / (SHARE * of.bfloat16), launches) + (new - 1) * a_token


def minutes() -> dict[str, float]:
    """GPU minutes of a candidate by benchmark."""
    return {name: items * scoring(prompt, new) / 60 for name, (items, prompt, new, _) in SCORED.items()}


def table() -> str:
    found, scores = hours(), minutes()
    lines = ["| | GPU hours |", "|---|---:|"]
    lines += [f"| an evaluation, by `check`, {way} | {each:.1f} |" for way, each in found.items()]
    low, high = (next(iter(found.values())) * (1 - share) for share in reversed(REPLAYED["model"]))
    lines.append(f"| the first of these, stopped early as in replays | {low:.1f} to {high:.1f} |")
    lines.append(f"| an evaluation, by the authors' logs of a later experiment | {LOGGED:.1f} |")
    lines.append(f"| an evaluation, by the paper | {PAPER:.1f} |")
    lines.append(
        f"| a candidate's scores, one prompt at a time, by the same formula | {sum(scores.values()) / 60:.1f} |"
    )
    least, most = (sum(of[3][end] for of in SCORED.values()) / 60 for end in (0, 1))
    lines.append(f"| a candidate's scores, by the authors' times | {least:.1f} to {most:.1f} |")
    lines.append("")
    lines.append("Minutes of a candidate's scores, formula and authors: " + "; ".join(_minutes(scores)) + ".")
    return "\n".join(lines)


def _minutes(scores: dict[str, float]) -> list[str]:
    ends = {name: of[3] for name, of in SCORED.items()}
    words = {name: f"{low}" if low == high else f"{low} to {high}" for name, (low, high) in ends.items()}
    return [f"{name} {found:.0f}, {words[name]}" for name, found in scores.items()]


def filled(page: str) -> str:
    """The page with that table."""
    return re.sub(
        r"(?<=<!-- cost -->\n).*?(?=<!-- end of cost -->)", lambda _: f"\n{table()}\n\n", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
