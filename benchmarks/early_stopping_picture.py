"""The picture of `docs/early-stopping.md`: the curves of one real study of the embedded model, from its report.

The study is trained where it is not there yet, and goes on where it was stopped: 14 trials of 48 steps, about ten
minutes of two cores. Two processes reach rungs in an order of their own, so that another run may stop others.

    python benchmarks/early_stopping_picture.py docs/early-stopping.svg [--folder build/early-stopping]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

STUDY = """\
model: embedded
data:
  sources: [{embedded: python-stdlib-describe}, {embedded: python-stdlib-signature}]
  rows: 64
  validation: 16
  test: 0
  max_length: 64
space:
  rank: {low: 4, high: 16, power_of: 2}
  scale: {low: 0.25, high: 32, log: true}
  dropout: [0, 0.05]
  step: {low: 1e-3, high: 1, log: true}
training: {epochs: 2, batch_size: 2, lr_scheduler: wsd}
early_stopping: {rule: default, rows: 16}
sampler: batch-gp
budget: {trials: 14}
seed: 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/early-stopping"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    study = given.folder / "study.yaml"
    if not study.exists():
        study.write_text(STUDY, encoding="utf-8")
    meshtune = [sys.executable, "-m", "meshtune.cli"]
    subprocess.run([*meshtune, "tune", str(study)], check=True)
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([*meshtune, "report", str(study), "--out", f"{made}/page.html", "--figures", made], check=True)
        shutil.copy(Path(made) / "rungs.svg", given.picture)


if __name__ == "__main__":
    main()
