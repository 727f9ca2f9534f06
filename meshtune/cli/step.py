"""`python -m meshtune.cli.step ..` is `meshtune ..` as a step of a pipeline: it ends, saved, when its input ends."""

import os
import signal
import threading

from meshtune.cli import main


def _end_with_the_pipeline() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_pipeline, daemon=True).start()
    main()
