"""The commands `meshtune prefer ..`: their options and help; nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="prefer",
    help="A blind human study: people compare two models' answers, unaware of the source.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Where = Annotated[Path, typer.Argument(help="The preference study's folder, or the study that it belongs to.")]


@app.command()
def serve(
    study: Where,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8765,
    url: Annotated[
        str | None, typer.Option(help="What people reach it by, such as https://study.example.org (for the links).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask people: prints a link for each annotator and one for the admin page, and serves until Ctrl-C."""
    from meshtune.commands.prefer_serve import serve as run

    run(study, host=host, port=port, url=url, as_json=as_json)


@app.command()
def analyze(
    study: Annotated[Path, typer.Argument(help="The preference study, its study, or a file of votes as JSON lines.")],
    close: Annotated[bool, typer.Option("--close", help="Close the study first: it takes no more votes.")] = False,
    origin: Annotated[
        str | None, typer.Option(help="people, simulated or 'model judgements', where there are several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write (default: analysis/ in the study's folder).")] = None,
    as_json: Json = False,
) -> None:
    """What the votes say: preference with its interval, tests, agreement, tables, the figure."""
    from meshtune.commands.prefer_analyze import analyze as run

    result = run(study, close=close, origin=origin, out=out)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join([*(f"{text}." for text in result["verdicts"]), f"wrote {result['files']['index.html']}"]))
