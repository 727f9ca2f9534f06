"""Trackers beside a running study: a program for each, `meshtune.study.mirrors.follow STUDY TRACKER`.

It reads the record now and then, as any other shell may. The study knows nothing of it but that it runs: a tracker that
is down, slow or killed holds up its own program alone. It says `up` or `down` on its standard output when that changes,
and ends after a last look once its input ends. What is still behind then, `meshtune mirror` sends later.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from meshtune.config.sections import ReportToConfig, Tracker
from meshtune.plan.locate import Located, existing
from meshtune.study.mirrors.facts import facts_of, trials_of
from meshtune.study.mirrors.outbox import behind, send
from meshtune.system import child_start
from meshtune.system.text import counted

LOOK_SECONDS, LONGEST_SECONDS = 3.0, 60.0  # between looks; between attempts on a tracker that is down
SHARE = 20  # of a look's time that passes before the next one, so that a large record is not always read
LAST_SECONDS, DOWN_SECONDS = 60.0, 0.5  # for the last look at the study's end, and for that of one that is down


class Followers:
    """The programs of one study, one a tracker; `close` ends them."""

    def __init__(self, study: Located, config: ReportToConfig):
        self._study = study
        self._running = {tracker: self._start(tracker) for tracker in config.trackers}

    def _start(self, tracker: Tracker) -> subprocess.Popen[str]:
        log = self._study.folder / "logs" / f"mirror-{tracker}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = child_start.command("meshtune.study.mirrors.follow", str(self._study.folder), tracker)
        with log.open("ab") as words:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def finish(self) -> list[str]:
        """Let them catch up; what is left behind, in words."""
        for program in self._running.values():
            assert program.stdin is not None
            program.stdin.close()
        for program in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(DOWN_SECONDS if _is_down(program) else LAST_SECONDS)
        trackers = list(self._running)
        self.close()
        return left_behind(self._study, trackers)

    def close(self) -> None:
        """End them at once."""
        for program in self._running.values():
            program.kill()
            program.wait()
            for stream in (program.stdin, program.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self._running = {}


def _is_down(program: subprocess.Popen[str]) -> bool:
    assert program.stdout is not None
    os.set_blocking(program.stdout.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        return os.read(program.stdout.fileno(), 1 << 16).split()[-1:] == [b"down"]
    return False


def left_behind(study: Located, trackers: Sequence[Tracker]) -> list[str]:
    """Of each tracker that has not been shown all trials, how many and what to do."""
    facts, trials = facts_of(study), list(trials_of(study))
    found = []
    for tracker in trackers:
        if count := behind(facts, trials, tracker):
            trials_are = f"{counted(count, 'trial')} {'is' if count == 1 else 'are'}"
            log = study.folder / "logs" / f"mirror-{tracker}.log"
            found.append(
                f"{tracker}: {trials_are} not there yet (see {log}); `meshtune mirror {study.folder}` sends them"
            )
    return found


def _until_input_ends(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main() -> None:
    """Show a tracker what comes, until the input ends."""
    child_start.leave_signals_to_the_coordinator()
    out = child_start.answers()
    folder, tracker = Path(sys.argv[1]), sys.argv[2]
    ended = threading.Event()
    threading.Thread(target=_until_input_ends, args=(ended,), daemon=True).start()
    pause, state = LOOK_SECONDS, ""
    while True:
        last = ended.is_set()
        begun = time.monotonic()
        try:
            study = existing(folder)
            options = study.config.report_to
            for _ in send(facts_of(study), trials_of(study), tracker, artifacts=options.artifacts):  # type: ignore[arg-type]
                pass
            now, pause = "up", max(LOOK_SECONDS, SHARE * (time.monotonic() - begun))
        except Exception as error:  # whatever a tracker raises: it is tried again
            print(f"{time.strftime('%F %T')} {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            now, pause = "down", min(2 * pause, LONGEST_SECONDS)
        if now != state:
            print(now, file=out, flush=True)
            state = now
        if last:
            os._exit(0)  # a tracker's threads would go on trying
        ended.wait(pause)


if __name__ == "__main__":
    main()
