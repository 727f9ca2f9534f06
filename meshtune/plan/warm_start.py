"""What a study starts from: the finished trials of the study that `warm_start` names.

They are read from that study once, as it stands when this one starts, and kept in this one's record; from then on they
come from there, wherever the other study is and whatever became of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from meshtune.config.sections import StudyConfig, WarmStartConfig
from meshtune.errors import Fault, InputError
from meshtune.plan.locate import Located, existing
from meshtune.priors.advice import Table, shipped
from meshtune.priors.effects import CENTRE, EFFECTS, predict
from meshtune.priors.model_facts import model_facts
from meshtune.priors.runs import Facts
from meshtune.record.earlier_trials import EarlierPoints, EarlierTrials, earlier_in
from meshtune.record.log import WARM_START, Record
from meshtune.record.trials import RecordedTrial
from meshtune.space.space import Space

PEAK = EFFECTS.index("peak")
GAINED = "0.05 % of the loss on 175 pairs of such models"  # docs/decisions/2026-12-02-small-to-large.md


@dataclass(frozen=True)
class WarmStart:
    """Earlier trials for the sampler, and what a line and the record say of them; by default there are none.

    Attributes:
        trials: what the sampler is given, Optuna's finished trials. values: as `WarmStartConfig.values`.
        facts: `study` (where they come from), `values`, `complete`, `failed` and `outside` (numbers of trials), and
            what became of their rates, see `rates_said`.
        again: so many of the best are evaluated again.
    """

    trials: EarlierTrials = ()
    values: Literal["as_is", "shifted"] = "as_is"
    facts: Mapping[str, Any] = field(default_factory=dict)
    again: int = 0

    def best(self, space: Space, but: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Hyperparameters of the best `again` of them, best first, to their last digit as they were; but where this
        space has whole alphas and they had real ones, those, with the same product of rate and alpha.

        `but`: a point that is not among them, as the space encodes it.
        """
        complete = sorted((t for t in self.trials if t.value is not None), key=lambda t: (t.value, t.number))
        found: list[dict[str, Any]] = []
        for trial in complete:
            decoded, old = space.decode(trial.params), trial.user_attrs["hyperparameters"]
            same = {name: value for name, value in old.items() if name in decoded and _close(value, decoded[name])}
            point = {**decoded, **same}
            if point not in found and trial.params != but:
                found.append(point)
        return found[: self.again]

    def __str__(self) -> str:
        failed, outside = self.facts["failed"], self.facts["outside"]
        text = f"{self.facts['complete']} earlier trials of {self.facts['study']} are used from the start"
        text += f", and {failed} that failed" if failed else ""
        rates, *why = rates_said(self.facts)
        text += f", {rates}" if rates else ""
        text += f"; {outside} {'lies' if outside == 1 else 'lie'} outside this space" if outside else ""
        return ". ".join([text, *why])


def rates_said(facts: Mapping[str, Any]) -> list[str]:
    """What became of the rates of earlier trials, empty where nothing did; and a sentence where little is known of it.

    Of `rates_times`, the factor by which they were moved; of `families`, of both models, where these are not known to
    be one; and of `unknown`, a model whose size is not known here.
    """
    times, families, unknown = (facts.get(key) for key in ("rates_times", "families", "unknown"))
    said = [f"their learning rates times {times:.3g} for a model of another size" if times else ""]
    if unknown:
        said.append(f"Their learning rates stay as they were, since no config here tells the size of {unknown}")
    if families:
        there, here = ("unknown" if family == "other" else family for family in families)
        more, so_far = (" more than that", f", and by size alone they gained {GAINED}") if times else ("", "")
        what = f"the two models are not known to be of one family and generation ({there} there, {here} here)"
        said.append(f"Rates may differ{more}: {what}{so_far}")
    return said


def _close(a: Any, b: Any) -> bool:
    """Whether two values differ by no more than what encoding and decoding cost."""
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return math.isclose(a, b, rel_tol=1e-6) if numbers else bool(a == b)


def rate_shift(there: Facts, here: Facts, known: Table) -> float:
    """Decades by which the best rate is expected to move from one training to another, families left aside."""
    both = (replace(there, family=here.family), here)
    one, other = (predict(known.known, each, known.centres, known.scales).means[PEAK] for each in both)
    return other - one


