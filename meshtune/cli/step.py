"""`python -m meshtune.cli.step MARK ..` is `meshtune ..` as a step of a pipeline: it ends, saved, when its input ends.

Then nobody else can note its processor time, so it does, in the file MARK.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from meshtune.cli import main
from meshtune.errors import StorageError
from meshtune.pipeline import mark

gone = threading.Event()  # the pipeline


def _end_with_the_pipeline() -> None:
    while os.read(0, 1024):
        pass
    gone.set()
    _account()  # a command that SIGTERM ends at once says no more
    os.kill(os.getpid(), signal.SIGTERM)


def _account() -> None:
    with contextlib.suppress(StorageError):  # nobody is there who would read of it
        mark.write(path, begun, more=mark.own())


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    begun = mark.read(path)
    threading.Thread(target=_end_with_the_pipeline, daemon=True).start()
    try:
        main()
    finally:
        if gone.is_set():
            _account()
