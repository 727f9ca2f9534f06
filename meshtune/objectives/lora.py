"""The objective `lora`: train an adapter over the base, validate it after each epoch, keep the one that counts.

The base is loaded at the first request and kept; each evaluation leaves it exactly as it was. Requests are evaluated
one after the other. Adapters go to `<folder>/adapters/<trial>`; how many are kept is the loop's affair. A training
saves itself in `<folder>/checkpoints/<trial>`, and the same request goes on from there; what ends takes its folder
away, but for a crash, after which the next attempt goes on too.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from meshtune import answers
from meshtune.config import MetricConfig, ModelConfig, TrainingConfig
from meshtune.config_values import Section
from meshtune.data.batches import Rows, Side
from meshtune.errors import InputError
from meshtune.objectives import checkpoints
from meshtune.objectives.answers import answer
from meshtune.training import machine
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.chosen_trainer import stepwise, trainer_of
from meshtune.training.in_thread import in_thread
from meshtune.training.models import load_model
from meshtune.training.precision import resolve_precision
from meshtune.training.recipe import recipe
from meshtune.training.steps import Checkpoint, Diverged, Step, Suspended, Trained
from meshtune.training.validation import mean_loss, row_losses
from meshtune.trial import DataRef, Ending, Outcome, Progress, Request

PROGRESS_SECONDS = 0.5  # at most one progress in this time, but for validation losses
LAST_STEPS = 10  # whose mean training loss a progress tells


class LoraSpec(Section):
    """What crosses to the worker: the model, the training, the data, the epoch that counts, the study's folder."""

    model: ModelConfig
    training: TrainingConfig
    data: DataRef
    at: Literal["best", "last"]
    folder: str
    answers: int = 0  # validation rows that are answered when that is asked for
    max_new_tokens: int = 128
    metrics: dict[str, MetricConfig] = Field(default_factory=dict)


class LoraObjective:
    """Trains and measures adapters over one base, on one device.

    Args:
        spec: see there. device: a torch device. threads: CPU threads where a request names none; None: torch's choice.
    """

    def __init__(self, spec: LoraSpec, device: str, threads: int | None):
        self.spec = spec
        self.device = device
        self.threads = threads
        self._base: Any = None
        self._suspended = threading.Event()

    def suspend(self) -> None:
        """As the objective seam says."""
        self._suspended.set()

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Progress | Outcome]:
        """As the objective seam says; one request after the other."""
        for request in requests:
            if not self._suspended.is_set():
                yield from self._evaluate(request)

    def _evaluate(self, request: Request) -> Iterator[Progress | Outcome]:
        run = _Run(request)
        try:
            machine.use_threads(request.threads or self.threads)
            if self._base is None:
                self._base = load_model(self.spec.model, self.device)
            machine.reset_peak(self.device)
            run.begin()
            yield Progress(request.trial, request.attempt)  # the worker's clock starts with the first word
            outcome = yield from (self._measure(run) if request.measure is not None else self._train(run))
        except Suspended:
            return
        except Diverged as error:
            outcome = run.ended(Ending.DIVERGED, message=str(error))
        except _TimedOut:
            outcome = run.ended(Ending.TIMED_OUT, message=f"not finished after {request.timeout:g} s")
        except Exception as error:  # whatever a library raises is how this evaluation ended
            out = machine.is_out_of_memory(error)
            if not out and not isinstance(error, InputError):
                traceback.print_exc()  # to the worker's log
            message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            # What is wrong with the input stays wrong, but for a file that cannot be read now.
            retry = not isinstance(error, InputError) or isinstance(error.__cause__, OSError)
            outcome = run.ended(Ending.OUT_OF_MEMORY if out else Ending.CRASHED, message=message, retry=retry)
        machine.free(self.device)
        try:
            yield outcome
        finally:  # once it was handed over
            if outcome.ending is not Ending.CRASHED and request.measure is None:
                checkpoints.forget(self._place(request, checkpoints.FOLDER))

    def _train(self, run: _Run) -> Generator[Progress, None, Outcome]:
        request, spec = run.request, self.spec
        precision = resolve_precision(spec.training.precision, self.device)
        training = spec.training.model_copy(update={"precision": precision})
        train_with, resumes = trainer_of(spec.training)
        given: dict[str, Any] = {}
        if resumes:
            folder = self._place(request, checkpoints.FOLDER)
            checkpoints.before_attempt(folder, request.attempt)
            minutes = spec.training.checkpoint_minutes
            seconds = None if minutes is None else minutes * 60
            given["checkpoint"] = Checkpoint(folder, seconds, self._suspended.is_set)
        steps = train_with(
            self._base,
            Rows.open(spec.data, "train"),
            Rows.open(spec.data, "validation"),
            recipe(training, request.hyperparameters, request.seed),
            at=spec.at,
            **given,
        )
        with contextlib.closing(stepwise(steps)) as items:
            for step in items:
                if isinstance(step, Trained):
                    if not math.isfinite(step.loss):
                        raise Diverged(f"the loss was {step.loss}")
                    adapter = self._place(request, "adapters")
                    save_adapter(adapter, step.weights, step.config, self._base.name_or_path)
                    place = adapter.relative_to(spec.folder).as_posix()
                    peak = machine.peak(self.device)
                    return run.ended(Ending.COMPLETE, loss=step.loss, adapter=place, peak_memory=peak)
                if not resumes and self._suspended.is_set():
                    raise Suspended
                yield from run.told(step)
        raise RuntimeError("the trainer ended without a result")

    def _place(self, request: Request, what: str) -> Path:
        # What is trained beside the trials, with a number below 0, is the baseline outside the space.
        return Path(self.spec.folder) / what / (str(request.trial) if request.trial >= 0 else "baseline")

    def _measure(self, run: _Run) -> Generator[Progress, None, Outcome]:
        request = run.request
        if request.measure not in ("validation", "test", "answers"):
            raise InputError(f"`{request.measure}` cannot be measured; there are validation, test and answers")
        folder = None if request.adapter is None else Path(self.spec.folder) / request.adapter
        if folder is not None and not (folder / "adapter_config.json").is_file():
            raise InputError(f"there is no adapter in {folder}")

        def work(emit: Callable[[dict[str, Any] | None], None]) -> None:
            with attached(self._base, folder) if folder is not None else contextlib.nullcontext():
                emit(self._measured(request, tick=lambda: emit(None)))

        items = in_thread(work)
        with contextlib.closing(items):
            for measured in items:
                if measured is not None:
                    return run.ended(Ending.COMPLETE, peak_memory=machine.peak(self.device), **measured)
                if self._suspended.is_set():
                    raise Suspended
                yield from run.told(Step(0, 0, 0.0, 0))
        raise RuntimeError("the measurement ended without a result")

    def _measured(self, request: Request, tick: Callable[[], None]) -> dict[str, Any]:
        """Fields of the outcome of a measurement of the base as it stands."""
        spec = self.spec
        if request.measure != "answers":
            losses = row_losses(self._base, Rows.open(spec.data, cast(Side, request.measure)), tick=tick)
            return {"loss": mean_loss(losses), "row_losses": tuple(losses)}
        means = answer(
            self._base,
            spec.model,
            spec.data,
            spec.metrics,
            rows=spec.answers,
            max_new_tokens=spec.max_new_tokens,
            to=Path(spec.folder) / answers.file_of(request.adapter),
            tick=tick,
        )
        return {"extra": means}


