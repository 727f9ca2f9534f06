"""Options and arguments that several commands have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[
    Path, typer.Argument(help="A study.yaml, a study's folder, or a folder that holds one study.", readable=False)
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The study's folder (default: beside the YAML).", readable=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Events as JSON lines on standard error, the result as one object on output.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the YAML; may be repeated.")
]
Trials = Annotated[int | None, typer.Option(help="Total trials of the study, in place of budget.trials.")]
TimeLimit = Annotated[
    str | None,
    typer.Option("--time-limit", metavar="TIME", help="Stop in time, such as 90m, 3h30m or 2-12:00:00; exit code 75."),
]
Trial = Annotated[str, typer.Option("--trial", metavar="best|recommended|baseline|N", help="Which point of the study.")]
