"""The commands `meshtune prefer ..`: their options and help; nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from meshtune.cli.options import Folder, Json

app = typer.Typer(
    name="prefer",
    help="A blind human study: people compare two models' answers, unaware of the source.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Where = Annotated[
    Path, typer.Argument(help="The preference study's folder, or the study that it belongs to.", readable=False)
]


@app.command()
def create(
    questions: Annotated[Path, typer.Option(help="Questions as JSON lines, such as Vicuna's.", readable=False)],
    study: Annotated[
        Path | None, typer.Argument(help="The study whose models answer (not with --answers).", readable=False)
    ] = None,
    a: Annotated[str, typer.Option("--a", metavar="N|best|baseline|untuned", help="One model.")] = "best",
    b: Annotated[str, typer.Option("--b", metavar="N|best|baseline|untuned", help="The other one.")] = "baseline",
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="A file of one model's answers as JSON lines; give two or more.", readable=False),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="So many questions, drawn with the seed; all by default.")] = None,
    annotators: Annotated[int, typer.Option(help="How many people.")] = 10,
    detect: Annotated[float, typer.Option(help="The net preference that the study should see.")] = 0.1,
    ask: Annotated[
        list[str] | None, typer.Option(help="A question about the person, such as 'First language'; may be repeated.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="The votes will be of programs: all results are stamped.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A new folder (default: preference/ in the study's).", readable=False)
    ] = None,
    folder: Folder = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample, the orders, the sides, and drawn answers.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer is cut.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the tokens that hold this share of the weight.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Let two models answer (or take answers that are there), and plan who judges what; says what can be seen."""
    from meshtune.preference.commands import CreateOptions, creation_text
    from meshtune.preference.commands import create as run

    options = CreateOptions(
        study,
        questions,
        words=(a, b),
        answers=answers or (),
        sample=sample,
        annotators=annotators,
        detect=detect,
        asks=ask or (),
        origin="simulated" if simulated else "people",
        out=out,
        folder=folder,
        seed=seed,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
    )
    result = run(options, report=lambda text: typer.echo(f"{text} ..", err=True))
    for warning in result["warnings"]:
        typer.echo(f"meshtune: warning: {warning}", err=True)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{creation_text(result)}\nwrote {result['folder']}\nnext: meshtune prefer serve {result['folder']}")


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
    from meshtune.preference.commands import serve as run

    run(study, host=host, port=port, url=url, as_json=as_json)


@app.command()
def analyze(
    study: Annotated[
        Path, typer.Argument(help="The preference study, its study, or a file of votes as JSON lines.", readable=False)
    ],
    close: Annotated[bool, typer.Option("--close", help="Close the study first: it takes no more votes.")] = False,
    origin: Annotated[
        str | None, typer.Option(help="people, simulated or 'model judgements', where there are several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write (default: analysis/ in the study's folder).", readable=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """What the votes say: preference with its interval, tests, agreement, tables, the figure."""
    from meshtune.preference.commands import analysis_text
    from meshtune.preference.commands import analyze as run

    result = run(study, close=close, origin=origin, out=out)
    print(json.dumps(result, indent=2) if as_json else analysis_text(result))
