"""The pages: one study, or several side by side; one self-contained HTML file each, from values alone.

A page loads nothing: styles and figures (SVG) are inside, and its content security policy refuses requests. With
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

from meshtune._version import __version__
from meshtune.data.summary import warnings
from meshtune.plan.warm_start import rates_said
from meshtune.report import answers as answered
from meshtune.report import drawing, figures, mattered, methods, tables
from meshtune.report.benchmark_tables import TextTable
from meshtune.report.bounds import on_bounds, wider_space
from meshtune.report.groups import Compared, Group, comparable, grouped
from meshtune.report.public import hidden, hidden_config
from meshtune.report.sentences import agreement, crash_lines, harm, load_lines, loss_name, recommendation, usage
from meshtune.report.trials import Status, complete, failed
from meshtune.study import float32_check
from meshtune.system import yaml_file
from meshtune.system.templates import templates
from meshtune.system.text import counted, duration, number, point

SIDES = ("train", "validation", "test")
WIDE, NARROW, BESIDE = 1016, 354, 330  # pixels of drawings: a whole page, a phone, one of three in a row
POOR, CERTAIN = 0.1, 0.995  # shares of the variation: below it a model says nothing, above it nothing is left


@dataclass(frozen=True)
class StudyContent:
    """What a page of one study is made from.

    Attributes:
        status: with all trials. config: study.yaml as plain values, without passwords.
        data: the manifest of the prepared data, or None.
        answers: by model, as `report.answers.read` gives them. scored: tables of benchmark scores.
        selection: as `report.write.selection_of` gives it. response: as `selection.response` gives it.
    """

    status: Status
    config: Mapping[str, Any]
    data: Mapping[str, Any] | None
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    scored: Sequence[TextTable] = ()
    selection: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Picture:
    """A figure with a sentence for who hears it. `kind`: `whole` width, or one of several `beside` each other."""

    figure: go.Figure
    label: str
    kind: str = "whole"


def study_page(facts: StudyContent, *, csv: str, public: bool = False) -> str:
    """The page of one study. `csv`: the name of the file with its trials."""
    status = hidden_status(facts.status) if public else facts.status
    name = Path(status["folder"]).name
    response = hidden(facts.response) if public else facts.response
    pictures = {key: _figure(key, one) for key, one in study_pictures(status, facts.selection, response).items()}
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
        response=response,
        doubt=_doubt(response),
        formulas=mattered.formulas(response) if response else "",
        slices=[one for key, one in pictures.items() if key.startswith("slice-")],
        seeds=_seeds(status),
        bounds=bounds,
        wider=wider_space(status, bounds) if bounds else "",
        endings=endings,
        cost=tables.cost_of_best(status),
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
        methods=methods.paragraph(status, facts.data),
        bibtex=methods.references([status["sampler"]]),
    )


def comparison_page(studies: Sequence[Compared], *, csv: str) -> str:
    """The page that compares studies. It holds no row of any data and no path."""
    groups = grouped(studies)
    rows = tables.comparison(groups)
    statuses = [study.status for study in studies]
    commands = all(status["objective"] == "command" for status in statuses)
    pictures = {key: _figure(key, one) for key, one in comparison_pictures(groups).items()}
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
        bibtex=methods.references([status["sampler"] for status in statuses]),
    )


# -- figures


def study_pictures(
    status: Status, selection: Mapping[str, Any] | None, response: Mapping[str, Any] | None
) -> dict[str, Picture]:
    """The figures of one study that there is something to show in, by name."""
    return _pictures(status) | _pictures_of_response(status, response) | _pictures_of_selection(selection)


def comparison_pictures(groups: Sequence[Group]) -> dict[str, Picture]:
    """The figures of several studies."""
    if not any(group.curve for group in groups):
        return {}
    made = {"comparison": Picture(figures.comparison(groups), "Best loss so far by number of trials, a line a setting")}
    if (by_time := figures.comparison_by_time(groups)) is not None:
        made["comparison-time"] = Picture(by_time, "Best loss so far by search time, a line a study")
    return made


# -- parts


def _render(template: str, **values: Any) -> str:
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = templates(Path(__file__).parent, html=True).get_template(template)
    return page.render(version=__version__, made=made, **values)


def _pictures(status: Status) -> dict[str, Picture]:
    made = {}
    done = complete(status)
    if done:
        label = "Loss of every trial, and the lowest loss so far, by number of the trial"
        made["history"] = Picture(figures.history(status), label)
    if len(done) > 1:
        label = "Parallel coordinates: hyperparameters and loss of every complete trial"
        made["parallel"] = Picture(figures.parallel_coordinates(status), label)
    if any(len(trial["losses"]) > 1 for trial in status["all"]):
        made["curves"] = Picture(
            figures.learning_curves(status), f"Learning curves: {loss_name(status)}, a line a trial"
        )
    if any(trial["rungs"] for trial in status["all"]):
        made["rungs"] = Picture(figures.rungs(status), "Losses at the rungs of early stopping, a line a trial")
    if any(trial["ending"] not in (None, "complete") for trial in status["all"]):
        made["endings"] = Picture(figures.endings(status), "How many trials ended how")
    if len(status.get("objectives", ())) > 1 and done:
        label = "Complete trials by two objectives, the Pareto set among them"
        made["objectives"] = Picture(figures.objectives(status), label)
    if status.get("seed_noise") and status["seed_noise"]["losses"]:
        made["seeds"] = Picture(mattered.replicates(status), "Losses of the best point trained with other seeds")
    return made


def _pictures_of_response(status: Status, response: Mapping[str, Any] | None) -> dict[str, Picture]:
    if response is None:
        return {}
    label = "Share of the variation of the loss in which each hyperparameter has a hand, with 95 % intervals"
    made = {"importance": Picture(mattered.importances(response), label)}
    for place, one in enumerate(response["slices"]):
        label = f"Loss by {mattered.title_of(one['name'])}, by the model with its 95 % band, and of the trials"
        made[f"slice-{one['name']}"] = Picture(mattered.one_slice(status, response, place), label, "beside")
    if plane := response["plane"]:
        label = f"Loss by {mattered.title_of(plane['x'])} and {mattered.title_of(plane['y'])}, by the model"
        made["plane"] = Picture(mattered.plane(status, response), label)
    return made


def _pictures_of_selection(selection: Mapping[str, Any] | None) -> dict[str, Picture]:
    able = [one for one in selection["candidates"] if one["merit"] is not None] if selection else []
    made = {}
    if selection and len(able) > 1:
        label = "How often each candidate comes out best in resamples of the items"
        made["chances"] = Picture(figures.chances(selection), label)
    if selection and able and len(selection["benchmarks"]) > 1:
        made["pareto"] = Picture(figures.benchmarks(selection), "Scores of the candidates on two benchmarks")
    return made


def _figure(key: str, picture: Picture) -> dict[str, Any]:
    """The drawings for a wide and for a narrow screen, of which the style shows one; and what the figure counts."""
    plain = picture.figure.to_plotly_json()
    drawings = [Markup(drawing.drawn(plain, width, picture.label)) for width in size_of(picture)]
    return {"id": f"figure-{key}", "drawings": drawings, "kind": picture.kind, **(picture.figure.layout.meta or {})}


def size_of(picture: Picture) -> tuple[int, ...]:
    """The widths of its drawings, the one for a wide screen first."""
    return (BESIDE,) if picture.kind == "beside" else (WIDE, NARROW)


def _doubt(response: Mapping[str, Any] | None) -> str:
    """How far the model of the losses is to be believed, in a sentence."""
    if response is None:
        return ""
    share = response["explained"]
    how = f"A model of the losses of {response['trials']} trials predicts {100 * max(0, share):.0f} % of the variation"
    how = _unparted(f"{how} among them, each trial left out in turn")
    if share < POOR:
        return f"{how}: too little to say what mattered. Read nothing into the figures below."
    return f"{how}." + (" The rest is noise, or more than the model sees." if share < CERTAIN else "")


def _seeds(status: Status) -> str:
    """How many trials the seed alone could exchange with the best, in a sentence; empty without replicates."""
    noise = status.get("seed_noise")
    if not noise or not noise["deviation"]:
        return ""
    reach = 2 * noise["deviation"]
    near = [t for t in complete(status) if t["loss"] <= status["best"]["loss"] + reach] if status["best"] else []
    others = len(near) - 1
    moves = f"With another seed the loss of one training moves by about {number(noise['deviation'], 2)}"
    if not others:
        return f"{moves} (standard deviation). No other trial lies less than twice that above the best."
    which = "1 other trial lies" if others == 1 else f"{others} other trials lie"
    return f"{moves} (standard deviation). {which} less than twice that above the best: their order is partly luck."


def _state(status: Status) -> str:
    match status["state"]:
        case "running":
            return "still running: these are the results so far"
        case "stopped":
            return "stopped before its budget was spent"
    return f"finished: {status['reason']}" if status["reason"] else "finished"


def _headline(status: Status) -> tuple[str, str]:
    title, words = tables.headline(status)
    return _unparted(title), _unparted(" ".join(filter(None, (words, recommendation(status)))))


def _unparted(text: str) -> str:
    """A number stays in one line with its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


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
        known = f"{counted(warm['complete'], 'trial')} of {warm['study']}, {values}"
        rates, *why = rates_said(warm)
        known = ", ".join(filter(None, [known, rates])) + (f"; {warm['failed']} failed" if warm["failed"] else "")
        facts.append(("known from the start", ". ".join([known, *why])))
    budget = {key: value for key, value in status["budget"].items() if value is not None}
    facts += [(f"budget, {key.replace('_', ' ')}", number(value)) for key, value in budget.items()]
    if status["ran_on"]:
        machine = status["ran_on"][-1]["machine"]
        devices = sorted(set(machine["devices"]))
        facts.append(("processor", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"))
        if machine["gpus"]:
            facts.append(("GPUs", "; ".join(machine["gpus"])))
        count = machine["threads"]
        threads = f", {counted(count, 'thread')} each" if count else ""
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


def hidden_status(status: Status) -> dict[str, Any]:
    """What a public page may show of a status."""
    shown: dict[str, Any] = hidden({**status, "coordinator": None})
    shown["all"] = [{**trial, "message": ""} for trial in shown["all"]]
    return shown
