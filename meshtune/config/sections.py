"""study.yaml as frozen types: what every key may be, and its default. `meshtune init` writes what each one means.

`meshtune.config.file` reads a file into these and reports every fault at once. Nothing here reads data, loads a model
or knows a sampler's code: each part receives its own section. Unions are told apart by hand (their tags stand in
angle brackets), so that a fault names one variant and not all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    PositiveInt,
    Tag,
    model_validator,
)

from meshtune.config.budget import BudgetConfig, EarlyStoppingConfig, Replicates, StopWhenConfig, of_rule
from meshtune.config.evaluation import EvaluationConfig
from meshtune.config.goals import GuideConfig
from meshtune.config.values import (
    MayImport,
    PositiveReal,
    Real,
    Scalar,
    Section,
    named,
    named_or_imported,
    of_study,
    of_trackers,
    share_or_rows,
)
from meshtune.space import hyperparameters
from meshtune.space.samplers import SamplerName

Tracker = Literal["mlflow", "trackio", "wandb", "tensorboard"]
Format = Literal["auto", "alpaca", "dolly", "prompt-completion", "prompt-response", "messages", "sharegpt"]
PLACEHOLDERS = ("trial", "seed", "folder")  # what a command may be given beside its hyperparameters
ToolName = Literal["axolotl", "llamafactory", "trl-script"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class ModelConfig(Section):
    """The base model. `name` is `embedded`, a Hugging Face id, a folder or a .gguf file (absolute once read)."""

    name: str
    revision: str | None = None
    dtype: Precision = "auto"
    quantization: Literal["int8", "nf4"] | None = None  # of the linear layers' weights, but for the output head
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # the kind; which of them is the worker's affair
    trust_remote_code: bool = False


class SourceConfig(Section):
    """One source of rows: a file (`path`), a Hugging Face data set (`dataset`) or an `embedded` one."""

    path: str | None = None
    dataset: str | None = None
    subset: str | None = None  # of a Hugging Face data set that has several
    split: str = "train"
    embedded: Literal["python-stdlib-describe", "python-stdlib-signature"] | None = None
    format: Format = "auto"
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in ("path", "dataset", "embedded") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(f"`{name}`" for name in given) or "none of them"
            raise ValueError(f"a source needs exactly one of `path`, `dataset` and `embedded`; given: {what}")
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or self.dataset or self.embedded or ""


class RowsFile(Section):
    """Rows of a side in a file of their own."""

    path: str
    format: Format = "auto"


_is_file = Discriminator(lambda value: "<file>" if isinstance(value, Mapping | RowsFile) else "<number>")
Validation = Annotated[
    Annotated[RowsFile, Tag("<file>")] | Annotated[int | float, PlainValidator(share_or_rows(1)), Tag("<number>")],
    _is_file,
]
Test = Annotated[
    Annotated[RowsFile, Tag("<file>")] | Annotated[int | float, PlainValidator(share_or_rows(0)), Tag("<number>")],
    _is_file,
]


class DataConfig(Section):
    """The instruction data: sources, how they are mixed and split, and how rows become tokens."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    mixture: Literal["union", "cap", "repeat"] = "union"
    rows: PositiveInt | None = None
    split_rows: (
        Annotated[
            Annotated[PositiveInt, Tag("<number>")] | Annotated[Literal["all"], Tag("<all or a number of rows>")],
            Discriminator(lambda value: "<all or a number of rows>" if isinstance(value, str) else "<number>"),
        ]
        | None
    ) = None  # so many are split, and `rows` of them kept: smaller parts of the same sides; null: `rows` are split
    validation: Validation = 0.1
    test: Test = 0.1
    max_length: Annotated[
        Annotated[PositiveInt, Tag("<number>")] | Annotated[Literal["auto"], Tag("<auto or a number of tokens>")],
        Discriminator(lambda value: "<auto or a number of tokens>" if isinstance(value, str) else "<number>"),
    ] = "auto"
    prompt: Literal["auto", "chat", "alpaca"] = "auto"
    template_arguments: dict[str, Scalar] = Field(default_factory=dict)  # of the chat template
    train_on: Literal["all", "last", "everything"] = "all"  # assistant turns, the last of them, or every token
    split_by: str | None = None  # a column: rows that share its value stay on one side
    strict: bool = False

    @model_validator(mode="after")
    def _shares_and_sides(self) -> Self:
        shares = [source.share for source in self.sources]
        given = [share for share in shares if share is not None]
        faults = []
        if given and len(given) < len(shares):
            faults.append(f"`share` is given for {len(given)} of {len(shares)} sources: give it for all or for none")
        elif given and abs(sum(given) - 1) > 1e-6:
            faults.append(f"the shares of the sources add up to {sum(given):g}; they must add up to 1")
        if given and self.mixture == "union":
            faults.append(
                "`mixture: union` takes all rows and reads no `share`: choose `cap` or `repeat`, or remove them"
            )
        if not given and self.mixture != "union" and len(shares) > 1:
            faults.append(f"`mixture: {self.mixture}` needs a `share` for each source")
        sides = [side for side in (self.validation, self.test) if isinstance(side, float)]
        if sum(sides) >= 1:
            faults.append(f"`validation` and `test` take {sum(sides):g} of the rows: none are left to train on")
        if isinstance(self.split_rows, int) and (self.rows is None or self.rows > self.split_rows):
            faults.append(f"`rows` of {self.split_rows:,} `split_rows` are kept: give at most so many")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class TrainerConfig(MayImport):
    """What trains: `packed`, `transformers`, or a function of one's own with the signature of `training.steps`."""

    name: Literal["packed", "transformers", "import"] = "packed"


