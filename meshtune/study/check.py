"""`meshtune check`: everything that can be known without training."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config import file, presets
from meshtune.config.sections import TrainerObjectiveConfig, is_command
from meshtune.errors import InputError, need_training
from meshtune.plan.advice import advice_for
from meshtune.plan.energy import Meter
from meshtune.plan.locate import Located, locate
from meshtune.plan.plan import Plan, build
from meshtune.priors.advice import wrapped
from meshtune.priors.known import Known
from meshtune.record.storage import parsed
from meshtune.space.space import Dimension, Space
from meshtune.study.rounds import of_each
from meshtune.study.tune import meter_of, refuse_unmetered
from meshtune.system import storage_url
from meshtune.system.text import counted, number, point

if TYPE_CHECKING:
    from meshtune.plan.training import TrainingPlan
    from meshtune.training.memory.check import Setting


@dataclass(frozen=True)
class _Forecast:
    """What was found about memory and time: lines for people (label, text), and plain values."""

    lines: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=lambda: {"memory": None, "time": None, "disk": None})


def check(
    path: Path,
    *,
    folder: Path | None = None,
    overrides: tuple[str, ...] = (),
    measure: bool = True,
    show: int = 0,
    device_like: Sequence[str] = (),
) -> tuple[str, dict[str, Any]]:
    """Find every fault; returns what would run, for people and as plain values. Raises InputError.

    Args:
        measure: load the model and train a few batches, to tell the time that the study will take.
        show: how many prepared rows come among the plain values (`rows`): (text, whether it is trained).
        device_like: cards to plan for in place of this machine, such as `H100` or `4xA100`. Neither they nor the
            model's weights need be here; nothing is measured, and nothing is left behind.
    """
    study = locate(path, overrides=overrides, folder=folder)
    if device_like:
        return _elsewhere(study.rounds[0] if study.config.rounds else study, device_like)
    if study.config.rounds:
        return _of_rounds(study, of_each(study, lambda each: _of_one(each, measure, show)))
    return _of_one(study, measure, show)


def _of_rounds(study: Located, found: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """All rounds together: their lines one after the other, and as plain values `rounds`, each as that of a study."""
    lines = [f"{study.source}: no faults"]
    for each, (text, _) in zip(study.rounds, found, strict=True):
        lines += ["", each.folder.name, *text.splitlines()[1:]]
    rows = [values.pop("rows", []) for _, values in found]
    config = file.shown(study.config, exclude_none=True)
    values = {"config": config, "folder": str(study.folder), "rounds": [values for _, values in found]}
    return "\n".join(lines), {**values, "rows": rows[0]}


def _of_one(study: Located, measure: bool, show: int) -> tuple[str, dict[str, Any]]:
    refuse_unmetered(study.config)
    plan = build(study)
    meter = meter_of(study.config, plan.processes)
    asynchronous = _try_sampler(study, plan)
    expected = _forecast(study, plan, measure, meter)
    facts = {**_facts(study, plan), **expected.facts}
    if show and plan.training is not None:
        facts["rows"] = _rows(plan.training, show)
    return _lines(study, plan, expected, asynchronous=asynchronous), facts


def _elsewhere(study: Located, device_like: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The plans for some cards, one after the other; of a study with rounds the first one's."""
    if is_command(study.config.objective) or study.config.training.trainer.imported is not None:
        what = "memory and time of a program, or of a trainer of one's own, are its own affair: leave it out"
        raise InputError(f"--device-like: {what}")
    need_training()
    from meshtune.plan.card_forecast import card_forecast
    from meshtune.plan.training import Elsewhere
    from meshtune.training.memory.cards import cards

    lines, facts = list[str](), list[dict[str, Any]]()
    values: dict[str, Any] = {}
    for given in [cards(text) for text in device_like]:
        with tempfile.TemporaryDirectory() as scratch:
            plan = build(study, Elsewhere(given, Path(scratch)))
            assert plan.training is not None
            found = card_forecast(plan, plan.training, given, study.config)
        if not lines:
            lines = _lines(study, plan, _Forecast(), here=False).splitlines()
            lines += _counted_with(study)
            kept = list[tuple[str, str]]()
            disk = _disk(study, plan, plan.training.memory, study.config.budget.trials, kept, here=False)
            lines += (f"{label:<11}{text}" for label, text in kept)
            values = {**_facts(study, plan), "disk": disk}
        lines += ["", *(f"{label:<10} {text}" for label, text in found.lines(study.config, len(plan.processes)))]
        allowed = plan.goals.allowed_share  # predicted memory depends on the card
        lines += (
            [] if allowed is None else [f"{'goals':<10} {100 * allowed[0]:.3g} % of the space's points keep them there"]
        )
        facts.append({**found.facts(), "allowed_share": None if allowed is None else allowed[0]})
    return "\n".join(lines), {**values, "devices": facts}


