"""The tables and sentences of a report, as plain values: pure functions of a status mapping with all trials.

Cells are text for people; where a table can be sorted, each cell also has the value to sort by.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.data.summary import FEW
from meshtune.report.groups import Group
from meshtune.report.sentences import (
    baseline_name,
    beside_seed_noise,
    course,
    gain_of_best,
    loss_name,
    models,
    only_by_seed,
    quantity,
    short_loss,
    to_gain,
    without_feasible,
)
from meshtune.report.trials import Status, Trial, columns, feasible, number_of, ranked
from meshtune.selection.statistics import Mean
from meshtune.system.text import counted, duration, number, point
from meshtune.trial import Ending

NONE = "-"
MODELS = ("untuned", "baseline", "best")
FIELDS = ("trial", "origin", "block", "ending", "loss", "seconds", "tokens", "peak_memory")


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by (None: last)."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class ResultRow:
    """Untuned, baseline or best (the baseline may be it). `gain`: by how much lower the best's test loss is."""

    name: str
    is_best: bool
    note: str
    validation: str
    test: str
    gain: str
    interval: str


def headline(status: Status) -> tuple[str, str]:
    """The verdict in one sentence, and the evidence for it in others."""
    words, evidence = _headline(status)
    return words, " ".join(filter(None, (evidence, beside_seed_noise(status), to_gain(status))))


def _headline(status: Status) -> tuple[str, str]:
    best, baseline, difference = status["best"], status["baseline"], status.get("best_against_baseline")
    if best is None:
        done = any(trial["ending"] for trial in status["all"])
        words = "Every trial that ended has failed." if done else "No trial has ended."
        if infeasible := without_feasible(status):
            return "No trial keeps the constraints", infeasible
        return ("No trial has completed yet" if status["state"] == "running" else "No trial completed", words)
    if baseline is None or baseline["loss"] is None:
        why = "there is no baseline to compare it with" if baseline is None else "the baseline has no loss"
        what = loss_name(status).removeprefix("validation ")
        return f"Best {what} {number(best['loss'])}, of trial {best['trial']}", _sentence(why)
    if best["trial"] == baseline.get("trial"):
        count = status["trials"]["complete"]
        title = "The advice was already the best" if status.get("advised") else "The baseline was not beaten"
        if len(status["all"]) == 1:
            return f"Only the {baseline_name(status)} was tried", "So there is nothing to compare it with."
        others = f"None of {count} complete trials has a better {short_loss(status)}."
        return title, others if count > 1 else "No other trial completed."
    name = baseline_name(status)
    if difference is None:
        if only_by_seed(status):
            return f"The best does not beat the {name} beyond the noise of seeds", ""
        share_of = baseline["loss"] if best["loss"] >= 0 else 0.0  # of what may be negative, a share says nothing
        gain = _gain(baseline["loss"] - best["loss"], share_of)
        if status.get("objective") == "command":
            words = "It is the lowest that the search saw: where the program is noisy, part of the gain is luck."
            return f"The best beats the {name} by {gain} in the objective", words
        words = "It was not measured on rows that the search never saw, so how much of this is luck is not known."
        if status["state"] != "finished":
            words = (
                "It is not yet measured on the test rows, which the search never sees: how much is luck is not known."
            )
        return f"The best beats the {name} by {gain} in validation loss", words
    mean, low, high, rows = (difference[key] for key in ("mean", "low", "high", "rows"))
    base = baseline["test_loss"]
    unseen = f"{counted(rows, 'row')} that the search never saw"
    if low is None:
        return "One test row is too few to tell", f"The interval needs at least two; there is {unseen}."
    evidence = f"95 % interval {_gain(-high, base)} to {_gain(-low, base)}, on {unseen}."
    if rows < FEW:
        words = (
            f"On them the best is {_gain(abs(mean), base)} {'below' if mean <= 0 else 'above'} the {name}; {evidence}"
        )
        return f"{rows} test rows are too few to tell", f"{words} Give at least {FEW} (`data.test`)."
    if high < 0 and high - low > -mean:
        evidence += " The interval is wider than the gain: how large it is is not well known."
    if high < 0 and only_by_seed(status):
        words = f"Its test loss is {_gain(-mean, base)} lower; {evidence}"
        return f"The best does not beat the {name} beyond the noise of seeds", words
    if high < 0:
        return f"The best beats the {name} by {_gain(-mean, base)} in test loss", evidence
    if low > 0:
        words = f"The best is worse than the {name} by {_gain(mean, base)} in test loss: keep the baseline"
        return words, f"95 % interval {_gain(low, base)} to {_gain(high, base)}, on {unseen}."
    return f"The best does not beat the {name} beyond noise", (
        f"Its test loss is {_gain(abs(mean), base)} {'lower' if mean <= 0 else 'higher'}; {evidence}"
    )


