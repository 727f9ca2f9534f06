"""`meshtune train`: the chosen point of a study trained once more, into a folder to take away.

The folder holds the adapter in PEFT's format, the tokenizer, a model card and `training.json`. It appears whole; while
the training runs, what it needs to go on after a kill stands in `<folder>.unfinished`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config import file
from meshtune.errors import Fault, InputError, Interrupted, MeshtuneError, Stopped, StudyBusy, need_training, refuse
from meshtune.export import takeaway
from meshtune.export.chosen import ChosenPoint, choose, describe
from meshtune.record.trials import flatten
from meshtune.study.signals import Interrupts, Signals
from meshtune.system import whole_file
from meshtune.system.lease import elsewhere, holder, lease
from meshtune.system.machine import cores
from meshtune.trial import DataRef, Ending, Progress

if TYPE_CHECKING:
    from meshtune.training.chosen_trainer import Epoch, Retrained
    from meshtune.training.recipe import Recipe
    from meshtune.training.steps import Step

SETTINGS = "settings.json"
CHECKPOINT = "checkpoint"
Report = Callable[[Progress | str], None]  # where the training stands, or a line to show


@dataclass(frozen=True)
class _Job:
    """What is trained: all that decides the adapter, and where it is trained."""

    chosen: ChosenPoint
    recipe: Recipe
    all_data: bool
    at: str
    data: DataRef
    device: str
    threads: int

    @property
    def settings(self) -> dict[str, Any]:
        """As plain values: an unfinished training is of this job where these are the same."""
        values = {
            "recipe": dataclasses.asdict(self.recipe),
            "at": self.at,
            "all_data": self.all_data,
            "model": self.chosen.model.model_dump(mode="json", exclude={"device"}),
            "trainer": self.chosen.study.config.training.trainer.model_dump(mode="json"),
            "data": self.data.fingerprint,
        }
        return dict(json.loads(json.dumps(values)))


def train(
    path: Path,
    out: Path,
    *,
    trial: str | int = "best",
    all_data: bool = False,
    epochs: int | None = None,
    seed: int | None = None,
    overrides: tuple[str, ...] = (),
    report: Report | None = None,
    signals: Signals | Interrupts | None = None,
) -> dict[str, Any]:
    """Train a point of the study once more into the folder `out`; the same call goes on after an interruption.

    Args:
        path: of the study. trial: `best`, `recommended`, `baseline` or a number.
        epochs, seed: in place of the trial's own.
        overrides: `key=value` in place of the study's, of what decides a training: `training.KEY` (in place of the
            trial's too), `model.device`, `worker.threads`.
        all_data: train on the validation and test rows too; then no loss is measured and the last epoch is kept.
        report: is told `Progress` and lines of text.
        signals: takes what asks for an end; None: Ctrl-C alone, without ending the process.

    Returns what `training.json` holds, and `folder`.

    Raises InputError; Interrupted or Stopped once a signal came and the training is saved; StudyBusy where another
    process trains into the same folder; MeshtuneError where the training diverged or memory ran out; StorageError.
    """
    out = Path(out).absolute()
    unfinished = out.with_name(f"{out.name}.unfinished")
    say = report or (lambda _: None)
    need_training()
    job = _job(choose(Path(path), trial), all_data=all_data, epochs=epochs, seed=seed, overrides=overrides)
    _check_out(job, out, unfinished)
    with whole_file.writing(unfinished):
        unfinished.mkdir(parents=True, exist_ok=True)
        takeaway.write_json(unfinished / SETTINGS, job.settings)
    signals = signals or Interrupts()
    with lease(unfinished), _kept_if_saved(unfinished, signals), signals.taken():
        if (unfinished / CHECKPOINT).exists():
            say(f"going on with the unfinished training in {unfinished}")
        result = _trained(job, unfinished, signals, say)
        facts = _finish(job, result, unfinished / "finished", out)
    takeaway.put_in_place(unfinished / "finished", out)
    shutil.rmtree(unfinished, ignore_errors=True)
    return {**facts, "folder": str(out)}


def as_text(result: Mapping[str, Any]) -> str:
    """What was written, for people: the loss beside the trial's, and what can be done with it."""
    point, run, folder = result["point"], result["run"], result["folder"]
    lines = []
    if run["loss"] is not None:
        known = "" if point["loss"] is None else f"; {point['name']} of the study had {point['loss']:.4f}"
        lines.append(f"validation loss {run['loss']:.4f}, of epoch {run['epoch']}{known}")
    lines.append(f"wrote {folder}: adapter, tokenizer, model card (README.md), {takeaway.FACTS}")
    lines.append(f"a full model of it: meshtune export {folder} OUT --merge")
    return "\n".join(lines)


