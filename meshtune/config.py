"""study.yaml as frozen types: what every key means, what it may be, and its default.

`meshtune.yaml_file` reads the text and keeps the lines; here are the types and the faults. Nothing here reads data,
loads a model or knows a sampler's code: each part receives its own section.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, PositiveInt

Scalar = bool | int | float | str


class Section(BaseModel):
    """A frozen section; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    """The base model. `name` is `embedded`, a Hugging Face id, a folder or a .gguf file (absolute once read)."""

    name: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"  # auto | cpu | cuda | mps: the kind; which of them is the worker's affair
    trust_remote_code: bool = False


class SourceConfig(Section):
    """One source of rows: a file (`path`), a Hugging Face data set (`dataset`) or `embedded: python-stdlib`."""

    path: str | None = None
    dataset: str | None = None
    split: str = "train"
    embedded: Literal["python-stdlib-describe", "python-stdlib-signature"] | None = None
    format: Literal["auto", "alpaca", "dolly", "prompt-completion", "prompt-response"] = "auto"
    share: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None


class RowsFile(Section):
    """Rows of a side in a file of their own."""

    path: str
    format: Literal["auto", "alpaca", "dolly", "prompt-completion", "prompt-response"] = "auto"


class DataConfig(Section):
    """The instruction data: sources, how they are mixed and split, and how rows become tokens."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    mixture: Literal["union", "cap", "repeat"] = "union"
    rows: PositiveInt | None = None
    validation: RowsFile | PositiveInt | float = 0.1  # a share below 1, a number of rows, or a file
    test: RowsFile | int | float = 0.1  # the same; 0 for none
    max_length: Literal["auto"] | PositiveInt = "auto"
    prompt: Literal["auto", "chat", "alpaca"] = "auto"
    strict: bool = False


class TrainingConfig(Section):
    """How each trial is trained. What the space moves takes the place of the value given here."""

    trainer: Literal["transformers"] = "transformers"
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 16
    gradient_accumulation: PositiveInt = 1
    lr_scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    rslora: bool = False
    gradient_checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the training's products
    keep_adapters: Annotated[int, Field(ge=1)] = 5


class Interval(Section):
    """An interval of the space."""

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    power_of: Literal[2] | None = None
    integer: bool | None = None


class LoraObjectiveConfig(Section):
    """The objective: validation loss of a LoRA fine-tuning, at its best or its last epoch."""

    at: Literal["best", "last"] = "best"


class CommandObjectiveConfig(Section):
    """Any program as the black box: `{name}` in `command` is filled in, the last JSON line that it prints is read."""

    command: tuple[str, ...] = Field(min_length=1)
    result: str = "loss"  # key of the JSON line that holds the value to minimise


class SamplerConfig(Section):
    """The sampler and its options."""

    name: Literal["mads", "tpe", "random", "qmc", "gp"]
    block_size: PositiveInt | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class BudgetConfig(Section):
    """When the search ends: at the first limit that is reached. `trial_hours` is the timeout of one trial."""

    trials: PositiveInt | None = 30
    hours: PositiveFloat | None = None
    tokens: PositiveInt | None = None
    trial_hours: PositiveFloat | None = None


class WorkerConfig(Section):
    """Where trials run."""

    name: Literal["local"] = "local"
    processes: PositiveInt | None = None  # default: one a visible device; one on a CPU
    threads: PositiveInt | None = None  # CPU threads a process; default: cores over processes
    attempts: PositiveInt = 3


class StudyConfig(Section):
    """A whole study.yaml."""

    model: ModelConfig | None = None
    data: DataConfig | None = None
    training: TrainingConfig = TrainingConfig()
    objective: LoraObjectiveConfig | CommandObjectiveConfig = LoraObjectiveConfig()
    space: str | dict[str, Interval | tuple[Scalar, ...] | Scalar] = "recommended"
    baseline: dict[str, Scalar] | None = None
    sampler: SamplerConfig = SamplerConfig(name="mads")
    budget: BudgetConfig = BudgetConfig()
    worker: WorkerConfig = WorkerConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    folder: str | None = None
    storage: str | None = None