def result(status: Status) -> list[ResultRow]:
    """The `words.models`; those that there are."""
    rows = []
    same = number_of(status, "best") is not None and number_of(status, "best") == number_of(status, "baseline")
    for name in models(status):
        entry = status.get(name)
        if entry is None or (same and name == "baseline"):
            continue
        title = "baseline and best" if same and name == "best" else name
        difference = status.get(f"best_against_{name}")
        bounded = difference is not None and difference["low"] is not None
        row = ResultRow(
            name=f"{title}, trial {entry['trial']}" if entry.get("trial") is not None else title,
            is_best=name == "best",
            note=point(entry["hyperparameters"]) if entry.get("hyperparameters") else "no adapter",
            validation=loss(entry["loss"]),
            test=loss(entry.get("test_loss")),
            gain=f"{-difference['mean']:+z.4f}" if difference else "",
            interval=f"{-difference['high']:+z.4f} to {-difference['low']:+z.4f}" if difference and bounded else "",
        )
        rows.append(row)
    return rows


def trials(status: Status) -> tuple[list[str], list[dict[str, Any]]]:
    """Head and rows of the table of all trials. A row: `cells`, `mark` (best, recommended, ..), whether it `failed`."""
    names = columns(status)
    marks = {number_of(status, name): name for name in ("recommended", "baseline", "best")}
    rank = {trial["trial"]: place for place, trial in enumerate(ranked(status), start=1)}
    memory = any(trial["peak_memory"] for trial in status["all"])
    tokens = any(trial["tokens"] for trial in status["all"])
    guiding = [name for name in status.get("quantities", ()) if name not in names]
    head = ["trial", "place", "ending", "loss", *guiding, *names, "seconds"]
    head += ["tokens"] * tokens + ["memory, GiB"] * memory
    rows = []
    for trial in status["all"]:
        ending = trial["ending"] or "pending"
        place = rank.get(trial["trial"])
        cells = [
            Cell(str(trial["trial"]), trial["trial"]),
            Cell(str(place) if place else "", place),
            Cell(", ".join(filter(None, (ending.replace("_", " ") + _marks(trial), course(trial)))), ending),
            Cell(loss(trial["loss"]), trial["loss"]),
            *(Cell(quantity(n, trial["quantities"].get(n)), trial["quantities"].get(n)) for n in guiding),
            *(Cell(number(trial["hyperparameters"].get(n), 3), trial["hyperparameters"].get(n)) for n in names),
            Cell("" if trial["seconds"] is None else f"{trial['seconds']:,.1f}", trial["seconds"]),
        ]
        if tokens:
            cells.append(Cell(f"{trial['tokens']:,}" if trial["tokens"] else "", trial["tokens"]))
        if memory:
            peak = trial["peak_memory"]
            cells.append(Cell(f"{peak / 2**30:.2f}" if peak else "", peak))
        failed = ending not in ("complete", "pending", "stopped_early") or trial.get("worse_than_untuned", False)
        rows.append({"cells": cells, "mark": marks.get(trial["trial"], ""), "failed": failed})
    return head, rows


def _marks(trial: Trial) -> str:
    """What a complete trial's ending does not say."""
    worse = ", worse than untuned" if trial.get("worse_than_untuned") else ""
    return worse + ("" if feasible(trial) else ", violates a constraint")


