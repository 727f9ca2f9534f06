"""The objective `lora`: train adapters over the base, validate them after each epoch, keep the one that counts.

The base is loaded at the first request and kept; each evaluation leaves it exactly as it was. Requests that come
together are trained as a pack (`trainings.py`), measurements one after the other. Where the trainer is `packed`, the
study's model or what its space may hold decides once, in each process alike, whether packs can be had; where they
cannot, all trials are trained by `transformers`, and the measurement `trainer` says why. Adapters go to
`<folder>/adapters/<trial>`; how many are kept is the loop's affair.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from meshtune.data import answers
from meshtune.data.store import Rows, Side
from meshtune.errors import InputError
from meshtune.objectives.attempt import Attempt, Failure, failure_of
from meshtune.objectives.decisions import Decisions
from meshtune.objectives.lora_spec import LoraSpec as LoraSpec
from meshtune.objectives.measurement_files import UNTUNED
from meshtune.objectives.measuring import Measurer
from meshtune.objectives.trainings import Trainings
from meshtune.training import machine
from meshtune.training.checkpoints import attached
from meshtune.training.chosen_trainer import reference, why_not_packed
from meshtune.training.loss import mean_loss, row_losses
from meshtune.training.models import exact, load_model, resolve_precision
from meshtune.training.packed.ranks import Ranks
from meshtune.training.saved_state import say
from meshtune.training.steps import Suspended
from meshtune.trial import Decision, Ending, Event, Outcome, Progress, Request


class LoraObjective:
    """Trains and measures adapters over one base, on one device, or trains them on several.

    Args:
        spec: see there. device: a torch device. threads: CPU threads where a request names none; None: torch's choice.
        devices: that share the rows of what is trained; what is measured alone takes the first.
        sharded: whether the base's layers are cut over them; then what is measured takes them all.
    """

    def __init__(self, spec: LoraSpec, device: str, threads: int | None, devices: int = 1, sharded: bool = False):
        self.spec = spec
        self.device = device
        self.threads = threads
        self.devices, self.sharded = devices, sharded
        self._ranks: Ranks | None = None
        self._base: Any = None
        self._loaded = spec.model  # what the base is
        self._trainings: Trainings | None = None
        self._measurer: Measurer | None = None
        self._why_not_packed: str | None = None
        self._suspended = threading.Event()
        self._decisions = Decisions()

    def suspend(self) -> None:
        """As the objective seam says."""
        self._suspended.set()

    def decide(self, decision: Decision) -> None:
        """As the objective seam says."""
        self._decisions.decide(decision)

    def join(self, pack: int, request: Request) -> bool:
        """As the objective seam says."""
        return self._decisions.join(pack, request)

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """As the objective seam says."""
        for request in requests:
            if request.measure is not None and not self._suspended.is_set():
                yield from self._measure(request)
        wanted = [request for request in requests if request.measure is None]
        if not wanted or self._suspended.is_set():
            return
        failure = self._load(wanted[0])
        if self._trainings is None or failure is not None:
            yield from (Attempt(request).failed(failure or Failure(Ending.CRASHED, "")) for request in wanted)
        else:
            yield from self._trainings.events(wanted)

    def _load(self, request: Request) -> Failure | None:
        """Have the base, and know how it is trained over; says what kept it from that."""
        try:
            machine.use_threads(request.threads or self.threads)
            wanted = exact(self.spec.model) if request.measure == "float32" else self.spec.model
            if self._base is None or wanted != self._loaded:
                self._base = self._trainings = self._measurer = None  # there may be no room for two
                self._end_ranks()
                machine.free(self.device)
                self._loaded = wanted
                cut = self.sharded and wanted == self.spec.model
                self._base = self._cut() if cut else load_model(wanted, self.device)
            if self._trainings is None and request.measure != "float32":
                self._trainings = self._made()
        except Exception as error:
            return failure_of(error)
        return None

    def _made(self) -> Trainings:
        spec = self.spec
        if spec.measurements is not None and self._measurer is None:
            self._measurer = Measurer(spec.measurements, self._base, spec.answering, Path(spec.folder))
        precision = resolve_precision(spec.training.precision, self.device)
        training = spec.training.model_copy(update={"precision": precision})
        if training.trainer.name == "packed":
            cut_over = self._ranks_there() if self.sharded else None
            self._why_not_packed = why_not_packed(self._base, training, spec.variants, cut_over)
            if self._why_not_packed is not None:
                say(f"trained by the trainer `transformers`: it cannot be packed, since {self._why_not_packed}")
                training = reference(training)
        return Trainings(
            self._base,
            training,
            spec.data,
            at=spec.at,
            rung_rows=spec.rung_rows,
            folder=Path(spec.folder),
            device=self.device,
            stopping=self._suspended.is_set,
            measurer=self._measurer,
            ranks=self._ranks_there,
            decisions=self._decisions,
        )

    def _ranks_there(self) -> Ranks | None:
        """The processes that share rows, started for the first training; None: this one is alone."""
        if self._ranks is None and self.devices > 1:
            own = self._loaded, self.device, self.threads, self.devices
            self._ranks = Ranks(*own, shared_base=self.sharded)
        return self._ranks

    def _cut(self) -> Any:
        """The base, its layers cut over all devices."""
        ranks, base = self._ranks_there(), load_model(self._loaded, "cpu")
        assert ranks is not None
        ranks.shard(base)
        return base

    def _end_ranks(self) -> None:
        if self._ranks is not None:
            self._ranks.close()
        self._ranks = None

    def _measure(self, request: Request) -> Iterator[Progress | Outcome]:
        attempt = Attempt(request)
        failure = self._load(request)
        if failure is None:
            machine.reset_peak(self.device)
            attempt.begin()
            yield attempt.progress()  # the worker's clock starts with the first word
            try:
                outcome = yield from self._steps(attempt)
            except Suspended:
                return
            except Exception as error:
                failure = failure_of(error)
        if failure is not None:
            outcome = attempt.failed(failure)
        machine.free(self.device)
        yield outcome

    def _steps(self, attempt: Attempt) -> Generator[Progress, None, Outcome]:
        request = attempt.request
        if request.measure == "trainer":
            return attempt.ended(Ending.COMPLETE, message=self._why_not_packed or "")
        if request.measure not in ("validation", "test", "answers", "float32"):
            known = "validation, test, answers, order and trainer"
            raise InputError(f"`{request.measure}` cannot be measured; there are {known}")
        folder = None if request.adapter is None else Path(self.spec.folder) / request.adapter
        if folder is not None and not (folder / "adapter_config.json").is_file():
            raise InputError(f"there is no adapter in {folder}")

        def work(tick: Callable[[], None]) -> dict[str, Any]:
            with attached(self._base, folder) if folder is not None else contextlib.nullcontext():
                return self._measured(request, tick)

        measured = yield from attempt.watch(work, self._suspended.is_set)
        return attempt.ended(Ending.COMPLETE, peak_memory=machine.peak(self.device), **measured)

    def _measured(self, request: Request, tick: Callable[[], None]) -> dict[str, Any]:
        """Fields of the outcome of a measurement of the base as it stands."""
        spec = self.spec
        if request.measure != "answers":
            side = "validation" if request.measure == "float32" else cast(Side, request.measure)
            losses = row_losses(self._base, Rows.open(spec.data, side), tick=tick)
            untuned = request.measure == "validation" and request.adapter is None
            quantities = self._measurer.measure(UNTUNED, None, tick) if untuned and self._measurer is not None else {}
            return {"loss": mean_loss(losses), "row_losses": tuple(losses), "extra": quantities}
        to = Path(spec.folder) / answers.file_of(request.adapter)
        return {"extra": spec.answering.answer(self._base, to, tick)}
