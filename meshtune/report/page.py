"""The pages: one study, or several side by side; one self-contained HTML file each, from values alone.

A page loads nothing: plotly.js, styles and figures are inside, and its content security policy refuses requests. With
`public` it holds no row of the data, no answer, no message of a trial, no absolute path and no name of a machine.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from meshtune._version import __version__
from meshtune.data.summary import warnings
from meshtune.report import answers as answered
from meshtune.report import figures, tables
from meshtune.report.benchmark_tables import TextTable
from meshtune.report.bounds import on_bounds, wider_space
from meshtune.report.groups import Compared, comparable, grouped
from meshtune.report.public import hidden, hidden_config
from meshtune.report.sentences import agreement, crash_lines, harm, load_lines, loss_name, recommendation, usage
from meshtune.report.trials import Status, complete, failed
from meshtune.study import float32_check
from meshtune.system import yaml_file
from meshtune.system.templates import templates
from meshtune.system.text import duration, number, point

SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class StudyContent:
    """What a page of one study is made from.

    Attributes:
        status: with all trials. config: study.yaml as plain values, without passwords.
        data: the manifest of the prepared data, or None.
        answers: by model, as `report.answers.read` gives them. scored: tables of benchmark scores.
        selection: as `report.write.selection_of` gives it.
    """

    status: Status
    config: Mapping[str, Any]
    data: Mapping[str, Any] | None
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    scored: Sequence[TextTable] = ()
    selection: Mapping[str, Any] | None = None


def study_page(facts: StudyContent, *, csv: str, public: bool = False) -> str:
    """The page of one study. `csv`: the name of the file with its trials."""
    status = _public_status(facts.status) if public else facts.status
    name = Path(status["folder"]).name
    found = _pictures(status) | (_pictures_of_selection(facts.selection) if facts.selection is not None else {})
    pictures = {key: _figure(key, *made) for key, made in found.items()}
    bounds = on_bounds(status)
    head, rows = tables.trials(status)
    endings = tables.endings(status, messages=not public)
    tested = any((status[model] or {}).get("test_loss") is not None for model in tables.MODELS)
    return _render(
        "page.html.j2",
        title=f"{name}: {tables.headline(status)[0]}",
        name=name,
        status=status,
        state=_state(status),
        rounds=_rounds(status),
        agreement=[agreement(each) for each in status.get("agreement", ())],
        headline=_headline(status),
        at_a_glance=_at_a_glance(status),
        result=tables.result(status),
        tested=tested,
        loss_name=loss_name(status),
        order=float32_check.sentence(status["order_checked"]) if status.get("order_checked") else "",
        metrics=answered.metrics(facts.answers),
        selection=facts.selection,
        quantities=tables.quantities(status),
        constraints=tables.constraints(status),
        models=list(facts.answers),
        scored=facts.scored,
        answered=min((len(lines) for lines in facts.answers.values()), default=0),
        figures=pictures,
        failed=len(failed(status)),
        harm=harm(status),
        bounds=bounds,
        wider=wider_space(status, bounds) if bounds else "",
        endings=endings if "endings" in pictures else [],
        crashed=[] if public else crash_lines(status),
        rows=[] if public else answered.side_by_side(facts.answers),
        head=head,
        trials=rows,
        csv=csv,
        how=_how(status, facts.config),
        **_data(facts.data, public=public),
        load=load_lines(status),
        commands=_commands(status, name),
        yaml=_yaml(facts.config, public=public),
    )


def comparison_page(studies: Sequence[Compared], *, csv: str) -> str:
    """The page that compares studies. It holds no row of any data and no path."""
    groups = grouped(studies)
    rows = tables.comparison(groups)
    statuses = [study.status for study in studies]
    commands = all(status["objective"] == "command" for status in statuses)
    pictures = {}
    if any(group.curve for group in groups):
        label = "Best loss so far by number of trials, a line a setting"
        pictures["comparison"] = _figure("comparison", figures.comparison(groups), label)
    head, listed = tables.studies(groups)
    return _render(
        "compare.html.j2",
        title="meshtune: comparison of studies",
        headline=tables.comparison_headline(groups),
        warning=comparable(groups),
        loss_name="objective" if commands else "validation loss",
        tested=any(row["test"] != tables.NONE for row in rows),
        gain=any(row["gain"] != tables.NONE for row in rows),
        tokens=any(row["tokens"] != tables.NONE for row in rows),
        rows=rows,
        figures=pictures,
        banded=any(group.seeds >= figures.BANDED for group in groups),
        single=any(len(group.studies) > 1 and group.seeds < figures.BANDED for group in groups),
        repeated=any(len(group.studies) > group.seeds for group in groups),
        head=head,
        studies=listed,
        csv=csv,
        samplers={status["sampler"] for status in statuses},
    )


# -- parts


def _render(template: str, **values: Any) -> str:
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    plotly_js = Markup(get_plotlyjs()) if values["figures"] else ""  # plotly's own file, which closes no script
    page = templates(Path(__file__).parent, html=True).get_template(template)
    return page.render(version=__version__, made=made, plotly_js=plotly_js, **values)


def _pictures(status: Status) -> dict[str, tuple[go.Figure, str]]:
    """The figures that there is something to show in."""
    made = {}
    done = complete(status)
    if done:
        label = "Loss of every trial, and the lowest loss so far, by number of the trial"
        made["history"] = (figures.history(status), label)
    if len(done) > 1:
        label = "Parallel coordinates: hyperparameters and loss of every complete trial"
        made["parallel"] = (figures.parallel_coordinates(status), label)
    if any(len(trial["losses"]) > 1 for trial in status["all"]):
        made["curves"] = (figures.learning_curves(status), "Validation loss by epoch, a curve a trial")
    if any(trial["rungs"] for trial in status["all"]):
        made["rungs"] = (figures.rungs(status), "Losses at the rungs of early stopping, a curve a trial")
    if any(trial["ending"] not in (None, "complete") for trial in status["all"]):
        made["endings"] = (figures.endings(status), "How many trials ended how")
    if len(status.get("objectives", ())) > 1 and done:
        made["objectives"] = (
            figures.objectives(status),
            "Complete trials by two objectives, the Pareto set among them",
        )
    return made


def _pictures_of_selection(selection: Mapping[str, Any]) -> dict[str, tuple[go.Figure, str]]:
    able = [one for one in selection["candidates"] if one["merit"] is not None]
    made = {}
    if len(able) > 1:
        label = "How often each candidate comes out best in resamples of the items"
        made["chances"] = (figures.chances(selection), label)
    if able and len(selection["benchmarks"]) > 1:
        made["pareto"] = (figures.benchmarks(selection), "Scores of the candidates on two benchmarks")
    return made


def _figure(key: str, figure: go.Figure, label: str) -> dict[str, Any]:
    meta = figure.layout.meta or {}
    text = figure.to_json().replace("<", "\\u003c")  # nothing inside can end the script element
    return {
        "id": f"figure-{key}",
        "json": Markup(text),
        "label": label,
        "height": figure.layout.height,
        **meta,
    }


def _state(status: Status) -> str:
    match status["state"]:
        case "running":
            return "still running: these are the results so far"
        case "stopped":
            return "stopped before its budget was spent"
    return f"finished: {status['reason']}" if status["reason"] else "finished"


def _headline(status: Status) -> tuple[str, str]:
    title, words = tables.headline(status)
    return title, " ".join(filter(None, (words, recommendation(status))))


def _at_a_glance(status: Status) -> list[tuple[str, str]]:
    done, count = status["trials"]["complete"], len(status["all"])
    facts = []
    if status["best"]:
        facts.append((f"best {loss_name(status)}", tables.loss(status["best"]["loss"])))
    facts.append(("trials", str(count) if done == count else f"{done} of {count} complete"))
    facts.append(("search time", duration(status["elapsed_seconds"])))
    if status["tokens"]:
        facts.append(("tokens trained on", f"{status['tokens']:,}"))
    facts += usage(status)
    if price := status["budget"].get("price_per_hour"):
        facts.append((f"price, at {number(price)} an hour", f"{price * status['elapsed_seconds'] / 3600:,.2f}"))
    return facts


def _rounds(status: Status) -> list[dict[str, Any]]:
    """Rows of the table of rounds; none where there are none."""
    return [
        {
            "name": each["name"],
            "state": each["state"],
            "cells": [
                str(each["trials"]["proposed"]) if each["trials"] else tables.NONE,
                duration(each["elapsed_seconds"]),
                f"{each['tokens']:,}" if each["tokens"] else tables.NONE,
                tables.loss(each["best"]["loss"]) if each["best"] else tables.NONE,
            ],
            "best": point(each["best"]["hyperparameters"]) if each["best"] else "",
        }
        for each in status.get("rounds", ())
    ]


def _how(status: Status, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("model", str(status["model"]))] if status["model"] else []
    facts += [("sampler", str(status["sampler"])), ("seed", str(status["seed"]))]
    if warm := status.get("warm_start"):
        values = "their values as they are" if warm["values"] == "as_is" else "their values shifted"
        known = f"{warm['complete']} trials of {warm['study']}, {values}"
        facts.append(("known from the start", known + (f"; {warm['failed']} failed" if warm["failed"] else "")))
    budget = {key: value for key, value in status["budget"].items() if value is not None}
    facts += [(f"budget, {key.replace('_', ' ')}", number(value)) for key, value in budget.items()]
    if status["ran_on"]:
        machine = status["ran_on"][-1]["machine"]
        devices = sorted(set(machine["devices"]))
        facts.append(("processor", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"))
        if machine["gpus"]:
            facts.append(("GPUs", "; ".join(machine["gpus"])))
        count = machine["threads"]
        threads = f", {count} {'thread' if count == 1 else 'threads'} each" if count else ""
        facts.append(("processes", f"{len(machine['devices'])} x {', '.join(devices)}{threads}"))
        if len(status["ran_on"]) > 1:
            facts.append(("before that", f"{len(status['ran_on']) - 1} other machines or versions"))
    words = ", ".join(f"{name} {version}" for name, version in status["versions"].items())
    facts.append(("versions" if status["ran_on"] else "versions where this page was made", words))
    return facts


def _commands(status: Status, name: str) -> str:
    extra = "" if status["objective"] == "command" else "[train]"
    version = status["versions"].get("meshtune", __version__)
    return (
        f"pip install '.{extra}'  # in a clone of meshtune {version}, which no package index has yet\n"
        "meshtune tune study.yaml  # the file below\n"
        f"meshtune report {name}"
    )


def _yaml(config: Mapping[str, Any], *, public: bool) -> str:
    shown = hidden_config(config) if public else config
    return yaml_file.dump({key: value for key, value in shown.items() if value not in (None, {}, [])})


def _data(manifest: Mapping[str, Any] | None, *, public: bool) -> dict[str, Any]:
    """Rows of the table of sources, from the summary in the manifest."""
    if manifest is None:
        return {"sides": [], "sources": [], "notes": [], "fingerprint": ""}
    summary = manifest["summary"]
    sources = []
    for index, source in enumerate(summary["sources"]):
        lengths = [f"{source['prompt_tokens']:.1f}", f"{source['response_tokens']:.1f}"]
        counts = [f"{source['read']:,}", f"{sum(source['dropped'].values()):,}"]
        by_side = [f"{summary[side]['by_source'][index]:,}" for side in SIDES]
        name = hidden(source["name"]) if public else source["name"]
        sources.append({"name": name, "cells": [*counts, *lengths, *by_side]})
    if len(sources) > 1:
        totals = [f"{summary[side]['rows']:,}" for side in SIDES]
        sources.append({"name": "all", "cells": ["", "", "", "", *totals]})
    notes = [f"{text[0].upper()}{text[1:]}." for text in warnings(summary)]
    return {"sides": SIDES, "sources": sources, "notes": notes, "fingerprint": manifest["fingerprint"]}


def _public_status(status: Status) -> dict[str, Any]:
    shown: dict[str, Any] = hidden({**status, "coordinator": None})
    shown["all"] = [{**trial, "message": ""} for trial in shown["all"]]
    return shown
