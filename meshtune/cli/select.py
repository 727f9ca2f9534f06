"""The command line of `select`: its options and help; nothing else. Loads no heavy library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from meshtune.cli.options import Folder, Json
from meshtune.errors import Fault, refuse
from meshtune.plan.locate import typed

Number = TypeVar("Number", int, float)


def select(
    study: Annotated[
        Path | None, typer.Argument(help="A study that `evaluate` has scored.", metavar="STUDY", readable=False)
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", metavar="CSV", help="Choose from a file of scores, without a study.", readable=False),
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Items of a benchmark of that file; may be repeated.")
    ] = None,
    rule: Annotated[
        str, typer.Option(help="mean_rank, ideal_point, weighted_sum, lexicographic or validation_loss.")
    ] = "mean_rank",
    weight: Annotated[
        list[str] | None, typer.Option(metavar="NAME=W", help="Weight of a benchmark, for weighted_sum (else 1).")
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="NAME,..", help="Benchmarks from the most important, for lexicographic.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Points that count as equal, for lexicographic.")] = 1.0,
    margin: Annotated[
        float, typer.Option(min=0, help="Points that a model may be below the baseline and the untuned model.")
    ] = 1.0,
    only_kept: Annotated[
        bool, typer.Option("--only-kept", help="Choose only what is shown to be within the margin.")
    ] = False,
    best: Annotated[
        int | None, typer.Option(min=1, help="Choose from the N with the lowest validation loss (default: all scored).")
    ] = None,
    benchmarks: Annotated[str | None, typer.Option(metavar="NAME,..", help="Only these count.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Of the scores, where a study has several.")] = None,
    common_items: Annotated[
        bool, typer.Option("--common-items", help="Compare on the items that all have answered.")
    ] = False,
    replicates: Annotated[
        int,
        typer.Option(min=0, metavar="R", help="Train the leading candidates with R other seeds, and score these."),
    ] = 0,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run code that replicates wrote with all your rights.")
    ] = False,
    draws: Annotated[int, typer.Option(min=200, help="Resamples of the items.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """One model, and how sure it is that it is the best; reads what `evaluate` stored."""
    from meshtune.cli.bars import EvaluateView
    from meshtune.cli.watch import console_for
    from meshtune.finalists.select import select as run
    from meshtune.selection.decide import Settings
    from meshtune.selection.rules import Rule, named

    with EvaluateView(console_for(stderr=True)) as view:
        done = run(
            study,
            Settings(
                rule=Rule(named(rule), _pairs("--weight", weight, float), tolerance, _names(order)),
                best=best,
                margin=margin,
                only_kept=only_kept,
                draws=draws,
                seed=seed,
            ),
            scores=scores,
            items=_pairs("--items", items, int),
            benchmarks=_names(benchmarks),
            protocol=protocol,
            common_items=common_items,
            folder=folder,
            replicates=replicates,
            unsafe=unsafe_no_sandbox,
            report=view.show,
        )
    if as_json:
        print(json.dumps(done.values, indent=2))
        return
    print(" ".join(done.sentences))
    for note in done.notes:
        typer.echo(f"- {note}", err=True)
    if done.folder is not None:
        typer.echo(f"wrote {done.folder}", err=True)
        number = next((one["trial"] for one in done.values["candidates"] if one["name"] == done.decision.chosen), None)
        if number is not None:
            command = f"meshtune export {typed(done.folder.parent)} OUT --trial {number}"
            typer.echo(f"next: {command}  (the chosen adapter; without --trial: that of the lowest loss)", err=True)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _pairs(option: str, texts: list[str] | None, read: Callable[[str], Number]) -> dict[str, Number]:
    """`mmlu=2` as a name and its number. Raises InputError with all faults."""
    found, faults = dict[str, Number](), list[Fault]()
    for text in (part.strip() for each in texts or [] for part in each.split(",")):
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = read(number)
        except ValueError:
            faults.append(Fault(f"{option} {text}: a benchmark's name and its number are needed, such as mmlu=100"))
    faults += [Fault(f"{option} {name}={number}: it is above 0") for name, number in found.items() if number < 0]
    if option == "--items":
        from meshtune.report.score_files import MOST_ITEMS

        faults += [Fault(f"{option} {name}=0: it is above 0") for name, number in found.items() if number == 0]
        most = f"it is at most {MOST_ITEMS:,}"
        faults += [Fault(f"{option} {name}={number}: {most}") for name, number in found.items() if number > MOST_ITEMS]
    refuse(faults)
    return found
