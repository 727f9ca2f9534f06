"""`meshtune contribute`: a study's trials for the table of runs."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtune.cli.options import Folder, Study
from meshtune.system.text import counted


def contribute(
    study: Study,
    folder: Folder = None,
    data: Annotated[str, typer.Option(help="What the data are, in a few words of yours.")] = "not named",
    licence: Annotated[str, typer.Option(help="Under which others may use the line.")] = "CC0-1.0",
) -> None:
    """A study's points and losses as one line for `priors:`, yours or everybody's: no rows, no paths."""
    from meshtune.study.contribute import contribute as run

    task, left = run(study, folder=folder, data=data, licence=licence)
    print(task.line())
    said = counted(len(task.runs), "trial")
    if left:
        said += f"; {left} left out, as their other hyperparameters differ"
    typer.echo(f'{said}. The documentation\'s page "Know before you search" says what the keys mean', err=True)
