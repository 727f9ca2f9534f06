"""`meshtune tune`: run or continue a study, then compare what it found with the baseline on the test rows."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meshtune.config import file, presets
from meshtune.config.sections import StudyConfig
from meshtune.data.summary import warnings
from meshtune.errors import Fault, InputError, StorageError
from meshtune.objectives import checkpoints
from meshtune.plan import energy, environment
from meshtune.plan.budget import Budget, Stop, StopWhen
from meshtune.plan.locate import EFFECTIVE, Located, as_begun
from meshtune.plan.plan import Plan, build
from meshtune.plan.sampler import REASON
from meshtune.record import lease as in_database
from meshtune.record.decisions import IN_PACK
from meshtune.record.distributions import distributions
from meshtune.record.log import Record, no_rungs
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.build import build as build_sampler
from meshtune.samplers.interface import Sampler
from meshtune.selection.recommended import recommended
from meshtune.study import finals, float32_check
from meshtune.study.control import Control
from meshtune.study.ends import Ends
from meshtune.study.gains import Gains
from meshtune.study.loop import Dropped, Finished, Frozen, Opened, Promoted, Stage, StudyEvent, TrialFinished, run
from meshtune.study.mirrors import outbox
from meshtune.study.mirrors.follow import Followers
from meshtune.study.promotion import promote, tidy_states, wished
from meshtune.study.replicates import NOISE, replicate
from meshtune.study.stop import forget, requested
from meshtune.system import storage_url, whole_file
from meshtune.system.lease import elsewhere, lease
from meshtune.trial import Ending, Outcome
from meshtune.workers.build import build as build_worker
from meshtune.workers.planner import Packing, ProcessSpec

if TYPE_CHECKING:
    from meshtune.training.memory.check import Setting

LEAST_SHARE = 0.5  # of predicted activations that are counted, however little was measured


def tune(
    study: Located, *, new_segment: bool = False, stop: Callable[[], Stop | None] = lambda: None
) -> Generator[StudyEvent, None, None]:
    """Run the study to the end of its budget, or until `stop()` or `meshtune stop` asks for an end; everything durable
    is in its folder. Closing the generator abandons what runs (its proposals stay and are evaluated by the next run).

    Raises InputError on bad input, StudyMismatch, StudyBusy, LeaseLost, SamplerError, WorkerError, StorageError.
    """
    config = study.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(made_folder(study.folder))
        outbox.check(config.report_to.trackers)
        refuse_unmetered(config)
        holding, fence = yield from _hold(study, stack)
        forget(study.folder)  # what was asked of an earlier run; what is asked from here on is for this one
        yield Stage("preparing the data" if config.data else "starting")
        with as_begun(study):
            plan = build(study)
        training = plan.training
        if training is not None and training.damage:
            yield Stage(f"the data were made again, since {training.damage}")
        meter = meter_of(config, plan.processes)
        _refuse_too_large(study, plan)
        sampler = _sampler(plan, config.seed, new_segment=new_segment)
        stack.callback(sampler.close)
        begun = config.storage is not None and (study.folder / EFFECTIVE).exists()
        with as_begun(study):
            known = plan.goals.known
            record = Record(study.url, study.name, plan.space, plan.fixed, known, begun=begun, fence=fence)
        if plan.why_sampler and not record.trials:
            record.note(REASON, plan.why_sampler)
        if plan.warm_start.trials:
            record.begin_with(plan.warm_start.trials, plan.warm_start.facts)
        if training is not None and training.largest_rank and "largest_rank" not in record.notes:
            record.note("largest_rank", training.largest_rank)
        environment.note_in(record, [place.device for place in plan.processes], plan.processes[0].threads)
        if plan.early is not None and not record.trials:
            record.note(IN_PACK, True)
        write_effective(_as_loaded(study, plan))
        stack.callback(_tidy, record, study.folder / checkpoints.FOLDER)
        worker = build_worker(config.worker, plan.objective, plan.processes, study.folder)
        stack.callback(worker.close)
        trials, price = config.budget.trials, config.budget.price_per_hour
        slots = _packing(plan, record).at_once(plan.block_size)
        warned = () if training is None else tuple(warnings(training.data.to_dict()))
        followers = Followers(study, config.report_to)
        stack.callback(followers.close)
        yield Opened(record, study.folder, plan.sampler.shown, slots, trials, price, plan.why_sampler, warned)
        if plan.warm_start.trials and not record.trials:
            yield Stage(str(plan.warm_start))
        stopping = _StopRequest(study.folder, stop)
        hours, threads = config.budget.trial_hours, plan.processes[0].threads
        timeout = None if hours is None else hours * 3600
        runner = finals.Runner(worker, config.seed, threads, config.worker.attempts, stopping, timeout, holding)
        account = energy.Account(record, meter)
        yield from _before(plan, record, runner, config.budget.trials)
        finished = yield from _search(study, plan, record, sampler, runner, account)
        if finished is not None and finished.complete:
            stopping.measuring = not config.replicates and plan.early is None and not wished(record)
            _gains(config, plan, record).noted()
            yield from _after(study, plan, record, runner, account)
            holding()
            if stopped := stopping():
                yield Finished(stopped.reason, complete=False)
            else:
                record.note("finished", finished.reason)
        yield from map(Stage, followers.finish())
        forget(study.folder)


def _hold(
    study: Located, stack: contextlib.ExitStack
) -> Generator[Stage, None, tuple[Callable[[], None], Callable[..., None] | None]]:
    """Take the study's leases, to be given back by `stack`: that in its folder, and that in its database, which hosts
    without a common folder share. Returns the look at them, and the fence of the record's transactions.
    """
    waiting = "waiting for a sign of life of process {0.pid} on {0.host}, which held the study"
    if other := elsewhere(study.folder):
        yield Stage(waiting.format(other))
    held = stack.enter_context(lease(study.folder))
    if not study.url.startswith("postgresql"):
        return held.check, None
    shared = in_database.Lease(study.url, study.name)
    if other := shared.elsewhere():
        yield Stage(waiting.format(other))
    stack.enter_context(shared.held())

    def check() -> None:
        held.check()
        shared.check()

    return check, shared.fence


def _sampler(plan: Plan, seed: int, *, new_segment: bool) -> Sampler:
    return build_sampler(
        plan.sampler,
        distributions(plan.space),
        x0=plan.start,
        block_size=plan.block_size,
        seed=seed,
        new_segment=new_segment,
        warm_start=plan.warm_start.trials,
        warm_start_values=plan.warm_start.values,
        known=plan.known,
        pruned="value" if plan.early is not None and plan.early.config.value == "predicted" else "failed",
        allows=plan.goals.allows(plan.space),
        ends=Ends(plan.early, plan.space) if plan.early is not None else None,
    )


class _StopRequest:
    """Whether the run is asked to stop: by its caller, or by `meshtune stop`.

    Attributes:
        measuring: nothing is trained any more: a stop that waits for what runs waits for what is measured too.
    """

    def __init__(self, folder: Path, stop: Callable[[], Stop | None]):
        self._folder, self._stop, self.measuring = folder, stop, False

    def __call__(self) -> Stop | None:
        asked = self._stop() or requested(self._folder)
        return None if asked is not None and asked.seconds is None and self.measuring else asked


def _search(
    study: Located, plan: Plan, record: Record, sampler: Sampler, runner: finals.Runner, account: energy.Account
) -> Generator[StudyEvent, None, Finished | None]:
    """The search itself, and how it ended; drops files of trials as they come to be of no use."""
    config = study.config
    if why := record.why_not_packed:
        yield Stage(f"each trial is trained alone, by the trainer `transformers`: it cannot be packed, since {why}")
    for text in presets.warnings(plan.space):
        yield Stage(f"warning: {text}")
    if record.notes.get("finished"):
        record.note("finished", None)
    finished, packing = None, _packing(plan, record)
    rungs = no_rungs if plan.early is None else plan.early.measured
    events = run(
        record,
        sampler,
        runner.worker,
        _budget(config, record),
        seed=runner.seed,
        packing=packing,
        share=packing.share(plan.block_size),
        early=plan.early,
        attempts=runner.attempts,
        threads=runner.threads,
        timeout=runner.timeout,
        joules=account.joules,
        stop=runner.stop,
        holding=runner.holding,
        control=Control(study.folder, runner.seed, plan.goals.allowed, rungs),
        gains=_gains(config, plan, record),
        saved=study.folder / checkpoints.FOLDER if config.worker.name == "local" else None,
    )
    states = study.folder / checkpoints.STOPPED
    tidy_states(record, plan.early, states)
    with contextlib.closing(events):  # before the leases are given back
        for event in events:
            if isinstance(event, Dropped | Frozen):
                tidy_states(record, plan.early, states)
            if isinstance(event, TrialFinished | Promoted | Finished):  # the last too: one that ran again saved again
                _drop_adapters(record, study.folder, config.training.keep_adapters)
                _tidy(record, study.folder / checkpoints.FOLDER)
                tidy_states(record, plan.early, states)
                account.save()
            if isinstance(event, Finished):
                finished = event
            yield event
    return finished


def _after(
    study: Located, plan: Plan, record: Record, runner: finals.Runner, account: energy.Account
) -> Iterator[StudyEvent]:
    """What follows a search that used its budget: promotions, replicates, test rows, answers, the check in float32."""
    config, folder = study.config, study.folder
    for event in promote(record, plan.early, runner):
        if isinstance(event, Promoted):
            checkpoints.forget(folder / checkpoints.STOPPED / str(event.trial.number))
            _drop_adapters(record, folder, config.training.keep_adapters)
            account.save()
        yield event
    yield from replicate(record, folder, runner, config.replicates)
    training = plan.training
    if training is None:
        return
    if training.data.test.rows:
        yield Stage("measuring on the test rows")
        yield from finals.measure(record, folder, runner)
    if training.answers:
        yield Stage("letting the finalists answer validation rows")
        made = training.spec.answering.made
        yield from finals.answer(record, folder, runner, all_kept=bool(config.metrics), made=made)
    if float32_check.needed(record):
        yield Stage("measuring the finalists with the base in float32")
        yield from float32_check.measure(record, folder, runner, no_room=training.no_exact_room)


def _packing(plan: Plan, record: Record) -> Packing:
    """How blocks are cut into packs, as far as it is known whether there can be any."""
    packs = plan.packing
    if record.why_not_packed:
        return Packing(packs.processes, uneven=packs.uneven)
    training = plan.training
    if training is None or packs.fits is None or not training.memory.device.startswith("cuda"):
        return packs
    memory = training.memory
    return dataclasses.replace(packs, fits=lambda points: memory.fit_together(points, measured(record, memory)))


def measured(record: Record, memory: Setting) -> float:
    """How many times the predicted activations the packs of the record took on a GPU, the one that took most; 1 before
    any has ended. It moves the sizes of packs alone, which are recorded, and never a point.

    Packs in which memory ran out went on in smaller passes, and say nothing of whole ones.
    """
    members: dict[int, list[RecordedTrial]] = {}
    for trial in record.trials:
        members.setdefault(trial.pack, []).append(trial)
    found = []
    for pack in members.values():
        outcomes = [trial.outcome for trial in pack if trial.outcome is not None]
        peaks = [one.peak_memory for one in outcomes if one.peak_memory and one.ending is Ending.COMPLETE]
        at_once = not any(trial.joins for trial in pack)
        if at_once and len(peaks) == len(pack) and not any(one.pass_tokens for one in outcomes):
            found.append(memory.activations_of([trial.hyperparameters for trial in pack], max(peaks)))
    return max(LEAST_SHARE, *found) if found else 1.0


def _budget(config: StudyConfig, record: Record) -> Budget:
    """The limits of a study. What its replicates measured takes the place of the config's noise for further trials."""
    limits, when = config.budget, config.stop_when
    stop_when = StopWhen()
    if when is not None:
        note = record.notes.get(NOISE)
        measured = None if note is None else (note["deviation"], note.get("told", 0))
        stop_when = StopWhen(when.no_improvement, when.noise, when.target, measured)
    return Budget(limits.trials, limits.hours, limits.tokens, limits.kilowatt_hours, stop_when)