def _counted_with(study: Located) -> list[str]:
    from meshtune.data.tokenizer import has_tokenizer

    if study.config.model is None or has_tokenizer(study.config.model):
        return []
    return ["tokens     counted by the embedded model's tokenizer, since the model's folder has none: a rough count"]


def _try_sampler(study: Located, plan: Plan) -> bool:
    """Build the sampler, for its faults alone, and whether it is asynchronous."""
    from meshtune.record.distributions import distributions
    from meshtune.samplers.build import build

    config = study.config
    space = distributions(plan.space)
    made = build(
        plan.sampler,
        space,
        x0=plan.start,
        block_size=plan.block_size,
        seed=config.seed,
        warm_start=plan.warm_start.trials,
        warm_start_values=plan.warm_start.values,
        known=plan.known,
        allows=plan.goals.allows(plan.space),
    )
    made.close()
    return made.asynchronous


def _rows(training: TrainingPlan, count: int) -> list[list[tuple[str, bool]]]:
    from meshtune.data.tokenizer import load_tokenizer
    from meshtune.data.tokens import segments

    return segments(training.spec.data, load_tokenizer(training.spec.model), count)


def _forecast(study: Located, plan: Plan, measure: bool, meter: Meter | None) -> _Forecast:
    """Nothing where a program is the objective, whose memory and time are its own affair, or a trainer of one's own."""
    config, training = study.config, plan.training
    if training is None or training.own_trainer:
        return _Forecast()
    from meshtune.plan import forecast

    at = training.memory
    largest = forecast.largest_trial(plan, at)
    pack = plan.packing.sizes(plan.block_size)[0]
    elsewhere = measure and config.worker.name != "local"
    measure = measure and not elsewhere and not config.worker.shard_model  # one device has no room for the whole base
    tried = forecast.pilot(plan, training, at, config.seed, pack, meter) if measure else None
    if tried is not None and tried.at is not at:
        at, largest = tried.at, forecast.largest_trial(plan, tried.at)
    memory = forecast.memory_facts(largest, at)
    lines = [] if at.unpackable is None else [("trainer", forecast.trainer_line(at.unpackable))]
    lines.append(("memory", forecast.memory_line(largest, at)))
    trials = config.budget.trials
    if elsewhere:
        lines.append(
            ("time", f"not measured: with `name: {config.worker.name}` trials run on other machines, which may be")
        )
        lines.append(("", "faster or slower than this one. For a forecast, run this on one of them, with"))
        lines.append(("", "--set 'worker={name: local}'"))
    if tried is None:
        disk = _disk(study, plan, at, trials, lines)
        return _Forecast(tuple(lines), {"memory": memory, "time": None, "disk": disk})
    measured = tried.measured
    memory["measured"] = forecast.measured_memory(tried)
    if memory["measured"] is not None:
        lines.append(("", forecast.measured_line(memory["measured"])))
    processes, after = len(plan.processes), forecast.after_search(config)
    expected = forecast.forecast(
        measured,
        training.data,
        tried.point.epochs,
        config.budget,
        processes=processes,
        loading=tried.loading,
        after=after,
        watts=tried.watts,
        measuring=forecast.measuring_tokens(config, training),
    )
    searched = any(dimension.name == "rank" for dimension in plan.space.dimensions)
    rank = tried.point.rank if searched else None
    lines.append(("time", forecast.time_line(measured, expected, config.budget, processes, after, rank)))
    if plan.processes[0].devices > 1:
        lines.append(("", "measured on one device of a trial: those that share its rows make that shorter"))
    if at.device == "cpu" and expected.hours > forecast.LONG:
        lines += [("", text) for text in forecast.sooner(config, measured, training.data, processes, expected.hours)]
    facts = forecast.time_facts(measured, expected)
    if config.early_stopping.rule != "none":
        early = config.early_stopping
        rungs = forecast.rung_tokens(early, training.data.validation)
        share = rungs / measured.validation / expected.seconds_a_trial
        lines += [("", text) for text in forecast.early_stopping_lines(early, expected.trials, rungs, share)]
        facts["saved_at_most"] = forecast.most_saved(early, expected.trials)
    disk = _disk(study, plan, at, expected.trials, lines)
    return _Forecast(tuple(lines), {"memory": memory, "time": facts, "disk": disk})


