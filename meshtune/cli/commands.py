"""The command line: options and help of the commands; nothing else. `meshtune --help` loads no heavy library."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from meshtune.cli import prefer
from meshtune.cli.advise import advise
from meshtune.cli.contribute import contribute
from meshtune.cli.control import dashboard, enqueue, trial, watch
from meshtune.cli.evaluate import evaluate
from meshtune.cli.options import Folder, Json, JsonLines, Set, Study, TimeLimit, Trial, Trials
from meshtune.cli.run import run as run_pipeline
from meshtune.cli.select import select
from meshtune.errors import InputError, MeshtuneError

app = typer.Typer(
    name="meshtune",
    help="Finds the best LoRA hyperparameters for your model and data, and shows how sure it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(prefer.app)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write study.yaml.", readable=False)],
    recipe: Annotated[str | None, typer.Option(help="default, quickstart or tribes2024.")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, a Hugging Face id, a folder or a .gguf file.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file of instruction rows.", readable=False)] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="An Axolotl, LLaMA-Factory or TRL YAML: its values become the baseline.", readable=False
        ),
    ] = None,
    keep_tool: Annotated[
        bool, typer.Option("--keep-tool", help="With --from: each trial runs that tool itself, with its own file.")
    ] = False,
) -> None:
    """Write a commented study.yaml that `check` accepts."""
    from meshtune.export.foreign.init_from import init_from
    from meshtune.export.foreign.init_tool import init_tool
    from meshtune.plan.init import init as run

    if keep_tool and (from_file is None or model is not None or data is not None):
        raise InputError("`--keep-tool` goes with `--from FILE`, which names the model and the data: give that alone")
    if from_file is None:
        path = run(folder, recipe, model, data)
    elif recipe is not None:
        raise InputError("`--recipe` and `--from` both say what the file starts from: leave one of them out")
    elif keep_tool:
        path = init_tool(from_file, folder)
    else:
        path, left = init_from(from_file, folder, model, data)
        if left:
            typer.echo("\n".join(["not carried over:", *(f"- {key}" for key in left)]), err=True)
    typer.echo(f"wrote {path}\nnext: meshtune check {path}", err=True)


app.command()(advise)


@app.command()
def check(
    study: Study,
    folder: Folder = None,
    override: Set = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Load the model and time a few batches.")
    ] = True,
    show: Annotated[int, typer.Option("--show", metavar="N", min=0, help="Print N rows, trained text coloured.")] = 0,
    device_like: Annotated[
        list[str] | None,
        typer.Option(
            "--device-like", metavar="CARD", help="Plan for H100, 4xA100, 24GB, ..; no GPU is used. May be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find every fault; show what would run, and the memory and time that it takes."""
    from meshtune.cli.display import print_rows
    from meshtune.study.check import check as run

    try:
        lines, facts = run(
            study,
            folder=folder,
            overrides=tuple(override or ()),
            measure=measure,
            show=show,
            device_like=tuple(device_like or ()),
        )
    except InputError as error:
        if as_json:
            faults = [
                {"key": f.key, "file": f.file and str(f.file), "line": f.line, "message": f.message}
                for f in error.faults
            ]
            print(json.dumps({"faults": faults}, indent=2))
        raise
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(lines)
        print_rows(facts.get("rows", ()))


@app.command()
def tune(
    study: Study,
    trials: Trials = None,
    override: Set = None,
    folder: Folder = None,
    new_segment: Annotated[
        bool, typer.Option("--new-segment", help="MADS: go on from the recorded points without replaying.")
    ] = False,
    time_limit: TimeLimit = None,
    as_json: JsonLines = False,
) -> None:
    """Search (trains many adapters): run a study, or continue it."""
    from meshtune.cli.watch import watch as run

    overrides = _overrides(trials, override)
    result = run(study, overrides=overrides, folder=folder, new_segment=new_segment, limit=time_limit, as_json=as_json)
    _print_result(result, as_json)


def _overrides(trials: int | None, override: list[str] | None) -> tuple[str, ...]:
    return (*(override or ()), *([f"budget.trials={trials}"] if trials is not None else []))


