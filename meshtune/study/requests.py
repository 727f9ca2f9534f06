"""What people ask of single trials while a study runs, from any shell: stop one, finish it, try it again, enqueue one.

A request is a file in the study's folder, written whole, so that it reaches a coordinator on another host as well. The
coordinator writes the answer into the record and then takes the file away; one that was killed in between finds the
answer there. So each request is done once or refused with a reason, also where no coordinator runs: then by the next.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, StorageError, nearest, refuse
from meshtune.plan.budget import EXHAUSTED
from meshtune.plan.locate import Located, existing, typed
from meshtune.record.distributions import space_of
from meshtune.record.log import Record
from meshtune.record.requests import Action, Answer, ControlRequest, parsed
from meshtune.selection.recommended import recommended
from meshtune.space.hyperparameters import LORA
from meshtune.space.space import Space, derive
from meshtune.system import whole_file, yaml_file
from meshtune.system.lease import Holder, holder
from meshtune.system.text import counted
from meshtune.trial import Ending

FOLDER = "requests"
WAIT_SECONDS = 5.0  # for an answer, where a coordinator runs: it looks twice a second, but writes and proposes between
LOOK_SECONDS = 0.1
THE_SPACE = "(the space; another one takes a new study, which may `warm_start` from this one)"
OF_LORA = ("alpha", "learning_rate")  # are set, also where `scale` and `step` are searched in their place


@dataclass(frozen=True)
class Reply:
    """What became of a request so far: `answer` is None where it is only noted yet, for `coordinator` or the next.

    `needs`: without which the next run refuses it.
    """

    request: ControlRequest
    answer: Answer | None
    coordinator: Holder | None
    needs: str = ""

    @property
    def words(self) -> str:
        """For people: one line."""
        if self.answer is not None:
            return self.answer.words
        if self.coordinator is None:
            usual = ": the study is not running, and the next `meshtune tune` does it, or says why not"
            return f"noted{self.needs or usual}"
        who = f"process {self.coordinator.pid} on {self.coordinator.host}"
        return f"noted: {who} does it once it looks; what comes after the end of the search is done by the next run"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        state = "noted" if self.answer is None else "done"
        trial = self.request.trial if self.answer is None else self.answer.trial
        return {
            "request": self.request.number,
            "action": self.request.action,
            "state": state,
            "trial": trial,
            "message": self.words,
        }


def ask_of_trial(path: Path, trial: int, action: Action, *, folder: Path | None = None) -> Reply:
    """Ask that a trial be stopped, finished or tried again. Raises InputError where that is refused."""
    study = existing(path, folder=folder).latest
    return _ask(study, Record(study.url, study.name), _made(action, trial=trial))


def enqueue(
    path: Path,
    values: Mapping[str, Any],
    *,
    texts: Sequence[str] = (),
    like: str | None = None,
    folder: Path | None = None,
) -> Reply:
    """Ask that a point be tried: `values`, `NAME=VALUE` texts, and what these leave open as it is in the trial `like`.

    `like`: a number, `best`, `recommended` or `baseline`. Raises InputError with all faults at once.
    """
    faults = list[Fault]()
    values = {**values, **values_of(texts, faults)}
    study = existing(path, folder=folder).latest
    record = Record(study.url, study.name)
    if (space := space_of(record.notes)) is None:
        raise InputError(f"{study.folder}: this study is of an early version, whose record does not hold its space")
    base = None if like is None else _like(record, like)
    return _ask(study, record, _made("enqueue", hyperparameters=point(space, values, base, faults)))


def values_of(texts: Sequence[str], faults: list[Fault]) -> dict[str, Any]:
    """The values of `NAME=VALUE` texts, read as in a YAML; what is none is put to `faults`."""
    found = dict[str, Any]()
    for text in texts:
        name, equals, raw = text.partition("=")
        if not (name and equals):
            faults.append(Fault("must be NAME=VALUE, such as rank=64", f"--set {text}"))
            continue
        try:
            found[name] = yaml_file.value(raw)
        except InputError as error:
            faults += [Fault(fault.message, f"--set {text}", None, name) for fault in error.faults]
    return found


def point(
    space: Space, values: Mapping[str, Any], base: Mapping[str, Any] | None, others: Sequence[Fault] = ()
) -> dict[str, Any]:
    """The hyperparameters of a point of the space: `values`, and what they leave open as it is in the point `base`.

    What is searched stays as it is there: where `scale` is searched, alpha follows another rank; where `step` is, the
    learning rate follows another alpha. Raises InputError with all faults, and `others`.
    """
    searched = {dimension.name: dimension for dimension in space.dimensions}
    names = [*searched, *space.fixed]
    known = [*names, *(name for name in OF_LORA if space.lora and name not in names)]
    faults = list(others)
    faults += [
        Fault(f"is not part of the space, which has {', '.join(known)}.{nearest(name, known)}", key=name)
        for name in values
        if name not in known
    ]
    wrong = {name: LORA[name].fault(value) for name, value in values.items() if space.lora and name in LORA}
    faults += [Fault(what, key=name) for name, what in wrong.items() if what]
    given = {name: value for name, value in values.items() if not wrong.get(name)}
    whole = dict(space.fixed)
    if base is not None:
        params = space.encode(base)
        whole |= {name: one.decode(params[one.parameter.name]) for name, one in searched.items()}
    whole |= {name: value for name, value in given.items() if name in names}
    if space.lora:
        whole |= _searched_instead(space, whole, given)
    faults += _outside(space, whole, given, wrong)
    refuse(faults)
    made = derive(whole, whole_alpha=space.whole_alpha) if space.lora else whole
    made |= {name: value for name, value in given.items() if name in made}
    space.encode(made)
    return made


def _searched_instead(space: Space, whole: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The scale and the step that an alpha and a learning rate make, where these are not searched themselves."""
    found, names = dict[str, Any](), {*(dimension.name for dimension in space.dimensions), *space.fixed}
    rank, alpha = whole.get("rank"), given.get("alpha", whole.get("alpha"))
    if "alpha" in given and "alpha" not in names and rank:
        found["scale"] = space.reached(given["alpha"] / rank, {"rank": rank, "alpha": given["alpha"]})
    if alpha is None and rank and "scale" in whole:
        alpha = derive({"rank": rank, "scale": whole["scale"], "dropout": 0.0, "learning_rate": 0.0})["alpha"]
    if "learning_rate" in given and "learning_rate" not in names and alpha:
        found["step"] = given["learning_rate"] * alpha
    return found


