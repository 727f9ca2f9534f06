"""What comes between the end of a training and its outcome: measuring what guides the search.

The base is free of a pack only when all of it has ended, so its outcomes wait for that. They are kept in the folder of
its checkpoint meanwhile: an interruption goes on with measuring, and trains nothing again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from meshtune.objectives import checkpoints
from meshtune.objectives.measuring import Guiding
from meshtune.objectives.run import Run, failure_of
from meshtune.training import machine
from meshtune.training.steps import Checkpoint, Suspended
from meshtune.trial import Ending, Outcome, Progress

Ended = Sequence[tuple[Run, Outcome]]


class Afterwards:
    """Measures trials of one study and tells their outcomes.

    Args:
        guiding: measures over the base; None: nothing guides, and outcomes are told as they are.
        folder: the study's. device: of the base. asked: whether to stop.
    """

    def __init__(self, guiding: Guiding | None, folder: Path, device: str, asked: Callable[[], bool]):
        self.guiding, self.folder, self.device, self.asked = guiding, folder, device, asked

    @property
    def measures(self) -> bool:
        """Whether outcomes wait to be measured."""
        return self.guiding is not None

    def trained_before(self, runs: Sequence[Run], checkpoint: Checkpoint) -> list[tuple[Run, Outcome]]:
        """What was trained before an interruption and has only to be measured; nothing where not all of it was."""
        known = checkpoints.trained(checkpoint.folder, [run.request for run in runs]) if self.measures else {}
        if any(outcome.adapter and not (self.folder / outcome.adapter).is_dir() for outcome in known.values()):
            return []
        return [(run, known[run.request.trial]) for run in runs if known]

    def tell(self, ended: Ended, checkpoint: Checkpoint | None) -> Generator[Progress | Outcome, None, bool]:
        """The outcomes of what has ended, those that are complete with what guides; whether measuring one crashed.

        `checkpoint`: where they are kept until they are told; None: nowhere. Raises Suspended.
        """
        outcomes = [outcome for _, outcome in ended]
        again = any(outcome.ending is Ending.CRASHED and outcome.retry for outcome in outcomes)
        if checkpoint is not None and not again and any(map(self._wants, outcomes)):
            checkpoints.keep_trained(checkpoint.folder, outcomes)
        crashed = False
        for run, outcome in ended:
            told = outcome
            if self._wants(outcome):
                told = yield from self._measured(run, outcome)
                crashed |= told.ending is Ending.CRASHED
            yield told
        return crashed

    def _wants(self, outcome: Outcome) -> bool:
        """Whether something is to be measured."""
        return self.measures and outcome.ending is Ending.COMPLETE and not checkpoints.is_replicate(outcome.trial)

    def _measured(self, run: Run, outcome: Outcome) -> Generator[Progress, None, Outcome]:
        """The outcome with what guides the search, or with how measuring it failed."""
        guiding, begun, name = self.guiding, time.monotonic(), checkpoints.name_of([outcome.trial])
        if guiding is None:
            return outcome
        try:
            extra = yield from run.watch(lambda tick: guiding.measure(name, outcome.adapter, tick), self.asked)
        except Suspended:
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure.ending is not Ending.CRASHED and outcome.adapter is not None:
                shutil.rmtree(self.folder / outcome.adapter, ignore_errors=True)  # nobody will ask for it
            failed = replace(outcome, ending=failure.ending, message=failure.message, retry=failure.retry)
            return replace(failed, loss=None, adapter=None)
        finally:
            machine.free(self.device)
        peak, seconds = machine.peak(self.device), outcome.seconds + time.monotonic() - begun
        return replace(outcome, extra=extra, seconds=seconds, peak_memory=peak)
