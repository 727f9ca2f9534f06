"""What a study will take of this machine, for `check`: the memory of its largest trial, and the time of its budget.

Memory is predicted and refused where it cannot be had; time follows from a few batches that are trained (`pilot`), and
is as good as these: other points, other processes beside it and early endings move it. Imports torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.config.budget import FEWEST_FINISHED, BudgetConfig, EarlyStoppingConfig
from meshtune.config.sections import StudyConfig
from meshtune.config.template import QUICKSTART
from meshtune.data.store import Rows
from meshtune.data.summary import SideSummary, Summary
from meshtune.errors import Fault, InputError
from meshtune.objectives import measurements
from meshtune.plan.budget import KILOWATT_HOUR
from meshtune.plan.energy import Meter
from meshtune.plan.plan import Plan
from meshtune.plan.training import TrainingPlan
from meshtune.space.space import expected_point
from meshtune.system.text import counted, duration, number
from meshtune.training import machine
from meshtune.training.chosen_trainer import why_not_packed
from meshtune.training.memory import formula
from meshtune.training.memory.check import (
    Largest,
    Setting,
    describe,
    gigabytes,
    largest_state,
    refuse_too_large,
)
from meshtune.training.memory.packs import PackSetting
from meshtune.training.memory.pilot import Pilot, measure
from meshtune.training.models import load_model
from meshtune.training.packed.limits import token_limit
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.steps import Diverged

_ASHA = (0.36, 0.61)  # docs/decisions/2026-12-02-long-curves.md
# Shares of tokens that rules saved in replays of real curves; of `model`: docs/decisions/2026-12-02-rule-model.md.
REPLAYED = {"default": _ASHA, "asha": _ASHA, "model": (0.18, 0.45)}
MUCH = 0.1  # of a trial's time, from which measuring at rungs may take more than early stopping saves
LONG = 0.5  # hours of a study on CPUs from which a smaller one is proposed

BUSY = """
import os, sys, threading, torch
threading.Thread(target=lambda: os._exit(len(sys.stdin.read())), daemon=True).start()  # ends with its parent
torch.set_num_threads(int(sys.argv[1]))
a = torch.rand(1024, 1024)
print(flush=True)
while True:
    a @ a
"""


@dataclass(frozen=True)
class Forecast:
    """What the budget comes to.

    Attributes:
        seconds_a_trial: training and validation, at the expected point. trials: how many the budget allows.
        limited_by: the key of the budget that ends the search. hours: of the whole study, loading and tests included.
        afterwards: seconds at most of these hours, for promotions and replicates once the budget is spent.
        tokens: trained on in all trials, promotions included. price: of these hours, where the config says what one
            costs. watts: drawn in the batches that were trained, None where that cannot be read. kilowatt_hours: at
            so many watts.
    """

    seconds_a_trial: float
    trials: int
    limited_by: str
    hours: float
    tokens: int
    price: float | None
    afterwards: float = 0.0
    watts: float | None = None
    kilowatt_hours: float | None = None


@dataclass(frozen=True)
class AfterSearch:
    """What comes at a search's end, at most: so many promotions, each of a share of a trial, and whole replicates."""

    promotions: int = 0
    share: float = 1.0
    replicates: int = 0

    def __str__(self) -> str:
        counts = ((self.promotions, "promotion"), (self.replicates, "replicate"))
        return " and ".join(counted(count, name) for count, name in counts if count)


@dataclass(frozen=True)
class Tried:
    """What came of training the first batches of the expected point.

    Attributes:
        point: its recipe. loading: seconds that the model took. at: with the trainer that was used, which is not the
            packed one where the model turned out not to be packable. watts: drawn meanwhile, None where not metered.
    """

    measured: Pilot
    point: Recipe
    loading: float
    at: Setting
    watts: float | None = None


def largest_trial(plan: Plan, at: Setting) -> Largest:
    """The largest trial. Raises InputError where it cannot fit."""
    return refuse_too_large(plan.space, at, plan.baseline)


