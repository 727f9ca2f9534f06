"""Put the race of `benchmarks.today` on its page, from the finished pieces of a folder: seeds with all sides.

Writes docs/paper/today.json (a line a layout) and, from that, the part of docs/paper/plain-way.md and of README.md
between `<!-- today -->` and `<!-- end of today -->`. README has a sentence only once three seeds are
there, and all say the same.

    python -m benchmarks.today_page FOLDER [--trials 12] [--rows 60]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import today

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "paper" / "plain-way.md", ROOT / "README.md"
FOUND = ROOT / "docs" / "paper" / "today.json"
SEEDS = 3  # that a headline needs


def lines(folder: Path, setting: str) -> list[dict[str, Any]]:
    """A line a layout, of the seeds that have all sides; none where no seed has."""
    pieces = [[seed / f"{side}.json" for side in today.SIDES] for seed in sorted(folder.glob("seed-*"))]
    whole = [
        [json.loads(path.read_text(encoding="utf-8")) for path in of] for of in pieces if all(map(Path.exists, of))
    ]
    if not whole:
        return []
    setting += f", seeds {len(whole)}"
    pairs = {layout: [(of[0], of[at]) for of in whole] for at, layout in enumerate(today.SIDES) if at}
    return [{**today.line(layout, of, setting), "seeds": len(whole)} for layout, of in pairs.items()]


def table(found: list[dict[str, Any]]) -> str:
    """For the page."""
    if not found:
        return "No seed is finished yet: nothing is claimed."
    rows = [
        "| plain way | seeds | seconds: plain, meshtune | ratio (range) | processor seconds | ratio (range) | tokens |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for of in found:
        mine, theirs = of["processor"]
        layout = of["name"].rpartition(" ")[2]
        cells = [layout, of["seeds"], f"{of['theirs']}, {of['ours']}", f"{of['ratio']} ({of['low']} to {of['high']})"]
        cells += [f"{theirs}, {mine}", f"{of['processor_ratio']} ({of['processor_low']} to {of['processor_high']})"]
        rows.append("| " + " | ".join(map(str, [*cells, of["tokens_ratio"]])) + " |")
    reached = ", ".join(f"{of['reached']} of {of['seeds']}" for of in found)
    return "\n".join([*rows, "", f"{found[0]['setting']}. meshtune came so far in {reached} seeds."])


def headline(found: list[dict[str, Any]]) -> str:
    """For README: by the harder layout; nothing before there are enough seeds."""
    if not found or found[0]["seeds"] < SEEDS:
        return ""
    least = min(found, key=lambda of: float(of["processor_ratio"]))
    ratio, low, high = (least[f"processor_{name}"] for name in ("ratio", "low", "high"))
    if low <= 1:  # no seed may say the opposite of a headline
        return ""
    return (
        f"A search that people would write with Optuna, Trainer and PEFT needs {ratio} times the processor time "
        f"({low} to {high}, {least['seeds']} seeds) until its best loss that meshtune needs for as low a one "
        "([the race](docs/paper/plain-way.md)).\n"
    )


def filled(page: str, text: str) -> str:
    """The page with this between its marks."""
    pattern = r"(?<=<!-- today -->\n).*?(?=<!-- end of today -->)"
    return re.sub(pattern, lambda _: text, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rows", type=int, default=60)
    options = parser.parse_args()
    setting = f"embedded model, {options.rows} rows, {today.EPOCHS} epochs, {options.trials} trials, 2 cores"
    found = lines(options.folder, setting)
    FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for path, text in ((PAGE, f"\n{table(found)}\n\n"), (README, headline(found))):
        path.write_text(filled(path.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
