"""`meshtune check`: everything that can be known without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshtune.config import file, presets
from meshtune.plain_text import escaped
from meshtune.plan.energy import Meter
from meshtune.plan.locate import Located, locate
from meshtune.plan.plan import Prepared, prepare
from meshtune.space.space import Dimension
from meshtune.study.rounds import of_each
from meshtune.study.tune import meter_of
from meshtune.system import storage_url
from meshtune.system.text import number, point


@dataclass(frozen=True)
class _Spending:
    """What was found about memory and time: lines for people (label, text), and plain values."""

    lines: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=lambda: {"memory": None, "time": None})


def check(
    path: Path,
    *,
    folder: Path | None = None,
    overrides: tuple[str, ...] = (),
    measure: bool = True,
    show: int = 0,
) -> tuple[str, dict[str, Any]]:
    """Find every fault; returns what would run, for people and as plain values. Raises InputError.

    Args:
        measure: load the model and train a few batches, to tell the time that the study will take.
        show: how many prepared rows come among the plain values (`rows`), for `print_rows`.
    """
    study = locate(path, overrides=overrides, folder=folder)
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
    prepared = prepare(study)
    meter = meter_of(study.config, prepared.places)
    _try_sampler(study, prepared)
    spending = _spending(study, prepared, measure, meter)
    facts = {**_facts(study, prepared), **spending.facts}
    if show and prepared.data is not None:
        facts["rows"] = _rows(study, prepared, show)
    return _lines(study, prepared, spending), facts


def _try_sampler(study: Located, prepared: Prepared) -> None:
    """Build the sampler, for its faults alone."""
    from meshtune.record.distributions import distributions
    from meshtune.samplers.build import build

    config = study.config
    space = distributions(prepared.space)
    build(
        prepared.sampler,
        space,
        x0=prepared.start,
        block_size=prepared.block_size,
        seed=config.seed,
        warm_start=prepared.warm.trials,
        warm_start_values=prepared.warm.values,
        allows=prepared.guided.allows(prepared.space),
    ).close()


def print_rows(rows: Sequence[Sequence[tuple[str, bool]]]) -> None:
    """Print rows of (text, whether it is trained): trained text coloured, or between marks where there is no colour."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    coloured = console.color_system is not None and not console.no_color
    for index, row in enumerate(rows):
        console.print(f"\nrow {index + 1}, trained text {'coloured' if coloured else 'between ⟦ and ⟧'}:", style="dim")
        line = Text()
        for text, trained in row:
            shown = escaped(text)
            line.append(f"⟦{shown}⟧" if trained and not coloured else shown, style="bold green" if trained else "")
        console.print(line)


def _rows(study: Located, prepared: Prepared, count: int) -> list[list[tuple[str, bool]]]:
    from meshtune.data.tokenizer import load_tokenizer
    from meshtune.data.tokens import segments
    from meshtune.trial import DataRef

    if study.config.model is None:
        return []
    ref = DataRef(**prepared.objective.spec["data"])
    return list(segments(ref, load_tokenizer(study.config.model), count))


def _spending(study: Located, prepared: Prepared, measure: bool, meter: Meter | None) -> _Spending:
    """Nothing where a program is the objective, whose memory and time are its own affair, or a trainer of one's own."""
    config = study.config
    if prepared.data is None or config.training.trainer.name == "import":
        return _Spending()
    from meshtune.plan import forecast as spending
    from meshtune.plan.expected import LONG, sooner

    at, largest = spending.memory_of(prepared, config.seed)
    block = prepared.block_size
    pack = prepared.packing.sizes(block)[0]
    tried = spending.pilot(prepared, at, config.seed, pack, meter) if measure else None
    if tried is not None and tried.at is not at:
        at, largest = tried.at, spending.largest_of(prepared, tried.at)
    memory = spending.memory_facts(largest, at)
    lines = [] if at.unpackable is None else [("trainer", spending.trainer_line(at.unpackable))]
    lines.append(("memory", spending.memory_line(largest, at)))
    if tried is None:
        return _Spending(tuple(lines), {"memory": memory, "time": None})
    measured = tried.measured
    memory["measured"] = spending.measured_memory(tried)
    if memory["measured"] is not None:
        lines.append(("", spending.measured_line(memory["measured"])))
    processes, after = len(prepared.places), spending.afterwards(config)
    expected = spending.forecast(
        measured,
        prepared.data,
        tried.point.epochs,
        config.budget,
        processes=processes,
        loading=tried.loading,
        after=after,
        watts=tried.watts,
        guiding=spending.guiding_tokens(prepared),
    )
    searched = any(dimension.name == "rank" for dimension in prepared.space.dimensions)
    rank = tried.point.rank if searched else None
    lines.append(("time", spending.time_line(measured, expected, config.budget, processes, after, rank)))
    if at.device == "cpu" and expected.hours > LONG:
        lines += [("", text) for text in sooner(config, measured, prepared.data, processes, expected.hours)]
    if config.early_stopping.rule != "none":
        lines.append(("", "early stopping makes that shorter; what comes at the end is beyond the budget"))
    return _Spending(tuple(lines), {"memory": memory, "time": spending.time_facts(measured, expected)})