def pilot(plan: Plan, training: TrainingPlan, at: Setting, seed: int, pack: int, meter: Meter | None = None) -> Tried:
    """Measure the expected point, with the trainer that the trials will have, in packs of so many where it packs, and
    beside as much other work as the other processes will be.

    Raises InputError where it runs out of memory or does not train at all, and, where the model turns out not
    to be packable, where the space's largest trial does not fit alone.
    """
    spec = training.spec
    if plan.baseline is None:
        raise InputError("a study of LoRA hyperparameters has a baseline")
    point = recipe(at.training, expected_point(plan.space, plan.baseline), seed)
    rows = Rows.open(spec.data, "train"), Rows.open(spec.data, "validation")
    begun = time.monotonic()
    base = load_model(spec.model, at.device)
    loaded = time.monotonic() - begun
    threads = plan.processes[0].threads
    try:
        if at.trainer == "packed" and (reason := why_not_packed(base, at.training, spec.variants)) is not None:
            at = replace(at, trainer="transformers", unpackable=reason, pack=1)
            largest_trial(plan, at)
        together = pack if at.trainer == "packed" else None
        begun, before = time.monotonic(), meter.joules() if meter is not None else 0.0
        computing = sum(place.devices for place in plan.processes)
        with busy(computing - 1 if at.device == "cpu" else 0, threads):
            measured = measure(base, *rows, point, threads=threads, pack=together)
        watts = None if meter is None else (meter.joules() - before) / (time.monotonic() - begun)
        return Tried(measured, point, loaded, at, watts)
    except Diverged as error:
        text = f"{error} near the point to beat: choose another, such as a lower learning rate"
        raise InputError(Fault(text, key="baseline")) from error
    except Exception as error:
        if not machine.is_out_of_memory(error):
            raise
        text = (
            f"training its largest batch ran out of memory on {at.device}: lower training.batch_size or data.max_length"
        )
        raise InputError(Fault(text, key="baseline")) from error


def forecast(
    measured: Pilot,
    data: Summary,
    epochs: int,
    budget: BudgetConfig,
    *,
    processes: int,
    loading: float,
    after: AfterSearch = AfterSearch(),
    watts: float | None = None,
    measuring: int = 0,
) -> Forecast:
    """What the budget comes to at these speeds, with all processes busy, and packs full but for the last.

    No trial is taken to stop early: with early stopping this is the most that it takes. `watts`: of the whole machine
    while it trains. `measuring`: tokens that are computed to measure a trial beside its loss, at rungs too.
    """
    a_trial = epochs * (data.train.tokens / measured.training + data.validation.tokens / measured.validation)
    a_trial += measuring / measured.validation
    tokens = epochs * data.train.tokens
    limits: dict[str, float] = {}
    if budget.trials is not None:
        limits["trials"] = budget.trials
    if budget.tokens is not None:
        limits["tokens"] = math.ceil(budget.tokens / tokens)  # the trial that reaches it still ends
    if budget.hours is not None:
        limits["hours"] = processes * math.ceil(budget.hours * 3600 / a_trial)
    if budget.kilowatt_hours is not None and watts:
        limits["kilowatt_hours"] = processes * math.ceil(budget.kilowatt_hours * KILOWATT_HOUR / watts / a_trial)
    if not limits:
        what = "the counters of this machine stood still, so what it draws is not known: give `hours` or `tokens` too"
        raise InputError(Fault(what, key="budget.kilowatt_hours"))
    limited_by = min(limits, key=lambda name: limits[name])
    trials = int(limits[limited_by])
    # Untuned, baseline and best are measured on the test rows, and untuned on the validation rows.
    finals = (3 * data.test.tokens + data.validation.tokens) / measured.validation
    packs = math.ceil(trials / measured.pack)
    one_after_the_other = min(trials, math.ceil(packs / processes) * measured.pack)
    promoted, again = (math.ceil(count / processes) * a_trial for count in (after.promotions, after.replicates))
    afterwards = promoted * after.share + again
    seconds = loading + one_after_the_other * a_trial + afterwards + finals
    return Forecast(
        seconds_a_trial=a_trial,
        trials=trials,
        limited_by=limited_by,
        hours=seconds / 3600,
        tokens=trials * tokens + round(after.promotions * after.share * tokens),
        price=None if budget.price_per_hour is None else seconds / 3600 * budget.price_per_hour,
        afterwards=afterwards,
        watts=watts,
        kilowatt_hours=None if watts is None else watts * seconds / KILOWATT_HOUR,
    )


