"""What `meshtune init` writes: a study.yaml that explains every key and is valid as it stands.

A recipe is a set of values for one template, so that every recipe shows every key. The test of this file holds
the text against the types in `meshtune.config.sections`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from meshtune.errors import InputError, StorageError
from meshtune.space.goals import BENCHMARKS
from meshtune.space.samplers import NAMES
from meshtune.system import whole_file
from meshtune.system.templates import templates

NAME = "study.yaml"

EMBEDDED_DATA = """    - {embedded: python-stdlib-describe, share: 0.7}
    - {embedded: python-stdlib-signature, share: 0.3}"""


@dataclass(frozen=True)
class TemplateValues:
    """The values that differ between recipes; those of the first one are the defaults of the file."""

    title: str = "A study of LoRA hyperparameters."
    model: str = "embedded"
    sources: str = EMBEDDED_DATA
    mixture: str = "cap"
    rows: str = "2000"
    validation: str = "0.1"
    test: str = "0.1"
    max_length: str = "auto"
    prompt: str = "auto"
    epochs: int = 2
    batch_size: int = 16
    gradient_accumulation: int = 1
    target_modules: str = "all-linear"
    precision: str = "auto"
    at: str = "best"
    space: str = "recommended"
    advised: bool = True  # the baseline; False: a point of one's own is put in its place
    no_advice: str = ""  # why it is common in place of advised
    trials: int = 30
    early_stopping: str = "model"
    processes: str = "null"
    sampler: str = "auto"
    benchmarks: str = "[]"
    best: int = 5
    worst: int = 0


DEFAULT = TemplateValues()

# A trial of rank 256 takes several times as long as one of rank 16 on a CPU, and gains nothing in so few steps.
SMALL_SPACE = """
  rank: {low: 4, high: 32, power_of: 2}
  scale: {low: 0.25, high: 32, log: true}
  dropout: [0, 0.05, 0.1]
  step: {low: 1e-3, high: 1, log: true}"""

# Small enough for minutes on two cores, and with steps enough that the losses move.
QUICKSTART = TemplateValues(
    title="The quickstart: a real search in minutes, on the embedded model and data.",
    rows="160",
    validation="32",
    test="52",
    epochs=1,
    batch_size=4,
    space=SMALL_SPACE,
    trials=12,
    early_stopping="none",  # measuring at rungs would take as long as so short a training
    processes="2",
)

# The authors train 128 sequences a step: 4 a device, on 4 GPUs, with 8 accumulation steps. A trial here has one
# device, so 4 sequences x 32 steps of accumulation are the same step. Their split has no test rows (test: 0 is theirs).
TRIBES = TemplateValues(
    title="""The first round of Tribes et al., Hyperparameter Optimization for LLM Instruction-Tuning (2024).
# Their second round: `space: tribes2024` (ranks to 512), `epochs: 2`, `trials: 100`; once with `sampler: tpe`.""",
    model="meta-llama/Llama-2-7b-hf",
    sources="""    - {dataset: tatsu-lab/alpaca, share: 0.7}
    - {dataset: databricks/databricks-dolly-15k, share: 0.3}""",
    mixture="repeat",
    rows="null",
    validation="0.2",
    test="0.05",
    max_length="512",
    prompt="alpaca",
    epochs=3,
    batch_size=4,
    gradient_accumulation=32,
    target_modules="[q_proj, v_proj]",
    precision="bfloat16",
    at="last",
    space="tribes2024-128",
    trials=50,
    early_stopping="none",
    sampler="mads",
    benchmarks="[mmlu, bbh, drop, humaneval]",
    best=10,
    worst=10,
)

RECIPES = {"default": DEFAULT, "quickstart": QUICKSTART, "tribes2024": TRIBES}


def given(model: str | None, data: Path | None) -> tuple[str | None, str | None]:
    """`--model` and `--data` as the text has them: a name, and lines of sources. Raises InputError: no such data."""
    if data is not None and not data.is_file():
        raise InputError(f"{data}: there is no such file; give one with instruction rows, or leave --data out")
    name = None if model is None else _quoted(_path_or_id(model))
    return name, None if data is None else f"    - {{path: {_quoted(str(data.absolute()))}}}"


def write(folder: Path, written: str) -> Path:
    """Write a study.yaml into a folder, which is made where it is missing; returns its path.

    Raises:
        InputError: there is one already.
        StorageError: the folder cannot be written.
    """
    path = folder / NAME
    if path.exists():
        raise InputError(f"{path} is there already: remove it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, written)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def _path_or_id(model: str) -> str:
    return str(Path(model).absolute()) if model != "embedded" and Path(model).exists() else model


def _quoted(value: str) -> str:
    """Text that YAML reads as this value and nothing else."""
    return json.dumps(value, ensure_ascii=False)


def text(recipe: TemplateValues) -> str:
    """The commented study.yaml of a recipe: `study.yaml.j2`, with comments behind the recipe's values in one column."""
    written = (
        templates(Path(__file__).parent)
        .get_template("study.yaml.j2")
        .render(
            recipe=recipe,
            benchmarks=", ".join(BENCHMARKS),
            samplers=[name for name in NAMES if name != "import"],
        )
    )
    return re.sub(r"^(.*?)\t", lambda line: f"{line[1]:<30} ", written, flags=re.M)
