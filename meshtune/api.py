"""The Python interface: `tune` runs or continues a study, `load` reads one, and a `Study` shows what it holds.

The same functions as the commands, without their exit codes: in a script (no main guard is needed), a notebook or a
thread. A `Study` remembers its folder alone and reads the record whenever it is asked, so that it is always current,
also while another process runs the study. Losses are mean cross-entropies a label token, in nats; lower is better (of a
command objective: whatever the program prints). Everything raised on purpose is a `meshtune.errors.MeshtuneError`.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.errors import InputError, Interrupted, MeshtuneError, need

if TYPE_CHECKING:
    import optuna
    import pandas
    from rich.console import Console

    from meshtune.config.sections import StudyConfig
    from meshtune.plan.locate import Located
    from meshtune.record.requests import Action
    from meshtune.results import Result
    from meshtune.selection.statistics import Difference

Values = Mapping[str, Any]
PATHS = {"data", "tasks", "guided"}  # keys of the section `evaluation` that are paths


def tune(
    study: str | Path | Values,
    *,
    trials: int | None = None,
    folder: str | Path | None = None,
    overrides: Sequence[str] | Values = (),
    progress: bool = True,
) -> Study:
    """Run a study to the end of its budget, or continue it; of a finished one nothing is run again.

    Args:
        study: a study.yaml, a study's folder, or the values that a study.yaml would hold. Relative paths in values
            are relative to the working directory, and they need a `folder`.
        trials: total trials of the study, in place of `budget.trials`.
        folder: the study's folder (default: beside the YAML, with its name).
        overrides: changes of single keys: `{"budget.hours": 2}`, or `["budget.hours=2"]` as `--set` takes them.
        progress: show the run, on standard error (in a notebook: below the cell).

    Returns:
        The study. `meshtune stop` in a shell ends the call early: then its state is `stopped`.

    Raises:
        InputError: with every fault of the input at once. StudyMismatch: keys that are fixed differ from the study's.
        StudyBusy: another process runs it. SamplerError, WorkerError, StorageError: the run failed.
        KeyboardInterrupt: it was interrupted; the same call continues. Running trials had some seconds to save where
            they are, unless a second interrupt came.
    """
    _import_optuna()
    from meshtune.cli.display import Display
    from meshtune.study.loop import Opened
    from meshtune.study.rounds import tune as run
    from meshtune.study.signals import Interrupts

    located = _find(study, trials, folder, overrides)
    shown = _console(progress)
    interrupts = Interrupts()
    events = run(located, stop=interrupts.stop)
    try:
        with contextlib.closing(events), interrupts.taken(), Display(shown) as view:
            for event in events:
                view.show(event)
                interrupts.cooperative = interrupts.cooperative or isinstance(event, Opened)
        if interrupts.count:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        shown.print("interrupted; what was finished is saved, and the same call continues", style="yellow")
        raise
    return Study(located.folder)


def load(study: str | Path, *, folder: str | Path | None = None) -> Study:
    """Read a study that was started, by its YAML, its folder, or a folder that holds one study.

    Raises InputError where there is none.
    """
    _import_optuna()
    from meshtune.plan.locate import existing

    found = existing(Path(study).expanduser(), folder=None if folder is None else Path(folder).expanduser())
    return Study(found.folder)


@dataclass(frozen=True, repr=False)
class Study:
    """A study that was started; see `tune` and `load`. Each property reads the record anew.

    Attributes:
        folder: where it lives.
    """

    folder: Path

    # -- what it found

    def status(self) -> dict[str, Any]:
        """Where it stands and all its trials, as plain values: what `meshtune status --json --trials` prints."""
        from meshtune.study.status import status

        return status(self.folder, trials=True)

    @property
    def state(self) -> str:
        """`running` (in any process), `stopped` or `finished`."""
        return str(self.status()["state"])

    @property
    def config(self) -> StudyConfig:
        """Its study.yaml with all defaults, as frozen values."""
        return self._located.config

    @property
    def best(self) -> Result:
        """The complete trial with the lowest loss. Raises InputError while no trial is complete."""
        from meshtune.results import result

        status = self.status()
        found = result(self.folder, "best", status)
        if found is None:
            ended = ", ".join(f"{count} {name}" for name, count in status["trials"].items() if count) or "none"
            raise InputError(f"{self.folder}: no trial is complete, so there is no best one (trials: {ended})")
        return found

    @property
    def recommended(self) -> Result | None:
        """The trial with the lowest expected loss by all trials together, which luck moves less than `best`.

        With `expected` and `deviation`. None while fewer than five trials are complete.
        """
        return self._result("recommended")

    @property
    def baseline(self) -> Result | None:
        """The point to beat, where the search started; None where the study has none (yet)."""
        return self._result("baseline")

    @property
    def untuned(self) -> Result | None:
        """The base model without an adapter; None for a command objective, or where it is not measured yet."""
        return self._result("untuned")

    @property
    def difference(self) -> Difference | None:
        """Test loss of the best minus the baseline's, paired by row, with its 95 % interval.

        Below 0: the best is better. None until both are measured, and where the best is the baseline.
        """
        from meshtune.selection.statistics import Difference

        found = self.status()["best_against_baseline"]
        return Difference(**found) if found else None

    @property
    def rounds(self) -> tuple[Study, ...]:
        """The rounds that have begun, each a study of its own; empty where the study has no `rounds`."""
        return tuple(Study(each.folder) for each in self._located.rounds if each.started)

    # -- act on it, also while another process runs it

    def trial(self, number: int) -> Trial:
        """A handle on one trial, to stop it, finish it or try it again: `study.trial(7).stop()`."""
        return Trial(self.folder, number)

    def enqueue(
        self, hyperparameters: Values | None = None, *, like: int | str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Have a point tried as the next trial: `study.enqueue(like=7, learning_rate=3e-4)`.

        Args:
            hyperparameters: by name; also as keyword arguments.
            like: the trial whose values hold where none is set: its number, `best`, `recommended` or `baseline`.

        Returns what `meshtune enqueue --json` prints: its `state` is `done`, or `noted` where no coordinator has
        answered yet. Raises InputError with all faults where it is refused.
        """
        from meshtune.study.requests import enqueue

        return enqueue(
            self.folder, {**(hyperparameters or {}), **more}, like=None if like is None else str(like)
        ).as_json()

    # -- frames

    @property
    def trials(self) -> pandas.DataFrame:
        """One row a trial, in trial order.

        Columns: `number`, `ending` (missing while it is pending), `origin`, `block`, `loss`, `params_NAME` for every
        hyperparameter (decoded, as Optuna's `trials_dataframe` calls them), `losses` (a list: after each epoch),
        `training_losses`, `seconds`, `tokens`, `peak_memory` (bytes), `message` and what else the status has.
        """
        from meshtune.results import trial_frame

        return trial_frame(self.status())

    @property
    def answers(self) -> pandas.DataFrame:
        """Answers to validation rows, one row each: `name` (untuned, baseline, trial-N), `row`, `prompt`,
        `reference`, `answer`, and `scores_METRIC` for every metric of one's own. Empty until the study is finished.
        """
        from meshtune.results import answer_frame

        return answer_frame(self._located.latest.folder)

    @property
    def scores(self) -> pandas.DataFrame:
        """Scores of candidates on benchmarks, one row each, as they were evaluated last; empty before.

        Columns: `name`, `rank`, `trial`, `loss`, `baseline`, `pareto`; for each benchmark its score in points and, as
        `BENCHMARK:se`, its standard error; the same of what stands beside it, such as `mmlu:likelihood`. The frame's
        `attrs` are the `protocol` and, by benchmark, the `sets` that were asked.
        """
        from meshtune.results import score_frame

        return score_frame(self._located.latest.folder)

    @property
    def optuna(self) -> optuna.Study:
        """A copy in memory as an Optuna study, for Optuna's plots and importances; changing it changes no record.

        Its parameters are the hyperparameters, such as rank, alpha and learning_rate, and its intermediate values the
        learning curves. Of each trial, the user attribute `params` is what the sampler moved, and `worse_than_untuned`
        whether its training did harm.
        """
        return _as_optuna(self._located.latest)

    # -- pictures

    def plot_history(self) -> Any:
        """The loss of every trial and the best so far, in trial order; a plotly figure."""
        return self._figure("history")

    def plot_parallel_coordinates(self) -> Any:
        """Every searched hyperparameter beside the loss, darker is lower; a plotly figure."""
        return self._figure("parallel_coordinates")

    def plot_learning_curves(self) -> Any:
        """Validation loss by epoch of the trials; a plotly figure."""
        return self._figure("learning_curves")

    def plot_endings(self) -> Any:
        """How the trials ended; a plotly figure."""
        return self._figure("endings")

    # -- take away

    def report(self, out: str | Path | None = None, *, public: bool = False, figures: str | Path | None = None) -> Path:
        """Write the page of the study (default: `report/index.html` in its folder); returns its path.

        public: without any row of the data, path or host name. figures: a folder for every figure (SVG, PNG) and table
        (CSV, LaTeX), a methods paragraph and BibTeX.
        """
        from meshtune.report.write import report

        page, folder = (None if place is None else Path(place) for place in (out, figures))
        written = report([self.folder], out=page, public=public, figures=folder)
        return Path(written["page"])

    def export(
        self, out: str | Path, *, trial: int | str = "best", merge: bool = False, config: str | None = None
    ) -> dict[str, Any]:
        """Write the adapter of a trial (its number, `best` or `baseline`) in PEFT's format into a new folder `out`.

        merge: write the full model with the adapter inside instead. config: write settings for axolotl, llamafactory,
        trl, unsloth or peft instead. Returns what was written, as plain values. Raises InputError where the trial has
        no adapter, `out` is not empty, or the tool is unknown.
        """
        from meshtune.export.export import export
        from meshtune.export.settings import export_settings

        if config is not None:
            if merge:
                raise InputError("merge writes a model and config writes settings: give one of them")
            return export_settings(self.folder, Path(out), config, trial=trial)
        written: dict[str, Any] = export(self.folder, Path(out), trial=trial, merge=merge)
        return written

    def train(
        self,
        out: str | Path,
        *,
        trial: int | str = "best",
        all_data: bool = False,
        epochs: int | None = None,
        seed: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> dict[str, Any]:
        """Train a trial's point (its number, `best`, `recommended` or `baseline`) once more, into the folder `out`.

        all_data: on validation and test rows too. epochs, seed: in place of the trial's. overrides: as in `tune`, of
        `training.KEY`, `model.device` and `worker.threads`. Returns what came of it, as
        plain values. Raises InputError as `export` does, and KeyboardInterrupt, whose text says what is saved: the same
        call goes on from there. It had some seconds for that, unless a second interrupt came.
        """
        from meshtune.export.train import train

        try:
            changes = _as_set(overrides)
            done: dict[str, Any] = train(
                self.folder, Path(out), trial=trial, all_data=all_data, epochs=epochs, seed=seed, overrides=changes
            )
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from None
        return done

    def evaluate(
        self,
        *,
        trials: Sequence[int] = (),
        progress: bool = True,
        unsafe_no_sandbox: bool = False,
        **settings: Any,
    ) -> pandas.DataFrame:
        """Score the best and worst trials, the baseline and the untuned model on benchmarks; returns `scores`.

        Answers are kept: after an interruption the same call goes on, and a second one asks nothing again.

        Args:
            trials: numbers, in place of the best and worst ones.
            progress: show the run, on standard error (in a notebook: below the cell).
            unsafe_no_sandbox: run code that models wrote with all your rights, on a machine without a sandbox.
            settings: keys of the section `evaluation` in place of what the study says, such as `benchmarks`, `data`
                (relative to the working directory), `limit`, `best`, `worst`, `protocol`.

        Raises:
            InputError: wrong settings, data that cannot be read, no complete trial. StudyBusy: another process does it.
            KeyboardInterrupt: it was interrupted; what is stored stays.
        """
        from meshtune.cli.bars import EvaluateView
        from meshtune.finalists.evaluate import evaluate

        for key in PATHS & settings.keys():
            settings[key] = settings[key] and str(Path(settings[key]).expanduser().absolute())
        with EvaluateView(_console(progress)) as view:
            try:
                evaluate(
                    [self.folder],
                    given=settings,
                    trials=trials,
                    unsafe=unsafe_no_sandbox,
                    report=view.show,
                )
            except Interrupted as error:
                raise KeyboardInterrupt(str(error)) from None
        return self.scores

    # -- how it shows itself

    def __repr__(self) -> str:
        from meshtune.results import in_words

        try:
            return in_words(self.folder, self.status())
        except MeshtuneError:  # a repr is shown where something went wrong: it must not be one more thing
            return f"<Study {str(self.folder)!r}: cannot be read>"

    def _repr_html_(self) -> str:
        from meshtune.results import in_html

        try:
            return in_html(self.folder, self.status())
        except MeshtuneError:
            return html.escape(repr(self))

    # -- inside

    @property
    def _located(self) -> Located:
        from meshtune.plan.locate import existing

        return existing(self.folder)

    def _result(self, name: str) -> Result | None:
        from meshtune.results import result

        return result(self.folder, name, self.status())

    def _figure(self, name: str) -> Any:
        need("a figure", "plotly")
        from meshtune.report import figures

        draw: Callable[[Values], Any] = getattr(figures, name)
        return draw(self.status())


@dataclass(frozen=True)
class Trial:
    """One trial of a study, to be acted on; what it found is in `Study.trials`.

    Each method returns what `meshtune trial --json` prints: its `state` is `done`, or `noted` where no coordinator has
    answered yet. Raises InputError where it is refused.

    Attributes:
        folder: the study's.
    """

    folder: Path
    number: int

    def stop(self) -> dict[str, Any]:
        """End it where it is; it can be trained to its end later (`finish`)."""
        return self._ask("stop")

    def finish(self) -> dict[str, Any]:
        """Train it to its end, whatever stops others; what was stopped goes on once the search has ended."""
        return self._ask("finish")

    def retry(self) -> dict[str, Any]:
        """Count the attempts of a trial that crashed, and that has not ended, from the beginning."""
        return self._ask("retry")

    def _ask(self, action: Action) -> dict[str, Any]:
        from meshtune.study.requests import ask_of_trial

        return ask_of_trial(self.folder, self.number, action).as_json()


def _find(
    study: str | Path | Mapping[str, Any],
    trials: int | None,
    folder: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
) -> Located:
    """The study that `tune` is given, its changes applied."""
    from meshtune.plan.locate import locate, locate_values

    changes = _as_set(overrides)
    if trials is not None:
        changes = (*changes, f"budget.trials={trials}")
    at = None if folder is None else Path(folder).expanduser()
    if isinstance(study, Mapping):
        return locate_values(study, overrides=changes, folder=at)
    return locate(Path(study).expanduser(), overrides=changes, folder=at)


def _as_set(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides as the command line's `--set` has them."""
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items())
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


def _import_optuna() -> None:
    """Import Optuna without the warning that a notebook without ipywidgets gets about bars that nobody shows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import optuna  # noqa: F401


def _as_optuna(located: Located) -> optuna.Study:
    """A copy in memory, by decoded names and values; trials that did harm say so in an attribute."""
    import optuna

    from meshtune.record.distributions import as_known, space_of
    from meshtune.record.log import Record
    from meshtune.record.scoring import worse_than_untuned
    from meshtune.record.storage import open_storage, quiet, storage_errors

    record = Record(located.url, located.name)
    space = space_of(record.notes)
    with storage_errors(located.url), quiet():
        source = optuna.load_study(study_name=located.name, storage=open_storage(located.url))
        copied = optuna.create_study(study_name=located.name, directions=source.directions)
        for name, value in record.notes.items():
            copied.set_user_attr(name, value)
        for trial, frozen in zip(record.trials, source.get_trials(), strict=True):
            shown = frozen if space is None else as_known(frozen, space)
            shown.user_attrs = {**shown.user_attrs, "worse_than_untuned": worse_than_untuned(record.notes, trial)}
            copied.add_trial(shown)
    return copied


def _console(progress: bool) -> Console:
    """Where the run is shown: standard error; in a notebook below the cell, as plain lines; or nowhere."""
    from rich.console import Console

    from meshtune.cli.watch import console_for

    if not progress:
        return Console(file=io.StringIO(), quiet=True)
    if Console().is_jupyter:  # its streams call themselves terminals, and cannot redraw lines
        return Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=160)
    return console_for(stderr=True)