def _gains(config: StudyConfig, plan: Plan, record: Record) -> Gains:
    return Gains(record, plan.goals.allowed, config.stop_when.expected_gain if config.stop_when else None)


def refuse_unmetered(config: StudyConfig) -> None:
    """Refuse a budget of energy that cannot be read, before data and model are read, which may take long."""
    if config.budget.kilowatt_hours is not None:
        meter_of(config, ())  # GPUs are looked at once it is known which


def meter_of(config: StudyConfig, places: Sequence[ProcessSpec]) -> energy.Meter | None:
    """A meter of what the study runs on; None where it cannot be read.

    Raises InputError where the budget needs it.
    """
    if config.worker.name != "local":
        if config.budget.kilowatt_hours is not None:
            what = "the nodes of a cluster are not metered: give `hours` or `tokens` in its place"
            raise InputError(Fault(what, key="budget.kilowatt_hours"))
        return None
    gpus = [seen for place in places if (seen := place.environment.get("CUDA_VISIBLE_DEVICES"))]
    return energy.meter(gpus, needed=config.budget.kilowatt_hours is not None)


def _refuse_too_large(study: Located, plan: Plan) -> None:
    """Refuse a new study whose largest trial does not fit into free memory; one that ran has shown what fits."""
    if plan.training is None or study.started or study.config.training.trainer.imported is not None:
        return
    from meshtune.plan.forecast import largest_trial

    largest_trial(plan, plan.training.memory)


