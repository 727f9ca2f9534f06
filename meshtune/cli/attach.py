"""`meshtune watch`: the live view of a study that another process runs. It reads, and changes nothing there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from meshtune.cli.display import Display, say
from meshtune.cli.watch import console_for, print_status
from meshtune.plan.locate import Located, existing, seen_from_here, typed
from meshtune.study.progress import Reread, follow, read
from meshtune.study.status import status_of


def attach(path: Path, *, folder: Path | None = None) -> dict[str, Any]:
    """Show a study until it runs no more, then where it stands, which is returned. Ctrl-C leaves the study alone.

    Raises InputError where it was never started.
    """
    study = existing(path, folder=folder)
    console = console_for(stderr=True)
    view = Display(console)
    seen: Path | None = None
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(follow(study)) as events:
        with view:
            for event in events:
                if not isinstance(event, Reread):
                    view.show(event)
                    continue
                view.read_again(event.record, event.now)
                if seen != event.study.folder:
                    seen = event.study.folder
                    done = len(event.record.finished)
                    say(
                        console,
                        f"watching {seen_from_here(seen)}: {done} of its trials have ended; Ctrl-C leaves it alone",
                    )
        status = status_of(study)
        print_status(status, console)
        return status
    say(console, f"the study goes on: `meshtune watch {typed(study.folder)}` shows it again")
    return status_of(study)


def at_this_moment(path: Path, *, folder: Path | None = None) -> dict[str, Any]:
    """The status of a study, with `stage` and `running`: of each running trial its last progress and training losses.

    Raises InputError where it was never started.
    """
    study: Located = existing(path, folder=folder)
    found = status_of(study)
    now = read(study.latest)
    running = [
        {**known["progress"], "trial": int(number), "pack": known["pack"], "losses": known["losses"]}
        for number, known in (now or {"running": {}})["running"].items()
    ]
    return {**found, "stage": (now or {}).get("stage", ""), "running": running}
