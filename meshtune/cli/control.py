"""The commands that act on a study while it runs, from another shell: their options and help; nothing else."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from meshtune.cli.options import Folder, Json, Study

if TYPE_CHECKING:
    from meshtune.study.requests import Reply


class Act(StrEnum):
    """What a trial may be asked for."""

    stop = "stop"
    finish = "finish"
    retry = "retry"


def trial(
    study: Study,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="The trial's number.")],
    action: Annotated[
        Act,
        typer.Argument(
            help="stop: end it where it is. finish: train it to its end, whatever stops others or had stopped it."
            " retry: count its attempts anew after a crash."
        ),
    ],
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Stop one trial, train it to its end, or try it again; from any shell."""
    from meshtune.study.requests import ask_of_trial

    _print(ask_of_trial(study, number, action.value, folder=folder), as_json)


def enqueue(
    study: Study,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE..", help="Further hyperparameters, as behind --set.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter; may be repeated.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="N|best|recommended|baseline", help="The trial whose values hold where none is set."),
    ] = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Have a point of your choice tried as the next trial; it counts in the budget, and the sampler learns from it."""
    from meshtune.study.requests import enqueue as run

    texts = [*(given or ()), *(values or ())]
    _print(run(study, {}, texts=texts, like=like, folder=folder), as_json)


def watch(study: Study, folder: Folder = None, as_json: Json = False) -> None:
    """Show a study that runs in another shell, until it ends; Ctrl-C leaves it alone (--json: this moment)."""
    from meshtune.cli.attach import at_this_moment, attach

    if as_json:
        print(json.dumps(at_this_moment(study, folder=folder), indent=2))
    else:
        attach(study, folder=folder)


def dashboard(
    study: Study,
    folder: Folder = None,
    host: Annotated[str, typer.Option(help="The address to listen on; others than this machine's are open to all.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: a free one.")] = 8080,
) -> None:
    """Open optuna-dashboard on a study's record; it reads, while the study runs or after."""
    from meshtune.study.dashboard import dashboard as run

    run(study, folder=folder, host=host, port=port, say=lambda text: typer.echo(text, err=True))


def _print(reply: Reply, as_json: bool) -> None:
    if as_json:
        print(json.dumps(reply.as_json(), indent=2))
    else:
        typer.echo(reply.words, err=True)
