"""The command line of `evaluate`: its options and help; nothing else. Loads no heavy library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from meshtune.cli.options import Folder, Json
from meshtune.errors import InputError
from meshtune.space.goals import BENCHMARKS


def evaluate(
    studies: Annotated[
        list[Path] | None, typer.Argument(help="A study, or several to compare.", metavar="STUDY..", readable=False)
    ] = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmarks", metavar="NAME,..", help=f"{', '.join(BENCHMARKS)}; or tasks of the harness."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder of benchmark files (default: the Hugging Face hub).", readable=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A fixed subset of so many items of each benchmark.")] = None,
    best: Annotated[int | None, typer.Option(min=0, help="Trials with the lowest loss.")] = None,
    worst: Annotated[int | None, typer.Option(min=0, help="Trials with the highest loss.")] = None,
    trials: Annotated[
        str | None, typer.Option(metavar="N,N,..", help="These trials, in place of the best and worst.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="instruct-eval or harness.")] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="A folder of your own YAML tasks, for the harness.", readable=False)
    ] = None,
    paper_decoding: Annotated[
        bool, typer.Option("--paper-decoding", help="Sample at temperature 0.1, as the paper did.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of sampled answers; 0 is greedy.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Answers to each problem of HumanEval.")] = None,
    pass_at: Annotated[list[int] | None, typer.Option("--pass-at", min=1, metavar="K", help="Report pass@K.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the subset and of sampled answers.")] = None,
    race: Annotated[
        bool, typer.Option("--race", help="Ask in rounds; who cannot be the best any more is asked no further.")
    ] = False,
    rule: Annotated[
        str, typer.Option(help="The best by what, for --race: mean_rank, ideal_point, weighted_sum, lexicographic.")
    ] = "mean_rank",
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", metavar="CSV", help="Tables of these scores, without a study.", readable=False),
    ] = None,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run code that models wrote with all your rights.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for the tables; a single study keeps its own in any case.", readable=False),
    ] = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Score candidates on benchmarks; run again, it goes on where it was."""
    from meshtune.cli.bars import EvaluateView
    from meshtune.cli.score_tables import show
    from meshtune.cli.watch import console_for
    from meshtune.finalists.evaluate import as_json as plain
    from meshtune.finalists.evaluate import evaluate as run
    from meshtune.selection.rules import Rule, named

    by = named(rule)
    if by != "mean_rank" and not race:
        raise InputError(f"--rule {rule} is of a race: add `--race`, or give the rule to `meshtune select`")
    if paper_decoding and temperature is not None:
        raise InputError("--paper-decoding is a temperature of 0.1, and --temperature gives another: leave one out")
    given = {
        "protocol": protocol,
        "benchmarks": _listed(benchmarks),
        "data": data and str(data.absolute()),
        "tasks": tasks and str(tasks.absolute()),
        "limit": limit,
        "best": best,
        "worst": worst,
        "temperature": 0.1 if paper_decoding else temperature,
        "samples": samples,
        "pass_at": tuple(pass_at) if pass_at else None,
        "seed": seed,
    }
    with EvaluateView(console_for(stderr=True)) as view:
        done = run(
            studies or [],
            given={key: value for key, value in given.items() if value is not None},
            trials=_numbers(trials),
            scores=scores or [],
            folder=folder,
            race=Rule(by) if race else None,
            unsafe=unsafe_no_sandbox,
            out=out,
            report=view.show,
        )
    if as_json:
        print(json.dumps(plain(done), indent=2))
        return
    show(done.tables, done.best, console_for(stderr=False), done.notes)
    if done.race is not None:
        typer.echo(done.race.sentence, err=True)
    if done.folder is not None:
        typer.echo(f"wrote the tables as CSV, Markdown and LaTeX to {done.folder}", err=True)


def _listed(texts: list[str] | None) -> tuple[str, ...] | None:
    """`--x a,b --x c` as a, b and c."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip()) if texts else None


def _numbers(text: str | None) -> list[int]:
    """The numbers of trials of a list such as `3,7`."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal()]
    if wrong:
        raise InputError(f"--trials {text}: `{wrong[0]}` is no number of a trial; such as 3,7 are")
    return [int(part) for part in parts]
