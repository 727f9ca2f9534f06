"""What a study's status says, in sentences and as the table of results: the same on screen, in reports and in pages.

The verdict, the recommendation, goals, rounds and usage. Nothing is computed or printed here.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.data.summary import FEW
from meshtune.system.text import counted, duration, number, percent, point

CRASHES = 5  # ways to crash that are told of, and trials of each that are named


def verdict(status: Mapping[str, Any]) -> str:
    """By how much the best beats the baseline on the test rows, or that it does not; and what its replicates say."""
    parts = (_verdict(status), recommendation(status), beside_seed_noise(status), to_gain(status))
    return " ".join(filter(None, parts))


def to_gain(status: Mapping[str, Any]) -> str:
    """A sentence: what going on would be expected to gain. Empty where that is not known."""
    found = status.get("expected_gain")
    if found is None:
        return ""
    most = math.inf if status.get("objective") == "command" else 1.0  # the losses of other trainers do not fall below 0
    mean, low, high = (percent(min(found[name], most)) for name in ("mean", "low", "high"))
    what = short_loss(status)
    return f"Another {found['trials']} trials would be expected to gain {mean} % of the {what} ({low} to {high} %)."


def baseline_name(status: Mapping[str, Any]) -> str:
    """What the baseline is called."""
    return "advised baseline" if status.get("advised") else "baseline"


def only_by_seed(status: Mapping[str, Any]) -> bool:
    """Whether other seeds say that the best may be no better than the baseline."""
    above = (status.get("seed_noise") or {}).get("above")
    return above is not None and above["low"] <= 0


def recommendation(status: Mapping[str, Any]) -> str:
    """Sentences: which trial to take in place of the one with the lowest loss, and why. Empty where it is that."""
    best, recommended = status.get("best"), status.get("recommended")
    if best is None or recommended is None or best["trial"] == recommended["trial"]:
        return ""
    expected = f"{number(recommended['expected'])} ± {number(recommended['deviation'], 2)}"
    what = short_loss(status)
    why = f"by all trials together its expected {what} is the lowest ({expected})"
    tested = status.get("best_against_recommended")
    if tested and tested["low"] is not None and tested["high"] < 0:
        kept = f"take trial {best['trial']}, the best: it is lower on the test rows, beyond noise"
        return f"Trial {recommended['trial']} is recommended, since {why}; but {kept}."
    option = "" if status.get("objective") == "command" else " (`--trial recommended`)"
    luck = f"while the single {what} of trial {best['trial']}, the best, is partly luck"
    return f"Take trial {recommended['trial']}{option}: {why}, {luck}."


def _verdict(status: Mapping[str, Any]) -> str:
    best, baseline = status.get("best"), status.get("baseline")
    if best is None:
        if infeasible := without_feasible(status):
            return infeasible
        return "No trial completed: look at `meshtune status --trials` for what happened."
    difference = status.get("best_against_baseline")
    if baseline is None:
        return f"Best: trial {best['trial']}, {short_loss(status)} {number(best['loss'])}."
    if best.get("trial") == baseline.get("trial"):
        if status.get("advised"):
            return "The advice was already the best: no trial beat the baseline, the point that was advised."
        return "The baseline itself is the best point found: it was not beaten."
    name = baseline_name(status)
    if difference is None:
        losses = f"{short_loss(status)} {number(best['loss'])}, the {name} "
        losses += "has none" if baseline["loss"] is None else f"has {number(baseline['loss'])}"
        return f"Best: trial {best['trial']}, {losses} ({_unmeasured(status)})."
    mean, low, high, rows = (difference[key] for key in ("mean", "low", "high", "rows"))
    if low is None:
        side = "below" if mean <= 0 else "above"
        return f"The best is {abs(mean):.4f} {side} the {name} in test loss: one row is too few for an interval."
    evidence = f"95 % interval of the gain {-high:+z.4f} to {-low:+z.4f}, {rows} unseen rows"
    if rows < FEW:
        side = "below" if mean <= 0 else "above"
        what = f"Only {rows} test rows, too few to tell: on them the best is {abs(mean):.4f} {side} the {name}"
        return f"{what} ({evidence}). Give at least {FEW} (`data.test`)."
    if high < 0 and high - low > -mean:
        evidence += ", wider than the gain: how large it is is not well known"
    if high < 0 and only_by_seed(status):
        what = f"its test loss is {-mean:.4f} lower ({evidence}), and other seeds do not show it"
        return f"The best does not beat the {name} beyond the noise of seeds: {what}."
    if high < 0:
        gain = 100 * -mean / baseline["test_loss"]
        return f"The best beats the {name} by {-mean:.4f} in test loss, {gain:.1f} % ({evidence})."
    if low > 0:
        return f"The best is worse than the {name} by {mean:.4f} in test loss ({evidence}): keep the baseline."
    side = "lower" if mean <= 0 else "higher"
    return f"The best does not beat the {name} beyond noise: its test loss is {abs(mean):.4f} {side} ({evidence})."


def _unmeasured(status: Mapping[str, Any]) -> str:
    """Why nothing is said of rows that the search never saw."""
    if status.get("objective") == "command":
        return "measured once: where the program is noisy, part of it is luck"
    if status.get("state") in ("stopped", "running"):
        return "not yet measured on the test rows: how much of it is luck is not known yet"
    return "no test rows: how much of it is luck is not known"


def harm(status: Mapping[str, Any]) -> str:
    """A sentence about trials that made the model worse than it was, and what to change. Empty where there are none."""
    count = len(status.get("worse_than_untuned", ()))
    if not count:
        return ""
    complete = status["trials"].get("complete", 0)
    which = (
        f"{count} of {counted(complete, 'complete trial')} {'is' if count == 1 else 'are'} worse than the untuned model"
    )
    return f"{which}: lower the upper bound of the learning rate or of the scale (alpha / rank)"


def crash_lines(status: Mapping[str, Any]) -> list[str]:
    """A line for trials that were given up since they crashed in every attempt with the same words, but for the log
    that these name; the first few; none where there are none."""
    alike = dict[tuple[int, str], list[Mapping[str, Any]]]()
    for each in status.get("crashed", ()):
        alike.setdefault((each["attempts"], re.sub(r" \(see [^)]*\)$", "", each["message"])), []).append(each)
    lines = []
    for (count, _), trials in itertools.islice(alike.items(), CRASHES):
        alone = len(trials) == 1
        how = f"in {count} attempts" if count > 1 else f"in {'its' if alone else 'their'} one attempt"
        words = trials[0]["message"] or "it left no words"
        listed = ", ".join(str(each["trial"]) for each in trials[:CRASHES])
        listed += f" and {len(trials) - CRASHES} more" if len(trials) > CRASHES else ""
        who = f"Trial {listed} crashed {how} and was" if alone else f"Trials {listed} crashed {how} and were"
        lines.append(f"{who} given up: {words}")
    if more := sum(len(trials) for trials in list(alike.values())[CRASHES:]):
        lines.append(f"and {counted(more, 'more trial')} crashed")
    return lines


def without_feasible(status: Mapping[str, Any]) -> str:
    """A sentence where trials completed and none of them keeps the constraints; else empty."""
    measured = [each for each in status.get("constraints", ()) if not each["known"]]
    if status.get("best") is not None or not measured:
        return ""
    count = status["trials"]["complete"]
    if not count:
        return ""
    each = ", ".join(f"`{one['text']}` is kept by {one['kept']}" for one in measured)
    return f"None of {counted(count, 'complete trial')} keeps all constraints ({each})."


def goal_lines(status: Mapping[str, Any]) -> list[str]:
    """A line a quantity that is a goal or is watched, one a constraint, and one a trial of the Pareto set."""
    lines = []
    models = [(name, status[name]) for name in ("untuned", "baseline", "best") if status.get(name) is not None]
    for name in status.get("quantities", ()):
        held = [(model, entry["quantities"][name]) for model, entry in models if name in entry.get("quantities", {})]
        if held:
            lines.append(f"{name}: " + ", ".join(f"{model} {quantity(name, value)}" for model, value in held))
    for each in status.get("constraints", ()):
        if each["known"]:
            lines.append(f"constraint {each['text']}: kept by every trial, since it is known before training")
            continue
        limit = "" if each["limit"] is None else f" ({quantity(each['quantity'], each['limit'])})"
        count = f"{each['kept']} of {status['trials']['complete']} complete trials"
        lines.append(f"constraint {each['text']}{limit}: kept by {count}")
    if front := status.get("pareto"):
        listed = ", ".join(map(str, front))
        what = " and ".join(
            f"{'highest' if each['maximize'] else 'lowest'} {each['quantity']}" for each in status["objectives"]
        )
        lines.append(f"Pareto set for {what}: trials {listed}" if len(front) > 1 else f"Pareto set: trial {listed}")
    return lines


def quantity(name: str, value: float | None) -> str:
    """A quantity of a trial as people write it: memory in GiB, counts in full."""
    if value is not None and name == "predicted_memory":
        return f"{value / 2**30:.2f} GiB"
    if value is not None and name == "adapter_parameters":
        return f"{value:,.0f}"
    return number(value)


def round_lines(status: Mapping[str, Any]) -> list[str]:
    """A line a round, one of all of them, and one for each two that follow each other: whether they agree."""
    lines = []
    for each in status.get("rounds", ()):
        if each["trials"] is None:
            lines.append(f"{each['name']}: has not begun")
            continue
        state = each["state"] + (f" ({each['reason']})" if each["reason"] else "")
        found = ""
        if best := each["best"]:
            found = f", best {number(best['loss'])} (trial {best['trial']}: {point(best['hyperparameters'])})"
        count = each["trials"]["proposed"]
        lines.append(f"{each['name']}: {state}, {counted(count, 'trial')}{found}")
    if lines:
        whole = status["all_rounds"]
        tokens = f", {whole['tokens']:,} tokens" if whole["tokens"] else ""
        lines.append(f"all rounds: {counted(whole['trials'], 'trial')}, {duration(whole['elapsed_seconds'])}{tokens}")
    return lines + [agreement(each) for each in status.get("agreement", ())]


def agreement(found: Mapping[str, Any]) -> str:
    """Whether two rounds put the same points in the same order, and how sure that is."""
    one, other = found["rounds"]
    points, rho, low, high = (found[key] for key in ("points", "rho", "low", "high"))
    of = f"of {counted(points, 'point')} in rounds {one} and {other}"
    if rho is None or low is None:
        shown = "" if rho is None else f" {rho:+z.2f}"
        return f"rank correlation{shown} {of}: too few to tell whether round {one} stands for round {other}"
    evidence = f"rank correlation {rho:+z.2f} (95 % interval {low:+z.2f} to {high:+z.2f}) {of}"
    if low > 0:
        return f"{evidence}: round {one} stands for round {other}, as far as these points tell"
    if high < 0:
        return f"{evidence}: what round {one} prefers is worse in round {other}; do not trust it"
    return f"{evidence}: too few, or too alike, to tell whether round {one} stands for round {other}"


def beside_seed_noise(status: Mapping[str, Any]) -> str:
    """A sentence: whether the best point is below the baseline with other seeds too. Empty without replicates."""
    noise = status.get("seed_noise")
    if noise is None or noise["above"] is None:
        return ""
    mean, low, high = (noise["above"][name] for name in ("mean", "low", "high"))
    beyond = "above the baseline" if high < 0 else "below the baseline, beyond seed noise"
    if low <= 0 <= high:
        beyond = f"{'below' if mean >= 0 else 'above'} the baseline, not beyond seed noise"
    interval = f"95 % interval {low:+z.4f} to {high:+z.4f}"
    found = f"its {loss_name(status)} is on average {abs(mean):.4f} {beyond} ({interval})"
    return f"Over {noise['count']} other seeds {found}."


def course(trial: Mapping[str, Any]) -> str:
    """Where a trial joined a pack, where it was stopped, and what became of it then; empty where it did neither."""
    said = []
    if joined := trial.get("joined"):
        said.append(f"joined pack {joined['pack']} after {joined['tokens']:,} tokens of trial {joined['trial']}")
    if at := trial.get("stopped_at"):
        said += [f"stopped at rung {at['rung']} of {at['of']}"] if at["rung"] else []  # else on request, before any
        later = trial.get("after_stop") or []
        said += [_after_stop(each) for each in later if each["event"] != "ended"]
        thawed = any(each["event"] == "went_on" for each in later)
        if trial["promoted"]:
            said.append(_after_stop(later[-1]) if thawed else "promoted since")
        else:
            said.append(f"{trial['tokens_saved']:,} tokens saved")
    return ", ".join(said)


def _after_stop(event: Mapping[str, Any]) -> str:
    """What became of a trial that had been stopped."""
    match event["event"]:
        case "went_on":
            where = "" if event.get("pack") is None else f" in pack {event['pack']}"
            return f"went on after {counted(event['trials'], 'trial')}{where}"
        case "froze":
            return f"stopped again at rung {event['rung']}"
        case "dropped":
            return f"state dropped after {counted(event['trials'], 'trial')}"
    if event["ending"] != "complete" or event["loss"] is None:
        return str(event["ending"]).replace("_", " ")
    return f"finished at {event['loss']:.4f}"


def usage(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was saved and taken, and how large seed noise is: names and values, where there are any."""
    facts = []
    if saved := status.get("tokens_saved"):
        count = len(status["promoted"])
        trained = (
            f"; {count} stopped {'trial was' if count == 1 else 'trials were'} trained to the end" if count else ""
        )
        share = f"{100 * status['share_saved']:.0f} %"
        if left := status.get("not_ended"):
            dropped = len(status["dropped"])
            trained += (
                f"; risked: {counted(left, 'stopped trial')} not trained to the end, which might have been better"
            )
            trained += f" ({dropped} cannot go on, for want of disk)" if dropped else ""
        facts.append(("tokens saved by stopping", f"{saved:,} ({share}){trained}"))
    if noise := status.get("seed_noise"):
        what = f"{number(noise['deviation'], 2)}, standard deviation of the {short_loss(status)}"
        what += f" over {noise['count']} other seeds"
        facts.append(("seed noise", f"{what} of trial {noise['trial']}"))
    if energy := status.get("energy"):
        part = energy["seconds"] < 0.95 * status["elapsed_seconds"]
        of = f", in {duration(energy['seconds'])} of {duration(status['elapsed_seconds'])}" if part else ""
        facts.append(("energy", f"{number(energy['kilowatt_hours'], 3)} kWh{of}"))
    return facts


