"""What computes needs no more than torch, Transformers and PEFT: not what reads configs, keeps records, or prints."""

import subprocess
import sys
from pathlib import Path

from tests.hidden import without

# Beside these, Transformers and the Hub's client bring their own, such as rich and typer.
NOT_NEEDED = ("optuna", "pydantic", "sqlalchemy", "PyNomad", "bitsandbytes", "datasets", "gguf", "lm_eval", "pandas")
MODULES = (
    "packed.trainer",
    "trainer",
    "memory.packs",
    "memory.formula",
    "memory.shape",
    "models",
    "machine",
    "loss",
    "memory.pilot",
)


def test_training_is_imported_without_what_it_does_not_need(tmp_path: Path) -> None:
    code = "".join(f"import meshtune.training.{name}\n" for name in MODULES)
    code += f"import sys\nassert not set(sys.modules) & {set(NOT_NEEDED)!r}\n"
    environment = without(tmp_path, *NOT_NEEDED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    absent = subprocess.run([sys.executable, "-c", "import optuna"], capture_output=True, env=environment, check=False)
    assert absent.returncode != 0
