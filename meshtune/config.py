"""study.yaml as frozen types: what every key means, what it may be, and its default.

`meshtune.yaml_file` reads the text and keeps the lines; `meshtune.config_file` joins both and reports every fault at
once. Nothing here reads data, loads a model or knows a sampler's code: each part receives its own section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

Scalar = bool | int | FiniteFloat | str
Format = Literal["auto", "alpaca", "dolly", "prompt-completion", "prompt-response"]


class Section(BaseModel):
    """A frozen section; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _named(value: Any) -> Any:
    """`sampler: mads` is short for `sampler: {name: mads}`."""
    return {"name": value} if isinstance(value, str) else value


class ModelConfig(Section):
    """The base model. `name` is `embedded`, a Hugging Face id, a folder or a .gguf file (absolute once read)."""

    name: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    trust_remote_code: bool = False


class SourceConfig(Section):
    """One source of rows: a file (`path`), a Hugging Face data set (`dataset`) or an `embedded` one."""

    path: str | None = None
    dataset: str | None = None
    split: str = "train"
    embedded: Literal["python-stdlib-describe", "python-stdlib-signature"] | None = None
    format: Format = "auto"
    share: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in ("path", "dataset", "embedded") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"a source needs exactly one of `path`, `dataset`, `embedded`; given: {what}")
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or self.dataset or self.embedded or ""


class RowsFile(Section):
    """Rows of a side in a file of their own."""

    path: str
    format: Format = "auto"


def _side(value: Any) -> str:
    return "file" if isinstance(value, Mapping | RowsFile) else "whole" if isinstance(value, int) else "share"


Share = Annotated[FiniteFloat, Field(gt=0, lt=1)]
Validation = Annotated[
    Annotated[RowsFile, Tag("file")] | Annotated[PositiveInt, Tag("whole")] | Annotated[Share, Tag("share")],
    Discriminator(_side),
]
Test = Annotated[
    Annotated[RowsFile, Tag("file")]
    | Annotated[int, Field(ge=0), Tag("whole")]
    | Annotated[FiniteFloat, Field(ge=0, lt=1), Tag("share")],
    Discriminator(_side),
]