def _disk(
    study: Located, plan: Plan, at: Setting, trials: int | None, lines: list[tuple[str, str]], *, here: bool = True
) -> dict[str, Any] | None:
    """What frozen trials keep on the study's disk, as plain values; and its `lines`."""
    from meshtune.plan import forecast

    facts = forecast.disk_facts(plan, at, study.config.early_stopping, trials)
    if facts is None:
        return None
    free = forecast.free_disk(study.folder) if here else None
    texts = forecast.disk_lines(facts, free)
    lines += [("" if number else "disk", text) for number, text in enumerate(texts)]
    return {**facts, "free": free}


def _facts(study: Located, plan: Plan) -> dict[str, Any]:
    share = plan.goals.allowed_share
    advice = advice_for(study.config, plan.space, plan.training)
    return {
        "config": file.shown(study.config, exclude_none=True),
        "folder": str(study.folder),
        "fixed": dict(plan.fixed),
        "baseline": None if plan.baseline is None else dict(plan.baseline),
        "baseline_in_space": plan.start is not None,
        "data": None if plan.training is None else plan.training.data.to_dict(),
        "advice": None if advice is None else advice.to_json(),
        "sampler": {"name": plan.sampler.shown, "why": plan.why_sampler},
        "warm_start": dict(plan.warm_start.facts) or None,
        "allowed_share": None if share is None else share[0],
        "processes": [
            {"device": place.device, "threads": place.threads, "devices": place.devices} for place in plan.processes
        ],
    }


def _storage(study: Located) -> list[str]:
    """A line on the record's database, where it is elsewhere, and on who can read its password."""
    url = study.config.storage
    if url is None:
        return []
    parsed(study.url, study.storage_place)  # a variable that is not set, and another's scheme, are better known now
    lines = [f"storage    {storage_url.shown(url)}"]
    instead = "write ${NAME} of a variable in its place"
    if storage_url.secret(url) and study.storage_option:
        lines.append(f"           --set storage: others can read a password on a command line: {instead}")
    elif storage_url.secret(url) and study.source.is_file() and study.source.stat().st_mode & 0o077:
        lines.append(f"           {study.source}: others can read the password in it: `chmod 600` it, or {instead}")
    return lines


def _of_known(known: Known, sampler: str) -> list[str]:
    """What the search begins with beside the baseline."""
    lines = [f"next: {point(known.space.decode(params))}" for params in known.points]
    return lines if sampler == "mads" else [*lines, "the loss that it expects is where the sampler's model starts from"]


