"""`meshtune tune` of a study with `rounds`: each a study of its own, one after the other, in one storage.

A round begins once the one before it has ended, and starts from what that one found. From then on the earlier one is
closed: more trials for it would change nothing. Killed at any point, the next run goes on in the round that was open.
Limits of hours and tokens outside `rounds` are of all rounds together.

Rounds agree where points that two of them evaluated come out in the same order: the cheaper one is then a good proxy.
The points are those that the later round evaluated again, the best of the earlier one, and the baseline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from meshtune.config import rounds as config_rounds
from meshtune.errors import Fault, InputError
from meshtune.plan.budget import Stop
from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.selection.ranks import rank_correlation
from meshtune.study import tune as single
from meshtune.study.control import refuse_left
from meshtune.study.loop import Finished, Opened, Stage, StudyEvent
from meshtune.study.progress import written
from meshtune.study.stop import forget, requested
from meshtune.system.lease import lease
from meshtune.system.text import counted

Made = TypeVar("Made")
Key = tuple[tuple[str, Any], ...]


def tune(
    study: Located, *, new_segment: bool = False, stop: Callable[[], Stop | None] = lambda: None
) -> Generator[StudyEvent, None, None]:
    """Run or continue a study, in rounds where it has any; see `meshtune.study.tune`.

    Raises InputError where the folder of a round is named: the whole is what can be run.
    """
    if study.whole is not None:
        whole = study.whole.folder
        raise InputError(f"{study.folder}: this is round {study.number} of {whole}; run that: `meshtune tune {whole}`")
    if not study.config.rounds:
        yield from written(single.tune(study, new_segment=new_segment, stop=stop))
        return

    def stopping() -> Stop | None:
        return stop() or requested(study.folder)

    with single.made_folder(study.folder), lease(study.folder):
        forget(study.folder)
        rounds = study.rounds
        first = max((index for index, each in enumerate(rounds) if each.started), default=0)
        closed = [Record(each.url, each.name) for each in rounds[:first]]
        for each in rounds[first:]:
            for earlier, record in zip(rounds, closed, strict=False):
                refuse_left(earlier.folder, record, f"round {earlier.number} has ended, and round {each.number} begins")
            if asked := stopping():
                yield Finished(asked.reason, complete=False)
                break
            if reason := limit_reached(study, closed):
                yield Finished(f"{reason}: round {each.number} has not begun", complete=True)
                break
            yield Stage(f"round {each.number} of {len(rounds)}")
            finished = None
            with contextlib.closing(
                written(single.tune(_with_the_rest(study, each, closed), new_segment=new_segment, stop=stopping))
            ) as events:
                for event in events:
                    if isinstance(event, Opened):
                        single.write_effective(study)
                    if isinstance(event, Finished):
                        finished = event
                    yield event
            if finished is None or not finished.complete:
                break
            closed.append(Record(each.url, each.name))
            new_segment = False
        forget(study.folder)


def of_each(study: Located, make: Callable[[Located], Made]) -> list[Made]:
    """What `make` gives of every round, in order. Raises InputError with the faults of all rounds, each once."""
    made, faults = list[Made](), list[Fault]()
    values = study.config.model_dump(mode="json")
    for index, each in enumerate(study.rounds):
        try:
            made.append(make(each))
        except InputError as error:
            faults += (_placed(fault, values, index) for fault in error.faults)
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return made


def _placed(fault: Fault, values: Mapping[str, Any], index: int) -> Fault:
    """A fault with the key that its value has in the study.yaml."""
    if not fault.key:
        return fault
    parts = tuple(int(part) if part.isdigit() else part for part in fault.key.split("."))
    return dataclasses.replace(fault, key=".".join(map(str, config_rounds.place(values, index, parts))))


def _with_the_rest(whole: Located, each: Located, closed: Sequence[Record]) -> Located:
    """The round with what is left for it of the hours and tokens of all rounds, where that is less than its own."""
    own, all_of_it = each.config.budget, whole.config.budget
    hours, tokens = own.hours, own.tokens
    if all_of_it.hours is not None:
        rest = all_of_it.hours - sum(record.elapsed for record in closed) / 3600
        hours = rest if hours is None else min(hours, rest)
    if all_of_it.tokens is not None:
        left = all_of_it.tokens - sum(record.tokens for record in closed)
        tokens = left if tokens is None else min(tokens, left)
    budget = own.model_copy(update={"hours": hours, "tokens": tokens})
    return dataclasses.replace(each, config=each.config.model_copy(update={"budget": budget}))


def agreement(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The rank correlation of each round with the next, over the points that are complete in both."""
    found = []
    for number, (one, other) in enumerate(itertools.pairwise(records), start=1):
        first, second = _losses(one), _losses(other)
        both = [key for key in first if key in second]
        correlation = rank_correlation([first[key] for key in both], [second[key] for key in both])
        found.append({"rounds": [number, number + 1], **dataclasses.asdict(correlation)})
    return found


def limit_reached(whole: Located, records: Sequence[Record]) -> str | None:
    """The limit of all rounds together that is reached, in words, or None."""
    hours, tokens = whole.config.budget.hours, whole.config.budget.tokens
    if hours is not None and hours * 3600 - sum(record.elapsed for record in records) < 1e-6:
        return f"the budget of {counted(hours, 'hour')} is spent"
    if tokens is not None and sum(record.tokens for record in records) >= tokens:
        return f"the budget of {counted(tokens, 'token')} is spent"
    return None


def _losses(record: Record) -> dict[Key, float]:
    """The loss of each point that is complete, of its first trial."""
    found: dict[Key, float] = {}
    for trial in record.complete:
        found.setdefault(_key(trial.hyperparameters), trial.loss)
    return found


def _key(hyperparameters: Mapping[str, Any]) -> Key:
    """The same for the same point, though one space may have computed it from its encoding and the other not."""
    rounded = {k: float(f"{v:.12g}") if isinstance(v, int | float) else v for k, v in hyperparameters.items()}
    return tuple(sorted(rounded.items()))