def _facts(study: Located, prepared: Prepared) -> dict[str, Any]:
    return {
        "config": file.shown(study.config, exclude_none=True),
        "folder": str(study.folder),
        "fixed": dict(prepared.fixed),
        "baseline": None if prepared.baseline is None else dict(prepared.baseline),
        "baseline_in_space": prepared.start is not None,
        "sampler": {"name": prepared.sampler.shown, "why": prepared.why},
        "warm_start": dict(prepared.warm.facts) or None,
        "allowed_share": None if prepared.guided.left is None else prepared.guided.left[0],
        "processes": [{"device": place.device, "threads": place.threads} for place in prepared.places],
    }


def _storage(study: Located) -> list[str]:
    """A line on the record's database, where it is elsewhere, and on who can read its password."""
    url = study.config.storage
    if url is None:
        return []
    storage_url.resolved(url)  # a variable that is not set is better known now
    lines = [f"storage    {storage_url.shown(url)}"]
    if storage_url.secret(url) and study.source.is_file() and study.source.stat().st_mode & 0o077:
        what = "others can read the password in it: `chmod 600` it, or write ${NAME} of a variable in its place"
        lines.append(f"           {study.source}: {what}")
    return lines


def _lines(study: Located, prepared: Prepared, spending: _Spending) -> str:
    config = study.config
    lines = [f"{study.source}: no faults", f"folder     {study.folder}", *_storage(study)]
    if config.model is not None and prepared.data is not None:
        from meshtune.data.summary import describe
        from meshtune.training.models import advice

        precision = prepared.fixed["training"]["precision"]
        on = f"{config.model.name} on {prepared.places[0].device}"
        lines.append(f"model      {on}, trained in {precision}, losses in {prepared.fixed['validation_precision']}")
        if text := advice(prepared.places[0].device):
            lines.append(f"           {text}")
        lines.append("data\n" + describe(prepared.data))
        lines += [f"           made again, since {prepared.damage}"] if prepared.damage else []
        lines.append(f"training   {_training(prepared)}")
    lines.append("space      " + "\n           ".join(dimension(d) for d in prepared.space.dimensions))
    lines += (f"           warning: {text}" for text in presets.warnings(prepared.space))
    if prepared.space.fixed:
        lines.append(f"fixed      {point(prepared.space.fixed)}")
    if prepared.baseline is not None:
        where = "trial 0"
        if prepared.start is None:
            outside = "the constraints" if prepared.space.contains(prepared.baseline) else "the space"
            what = "not evaluated" if prepared.objective.kind == "command" else "trained beside the trials"
            where = f"outside {outside}: {what}"
        lines.append(f"baseline   {point(prepared.baseline)} ({where})")
    lines += (f"{label:<11}{text}".rstrip() for label, text in prepared.guided.lines())
    if prepared.guides is not None:
        lines += ("           on " + text for text in prepared.guides.chosen.lines())
    place = prepared.places[0]
    threads = f" with {place.threads} thread{'s' if place.threads > 1 else ''}" if place.threads else ""
    at_once = prepared.packing.at_once(prepared.block_size)
    lines.append(f"sampler    {prepared.sampler.shown}; {at_once} at once on {place.device}{threads}")
    if prepared.why:
        lines.append(f"           {prepared.why}")
    if prepared.warm.trials:
        lines.append(f"warm start {prepared.warm}")
    elif config.warm_start is not None:
        lines.append(f"warm start what {config.warm_start.shown} will have found")
    if prepared.warm.again:
        lines.append(f"           the best {prepared.warm.again} of them are evaluated again")
    if prepared.early is not None:
        lines.append(f"stopping   {prepared.early}")
    budget = config.budget.model_dump(exclude_none=True, exclude={"price_per_hour"})
    lines.append("budget     " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in budget.items()))
    if config.stop_when is not None:
        when = config.stop_when.model_dump(exclude_defaults=True)
        lines.append("stop when  " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in when.items()))
    if config.replicates:
        lines.append(f"replicates {config.replicates} of the best point with other seeds, at the end")
    lines += (f"{label:<11}{text}" for label, text in spending.lines)
    return "\n".join(lines)


def _training(prepared: Prepared) -> str:
    training, rows = prepared.fixed["training"], prepared.data.train.rows
    a_step = training["batch_size"] * training["gradient_accumulation"]
    steps = -(-rows // a_step)
    epochs = training["epochs"]
    return f"{epochs} epoch{'s' if epochs > 1 else ''} of {steps} steps with {a_step} rows each"


def dimension(searched: Dimension) -> str:
    """One searched hyperparameter in a line."""
    parameter = searched.parameter
    if searched.values or parameter.choices:
        return f"{searched.name} one of {', '.join(number(v) for v in searched.values or parameter.choices)}"
    low, high = (number(searched.decode(end)) for end in (parameter.low, parameter.high))
    how = " (log)" if parameter.log or searched.encoding == "log2" else ""
    return f"{searched.name} {low} to {high}{how}"