class _TimedOut(Exception):
    """The request's timeout is over."""


class _Run:
    """One evaluation while it runs: its clock, and what it has told so far, which any ending reports."""

    def __init__(self, request: Request):
        self.request = request
        self.tokens = 0
        self.losses: list[float] = []
        self.training_losses: list[float] = []
        self.earlier = 0.0  # seconds, before the checkpoint from which it went on
        self._last: deque[float] = deque(maxlen=LAST_STEPS)
        self.begin()

    def begin(self) -> None:
        """Start the clock; loading the base is no part of a trial's time."""
        self._begun = time.monotonic()
        self._told = -PROGRESS_SECONDS

    @property
    def seconds(self) -> float:
        """Of the evaluation so far, those of earlier processes included."""
        return self.earlier + time.monotonic() - self._begun

    def told(self, step: Step) -> Iterator[Progress]:
        """Take note of a step; yields a progress if one is due. Raises _TimedOut, Diverged."""
        self.tokens, self.earlier = step.tokens, step.earlier
        for loss in (step.training_loss, step.validation_loss):
            if loss is not None and not math.isfinite(loss):
                raise Diverged(f"a loss of step {step.step} was {loss}")
        if step.validation_loss is not None:
            self.losses.append(step.validation_loss)
            self.training_losses.append(step.training_loss or 0.0)
        elif step.training_loss is not None:
            self._last.append(step.training_loss)
            if not self.training_losses:
                self.training_losses.append(step.training_loss)
        seconds = self.seconds
        if self.request.timeout is not None and seconds > self.request.timeout:
            raise _TimedOut
        if step.validation_loss is not None or seconds - self._told >= PROGRESS_SECONDS:
            self._told = seconds
            mean = sum(self._last) / len(self._last) if self._last else None
            yield Progress(
                self.request.trial, self.request.attempt, step.step, step.steps, step.epoch, mean, step.validation_loss
            )

    def ended(self, ending: Ending, **fields: Any) -> Outcome:
        """The outcome, with everything told so far."""
        return Outcome(
            self.request.trial,
            self.request.attempt,
            ending,
            losses=tuple(self.losses),
            training_losses=tuple(self.training_losses),
            seconds=self.seconds,
            tokens=self.tokens,
            **fields,
        )