def _rates(config: StudyConfig, warm: WarmStartConfig, noted: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of the rates of the other study, with these notes, as `rates_said` reads it: they are moved by the
    sizes of the two models. Lengths of training are left out: there moving them did not pay.
    """
    model = (noted.get("fixed") or {}).get("model")
    if warm.rates == "as_is" or model is None or config.model is None or model["name"] == config.model.name:
        return {}
    both = list[Facts]()
    for name in (model["name"], config.model.name):
        try:
            both.append(replace(CENTRE, **_size(name)))
        except InputError:
            return {"unknown": Path(name).name}
    there, here = both
    found: dict[str, Any] = {}
    if there.hidden_size != here.hidden_size:
        found["rates_times"] = 10 ** rate_shift(there, here, shipped())
    if not there.family == here.family != "other":
        found["families"] = [there.family, here.family]
    return found


def _size(name: str) -> dict[str, Any]:
    hidden_size, family = model_facts(name)
    return {"hidden_size": hidden_size, "family": family}


def _with_rate(trial: RecordedTrial, times: float) -> RecordedTrial:
    if times == 1 or "learning_rate" not in trial.hyperparameters:
        return trial
    rate = trial.hyperparameters["learning_rate"] * times
    return replace(trial, hyperparameters={**trial.hyperparameters, "learning_rate": rate})


def warm_start(study: Located, space: Space) -> WarmStart:
    """The earlier trials of a study: from its record where it has begun, else from the study that it names.

    Raises InputError where there is no such study, or where no finished trial of it lies in the space. A round that
    waits for the one before it has none yet.
    """
    config = study.config.warm_start
    if config is None:
        return WarmStart()
    if study.started and (begun := _recorded(study, config)):
        return begun
    if _waits(study):
        return WarmStart(values=config.values, again=config.again)
    earlier, finished, rates = _of_other(study, config, space)
    if not earlier.complete:
        what = _none_usable(config, earlier, finished)
        if study.whole is not None and study.number > 1:
            last = study.number - 1
            what += f". Round {study.number} starts from it: let round {last} have more trials, or another space"
            raise InputError(Fault(what, key=f"rounds.{last}"))
        raise InputError(Fault(f"{what}, or leave `warm_start` out", key="warm_start"))
    facts = {
        "study": config.shown,
        "values": config.values,
        "complete": earlier.complete,
        "failed": len(earlier.trials) - earlier.complete,
        "outside": len(earlier.outside),
        **rates,
    }
    return WarmStart(earlier.trials, config.values, facts, config.again)


def _recorded(study: Located, config: WarmStartConfig) -> WarmStart | None:
    try:
        record = Record(study.url, study.name)
    except InputError:  # no study of this name in the storage yet
        return None
    facts = record.notes.get(WARM_START)
    return WarmStart(record.earlier_trials, config.values, facts, config.again) if facts else None


def _waits(study: Located) -> bool:
    """Whether a study is a round before which another one has not ended."""
    if study.whole is None or study.number == 1:
        return False
    before = study.whole.rounds[study.number - 2]
    return not before.started or not Record(before.url, before.name).notes.get("finished")


def _of_other(study: Located, config: WarmStartConfig, space: Space) -> tuple[EarlierPoints, int, dict[str, Any]]:
    """What can be used of the other study, how many of its trials have finished, and what became of their rates."""
    try:
        other = existing(Path(config.study)).latest
        if other.folder.resolve() == study.folder.resolve():
            raise InputError("this is the study itself; name another one's folder or YAML")
        record = Record(other.url, other.name)
    except InputError as error:
        what = f"no study to start from: {error}"
        raise InputError(Fault(what, key="warm_start")) from error
    finished = sorted(record.finished, key=lambda trial: trial.number)
    rates = _rates(study.config, config, record.notes)
    times = rates.get("rates_times", 1.0)
    return earlier_in(space, [_with_rate(trial, times) for trial in finished]), len(finished), rates


def _none_usable(config: WarmStartConfig, earlier: EarlierPoints, finished: int) -> str:
    if not finished:
        return f"{config.study}: no trial of it has finished yet; wait for some"
    what = f"{config.study}: none of its {finished} finished trials can be used"
    if earlier.trials:
        what += f"; {len(earlier.trials)} lie in this space and all of them failed"
    if earlier.outside:
        what += f"; outside this space: {earlier.why_outside()}"
    return what + ". Widen `space`"