def _changed(chosen: ChosenPoint, overrides: Sequence[str]) -> tuple[ChosenPoint, set[str]]:
    """The point with the study's config as overridden, and the keys of `training` that were. Raises InputError."""
    keys = [text.partition("=")[0] for text in overrides]
    faults = []
    for key, text in zip(keys, overrides, strict=True):
        if (key.startswith("training.") and key != "training.keep_adapters") or key in (
            "model.device",
            "worker.threads",
        ):
            continue
        what = "decides nothing of this training; training.KEY, model.device and worker.threads do"
        instead = {"seed": "; the seed is `--seed N`", "data": "; `--all-data` takes all rows"}
        faults.append(Fault(what + instead.get(key.partition(".")[0], ""), f"--set {text}", key=key))
    refuse(faults)
    if not overrides:
        return chosen, set()
    study = chosen.study
    config = file.parse(study.config.model_dump(mode="json"), study.folder, overrides)
    named = {key.split(".")[1] for key in keys if key.startswith("training.")}
    return dataclasses.replace(chosen, study=dataclasses.replace(study, config=config)), named


def _job(
    chosen: ChosenPoint, *, all_data: bool, epochs: int | None, seed: int | None, overrides: Sequence[str] = ()
) -> _Job:
    """Everything that decides the adapter. Raises InputError."""
    from meshtune.training.models import resolve_device, resolve_precision
    from meshtune.training.recipe import recipe

    if seed is not None and seed < 0:
        raise InputError(f"seed {seed}: a whole number at or above 0 is allowed")
    chosen, named = _changed(chosen, overrides)
    config = chosen.study.config
    device = resolve_device(chosen.model)
    training = config.training.model_copy(update={k: v for k, v in chosen.as_run.items() if k not in named})
    training = training.model_copy(update={"precision": resolve_precision(training.precision, device)})
    changed = {name: getattr(training, name) for name in named & chosen.hyperparameters.keys()}
    changed |= {} if epochs is None else {"epochs": epochs}
    made = recipe(training, {**chosen.hyperparameters, **changed}, chosen.seed if seed is None else seed)
    at = "last" if all_data else chosen.record.notes["fixed"]["objective"]["at"]
    data = DataRef(str(chosen.study.folder / "data"), chosen.record.notes["fixed"]["data"])
    return _Job(chosen, made, all_data, at, data, device, config.worker.threads or cores())


@contextlib.contextmanager
def _kept_if_saved(unfinished: Path, signals: Signals | Interrupts) -> Iterator[None]:
    """Where something ends the training, leave its folder only if there is a checkpoint to go on from.

    Raises Interrupted or Stopped, which say how to go on, where it was a signal.
    """
    from meshtune.training.steps import Suspended

    try:
        yield
    except BaseException as error:
        saved = (unfinished / CHECKPOINT).exists()
        if not saved:
            shutil.rmtree(unfinished, ignore_errors=True)
        if not isinstance(error, Suspended | KeyboardInterrupt):
            raise
        text = "nothing of the training was saved; run the same command again to start over"
        if saved:
            text = f"the training is saved in {unfinished}; run the same command again to continue"
        raise (Interrupted if signals.interrupted else Stopped)(f"interrupted: {text}") from None