@app.command()
def status(
    study: Study,
    folder: Folder = None,
    as_json: Json = False,
    trials: Annotated[bool, typer.Option("--trials", help="All trials.")] = False,
) -> None:
    """Where a study stands; at any time, from any shell."""
    from meshtune.study.status import status as run

    found = run(study, folder=folder, trials=trials)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        from meshtune.cli.watch import print_status, print_trials

        print_status(found)
        if trials:
            print_trials(found)


@app.command()
def stop(
    study: Study,
    folder: Folder = None,
    now: Annotated[bool, typer.Option("--now", help="Suspend running trials: they go on from there later.")] = False,
) -> None:
    """Let running trials finish, then stop; a later `tune` continues."""
    from meshtune.study.stop import stop as run

    holder = run(study, folder=folder, now=now)
    if holder is None:
        typer.echo("the study is not running", err=True)
    else:
        how = "suspends its running trials and stops" if now else "stops when its running trials have ended"
        typer.echo(f"process {holder.pid} on {holder.host} {how}", err=True)


app.command()(watch)
app.command()(trial)
app.command()(enqueue)
app.command()(dashboard)


@app.command()
def mirror(
    study: Study,
    to: Annotated[list[str] | None, typer.Option(help="A tracker: mlflow, trackio, wandb or tensorboard.")] = None,
) -> None:
    """Show trackers the trials that they have not seen yet; at any time, also after the study's end."""
    from meshtune.config.sections import Tracker
    from meshtune.plan.locate import existing
    from meshtune.study.mirrors.outbox import PACKAGES
    from meshtune.study.mirrors.outbox import mirror as run
    from meshtune.system.text import counted

    wanted: list[Tracker] = []
    for name in to or ():
        tracker = next((known for known in PACKAGES if known == name), None)
        if tracker is None:
            raise InputError(f"`--to {name}` is not allowed; known trackers: {', '.join(PACKAGES)}")
        wanted.append(tracker)
    for shown, tracker, sent in run(existing(study), wanted):
        typer.echo(
            f"{shown}: {tracker}: {counted(sent, 'trial')} sent" if sent else f"{shown}: {tracker}: has all trials"
        )


@app.command()
def prepare(study: Study, folder: Folder = None, override: Set = None, as_json: Json = False) -> None:
    """Fetch the model and the data, and tokenize: for compute nodes without network."""
    from meshtune.study.prepare import prepare as run

    lines, facts = run(study, folder=folder, overrides=tuple(override or ()))
    print(json.dumps(facts, indent=2) if as_json else lines)