def _outside(
    space: Space, whole: Mapping[str, Any], given: Mapping[str, Any], wrong: Mapping[str, str | None]
) -> list[Fault]:
    """What lies outside the space, and what is missing."""
    faults = []
    for dimension in space.dimensions:
        name = dimension.name
        set_as = {"scale": "alpha", "step": "learning_rate"}.get(name, name)
        if name not in whole:
            if not wrong.get(name) and not wrong.get(set_as):
                faults.append(Fault("is searched and not given: set it too, or begin with `--like N`", key=set_as))
            continue
        try:
            dimension.encode(whole[name])
        except ValueError as error:
            made = name != set_as and set_as in given
            what = f"`{given[set_as]}` is not allowed: its {name} {error}" if made else str(error)
            faults.append(Fault(f"{what} {THE_SPACE}", key=set_as if made else name))
    for name, value in space.fixed.items():
        if whole[name] != value:
            faults.append(Fault(f"{whole[name]} is not {value}, at which it is fixed {THE_SPACE}", key=name))
    return faults


def _like(record: Record, like: str) -> Mapping[str, Any]:
    """The hyperparameters of a trial by its number or its part in the study."""
    outside = (record.notes.get("baseline") or {}).get("hyperparameters")
    found = None
    if like == "best" and record.best is not None:
        found = record.best.hyperparameters
    elif like == "recommended" and (advised := recommended(record)) is not None:
        found = record.trials[advised.number].hyperparameters
    elif like == "baseline":
        found = record.baseline.hyperparameters if record.baseline is not None else outside
    elif like.isdigit() and int(like) < len(record.trials):
        found = record.trials[int(like)].hyperparameters
    if found is None:
        what = f"there is no such trial; {_numbers(record)}; and there are best, recommended and baseline, once known"
        raise InputError(Fault(what, f"--like {like}"))
    return found


def _numbers(record: Record) -> str:
    return f"the study has the trials 0 to {len(record.trials) - 1}" if record.trials else "the study has no trial yet"