def measuring_tokens(config: StudyConfig, training: TrainingPlan) -> int:
    """Tokens that are computed to measure a trial beside its loss, at rungs too, those of answers left out."""
    tokens = rung_tokens(config.early_stopping, training.data.validation)
    if training.measurements is not None:
        tokens += measurements.computed(training.measurements.chosen, training.spec.model)
    return tokens


def after_search(config: StudyConfig) -> AfterSearch:
    """What a config asks for at the search's end."""
    early = config.early_stopping
    promotions = 0 if early.rule == "none" else early.promote
    return AfterSearch(promotions, 1 - early.rungs[0], config.replicates)


def most_saved(early: EarlyStoppingConfig, trials: int) -> float:
    """The share of the tokens of so many trials that early stopping saves at most, before promotions.

    That is where trials come in no order of worth: of those at a rung a share goes on (by `model`
    none has to), and the first few end. A search that gets better saves less, since more of its trials are among the
    best there.
    """
    goes_on = {"median": max(early.keep, 0.5), "model": 0.0}.get(early.rule, early.keep)
    shares = [*early.rungs, 1.0]
    spent = shares[0] + sum(goes_on**k * (shares[k] - shares[k - 1]) for k in range(1, len(shares)))
    stoppable = max(0, trials - max(early.startup, FEWEST_FINISHED))
    return stoppable * (1 - spent) / trials


def rung_tokens(early: EarlyStoppingConfig, validation: SideSummary) -> int:
    """Tokens of validation that a trial's rungs compute, if it passes all of them."""
    if early.rule == "none":
        return 0
    return round(min(early.rows, validation.rows) * validation.tokens / max(1, validation.rows) * len(early.rungs))


def replayed(rule: str) -> str:
    """What a rule saved in replays, such as `18 to 45 %`."""
    low, high = REPLAYED[rule]
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def early_stopping_lines(early: EarlyStoppingConfig, trials: int, tokens: int, share: float) -> Iterator[str]:
    """What is saved at most, what was saved in replays, and what measuring at rungs takes: `tokens` of validation a
    trial, and a `share` of its time.
    """
    usual = EarlyStoppingConfig(rule=early.rule)
    alike = all(getattr(early, key) == getattr(usual, key) for key in ("rungs", "keep", "confidence", "freeze"))
    known = f" ({replayed(early.rule)} in replays of real curves)" if alike and early.rule in REPLAYED else ""
    yield (
        f"early stopping saves at most {100 * most_saved(early, trials):.0f} % of these tokens{known}"
        f"; rungs compute at most {tokens:,} tokens of validation, {100 * share:.0f} % of a trial's time"
    )
    if share > MUCH:
        yield (
            "warning: that may be more than it saves: lower `early_stopping.rows`, leave out rungs, or write "
            "`early_stopping: none`"
        )


