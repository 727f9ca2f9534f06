"""The command line: options and help of the commands; nothing else. `meshtune --help` loads no heavy library."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtune.errors import MeshtuneError

app = typer.Typer(
    name="meshtune",
    help="Finds the best LoRA hyperparameters for your model and data, and shows how sure it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Study = Annotated[Path, typer.Argument(help="A study.yaml, a study's folder, or a folder that holds one study.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="The study's folder (default: beside the YAML).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the YAML; may be repeated.")
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write study.yaml.")],
    recipe: Annotated[str | None, typer.Option(help="default, quickstart or tribes2024.")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, a Hugging Face id, a folder or a .gguf file.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file of instruction rows.")] = None,
) -> None:
    """Write a commented study.yaml that `check` accepts."""
    from meshtune.commands.init import init as run

    path = run(folder, recipe, model, data)
    typer.echo(f"wrote {path}\nnext: meshtune check {path}", err=True)


@app.command()
def check(
    study: Study,
    folder: Folder = None,
    override: Set = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Load the model and time a few batches.")
    ] = True,
    show: Annotated[int, typer.Option("--show", metavar="N", min=0, help="Print N rows, trained text coloured.")] = 0,
    as_json: Json = False,
) -> None:
    """Find every fault; show what would run, and the memory and time that it takes."""
    from meshtune.commands.check import check as run
    from meshtune.commands.check import print_rows

    lines, facts = run(study, folder=folder, overrides=tuple(override or ()), measure=measure, show=show)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(lines)
        print_rows(facts.get("rows", ()))


@app.command()
def tune(
    study: Study,
    trials: Annotated[int | None, typer.Option(help="Total trials of the study, in place of budget.trials.")] = None,
    override: Set = None,
    folder: Folder = None,
    new_segment: Annotated[
        bool, typer.Option("--new-segment", help="MADS: go on from the recorded points without replaying.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search (trains many adapters): run a study, or continue it."""
    from meshtune.commands.watch import watch

    overrides = (*(override or ()), *([f"budget.trials={trials}"] if trials is not None else []))
    _print_result(watch(study, overrides=overrides, folder=folder, new_segment=new_segment), as_json)


@app.command()
def status(
    study: Study,
    folder: Folder = None,
    as_json: Json = False,
    trials: Annotated[bool, typer.Option("--trials", help="All trials.")] = False,
) -> None:
    """Where a study stands; at any time, from any shell."""
    from meshtune.commands.status import status as run

    found = run(study, folder=folder, trials=trials)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        from meshtune.commands.watch import print_status, print_trials

        print_status(found)
        if trials:
            print_trials(found)


@app.command()
def stop(study: Study, folder: Folder = None) -> None:
    """Let running trials finish, then stop; a later `tune` continues."""
    from meshtune.commands.stop import stop as run

    holder = run(study, folder=folder)
    if holder is None:
        typer.echo("the study is not running", err=True)
    else:
        typer.echo(f"process {holder.pid} on {holder.host} stops when its running trials have ended", err=True)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Argument(help="Where to put it.")] = Path("meshtune-quickstart"),
    as_json: Json = False,
) -> None:
    """All of it in minutes, on the embedded model and data."""
    from meshtune.commands.quickstart import quickstart as run

    _print_result(run(folder), as_json)


def _version(asked: bool) -> None:
    if asked:
        from meshtune import __version__

        typer.echo(f"meshtune {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Finds the best LoRA hyperparameters for your model and data, and shows how sure it is."""


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2))


def main() -> None:
    """Entry point: errors become one message and their exit code."""
    try:
        app()
    except MeshtuneError as error:
        sys.stdout.flush()
        print(f"meshtune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