def refusal(record: Record, request: ControlRequest, study: str = "STUDY") -> str | None:
    """Why the record alone forbids a request, in words; None: it does not."""
    if request.action == "enqueue":
        same = [t for t in record.trials if dict(t.hyperparameters) == dict(request.hyperparameters)]
        there = next((t for t in same if t.final is None or t.final.ending is Ending.COMPLETE), None)
        how = "" if there is None else "it is to be trained" if there.final is None else "it is complete"
        return None if there is None else f"trial {there.number} has this point, and {how}: the same would come of it"
    if request.trial is None or not 0 <= request.trial < len(record.trials):
        return f"there is no trial {request.trial}: {_numbers(record)}"
    trial = record.trials[request.trial]
    if trial.final is None or record.goes(trial.number):
        return None
    ending, name = trial.final.ending, f"trial {trial.number} has ended as {trial.final.ending}"
    if request.action == "stop":
        return f"{name}: only what runs or waits can be stopped"
    if request.action == "finish":
        stopped = ending is Ending.STOPPED_EARLY and trial.promoted is None
        return None if stopped else f"{name}: only what was stopped can be trained to its end"
    again = f"Its point can be tried once more, as a new trial: `meshtune enqueue {study} --like {trial.number}`"
    if ending is Ending.CRASHED:
        return f"{name} after {trial.final.attempt} attempts, and how a trial ended never changes. {again}"
    return f"{name}: only what crashed is tried again"


# -- the files


def waiting(folder: Path) -> list[tuple[Path, ControlRequest | None]]:
    """The requests that lie in a study's folder, the oldest first; None where a file holds none."""
    found = list[tuple[Path, ControlRequest | None]]()
    for path in sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            try:
                found.append((path, parsed(json.loads(path.read_text(encoding="utf-8")))))
            except (ValueError, TypeError, KeyError):
                found.append((path, None))
    return found


def _made(action: Action, **fields: Any) -> ControlRequest:
    number = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    by = f"{_user()}@{platform.node()}, process {os.getpid()}"
    return ControlRequest(number, action, by, time.strftime("%Y-%m-%d %H:%M:%S"), **fields)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _ask(study: Located, record: Record, request: ControlRequest) -> Reply:
    """Refuse what the record forbids; else leave the request, and wait a little for the answer."""
    if why := refusal(record, request, typed(study.folder)):
        raise InputError(why)
    if request.action == "enqueue" and any(
        other is not None and other.action == "enqueue" and other.hyperparameters == request.hyperparameters
        for _, other in waiting(study.folder)
    ):
        by = "the running study" if holder((study.whole or study).folder) else _command(study, record)
        raise InputError(f"this point is noted already: {by} tries it")
    path = study.folder / FOLDER / f"{request.number}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        whole_file.write(path, json.dumps(asdict(request)))
    except OSError as error:
        raise StorageError(f"{path}: the request cannot be written ({error.strerror})") from error
    running = holder((study.whole or study).folder)
    until = time.monotonic() + WAIT_SECONDS
    while running is not None and path.exists() and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    if path.exists():
        return Reply(request, None, running, "" if running else _needs(study, record, request))
    answer = Record(study.url, study.name).answers.get(request.number)
    if answer is not None and not answer.done:
        raise InputError(answer.words)
    return Reply(request, answer, running)


def _needs(study: Located, record: Record, request: ControlRequest) -> str:
    """What a study whose budget is spent needs before its next run tries another point; "": nothing."""
    spent = record.notes.get("finished")
    if request.action != "enqueue" or spent in (None, EXHAUSTED):
        return ""
    return (
        f", but the search has ended ({spent}), so that there is no room for another trial: "
        f"{_command(study, record)} tries it"
    )


def _command(study: Located, record: Record) -> str:
    """The command whose run takes up what lies there, with room for each point that is to be tried."""
    name, trials = typed((study.whole or study).folder), study.config.budget.trials
    points = sum(request is not None and request.action == "enqueue" for _, request in waiting(study.folder))
    if not points or record.notes.get("finished") in (None, EXHAUSTED):
        return f"`meshtune tune {name}`"
    if trials is None or len(record.trials) < trials:
        return "raise its budget and run `meshtune tune`, which"
    return f"`meshtune tune {name} --trials {len(record.trials) + points}`"


def noted(study: Located, record: Record) -> dict[str, Any] | None:
    """The requests that no run has answered yet, and in words what to run so that they are; None: there are none."""
    found = [
        {"request": each.number, "action": each.action, "trial": each.trial, "by": each.by, "at": each.at}
        for _, each in waiting(study.folder)
        if each is not None and each.number not in record.answers
    ]
    if not found:
        return None
    counts = Counter(each["action"] for each in found)
    what = f"noted: {counted(len(found), 'request')} ({', '.join(f'{n} {action}' for action, n in counts.items())})"
    return {"requests": found, "message": f"{what}: {_command(study, record)} has the answers"}