def endings(status: Status, *, messages: bool = True) -> list[dict[str, Any]]:
    """How trials ended: count, their time and tokens, the advice of the ending, and last words of the latest."""
    counts = Counter(trial["ending"] for trial in status["all"] if trial["ending"])
    found = []
    for ending in Ending:
        if not counts[str(ending)]:
            continue
        words = [t["message"] for t in status["all"] if t["ending"] == ending and t["message"]] if messages else []
        these = [trial for trial in status["all"] if trial["ending"] == ending]
        row = {"name": str(ending).replace("_", " "), "count": counts[str(ending)], "advice": ending.advice}
        row["time"] = duration(sum(trial["seconds"] or 0.0 for trial in these))
        row["tokens"] = f"{sum(trial['tokens'] or 0 for trial in these):,}"
        found.append({**row, "last": words[-1] if words else ""})
    return found


def cost_of_best(status: Status) -> str:
    """After how much of the search its best trial was there, in a sentence; empty without one."""
    best = next((trial for trial in status["all"] if trial["trial"] == number_of(status, "best")), None)
    if best is None or best["elapsed"] is None or not status["elapsed_seconds"]:
        return ""
    ended = [trial for trial in status["all"] if trial["ending"]]
    place = sum((trial["elapsed"] or 0.0) <= best["elapsed"] for trial in ended)
    time = f"{duration(best['elapsed'])} of {duration(status['elapsed_seconds'])}"
    return f"Trial {best['trial']}, the best, was there after {place} of {counted(len(ended), 'trial')}, {time}."


def quantities(status: Status) -> list[dict[str, Any]]:
    """Rows of the table of quantities: `name`, and `cells` for untuned, baseline and best."""
    found = []
    for name in status.get("quantities", ()):
        values = [
            ((status.get(model) or {}).get("quantities") or {}).get(name) for model in ("untuned", "baseline", "best")
        ]
        found.append({"name": name.replace("_", " "), "cells": [quantity(name, value) for value in values]})
    return found


def constraints(status: Status) -> list[str]:
    """A sentence a constraint."""
    found = []
    for each in status.get("constraints", ()):
        if each["known"]:
            found.append(f"{each['text']}: known before training, so every trial keeps it.")
            continue
        limit = "" if each["limit"] is None else f" (limit {quantity(each['quantity'], each['limit'])})"
        found.append(
            f"{each['text']}{limit}: kept by {each['kept']} of {status['trials']['complete']} complete trials."
        )
    return found


def comparison(groups: Sequence[Group]) -> list[dict[str, str]]:
    """One row a group: means over its seeds with their 95 % intervals; a single study has its own interval by row."""
    rows = []
    for group in groups:
        only = group.studies[0].status if len(group.studies) == 1 else None
        difference = only.get("best_against_baseline") if only is not None else None
        gain = gain_of_best(difference) if difference else interval(group.mean(_gain_over_baseline), signed=True)
        row = {
            "setting": group.label,
            "seeds": group.count,
            "validation": interval(group.mean(_best_loss)),
            "test": interval(group.mean(_best_test_loss)),
            "gain": gain,
            "trials": _amount(group.mean(lambda s: len(s["all"]))),
            "tokens": _amount(group.mean(lambda s: s["tokens"] or None)),
            "hours": hours(group.mean(lambda s: s["elapsed_seconds"])),
        }
        rows.append(row)
    return rows


def comparison_headline(groups: Sequence[Group]) -> tuple[str, str]:
    """Which setting came to the lowest mean loss, and whether the seeds say that it is no accident."""
    means = [(group, group.mean(_best_loss)) for group in groups]
    known = sorted(((g, m) for g, m in means if m is not None), key=lambda pair: pair[1].mean)
    if not known:
        return "No study has a result yet", "None of them has a complete trial in every seed."
    (first, lowest), rest = known[0], known[1:]
    if not rest:
        count = len(first.studies)
        return f"{first.label}: {interval(lowest)}", f"The best loss of {counted(count, 'study', 'studies')}."
    second, next_ = rest[0]
    mean = " on average" if first.seeds > 1 else ""
    title = f"{first.label} found the lowest loss{mean}, {lowest.mean:.4f}"
    words = f"{second.label} comes next with {next_.mean:.4f}. "
    single = [group.label for group in (first, second) if group.seeds < 2]
    if single:
        each = f"of {single[0]}" if len(single) == 1 else "each"
        return title, words + f"With one seed {each}, the order may be an accident: run several seeds."
    apart = lowest.high < next_.low
    said = "do not overlap" if apart else "overlap: the order may be an accident"
    return title, words + f"Their 95 % intervals over seeds {said}."


