"""What the stored table of learning curves is made of: rows, points, the training, and where a curve is measured.

The rows are those of `model: embedded`'s own data in their shortest form: the two sources without the sentence that
says the task (the input shows which it is), under a system message of one word, since the model's own one is as long
as a row. So a training takes 10 to 20 seconds on one thread of a CPU with bf16 units, and has the shape of a real one:
36 steps in two epochs, a warm-up, a cosine. The points are scrambled Sobol points of the space `recommended`.

One table serves two benchmarks. Early stopping is replayed on the points that have two seeds, the first 100; the race's
surface `measured` (problems.py) stands on all of them, and takes its noise from the twenty seeds of the baseline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from meshtune.config import presets
from meshtune.config.sections import DataConfig, ModelConfig, TrainingConfig
from meshtune.data import embedded
from meshtune.data.build import PreparedData, prepare
from meshtune.record.distributions import distributions
from meshtune.samplers.encoding import Encoding
from meshtune.system import whole_file

SOURCES = {embedded.DESCRIBE: 0.7, embedded.SIGNATURE: 0.3}
SYSTEM = "Python"
ROWS, VALIDATION, MAX_LENGTH, DATA_SEED = 52, 16, 56, 0
MODEL = ModelConfig(name="embedded")
TRAINING = TrainingConfig(
    epochs=2, batch_size=2, lr_scheduler="cosine", precision="bfloat16", gradient_checkpointing=False
)
DESCRIBED = {
    "trainer",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "lr_scheduler",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "target_modules",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "gradient_checkpointing",
    "precision",
}  # of the section `training`
FRACTIONS = (0.1, 0.15, 0.3, 0.7)  # of the tokens; an epoch's end is measured on the same rows
POINTS, BOTH_SEEDS, REPEATS = 150, 100, 20  # points in all, those with two seeds, further seeds of the baseline
SOBOL_SEED = 6
BASELINE = -1  # its number as a point
_MAY_DIFFER = ("versions", "processor", "python")  # of what a table says of itself, where it is continued


def sources(folder: Path) -> list[dict[str, Any]]:
    """The two sources as files in a folder, made or found there, and their shares."""
    made = []
    for name, share in SOURCES.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            whole_file.write(path, "".join(f"{json.dumps(row)}\n" for row in _messages(name)))
        made.append({"path": str(path), "share": share})
    return made


def rows(folder: Path) -> PreparedData:
    """The prepared rows, made or found in a folder."""
    data = DataConfig.model_validate(
        {
            "sources": sources(folder),
            "mixture": "cap",
            "rows": ROWS,
            "validation": VALIDATION,
            "test": 0,
            "max_length": MAX_LENGTH,
        }
    )
    return prepare(data, MODEL, DATA_SEED, folder / "rows")


def points() -> list[dict[str, Any]]:
    """Parameters of the points, as the optimizer sees them."""
    encoding = Encoding(distributions(presets.recommended()))
    shares = qmc.Sobol(len(encoding.lower), rng=SOBOL_SEED).random(2 ** (POINTS - 1).bit_length())
    return [encoding.decode(encoding.at(share)) for share in shares[:POINTS].tolist()]


def baseline() -> dict[str, Any]:
    """Parameters of the recommended baseline."""
    return presets.recommended().encode(presets.RECOMMENDED_BASELINE)


def described() -> dict[str, Any]:
    """The training, as plain values."""
    return TRAINING.model_dump(mode="json", include=DESCRIBED)


def trainings() -> list[tuple[int, int]]:
    """(point, seed) of every training, in the order in which they are made."""
    pairs = [(point, seed) for point in range(BOTH_SEEDS) for seed in (0, 1)]
    pairs += [(BASELINE, seed) for seed in range(REPEATS)]
    return pairs + [(point, 0) for point in range(BOTH_SEEDS, POINTS)]


def parameters(point: int) -> dict[str, Any]:
    """Of a point by its number."""
    return baseline() if point == BASELINE else points()[point]


def rungs(total: int) -> tuple[int, ...]:
    """Tokens after which a curve is measured, of so many in all."""
    return tuple(round(share * total) for share in FRACTIONS)


def lines(table: Path, said: dict[str, Any], otherwise: str) -> list[dict[str, Any]]:
    """The trainings of a table, after cutting off a line that was not finished. Begins it where there is none.

    Ends the program, with what to do `otherwise`, where it was not made as is `said`.
    """
    found = table.read_bytes().split(b"\n") if table.exists() else [b""]
    if found[-1]:
        with table.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in found[:-1]))
    if len(found) == 1:
        with table.open("w", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        return []
    there = json.loads(found[0])
    differing = [key for key in said if key not in _MAY_DIFFER and there.get(key) != said[key]]
    if differing:
        raise SystemExit(f"{table} was made with another {', '.join(differing)}: {otherwise}")
    return [json.loads(line) for line in found[1:-1]]


def _messages(name: str) -> list[dict[str, Any]]:
    def said(role: str, content: str | None) -> dict[str, str]:
        return {"role": role, "content": content or ""}

    return [
        {"messages": [said("system", SYSTEM), said("user", row.context), said("assistant", row.response)]}
        for row in embedded.rows(name)
    ]