@app.command()
def train(
    study: Study,
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", readable=False)],
    trial: Trial = "best",
    all_data: Annotated[
        bool, typer.Option("--all-data", help="Train on the validation and test rows too; no loss is measured.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, in place of the trial's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, in place of the trial's.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="training.KEY, model.device or worker.threads; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the chosen point once more, into a folder to take away; run it again to continue."""
    from meshtune.cli.bars import TrainView
    from meshtune.cli.watch import console_for
    from meshtune.export.train import as_text
    from meshtune.export.train import train as run
    from meshtune.study.signals import Signals

    with TrainView(console_for(stderr=True)) as view:
        result = run(
            study,
            out,
            trial=trial,
            all_data=all_data,
            epochs=epochs,
            seed=seed,
            overrides=tuple(override or ()),
            report=view.show,
            signals=Signals(),
        )
    typer.echo(as_text(result), err=True)
    _print_result(result, as_json)


@app.command()
def export(
    study: Annotated[Path, typer.Argument(help="A study, or a folder that `train` wrote.", readable=False)],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", readable=False)],
    trial: Trial = "best",
    merge: Annotated[bool, typer.Option("--merge", help="The full model, with the adapter in its weights.")] = False,
    config: Annotated[
        str | None, typer.Option(metavar="TOOL", help="Settings for axolotl, llamafactory, trl, unsloth or peft.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Send it to the Hugging Face hub, to a private repository.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: for everybody to see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push-to-hub: write OUT and list what would be sent.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the best adapter, the full model, or another tool's settings, into a folder that works without meshtune."""
    if push_to_hub is None and (public or dry_run):
        raise InputError("--public and --dry-run go with --push-to-hub OWNER/NAME: give that too")
    if push_to_hub is not None and config is not None:
        raise InputError("--push-to-hub sends a model and --config writes settings: give one of them")
    if config is not None:
        from meshtune.export import settings as export_settings

        if merge:
            raise InputError("--merge writes a model and --config writes settings: give one of them")
        settings = export_settings.export_settings(study, out, config, trial=trial)
        typer.echo(export_settings.as_text(settings), err=True)
        return _print_result(settings, as_json)
    from meshtune.export.export import as_text
    from meshtune.export.export import export as run

    result = None
    if push_to_hub is not None:
        from meshtune.export import push as hub

        hub.check_name(push_to_hub)
        result = hub.exported(study, out, trial, merge=merge)
    if result is None:
        result = run(study, out, trial=trial, merge=merge, report=lambda text: typer.echo(f"{text} ..", err=True))
        typer.echo(as_text(result), err=True)
    if push_to_hub is not None:
        sent = hub.push(out, push_to_hub, public=public, dry_run=dry_run)
        typer.echo(hub.as_text(sent), err=True)
        result = {**result, "hub": sent}
    _print_result(result, as_json)


@app.command()
def report(
    studies: Annotated[
        list[Path], typer.Argument(help="A study, or several to compare.", metavar="STUDY..", readable=False)
    ],
    folder: Folder = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page (default: report/index.html in the study's folder; of several: meshtune-report.html).",
            readable=False,
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="For others: no row of the data, no path, no name of a machine.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="A folder for every figure (SVG, PNG) and table (CSV, LaTeX), a methods paragraph and BibTeX.",
            metavar="DIR",
            readable=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """One HTML page: the result, its evidence, and how it came about; several studies are compared."""
    from meshtune.report.write import report as run

    made = run(studies, folder=folder, out=out, public=public, figures=figures)
    if as_json:
        print(json.dumps(made, indent=2))
    else:
        print(f"{made['verdict']}. {made['evidence']}\nwrote {made['page']}\nwrote {made['csv']}")
        if figures is not None:
            print(f"wrote {len(made['figures'])} files into {figures}")
            if made["missing"]:
                print(made["missing"], file=sys.stderr)


app.command()(evaluate)
app.command()(select)
app.command()(contribute)
app.command("run")(run_pipeline)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Argument(help="Where to put it.", readable=False)] = Path("meshtune-quickstart"),
    trials: Trials = None,
    override: Set = None,
    as_json: JsonLines = False,
) -> None:
    """All of it in minutes, on the embedded model and data."""
    from meshtune.cli.quickstart import quickstart as run

    _print_result(run(folder, overrides=_overrides(trials, override), as_json=as_json), as_json)


def _version(asked: bool) -> None:
    if asked:
        from meshtune._version import __version__

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


def _interrupted(error: BaseException) -> bool:
    """Whether a Ctrl-C is behind an exit: the library of the commands turns it into one, with a code of its own."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


class _Terminal(io.FileIO):
    """A terminal that may be closed while a run still saves its trials: what is written from then on is lost."""

    def write(self, data: Any) -> int:
        """As `FileIO`."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def _terminal(stream: TextIO) -> TextIO:
    raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)


def run(importing: object) -> None:
    """Run the command that the arguments name: errors become one message and their exit code.

    `importing`: the handler of Ctrl-C until here; where it is in force, Python's own takes its place.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name).isatty():
            setattr(sys, name, _terminal(getattr(sys, name)))
    if isinstance(sys.stdout, io.TextIOWrapper):  # where a character is lacking, its number stands, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            if signal.getsignal(signal.SIGINT) is importing:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            app()
        finally:
            sys.stdout.flush()  # what cannot be written is known here, and not at the very end
    except MeshtuneError as error:
        print(f"meshtune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt) as end:
        if not _interrupted(end):
            raise
        print("meshtune: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except PermissionError as error:
        if error.filename is None:
            raise
        print(f"meshtune: {error.filename} cannot be read or written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = "what is printed" if error.filename is None else error.filename
        print(
            f"meshtune: {what} cannot be written: {error.strerror}. Free some space, or write elsewhere",
            file=sys.stderr,
        )
        sys.exit(2)
