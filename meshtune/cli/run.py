"""The command line of `run`: its options and help; nothing else. Loads no heavy library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    context: typer.Context,
    pipeline: Annotated[
        Path, typer.Argument(help="A YAML file with a list of steps.", metavar="PIPELINE", readable=False)
    ],
    scale: Annotated[str | None, typer.Option(help="One of the scales that the file names.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Do this step and those after it again.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Find the faults, say the costs, and run nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the results (default: out/SCALE beside the file).", readable=False),
    ] = None,
) -> None:
    """Run several commands in order; run again, it goes on where it was."""
    from meshtune.pipeline.file import read
    from meshtune.pipeline.run import run as run_steps

    made = read(pipeline, scale=scale, out=out)
    run_steps(
        made,
        usage=partial(usage, context.find_root().command),
        start=start,
        dry=dry_run,
        say=lambda text: typer.echo(text, err=True),
    )
    if not dry_run:
        print(f"the pipeline is done: {made.out}")


def usage(command: Any, words: Sequence[str]) -> str | None:
    """What is wrong with a command line of meshtune, or None; runs nothing."""
    rest = list(words)
    while (inside := getattr(command, "commands", None)) is not None:  # Typer's groups need not be Click's own class
        if not rest or rest[0] not in inside:
            return f"there is no command {' '.join(words)}"
        command, rest = inside[rest[0]], rest[1:]
    try:
        command.make_context(words[0], rest)
    except Exception as error:
        message = getattr(error, "format_message", None)  # nor are its errors
        if message is None:
            raise
        return str(message())
    return None
