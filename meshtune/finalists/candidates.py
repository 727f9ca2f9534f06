"""The candidates of a study that are scored: which trials, their ranks, and where their adapters are.

The best few by the objective with the recommended one, the worst few, or trials that are named; always the baseline
and the untuned model.
An adapter that was not kept is trained again into `<study>/evaluation/adapters/`, which gives the same one but for
rounding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meshtune.errors import InputError
from meshtune.export import takeaway
from meshtune.export.chosen import ChosenPoint, kept_adapter, pick
from meshtune.export.train import train
from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.selection.recommended import recommended
from meshtune.trial import Ending

ADAPTERS = Path("evaluation") / "adapters"


@dataclass(frozen=True)
class ListedCandidate:
    """A candidate: `chosen` is None for the untuned model. `rank` by the objective, from 1, among complete trials."""

    name: str
    chosen: ChosenPoint | None
    rank: int | None
    baseline: bool


def candidates(
    path: Path, study: Located, record: Record, best: int, worst: int, named: Sequence[int]
) -> list[ListedCandidate]:
    """The candidates by rank, then a baseline outside the space, then the untuned model.

    `named`: trials, in place of the best and worst ones. Raises InputError where there is no such trial, or none that
    is complete.
    """
    of_study = partial(pick, path, study, record)
    if not record.complete:
        of_study("best")  # refuses, and says why
    base = of_study("baseline")
    ranked = record.ranked
    ranks = {trial.number: rank for rank, trial in enumerate(ranked, start=1)}
    for number in named:
        if of_study(number).trial not in ranks:
            outcome = record.trials[number].final
            how = f"ended as {outcome.ending}" if outcome is not None else "has not ended"
            raise InputError(f"trial {number} {how}: only complete trials are scored")
    taken = set(named) or {trial.number for trial in [*ranked[:best], *ranked[max(0, len(ranked) - worst) :]]}
    if best and not named and (found := recommended(record)):
        taken.add(found.number)
    if base.trial is not None and base.trial in ranks:
        taken.add(base.trial)
    listed = [
        ListedCandidate(f"trial {number}", of_study(number), ranks[number], number == base.trial)
        for number in sorted(taken, key=ranks.__getitem__)
    ]
    if base.trial is None and base.outcome is not None and base.outcome.ending is Ending.COMPLETE:
        listed.append(ListedCandidate("baseline", base, None, True))
    return [*listed, ListedCandidate("untuned", None, None, False)]


def adapter_of(listed: ListedCandidate, report: Callable[[str], None]) -> Path | None:
    """The folder of the candidate's adapter, trained again where it was not kept; None for the untuned model.

    Raises what `train` raises.
    """
    chosen = listed.chosen
    if chosen is None:
        return None
    try:
        return kept_adapter(chosen)
    except InputError:
        folder = chosen.study.folder / ADAPTERS / file_name(listed)
    if not _is_of(folder, chosen):
        report(f"{listed.name}: its adapter was not kept, so it is trained again")
        shutil.rmtree(folder, ignore_errors=True)  # that of an earlier study in the same folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        trial = "baseline" if chosen.trial is None else chosen.trial
        train(
            chosen.study.folder,
            folder,
            trial=trial,
            report=lambda said: report(f"{listed.name}: {said}") if isinstance(said, str) else None,
        )
    return folder


def _is_of(folder: Path, chosen: ChosenPoint) -> bool:
    """Whether a folder holds the adapter of this point, trained again on the data of this study."""
    try:
        facts = json.loads((folder / takeaway.FACTS).read_text(encoding="utf-8"))
        held = facts["point"]["hyperparameters"], facts["run"]["seed"], facts["data"]["fingerprint"]
    except (OSError, ValueError, KeyError):
        return False
    point = json.loads(json.dumps(dict(chosen.hyperparameters)))
    return held == (point, chosen.seed, chosen.record.notes["fixed"]["data"])


def file_name(listed: ListedCandidate) -> str:
    """What files call the candidate: `trial-3`, `baseline`, `untuned`."""
    return listed.name.replace(" ", "-")