def studies(groups: Sequence[Group]) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows of the table of studies."""
    head = ["study", "setting", "state", "seed", "trials", "complete", "best loss", "baseline", "best hyperparameters"]
    rows = []
    for group in groups:
        for study in group.studies:
            status = study.status
            best, baseline = status["best"], status["baseline"]
            low, base = best and best["loss"], baseline and baseline["loss"]
            row = [
                *(Cell(text, text) for text in (study.name, group.label, status["state"])),
                Cell(str(status["seed"]), status["seed"]),
                Cell(str(len(status["all"])), len(status["all"])),
                Cell(str(status["trials"]["complete"]), status["trials"]["complete"]),
                Cell(loss(low), low),
                Cell(loss(base), base),
                Cell(point(best["hyperparameters"]) if best else NONE, None),
            ]
            rows.append(row)
    return head, rows


def as_csv(statuses: Mapping[str, Status], *, messages: bool = True) -> str:
    """All trials as CSV with a header; a column `study` in front where there are several studies."""
    names = list(dict.fromkeys(name for status in statuses.values() for name in columns(status)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    study = ["study"] if len(statuses) > 1 else []
    epochs = max((len(trial["losses"]) for status in statuses.values() for trial in status["all"]), default=0)
    curve = [f"loss_epoch_{epoch}" for epoch in range(1, epochs + 1)]
    guiding = list(dict.fromkeys(name for status in statuses.values() for name in status.get("quantities", ())))
    bounds = list(
        dict.fromkeys(c["text"] for s in statuses.values() for c in s.get("constraints", ()) if not c["known"])
    )
    violated = [f"violation of {text}" for text in bounds]
    writer.writerow([*study, *FIELDS, *names, *guiding, *violated, *curve, *(["message"] if messages else [])])
    for title, status in statuses.items():
        for trial in status["all"]:
            values = [trial[field] for field in FIELDS] + [trial["hyperparameters"].get(name) for name in names]
            values += [trial["quantities"].get(name) for name in guiding]
            values += [trial["violations"].get(text) for text in bounds]
            losses = [*trial["losses"], *[None] * (epochs - len(trial["losses"]))]
            last = [trial["message"]] if messages else []
            writer.writerow([*([title] if study else []), *values, *losses, *last])
    return text.getvalue()


def loss(value: float | None) -> str:
    """A loss with four decimals, so that columns line up; very small and very large ones as numbers are written."""
    if value is None:
        return NONE
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else number(value)


def interval(mean: Mean | None, *, signed: bool = False) -> str:
    """A mean and, where there are several values, its 95 % interval."""
    if mean is None:
        return NONE
    form = "{:+z.4f}" if signed else "{:z.4f}"
    if mean.count == 1:
        return form.format(mean.mean)
    return f"{form.format(mean.mean)} [{form.format(mean.low)}, {form.format(mean.high)}]"


def hours(mean: Mean | None) -> str:
    """Seconds as hours."""
    return NONE if mean is None else f"{mean.mean / 3600:.2f}"


def _best_loss(status: Status) -> float | None:
    return status["best"]["loss"] if status["best"] else None


def _best_test_loss(status: Status) -> float | None:
    return status["best"]["test_loss"] if status["best"] else None


def _gain_over_baseline(status: Status) -> float | None:
    difference = status.get("best_against_baseline")
    if difference:
        return -float(difference["mean"])
    best, baseline = status["best"], status["baseline"]
    if best and baseline and best["trial"] == baseline.get("trial"):
        return 0.0
    return None


def _amount(mean: Mean | None) -> str:
    return NONE if mean is None else f"{mean.mean:,.0f}"


def _gain(difference: float, base: float) -> str:
    """A difference in percent of what it is compared with; as it is where that is not above zero."""
    if base > 0:
        return f"{100 * difference / base:z.1f} %"
    return f"{difference:.4f}" if abs(difference) < 1e5 else number(difference)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."