def _lines(study: Located, plan: Plan, expected: _Forecast, here: bool = True, *, asynchronous: bool = False) -> str:
    config = study.config
    lines = [f"{study.source}: no faults", f"folder     {study.folder}", *_storage(study)]
    if config.model is not None and plan.training is not None:
        from meshtune.data.summary import describe
        from meshtune.training.models import advice

        precision = plan.fixed["training"]["precision"]
        on = f"{config.model.name} on {plan.processes[0].device}"
        lines.append(f"model      {on}, trained in {precision}, losses in {plan.fixed['validation_precision']}")
        if here and (text := advice(plan.processes[0].device)):
            lines.append(f"           {text}")
        lines.append("data\n" + describe(plan.training.data))
        lines += [f"           made again, since {plan.training.damage}"] if plan.training.damage else []
        lines.append(f"training   {_training(plan.training)}")
        if _learns_nothing(plan.training, plan.space):
            text = "warning: its one step is warm-up, at a rate of 0, so nothing is learned: "
            lines.append(f"           {text}take smaller batches, more rows or epochs, or `warmup_ratio: 0`")
    if isinstance(config.objective, TrainerObjectiveConfig):
        spec = plan.objective.spec
        lines.append(f"training   {' '.join(spec['command'])}, with the settings of {config.objective.config}")
    lines.append("space      " + "\n           ".join(dimension(d) for d in plan.space.dimensions))
    lines += (f"           warning: {text}" for text in presets.warnings(plan.space))
    if plan.space.fixed:
        lines.append(f"fixed      {point(plan.space.fixed)}")
    if plan.baseline is not None:
        where = "trial 0"
        if plan.start is None:
            outside = "the constraints" if plan.space.contains(plan.baseline) else "the space"
            what = "not evaluated" if plan.objective.kind == "command" else "trained beside the trials"
            where = f"outside {outside}: {what}"
        lines.append(f"baseline   {point(plan.baseline)} ({where})")
    if (known := advice_for(config, plan.space, plan.training)) is not None:
        lines += [f"advice     {point(known.start)}", f"           to gain: {known.to_gain()}"]
        lines += (f"           {text}" for text in wrapped(f"rests on: {known.rests_on}"))
    if plan.known is not None and plan.sampler.name in ("batch-gp", "mads"):
        lines += [f"           {text}" for text in _of_known(plan.known, plan.sampler.name)]
    lines += (f"{label:<11}{text}".rstrip() for label, text in plan.goals.lines())
    if plan.training is not None and plan.training.measurements is not None:
        lines += ("           on " + text for text in plan.training.measurements.chosen.lines())
    place = plan.processes[0]
    threads = f" with {counted(place.threads, 'thread')}" if place.threads else ""
    at_once = plan.packing.at_once(plan.block_size)
    devices = f", {place.devices} devices a trial" if place.devices > 1 else ""
    devices += ", the base's layers cut over them" if place.sharded else ""
    where = f"; {at_once} at once on {place.device}{threads}" if here else ""  # which each card has its own of
    where += devices
    lines.append(f"sampler    {plan.sampler.shown}{where}")
    if plan.why_sampler:
        lines.append(f"           {plan.why_sampler}")
    if config.sampler.asynchronous and here:
        lines.append(f"           {_asynchronous(plan) if asynchronous else _waits(plan)}")
    if plan.warm_start.trials:
        lines.append(f"warm start {plan.warm_start}")
    elif config.warm_start is not None:
        lines.append(f"warm start what {config.warm_start.shown} will have found")
    if plan.warm_start.again:
        lines.append(f"           the best {plan.warm_start.again} of them are evaluated again")
    if plan.early is not None:
        lines.append(f"stopping   {plan.early}")
    budget = config.budget.model_dump(exclude_none=True, exclude={"price_per_hour"})
    limits = (counted(value, name.removesuffix("s").replace("_", " ")) for name, value in budget.items())
    lines.append(f"budget     {', '.join(limits)}")
    if config.stop_when is not None:
        when = config.stop_when.model_dump(exclude_defaults=True)
        lines.append("stop when  " + ", ".join(_until(name, value) for name, value in when.items()))
    if config.replicates:
        lines.append(f"replicates {config.replicates} of the best point with other seeds, at the end")
    lines += (f"{label:<11}{text}" for label, text in expected.lines)
    return "\n".join(lines)


def _until(name: str, value: float) -> str:
    text = f"{100 * value:.3g} %" if name == "expected_gain" else f"{value:g}"
    return f"{name.replace('_', ' ')} {text}"


def _asynchronous(plan: Plan) -> str:
    trials = plan.packing.share(plan.block_size)
    next_ones = "its next trial" if trials == 1 else f"its next {trials} trials"
    return f"asynchronous: a process that is free gets {next_ones} at once; at most {plan.block_size} are pending"


def _waits(plan: Plan) -> str:
    return (
        f"`asynchronous` changes nothing: {plan.sampler.shown} proposes its next block when all trials of the last one"
        " have ended, and processes wait for the slowest of them. batch-gp and tpe do not wait"
    )


def _training(training: TrainingPlan) -> str:
    keys = training.spec.training
    a_step = keys.batch_size * keys.gradient_accumulation
    steps = -(-training.data.train.rows // a_step)
    return f"{counted(keys.epochs, 'epoch')} of {counted(steps, 'step')} with {counted(a_step, 'row')} each"


def _learns_nothing(training: TrainingPlan, space: Space) -> bool:
    """Whether each trial has a single step, which is the warm-up's first."""
    names = ("epochs", "batch_size", "gradient_accumulation", "warmup_ratio")
    held = {name: space.fixed.get(name, getattr(training.spec.training, name)) for name in names}
    rows = training.data.train.rows
    one_step = held["epochs"] == 1 and rows <= held["batch_size"] * held["gradient_accumulation"]
    return one_step and held["warmup_ratio"] > 0 and not any(each.name in names for each in space.dimensions)


def dimension(searched: Dimension) -> str:
    """One searched hyperparameter in a line."""
    parameter = searched.parameter
    if searched.listed:
        return f"{searched.name} one of {', '.join(map(number, searched.listed))}"
    low, high = (number(searched.decode(end)) for end in (parameter.low, parameter.high))
    how = " (log)" if parameter.log or searched.encoding == "log2" else ""
    return f"{searched.name} {low} to {high}{how}"
