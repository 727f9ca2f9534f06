"""One outbox for all trackers: the record, read with a cursor for each.

A cursor says which trials a tracker has been shown, and what they looked like. It is written after each. A tracker that
was away is told the rest later, also after the study's end. Nothing is told twice but what a crash between showing and
writing hides, and each mirror replaces that.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from meshtune.config.sections import Tracker
from meshtune.errors import InputError, MeshtuneError, StorageError, need
from meshtune.plan.locate import Located
from meshtune.study.mirrors.facts import Mirror, StudyFacts, TrialFacts, facts_of, parts, trials_of
from meshtune.system import whole_file

FOLDER = "mirrors"
PACKAGES: dict[Tracker, str] = {
    "mlflow": "mlflow",
    "trackio": "trackio",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
}


def check(trackers: Iterable[Tracker]) -> None:
    """Raise MissingExtra where a tracker is not installed."""
    for name in trackers:
        need(f"`report_to: [{name}]`", PACKAGES[name], extras=name)


class Cursor:
    """What a tracker has been shown: digests by trial, in a file of the study."""

    def __init__(self, study: StudyFacts, tracker: Tracker):
        self._path = study.folder / FOLDER / f"{tracker}.json"
        self._shown: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self._shown = json.loads(self._path.read_text(encoding="utf-8"))

    def behind(self, trials: Iterable[TrialFacts]) -> list[TrialFacts]:
        """Those that it has not been shown as they are."""
        return [trial for trial in trials if self._shown.get(str(trial.number)) != trial.digest]

    def shown(self, trial: TrialFacts) -> None:
        """Written at once."""
        self._shown[str(trial.number)] = trial.digest
        with whole_file.writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole_file.write(self._path, json.dumps(self._shown))


def send(study: StudyFacts, trials: Iterable[TrialFacts], tracker: Tracker, *, artifacts: bool) -> Iterator[TrialFacts]:
    """Show a tracker what it has not seen, and give each trial that it was shown. Raises what the tracker raises."""
    cursor = Cursor(study, tracker)
    behind = cursor.behind(trials)
    if not behind:
        return
    with contextlib.closing(_mirror(study, tracker, artifacts=artifacts)) as mirror:
        for trial in behind:
            mirror.trial(trial)
            cursor.shown(trial)
            yield trial


def _mirror(study: StudyFacts, tracker: Tracker, *, artifacts: bool) -> Mirror:
    place = study.folder / FOLDER / tracker
    with whole_file.writing(place):
        place.mkdir(parents=True, exist_ok=True)
        key = _key(place)
    module = importlib.import_module(f"meshtune.study.mirrors.to_{tracker}")
    made: Mirror = module.open_mirror(replace(study, key=key), place, artifacts=artifacts)
    return made


def _key(place: Path) -> str:
    """What tells the study from others of its name on that tracker: made once, before it is shown anything."""
    path = place.with_suffix(".key")
    if not path.exists():
        shown_before = place.with_suffix(".json").exists()
        whole_file.write(path, "" if shown_before else secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


def behind(study: StudyFacts, trials: Iterable[TrialFacts], tracker: Tracker) -> int:
    """How many trials a tracker has not been shown."""
    return len(Cursor(study, tracker).behind(trials))


def mirror(study: Located, wanted: Sequence[Tracker] = ()) -> list[tuple[str, Tracker, int]]:
    """Show trackers all that they have not seen: (study or round, tracker, trials that were sent).

    Args:
        wanted: trackers; none: those of the study's `report_to`.

    Raises:
        InputError: no tracker is named. MissingExtra: one is not installed.
        MeshtuneError: a tracker does not take it; what was sent stays. StorageError: the study's folder does not.
    """
    options = study.config.report_to
    trackers = wanted or options.trackers
    if not trackers:
        known = ", ".join(PACKAGES)
        raise InputError(f"{study.source}: `report_to` names no tracker; name one there, or with --to: {known}")
    check(trackers)
    done = []
    for part in parts(study):
        facts, trials = facts_of(part), list(trials_of(part))
        for tracker in trackers:
            sent = 0
            try:
                for _ in send(facts, trials, tracker, artifacts=options.artifacts):
                    sent += 1
            except StorageError:
                raise  # the study's folder, which is none of the tracker's
            except Exception as error:  # a tracker's own
                left = behind(facts, trials, tracker)
                raise MeshtuneError(
                    f"{tracker}: {type(error).__name__}: {error}. {left} of {len(trials)} trials are not there yet;"
                    " run the same again once it answers"
                ) from error
            done.append((facts.name, tracker, sent))
    return done