def disk_facts(plan: Plan, at: Setting, early: EarlyStoppingConfig, trials: int | None) -> dict[str, Any] | None:
    """Bytes of the largest state that a frozen trial keeps, its rank, the limit, and how many are kept at most; None
    where none freezes.
    """
    if plan.early is None or plan.early.state is None or not early.freeze:
        return None
    rank, size = largest_state(plan.space, at, early.rungs[-1])
    most = None if trials is None else max(0, trials - max(early.startup, FEWEST_FINISHED))
    counts = [count for count in (most, None if early.disk is None else early.disk // size) if count is not None]
    return {"rank": rank, "state": size, "limit": early.disk, "kept": min(counts, default=None)}


def disk_lines(facts: Mapping[str, Any], free: int | None) -> Iterator[str]:
    """That in words, and where the disk has less `free` than they may take."""
    size, limit, kept = facts["state"], facts["limit"], facts["kept"]
    line = f"a frozen trial of rank {facts['rank']} keeps about {gigabytes(size)}"
    if kept is None:
        yield f"{line}; `early_stopping.disk` limits what they take together"
        return
    if limit is None:
        most = f"at most {kept} are kept, {gigabytes(kept * size)}" if kept else "none is kept"
        yield f"{line}; {most}; `early_stopping.disk` limits that"
    else:
        yield f"{line}; {gigabytes(limit)} hold {limit // size} of these, and what promises least is dropped first"
    if limit is not None and limit < size:
        yield "warning: not one of them fits into the limit, so such a trial cannot go on: raise `early_stopping.disk`"
    needed = kept * size if limit is None else min(limit, max(kept, 1) * size)
    if free is not None and free < needed:
        yield f"warning: the study's disk has {gigabytes(free)} free, and they may take {gigabytes(needed)}"


def free_disk(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be; None where that cannot be told."""
    there = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), folder)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return None


def trainer_line(unpackable: str) -> str:
    """Why another trainer takes the place of the packed one."""
    return f"transformers, since these trials cannot be packed: {unpackable}"


def memory_line(found: Largest, at: Setting) -> str:
    """The largest trial beside what there is."""
    there = "how much there is cannot be told here"
    if at.available is not None:
        share = f" for each of {at.processes} processes" if at.processes > 1 else ""
        there = f"this {'CPU' if at.device == 'cpu' else 'GPU'} has {gigabytes(at.available)}{share}"
    parts = describe(found.memory, found.hyperparameters["rank"], at.pack)
    line = f"{parts} = {gigabytes(found.memory.total)}; {there}"
    if at.trainer == "packed" and (tokens := at.training.pass_tokens) is not None and tokens < token_limit(at.device):
        line += f"\n           passes of {tokens:,} tokens, where {token_limit(at.device):,} would be faster"
        if at.training.gradient_checkpointing is not True:
            line += "; `training.gradient_checkpointing: true` takes less memory too, and more time"
    if at.training.gradient_checkpointing is True:
        line += "\n           with gradient checkpointing: activations are computed again in the backward pass"
    if found.close:
        line += "\n           warning: that is close; the largest trials may run out of memory"
    return line


def memory_facts(found: Largest, at: Setting) -> dict[str, Any]:
    """The same as plain values, in bytes."""
    return {
        "trainer": at.trainer,
        "pack": at.pack,
        "pass_tokens": at.training.pass_tokens,
        "gradient_checkpointing": at.training.gradient_checkpointing is True,
        "hyperparameters": dict(found.hyperparameters),
        "batch": asdict(at.batch(at.batch_size(found.hyperparameters))),
        "predicted": found.memory.to_dict(),
        "available": at.available,
        "processes": at.processes,
        "measured": None,
    }


def measured_memory(tried: Tried) -> dict[str, Any] | None:
    """The peak that was measured, beside the prediction for the same batch; None where it cannot be measured."""
    measured, point, at = tried.measured, tried.point, tried.at
    if measured.peak is None:
        return None
    batch = measured.largest
    if at.trainer == "packed":
        packs = PackSetting(at.shape, batch, at.device, at.dtype, at.quantization, at.shards)
        predicted = packs.memory([point] * measured.pack)
    else:
        predicted = formula.of_recipe(
            at.shape, point, batch, device=at.device, dtype=at.dtype, quantization=at.quantization
        )
    facts = {"peak": measured.peak, "predicted": predicted.total, "rank": point.rank, "pack": measured.pack}
    return {**facts, "batch": asdict(batch)}


def measured_line(facts: Mapping[str, Any]) -> str:
    """That in a line."""
    peak, predicted = gigabytes(facts["peak"]), gigabytes(facts["predicted"])
    of = f" of a pack of {facts['pack']}" if facts["pack"] > 1 else ""
    return f"measured {peak} in the first steps{of} at rank {facts['rank']}, predicted {predicted}"


def time_line(
    measured: Pilot,
    expected: Forecast,
    budget: BudgetConfig,
    processes: int,
    after: AfterSearch = AfterSearch(),
    rank: int | None = None,
) -> str:
    """Seconds a trial (of this rank) and hours for the budget, with what comes after it, their energy and price."""
    trials = counted(expected.trials, "trial")
    if budget.trials is not None and expected.trials < budget.trials:
        trials = f"{expected.trials} of {counted(budget.trials, 'trial')}"
    on = f" on {processes} processes" if processes > 1 else ""
    of_rank = "" if rank is None else f" of rank {rank}, the space's mean"
    about = f"about {duration(expected.seconds_a_trial)} a trial{of_rank} ({number(measured.training, 3)} tokens/s)"
    on = f" in packs of {measured.pack}{on}" if measured.pack > 1 else on
    line = f"{about}, {trials}{on}: about {duration(expected.hours * 3600)}"
    if expected.afterwards:
        line += f", at most {duration(expected.afterwards)} of it for {after} at the end"
    if expected.kilowatt_hours is not None:
        line += f", {number(expected.kilowatt_hours, 2)} kWh"
    if expected.price is not None:
        line += f", {expected.price:,.2f} at {number(budget.price_per_hour)} an hour"
    return line


def time_facts(measured: Pilot, expected: Forecast) -> dict[str, Any]:
    """The same as plain values."""
    speeds = {
        "pack": measured.pack,
        "tokens_a_second": measured.training,
        "validation_tokens_a_second": measured.validation,
    }
    return {"pack": measured.pack, **speeds, "seconds_a_step": measured.seconds_per_step, **asdict(expected)}


def sooner(config: StudyConfig, measured: Pilot, data: Summary, processes: int, hours: float) -> list[str]:
    """What a newcomer without a GPU may run first, and how long that takes by what was measured, at most; nothing where
    that is not well below the study's own `hours`, as for what it proposes itself.
    """
    validation, test = int(QUICKSTART.validation), int(QUICKSTART.test)
    a_row = data.train.tokens / max(1, data.train.rows)
    training = (int(QUICKSTART.rows) - validation - test) * QUICKSTART.epochs * a_row / measured.training
    seconds = math.ceil(QUICKSTART.trials / processes) * (training + validation * a_row / measured.validation)
    seconds += (validation + 3 * test) * a_row / measured.validation
    if seconds > hours * 3600 / 2:
        return []
    model = "embedded" if config.model is None else config.model.name
    paths = [source.path for source in config.data.sources if source.path] if config.data is not None else []
    command = f"meshtune init NEW --recipe quickstart --model {shlex.quote(model)}"
    command += f" --data {shlex.quote(os.path.relpath(paths[0]))}" if len(paths) == 1 else ""
    small = "; with `--model embedded`, which is small, minutes" if seconds > 3600 and model != "embedded" else ""
    first = f"no GPU is used; for a first result search small ranks on {QUICKSTART.rows} rows:"
    return [first, command, f"takes about {duration(seconds)} or less{small}"]


@contextlib.contextmanager
def busy(processes: int, threads: int | None) -> Iterator[None]:
    """So many processes beside this one that compute as trials do: cores, caches and memory are shared among them."""
    with contextlib.ExitStack() as stack:
        others = []
        for _ in range(processes):
            command = [sys.executable, "-c", BUSY, str(threads or 1)]
            other = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(other.kill)
            others.append(other)
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        yield