def _before(plan: Plan, record: Record, runner: finals.Runner, trials: int | None) -> Iterator[StudyEvent]:
    """The untuned model's loss, whether trials can be packed, the baseline: trial 0 where it lies in the space, else
    trained beside them, and what is evaluated again; at most `trials`."""
    baseline = plan.baseline
    if not record.trials and baseline is not None and plan.start is not None:
        rungs = () if plan.early is None else plan.early.measured(baseline)  # it is trained to its end
        record.enqueue(baseline, origin="baseline", seed=runner.seed, thresholds=rungs)
    _again(plan, record, runner.seed, trials)
    if plan.objective.kind == "command":
        return
    requests = []
    if plan.training is not None and "untuned" not in record.notes:
        requests.append(runner.request(finals.UNTUNED, {}, measure="validation"))
    if plan.training is not None and plan.training.may_pack and "trainer" not in record.notes:
        requests.append(runner.request(finals.TRAINER, {}, measure="trainer"))
    if baseline is not None and plan.start is None and "baseline" not in record.notes:
        requests.append(runner.request(finals.BASELINE, baseline))
    if requests:
        yield Stage("training the baseline" if plan.training is None else "measuring the untuned model")
    for event in runner.gather(requests):
        if not isinstance(event, Outcome):
            yield event
        elif event.trial == finals.UNTUNED:
            record.note("untuned", {"loss": event.loss, "quantities": dict(event.extra)})
        elif event.trial == finals.TRAINER:
            record.note("trainer", {"why_not_packed": event.message or None})
        elif baseline is not None:
            extra = {**event.extra, **plan.goals.known(baseline)}
            note = {**dataclasses.asdict(event), "extra": extra, "row_losses": [], "hyperparameters": dict(baseline)}
            record.note("baseline", note)
    if requests:
        yield Stage("searching")