InitLoraWeights = Literal[True, "gaussian", "orthogonal", "pissa", "olora"]


def _init_lora_weights(value: Any) -> Any:
    if (message := hyperparameters.LORA["init_lora_weights"].fault(value)) is not None:
        raise ValueError(message)
    return value


class TrainingConfig(Section):
    """How each trial is trained. What the space moves takes the place of the value given here."""

    trainer: Annotated[TrainerConfig, BeforeValidator(named_or_imported)] = TrainerConfig()
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 16
    gradient_accumulation: PositiveInt = 1
    lr_scheduler: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    max_grad_norm: PositiveReal = 1.0
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    lora_plus_ratio: PositiveReal = 1.0  # of B's rate to A's, which is the learning rate
    neftune_alpha: Annotated[Real, Field(ge=0)] = 0.0  # of the noise on embeddings in training; 0: none
    target_modules: Annotated[
        Annotated[Literal["all-linear"], Tag("<all-linear or a list of module names>")]
        | Annotated[tuple[str, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(lambda v: "<all-linear or a list of module names>" if isinstance(v, str) else "<list>"),
    ] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Annotated[InitLoraWeights, PlainValidator(_init_lora_weights)] = True
    gradient_checkpointing: Annotated[
        Annotated[bool, Tag("<true or false>")] | Annotated[Literal["auto"], Tag("<auto, true or false>")],
        Discriminator(lambda value: "<auto, true or false>" if isinstance(value, str) else "<true or false>"),
    ] = "auto"  # true: less memory, more time
    pass_tokens: PositiveInt | None = None  # that the packed trainer computes at once; null: by the device's memory
    precision: Precision = "auto"  # of the training's products
    keep_adapters: PositiveInt = 5
    checkpoint_minutes: PositiveReal | None = 10.0  # how often a running trial saves where it is; null: never


class Interval(Section):
    """An interval of the space; both ends belong to it."""

    low: Real
    high: Real
    log: bool = False
    power_of: Literal[2] | None = None
    integer: bool | None = None  # rank, epochs and batch_size are whole anyway, and so is alpha unless this is false

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        ends = (self.low, self.high)
        if self.low == self.high:
            raise ValueError(f"low and high are both {self.low:g}: write the value alone to fix it")
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: exchange them")
        if self.power_of == 2 and any(end < 1 or not math.log2(end).is_integer() for end in ends):
            raise ValueError(f"`power_of: 2` needs bounds such as 4 and 256, not {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"`log: true` needs a low above 0, not {self.low:g}")
        if self.integer and not all(end.is_integer() for end in ends):
            raise ValueError(f"`integer: true` needs whole bounds, not {self.low:g} and {self.high:g}")
        return self


class LoraObjectiveConfig(Section):
    """The objective: validation loss of a LoRA fine-tuning, at its best or its last epoch."""

    at: Literal["best", "last"] = "best"


class CommandObjectiveConfig(Section):
    """Any program as the black box: `{name}` in `command` is filled in, the last JSON line that it prints is read."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    result: str = "loss"  # key of the JSON line that holds the value to minimise
    directory: str = "."  # where it runs: the YAML's folder (absolute once read)


class TrainerObjectiveConfig(Section):
    """Another fine-tuning tool as the black box, with the user's own settings for it; see `objectives/trainer.py`.

    Attributes:
        trainer: whose keys `config` has. config: the settings of one training (absolute once read).
        command: what runs them; `{config}` is the file of a trial. null: the tool's usual command.
        directory: where it runs: the YAML's folder (absolute once read).
        at: the loss that counts: of the best evaluation, or of the last one.
        checkpoints: whether what it saved is kept, of the trials that `training.keep_adapters` keeps.
    """

    trainer: ToolName
    config: str
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    directory: str = "."
    at: Literal["best", "last"] = "best"
    checkpoints: Literal["kept", "dropped"] = "kept"

    @model_validator(mode="after")
    def _takes_the_settings(self) -> Self:
        if self.command is not None and not any("{config}" in part for part in self.command):
            raise ValueError(
                "`command` must hold {config}, which becomes a trial's file, as [.., --config, '{config}']"
            )
        return self


class SamplerConfig(MayImport):
    """The sampler and its options; `import` names a sampler of one's own (a file's path is absolute once read)."""

    name: SamplerName = "auto"
    block_size: PositiveInt | None = None
    asynchronous: bool = False  # true: a process that is free gets its next points while others still run
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def fixed(self) -> dict[str, Any]:
        """What of it cannot change once the study has begun; which Python runs NNI may, and when it is asked."""
        dumped = self.model_dump(mode="json", exclude={"block_size", "asynchronous"})
        if self.name == "nni-tpe":
            dumped["options"].pop("python", None)
        return dumped


class WarmStartConfig(Section):
    """Another study, whose finished trials the sampler knows from the start; `study` is absolute once read.

    `as_is`: its values stand as they are. `shifted`: its best few are evaluated again, and the others move with them.
    `again`: so many of its best are the first trials after the baseline, whatever the sampler.
    `rates`: `moved`: where its model is of another size, learning rates are moved as is known of others; or `as_is`.
    """

    study: str
    values: Literal["as_is", "shifted"] = "as_is"
    again: Annotated[int, Field(ge=0)] = 0
    rates: Literal["moved", "as_is"] = "moved"

    @property
    def shown(self) -> str:
        """What messages and the record call it: the last part of its path, so that studies may be moved."""
        return Path(self.study).name

    @property
    def fixed(self) -> dict[str, Any]:
        """What of it cannot change once the study has begun."""
        again = {"again": self.again} if self.again else {}  # a study that was begun before there was such a key
        rates = {"rates": self.rates} if self.rates != "moved" else {}
        return {"study": self.shown, "values": self.values, **again, **rates}


class WorkerConfig(Section):
    """Where trials run."""

    name: Literal["local", "ray", "slurm"] = "local"
    address: str | None = None  # ray: of the cluster; null: the one that this machine belongs to, else one of its own
    accelerator: str | None = None  # the nodes' kind of GPU: as Ray calls it; with SLURM, as `check --device-like`
    files: str | None = None  # ray: a URL (s3://..) through which adapters and checkpoints cross; null: as bytes
    autoscale: bool = False  # ray: ask the cluster's autoscaler for nodes for `processes`, while they are needed
    slurm: dict[str, Scalar] = Field(default_factory=dict)  # what sbatch is asked for: partition, time (minutes), ..
    cluster: Literal["slurm", "local"] = "slurm"  # submitit's name of where jobs run; local: on this machine, to try it
    processes: PositiveInt | None = None  # default: one a visible GPU; on a CPU one a core, as memory allows
    threads: PositiveInt | None = None  # CPU threads a process; default: cores over processes
    devices_per_trial: PositiveInt = 1  # that share the rows of a trial or pack; on a CPU processes of so many threads
    shard_model: bool = False  # whether the base's layers are cut over the devices of a trial (FSDP2)
    pack: Annotated[
        Annotated[PositiveInt, Tag("<number>")] | Annotated[Literal["auto"], Tag("<auto or a number of trials>")],
        Discriminator(lambda value: "<auto or a number of trials>" if isinstance(value, str) else "<number>"),
    ] = "auto"  # trials that a process trains together
    attempts: PositiveInt = 3

    @model_validator(mode="after")
    def _of_their_worker(self) -> Self:
        belong = {"address": ("ray",), "accelerator": ("ray", "slurm"), "slurm": ("slurm",), "cluster": ("slurm",)}
        belong |= {"autoscale": ("ray",), "files": ("ray",)}
        unset = WorkerConfig.model_construct()
        faults = [
            f"`{key}` is read where `name` is {' or '.join(names)}, not {self.name}"
            for key, names in belong.items()
            if self.name not in names and getattr(self, key) != getattr(unset, key)
        ]
        if self.name == "slurm" and self.processes is None:
            faults.append("`name: slurm` needs `processes`: how many jobs there shall be, each for a trial or pack")
        if self.autoscale and self.processes is None:
            faults.append("`autoscale` needs `processes`: how many trials or packs shall run at once, at most")
        gpu = {"gres", "gpus_per_node", "gpus_per_task"} & self.slurm.keys()
        if gpu and self.accelerator is None:
            faults.append(
                "`slurm` asks for GPUs; say which by `accelerator`, such as H100 or 24GB: memory is planned by it"
            )
        if self.shard_model and self.devices_per_trial == 1:
            faults.append("`shard_model` cuts the base over several devices: give `devices_per_trial: 2` or more")
        asked = [str(self.slurm[key]).rpartition(":")[2] for key in sorted(gpu)]
        if any(count.isdigit() and int(count) < self.devices_per_trial for count in asked):
            faults.append(
                f"`slurm` asks for {' and '.join(asked)} GPUs a job, and a trial takes {self.devices_per_trial} of them"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _entry(value: Any) -> str:
    if isinstance(value, Mapping | Interval):
        return "<interval>"
    return "<choices>" if isinstance(value, list | tuple) else "<value>"


class MetricConfig(Section):
    """A metric of one's own: `score(row, answer) -> float`, on generated answers of validation rows."""

    file: str  # absolute once read
    function: str = "score"
    direction: Literal["maximize", "minimize"] = "maximize"


class ReportToConfig(Section):
    """Trackers that mirror the study: see `meshtune.study.mirrors`. None of it changes a trial."""

    trackers: tuple[Tracker, ...] = ()
    artifacts: bool = False  # of MLflow and W&B: the adapters that are kept


class GenerationConfig(Section):
    """The answers that untuned, baseline and best give to validation rows at the end, greedily decoded."""

    rows: Annotated[int, Field(ge=0)] | None = None  # null: 4, or 64 where there are metrics; 0: none
    max_new_tokens: PositiveInt = 128


Entry = Annotated[
    Annotated[Interval, Tag("<interval>")]
    | Annotated[tuple[Scalar, ...], Field(min_length=1), Tag("<choices>")]
    | Annotated[Scalar, Tag("<value>")],
    Discriminator(_entry),
]


def is_command(objective: Any) -> bool:
    """Whether an `objective` section, read or not, is a program: a command, or another tool that trains."""
    given = isinstance(objective, Mapping) and "command" in objective
    return isinstance(objective, CommandObjectiveConfig) or given or is_trainer(objective)


def is_trainer(objective: Any) -> bool:
    """Whether an `objective` section, read or not, is another tool that trains."""
    return isinstance(objective, TrainerObjectiveConfig) or (isinstance(objective, Mapping) and "trainer" in objective)


def _objective(value: Any) -> str:
    if is_trainer(value):
        return "<TrainerObjectiveConfig>"
    return "<CommandObjectiveConfig>" if is_command(value) else "<LoraObjectiveConfig>"


class StudyConfig(Section):
    """A whole study.yaml."""

    model: Annotated[ModelConfig, BeforeValidator(named)] | None = None
    data: DataConfig | None = None
    training: TrainingConfig = TrainingConfig()
    objective: Annotated[
        Annotated[LoraObjectiveConfig, Tag("<LoraObjectiveConfig>")]
        | Annotated[CommandObjectiveConfig, Tag("<CommandObjectiveConfig>")]
        | Annotated[TrainerObjectiveConfig, Tag("<TrainerObjectiveConfig>")],
        Discriminator(_objective),
    ] = LoraObjectiveConfig()
    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("validation_loss",)
    constraints: tuple[str, ...] = ()
    guide: GuideConfig | None = None
    space: Annotated[
        Annotated[str, Tag("<preset>")] | Annotated[dict[str, Entry], Field(min_length=1), Tag("<mapping>")],
        Discriminator(lambda value: "<preset>" if isinstance(value, str) else "<mapping>"),
    ] = "recommended"
    baseline: (
        Annotated[
            Annotated[str, Tag("<word>")] | Annotated[dict[str, Scalar], Tag("<mapping>")],
            Discriminator(lambda value: "<word>" if isinstance(value, str) else "<mapping>"),
        ]
        | None
    ) = None  # common (null) and advised are its words
    priors: tuple[str, ...] = ()  # files of a team's own LoRA runs, which the advice counts in; see docs/priors.md
    sampler: Annotated[SamplerConfig, BeforeValidator(named_or_imported)] = SamplerConfig()
    warm_start: Annotated[WarmStartConfig, BeforeValidator(of_study)] | None = None
    budget: BudgetConfig = BudgetConfig()
    stop_when: StopWhenConfig | None = None
    early_stopping: Annotated[EarlyStoppingConfig, BeforeValidator(of_rule)] = EarlyStoppingConfig(rule="none")
    replicates: Replicates = 0
    worker: Annotated[WorkerConfig, BeforeValidator(named)] = WorkerConfig()
    metrics: dict[str, MetricConfig] = Field(default_factory=dict)
    generation: GenerationConfig = GenerationConfig()
    rounds: tuple[dict[str, Any], ...] = ()  # changes of the above, a study each; see `meshtune.config.rounds`
    evaluation: EvaluationConfig = EvaluationConfig()
    report_to: Annotated[ReportToConfig, BeforeValidator(of_trackers)] = ReportToConfig()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    folder: str | None = None
    storage: str | None = None
