"""`meshtune quickstart`: init, check, tune and report on the embedded model and data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from meshtune.cli.watch import watch
from meshtune.data.embedded import embedded_gguf
from meshtune.errors import need_training, together
from meshtune.plan.init import init
from meshtune.report.write import report
from meshtune.study.check import check


def quickstart(folder: Path, *, overrides: tuple[str, ...] = (), as_json: bool = False) -> dict[str, Any]:
    """Write the study (where it is not there yet), check it, and run or continue it; returns its status.

    `overrides`: `KEY=VALUE` in place of what study.yaml says.
    """
    together([need_training, embedded_gguf])
    path = folder / "study.yaml"
    if not path.exists():
        init(folder, "quickstart", None, None)
    print(f"the study: {path}", file=sys.stderr)
    print("checking it, which takes up to a minute ..", file=sys.stderr)  # the model is converted, the rows tokenized
    lines, _ = check(path, overrides=overrides, measure=False)  # the search begins at once, and shows its pace
    print(lines, file=sys.stderr)
    result = watch(path, overrides=overrides, as_json=as_json)
    made = report([path])
    print(f"wrote the report {made['page']}", file=sys.stderr)
    return result