def gain_of_best(difference: Mapping[str, Any]) -> str:
    """By how much the best is lower, with its 95 % interval, which that of a single row does not have."""
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    return f"{-mean:+z.4f}" if low is None else f"{-mean:+z.4f} [{-high:+z.4f}, {-low:+z.4f}]"


def loss_name(status: Mapping[str, Any]) -> str:
    """What the search lowers: a program's number is an objective, whatever it measures."""
    return "objective" if status.get("objective") == "command" else "validation loss"


def short_loss(status: Mapping[str, Any]) -> str:
    """The same in a word, beside an axis or inside a sentence."""
    return loss_name(status).removeprefix("validation ")


def models(status: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a result has: untuned, baseline, best and, where it is another, recommended."""
    return ("untuned", "baseline", "best", *(("recommended",) if recommendation(status) else ()))


@dataclass(frozen=True)
class ResultRow:
    """One of the `models` in the table of results: its cells, and what stands below them."""

    cells: list[str]
    hyperparameters: str
    metrics: str


def result_table(status: Mapping[str, Any]) -> tuple[list[str], list[ResultRow]]:
    """Titles, and a row for each of the `models` that there are.

    The test columns stand only where one of them was tested.
    """
    entries = {name: status[name] for name in models(status) if status.get(name) is not None}
    tested = any(entry.get("test_loss") is not None for entry in entries.values())
    titles = ["", loss_name(status), *(["test loss", "gain of best (95 %)"] if tested else [])]
    rows = []
    for name, entry in entries.items():
        title = f"{name} (trial {entry['trial']})" if name in ("best", "recommended") else name
        difference = status.get(f"best_against_{name}")
        gain = gain_of_best(difference) if difference else ""
        cells = [title, number(entry["loss"]), number(entry.get("test_loss")), gain]
        hyperparameters = point(entry["hyperparameters"]) if "hyperparameters" in entry else "no adapter"
        rows.append(ResultRow(cells[: len(titles)], hyperparameters, _metrics(status, name, entry)))
    return titles, rows


def _metrics(status: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> str:
    """The means of the user's metrics of one model, in a line."""
    key = f"trial-{entry['trial']}" if entry.get("trial") is not None else name
    scored = status.get("metrics", {}).get(key, {})
    count = max((each["items"] for each in scored.values()), default=0)
    listed = ", ".join(f"{metric} {number(each['mean'], 4)}" for metric, each in scored.items())
    return f"{listed} (means of {counted(count, 'answer')})" if listed else ""


def table_lines(titles: Sequence[str], rows: Sequence[ResultRow], width: int | None = None) -> list[str]:
    """The table as aligned text, with hyperparameters and metrics on lines of their own.

    `width`: where these lines are wrapped; None: never. Numbers stay whole whatever it is.
    """
    columns = [max(map(len, column)) for column in zip(titles, *(row.cells for row in rows), strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, columns, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(size) for cell, size in rest)]).rstrip()

    lines = [line(titles)]
    for row in rows:
        lines.append(line(row.cells))
        for text in filter(None, (row.hyperparameters, row.metrics)):
            parts = [text]
            if width is not None:
                parts = textwrap.wrap(text, max(20, width - 4), break_long_words=False, break_on_hyphens=False)
            lines += [f"    {part}" for part in parts]
    return lines


def load_lines(status: Mapping[str, Any]) -> str | None:
    """Three lines of Python that load the best adapter in plain PEFT."""
    best = status.get("best")
    if best is None or not best.get("adapter"):
        return None
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{status["folder"]}/{best["adapter"]}")\n'
        "model = model.merge_and_unload()  # optional: a plain model with the adapter inside"
    )