def _again(plan: Plan, record: Record, seed: int, trials: int | None) -> None:
    """Propose the best earlier points before the sampler proposes any, where there is room for them."""
    if any(trial.origin == "search" for trial in record.trials):
        return
    for hyperparameters in plan.warm_start.best(plan.space, plan.start):
        full = trials is not None and len(record.trials) >= trials
        full = full or not plan.goals.allowed(hyperparameters)
        if not full and plan.space.encode(hyperparameters) not in [trial.params for trial in record.trials]:
            rungs = () if plan.early is None else plan.early.measured(hyperparameters)  # trained to its end
            record.enqueue(hyperparameters, origin="enqueued", seed=seed, thresholds=rungs)


def _drop_adapters(record: Record, folder: Path, keep: int) -> None:
    """Keep the adapters of the best few trials, of the recommended one and of the baseline, and with several objectives
    of the Pareto set.
    """
    kept = {trial.number for trial in record.ranked[:keep]} | {t.number for t in (record.baseline,) if t is not None}
    kept |= {trial.number for trial in record.pareto} if record.guidance.several else set()
    adapters = {t.number: folder / t.final.adapter for t in record.finished if t.final is not None and t.final.adapter}
    dropped = {number for number, adapter in adapters.items() if number not in kept and adapter.exists()}
    if dropped and (found := recommended(record)):
        dropped.discard(found.number)
    for number in dropped:
        shutil.rmtree(adapters[number], ignore_errors=True)


def _tidy(record: Record, folder: Path) -> None:
    """Remove checkpoints that nothing goes on from, and their folder once it is empty."""
    going = {number for trial in record.pending for number in (trial.number, trial.pack)}
    checkpoints.tidy(folder, going | {each.pack for each in record.thawing_in.values()})
    with contextlib.suppress(OSError):
        folder.rmdir()


def _as_loaded(study: Located, plan: Plan) -> Located:
    """With the base's type as it was decided: what reads the effective config later loads the same base."""
    if plan.training is None:
        return study
    return dataclasses.replace(study, config=study.config.model_copy(update={"model": plan.training.spec.model}))


def write_effective(study: Located) -> None:
    """Write the config that is in force into the study's folder; others cannot read it where a password is in it."""
    path = study.folder / EFFECTIVE
    text = file.dump(study.config)
    private = storage_url.secret(study.config.storage)
    if private and path.exists():  # as an earlier version wrote it
        path.chmod(0o600)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        whole_file.write(path, text, private=private)


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make the study's folder; take it away again where nothing came to be in it."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink(missing_ok=True)  # another `tune` may be about here
    except OSError as error:
        raise StorageError(f"{folder}: the study's folder cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # something is in it; or it was moved away, which another error says
                folder.rmdir()