class DataConfig(Section):
    """The instruction data: sources, how they are mixed and split, and how rows become tokens."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    mixture: Literal["union", "cap", "repeat"] = "union"
    rows: PositiveInt | None = None
    validation: Validation = 0.1
    test: Test = 0.1
    max_length: Annotated[
        Annotated[PositiveInt, Tag("whole")] | Annotated[Literal["auto"], Tag("word")],
        Discriminator(lambda value: "whole" if isinstance(value, int) else "word"),
    ] = "auto"
    prompt: Literal["auto", "chat", "alpaca"] = "auto"
    strict: bool = False

    @model_validator(mode="after")
    def _shares(self) -> Self:
        shares = [source.share for source in self.sources]
        given = [share for share in shares if share is not None]
        if given and len(given) < len(shares):
            raise ValueError(f"`share` is given for {len(given)} of {len(shares)} sources: give all or none")
        if given and abs(sum(given) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {sum(given):g}, and must add up to 1")
        if self.mixture != "union" and not given and len(shares) > 1:
            raise ValueError(f"`mixture: {self.mixture}` needs a `share` for each source")
        if isinstance(self.validation, float) and isinstance(self.test, float) and self.validation + self.test >= 1:
            raise ValueError("`validation` and `test` together leave no rows to train on")
        return self


class TrainingConfig(Section):
    """How each trial is trained. What the space moves takes the place of the value given here."""

    trainer: Literal["transformers"] = "transformers"
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 16
    gradient_accumulation: PositiveInt = 1
    lr_scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0
    target_modules: Annotated[
        Annotated[Literal["all-linear"], Tag("word")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("list")],
        Discriminator(lambda value: "word" if isinstance(value, str) else "list"),
    ] = "all-linear"
    rslora: bool = False
    gradient_checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the training's products
    keep_adapters: PositiveInt = 5


class Interval(Section):
    """An interval of the space."""

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    power_of: Literal[2] | None = None
    integer: bool | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithm needs a low above 0, not {self.low:g}")
        if self.power_of == 2:
            for end in (self.low, self.high):
                if end < 1 or end != int(end) or int(end) & (int(end) - 1):
                    raise ValueError(f"{end:g} is not a power of 2")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError("whole numbers need whole bounds")
        return self


class LoraObjectiveConfig(Section):
    """The objective: validation loss of a LoRA fine-tuning, at its best or its last epoch."""

    at: Literal["best", "last"] = "best"


class CommandObjectiveConfig(Section):
    """Any program as the black box: `{name}` in `command` is filled in, the last JSON line that it prints is read."""

    command: tuple[str, ...] = Field(min_length=1)
    result: str = "loss"


def _flat_options(value: Any) -> Any:
    """`{name: mads, n_startup: 4}`: what is no key of the section is an option of the sampler."""
    value = _named(value)
    if not isinstance(value, Mapping):
        return value
    known = ("name", "block_size", "options")
    given = value.get("options", {})
    options = {**(given if isinstance(given, Mapping) else {}), **{k: v for k, v in value.items() if k not in known}}
    return {**{key: item for key, item in value.items() if key in known}, "options": options}


class SamplerConfig(Section):
    """The sampler and its options."""

    name: Literal["mads", "tpe", "random", "qmc", "gp"]
    block_size: PositiveInt | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class BudgetConfig(Section):
    """When the search ends: at the first limit that is reached. `trial_hours` is the timeout of one trial."""

    trials: PositiveInt | None = 30
    hours: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    tokens: PositiveInt | None = None
    trial_hours: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.trials is None and self.hours is None and self.tokens is None:
            raise ValueError("no limit is given: give `trials`, `hours` or `tokens`")
        return self


class WorkerConfig(Section):
    """Where trials run: one process a visible GPU, one on a CPU, unless `processes` says more."""

    name: Literal["local"] = "local"
    processes: PositiveInt | None = None
    threads: PositiveInt | None = None  # CPU threads a process; default: cores over processes
    attempts: PositiveInt = 3


def _kind_of_entry(value: Any) -> str:
    if isinstance(value, Mapping | Interval):
        return "interval"
    return "choices" if isinstance(value, list | tuple) else "value"


Entry = Annotated[
    Annotated[Interval, Tag("interval")]
    | Annotated[tuple[Scalar, ...], Field(min_length=2), Tag("choices")]
    | Annotated[Scalar, Tag("value")],
    Discriminator(_kind_of_entry),
]


class StudyConfig(Section):
    """A whole study.yaml."""

    model: Annotated[ModelConfig, BeforeValidator(_named)] | None = None
    data: DataConfig | None = None
    training: TrainingConfig = TrainingConfig()
    objective: Annotated[
        Annotated[LoraObjectiveConfig, Tag("lora")] | Annotated[CommandObjectiveConfig, Tag("program")],
        Discriminator(lambda v: "program" if "command" in (v if isinstance(v, Mapping) else dir(v)) else "lora"),
    ] = LoraObjectiveConfig()
    space: Annotated[
        Annotated[str, Tag("preset")] | Annotated[dict[str, Entry], Tag("mapping")],
        Discriminator(lambda value: "preset" if isinstance(value, str) else "mapping"),
    ] = "recommended"
    baseline: dict[str, Scalar] | None = None
    sampler: Annotated[SamplerConfig, BeforeValidator(_flat_options)] = SamplerConfig(name="mads")
    budget: BudgetConfig = BudgetConfig()
    worker: Annotated[WorkerConfig, BeforeValidator(_named)] = WorkerConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    folder: str | None = None
    storage: str | None = None

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if isinstance(self.objective, LoraObjectiveConfig):
            missing = [f"`{name}`" for name in ("model", "data") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)} must be given: `model: embedded`, `data: {{sources: [..]}}`")
        return self
