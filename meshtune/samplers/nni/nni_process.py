"""The child program that owns NNI's TPE tuner, started by its path. The only file that imports NNI.

It needs NNI 3.0 and the standard library, so that it runs in an environment of its own. Of NNI the tuner's own modules
alone are loaded: the start of the package brings pandas, SciPy's statistics and an HTTP client, for four times as long.

Standard input brings one JSON line that describes the tuner, then one line for each proposal: all that has happened, as
events, the last of them that NNI is asked. What was standard output carries out the point, or null where NNI says that
the space is explored; NNI's own words go to standard error. The tuner goes on where the events continue those of the
last line, and is built anew where they do not, so a point follows from the line alone.

Events, where a point is a list in the order of the space:

- `["ask", id, null]`: NNI proposes; where it is asked again for the same id, what it said is forgotten
- `["take", id, point]`: this point is evaluated, be it what NNI proposed or one from elsewhere
- `["tell", id, value]`: its value
- `["bad", id, null]`: it is infeasible: worse than all values, and no example for the constant liar
- `["forget", id, null]`: it failed
"""

from __future__ import annotations

import sys

if sys.path and sys.path[0].replace("\\", "/") == __file__.replace("\\", "/").rpartition("/")[0]:
    del sys.path[0]  # the samplers' own folder, where Python puts a program's: names there are no modules of ours

import importlib.util
import json
import math
import os
import signal
from types import ModuleType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # a batch system may send them to all of a job


def main() -> None:
    """Read the run from standard input, then answer proposals until the input ends."""
    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    run: dict[str, Any] | None = None
    replay: Replay | None = None
    for line in sys.stdin:
        if run is None:
            run = json.loads(line)
            continue
        events = json.loads(line)
        if replay is None or events[: len(replay.events)] != replay.events:
            replay = Replay(run)
        print(json.dumps(replay.proposed(events)), file=out, flush=True)


def tuner_class() -> Any:
    """NNI's TPE tuner, as it stands in NNI's file, in packages that have of theirs what the tuner asks for."""
    if "nni" not in sys.modules:
        spec = importlib.util.find_spec("nni")
        assert spec is not None
        for name, place in (("nni", ""), ("nni.common", "common")):
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [os.path.join(path, place) for path in spec.submodule_search_locations or ()]
        nni: Any = sys.modules["nni"]
        nni.NoMoreTrialError = type("NoMoreTrialError", (Exception,), {})
        nni.dump = json.dumps  # of points, to tell whether one has been
        from nni.utils import ClassArgsValidator

        nni.ClassArgsValidator = ClassArgsValidator
    from nni.algorithms.hpo.tpe_tuner import TpeTuner

    return TpeTuner


class Replay:
    """NNI's tuner with the events that it has been through."""

    def __init__(self, run: dict[str, Any]):
        self.events: list[list[Any]] = []
        self._names = list(run["space"])
        self._asked: tuple[int, Any] = (0, None)  # id and point of NNI's last proposal
        self._tuner = tuner_class()(run["mode"], run["seed"], run["arguments"])
        self._tuner.update_search_space(run["space"])

    def proposed(self, events: list[list[Any]]) -> list[float] | None:
        """The point that the last of the events asks for."""
        for event in events[len(self.events) :]:
            self._happen(*event)
            self.events.append(event)
        point: list[float] | None = self._asked[1]
        return point

    def _happen(self, kind: str, number: int, what: Any) -> None:
        if kind == "ask":
            self._ask(number)
        elif kind == "take":
            self._take(number, what)
        elif kind == "tell":
            self._tuner.receive_trial_result(number, None, what)
        elif kind == "bad":
            from nni.algorithms.hpo.tpe_tuner import Record

            for key, value in self._tuner._running_params.pop(number).items():
                self._tuner._history[key].append(Record(value, math.inf))
        else:
            self._tuner.trial_end(number, False)

    def _ask(self, number: int) -> None:
        from nni import NoMoreTrialError

        try:
            found = self._tuner.generate_parameters(number)
            point = [found[name] for name in self._names]
        except NoMoreTrialError:
            point = None
        self._tuner._running_params.pop(number, None)  # until it is taken
        self._asked = number, point

    def _take(self, number: int, point: list[float]) -> None:
        from nni.common.hpo_utils import format_parameters

        if self._asked == (number, point):
            self._tuner._running_params[number] = self._tuner._params[number]
            return
        named = dict(zip(self._names, point))  # noqa: B905 (NNI's interpreter may be older than 3.10)
        self._tuner._running_params[number] = format_parameters(named, self._tuner.space)
        self._tuner.dedup.add_history(self._tuner._running_params[number])


if __name__ == "__main__":
    main()
