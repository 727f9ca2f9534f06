"""`meshtune advise`: what is known before any trial. Loads no heavy library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from meshtune.cli.options import Json


def advise(
    model: Annotated[
        str | None, typer.Option(help="embedded, a folder, or a Hugging Face id that is in the cache.")
    ] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Of the model, in place of --model.")] = None,
    family: Annotated[str | None, typer.Option(help="Of the model: llama, qwen3, .., other.")] = None,
    rows: Annotated[int | None, typer.Option(help="Of the training data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the optimizer (default: one pass over the rows).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step, with gradient accumulation.")] = None,
    max_rank: Annotated[int | None, typer.Option(metavar="R", help="The largest rank that you allow.")] = None,
    priors: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Runs of your own, by `meshtune contribute`; may be repeated.", readable=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Where to start, and what a search can be expected to gain, by what is known of other models."""
    from meshtune.priors import advise as run

    found = run(
        model,
        hidden_size=hidden_size,
        family=family,
        rows=rows,
        steps=steps,
        batch_size=batch_size,
        max_rank=max_rank,
        priors=tuple(priors or ()),
    )
    print(json.dumps(found.to_json(), indent=2) if as_json else found.text())