def _check_out(job: _Job, out: Path, unfinished: Path) -> None:
    """Refuse an `out` that is taken, by something finished or by another training."""
    takeaway.check_free(out)
    if not unfinished.is_dir():
        return
    if (other := holder(unfinished)) and not elsewhere(unfinished):  # one elsewhere is watched by `lease`
        raise StudyBusy(f"{out}: process {other.pid} on {other.host} trains into it, since {other.since}")
    try:
        held = flatten(json.loads((unfinished / SETTINGS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # none is begun, or it was killed before it began
        return
    now = flatten(job.settings)
    keys = [key for key in {**held, **now} if held.get(key) != now.get(key)]
    if keys:
        faults = [Fault(f"was {held.get(key, 'absent')}, is now {now.get(key, 'absent')}", key=key) for key in keys]
        advice = "holds an unfinished training of other settings: give these back, name another folder, or remove it"
        raise InputError([*faults, Fault(advice, unfinished)])


def _trained(job: _Job, unfinished: Path, signals: Signals | Interrupts, say: Report) -> Retrained:
    from meshtune.data.store import Rows
    from meshtune.training import machine
    from meshtune.training.chosen_trainer import Joined, reference, retrain, takes, trainer_of
    from meshtune.training.models import load_model
    from meshtune.training.steps import Checkpoint, Diverged

    training = job.chosen.study.config.training
    train_rows, validation, test = (Rows.open(job.data, side) for side in ("train", "validation", "test"))
    trainer = trainer_of(training if job.chosen.record.why_not_packed is None else reference(training))
    minutes = training.checkpoint_minutes
    checkpoint = Checkpoint(
        unfinished / CHECKPOINT, None if minutes is None else minutes * 60, lambda: signals.stop() is not None
    )
    machine.use_threads(job.threads)
    if note := _earlier_best(job):
        say(f"{note}; this training keeps its last, epoch {job.recipe.epochs} (`--epochs`)")
    say("loading the model")
    try:
        base = load_model(job.chosen.model, job.device)
        signals.cooperative = True  # from here on there is something to save
        return retrain(
            base,
            Joined([train_rows, validation, test]) if job.all_data else train_rows,
            None if job.all_data else validation,
            job.recipe,
            at="last" if job.at == "last" else "best",
            trainer=trainer,
            saves=takes(trainer, "checkpoint"),
            checkpoint=checkpoint,
            report=lambda event: say(_shown(job, event)),
        )
    except Diverged as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # going on would come to the same end
        raise MeshtuneError(f"the training diverged: {error}. Another seed or another trial may not") from error
    except Exception as error:  # whatever a library raises where memory runs out
        if machine.is_out_of_memory(error):
            raise MeshtuneError(f"memory ran out ({error}). {Ending.OUT_OF_MEMORY.advice}") from error
        raise


def _shown(job: _Job, event: Step | Epoch) -> Progress | str:
    from meshtune.training.chosen_trainer import Epoch

    if isinstance(event, Epoch):
        losses = (("training", event.training_loss), ("validation", event.validation_loss))
        words = ", ".join(f"{name} loss {loss:.4f}" for name, loss in losses if loss is not None)
        return f"epoch {event.epoch}/{job.recipe.epochs}: {words}"
    number = -1 if job.chosen.trial is None else job.chosen.trial
    return Progress(number, 1, event.step, event.steps, event.epoch, event.training_loss)


def _finish(job: _Job, result: Retrained, folder: Path, out: Path) -> dict[str, Any]:
    """Write what is taken away into `folder`; returns the facts."""
    from meshtune.training.checkpoints import base_of, name_base, save_adapter, save_tokenizer

    chosen = job.chosen
    facts = {**describe(chosen), "made": "train", "training": dataclasses.asdict(job.recipe), "run": _run(job, result)}
    save_adapter(folder, result.trained.weights, result.trained.config, base_of(chosen.model))
    name_base(folder, chosen.model)
    save_tokenizer(folder, chosen.model)
    return takeaway.write_facts(folder, facts, out, chosen.study.folder)


def _run(job: _Job, result: Retrained) -> dict[str, Any]:
    """How the training went, for the card."""
    from meshtune.data.store import Rows

    rows = {side: len(Rows.open(job.data, side)) for side in ("train", "validation", "test")}
    losses = [epoch.validation_loss for epoch in result.epochs if epoch.validation_loss is not None]
    last = job.at == "last" or not losses
    return {
        "epochs": [dataclasses.asdict(epoch) for epoch in result.epochs],
        "at": job.at,
        "epoch": job.recipe.epochs if last else losses.index(min(losses)) + 1,
        "loss": None if job.all_data else result.trained.loss,
        "all_data": job.all_data,
        "rows": sum(rows.values()) if job.all_data else rows["train"],
        "tokens": result.tokens,
        "seconds": result.seconds,
        "seed": job.recipe.seed,
        "device": job.device,
        "threads": job.threads,
        "note": _earlier_best(job),
    }


def _earlier_best(job: _Job) -> str:
    """Where nothing is held out, the trial tells how many epochs are too many: a sentence, or nothing."""
    losses = job.chosen.outcome.losses if job.chosen.outcome is not None else ()
    lowest = losses.index(min(losses)) + 1 if losses else 0
    if not job.all_data or lowest in (0, len(losses)) or job.recipe.epochs <= lowest:
        return ""
    return f"The validation loss of {job.chosen.name} was lowest after epoch {lowest} of {len(losses)}"
