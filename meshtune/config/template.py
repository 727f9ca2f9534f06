"""`meshtune init`: write a study.yaml that explains every key and is valid as it stands.

A recipe is a set of values in one commented text, so that every recipe shows every key. The test of this file holds
the text against the types in `meshtune.config.sections`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from meshtune.errors import InputError, StorageError, nearest
from meshtune.system import whole_file

NAME = "study.yaml"

EMBEDDED_DATA = """    - {embedded: python-stdlib-describe, share: 0.7}
    - {embedded: python-stdlib-signature, share: 0.3}"""


@dataclass(frozen=True)
class Recipe:
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
    trials: int = 30
    processes: str = "null"
    sampler: str = "auto"
    benchmarks: str = "[]"
    best: int = 5
    worst: int = 0


DEFAULT = Recipe()

# A trial of rank 256 takes several times as long as one of rank 16 on a CPU, and gains nothing in so few steps.
SMALL_SPACE = """
  rank: {low: 4, high: 32, power_of: 2}
  scale: {low: 0.25, high: 32, log: true}
  dropout: [0, 0.05, 0.1]
  step: {low: 1e-3, high: 1, log: true}"""

# Small enough for minutes on two cores, and with steps enough that the losses move.
QUICKSTART = Recipe(
    title="The quickstart: a real search in minutes, on the embedded model and data.",
    rows="160",
    validation="32",
    test="52",
    epochs=1,
    batch_size=4,
    space=SMALL_SPACE,
    trials=20,
    processes="2",
)

# The authors train 128 sequences a step: 4 a device, on 4 GPUs, with 8 accumulation steps. A trial here has one
# device, so 4 sequences x 32 steps of accumulation are the same step. Their split has no test rows (test: 0 is theirs).
TRIBES = Recipe(
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
    sampler="mads",
    benchmarks="[mmlu, bbh, drop, humaneval]",
    best=10,
    worst=10,
)

RECIPES = {"default": DEFAULT, "quickstart": QUICKSTART, "tribes2024": TRIBES}


def init(folder: Path, recipe: str | None, model: str | None, data: Path | None) -> Path:
    """Write `study.yaml` into a folder, which is made where it is missing; returns its path.

    Raises:
        InputError: an unknown recipe, data that are not there, or a study.yaml that is there already.
        StorageError: the folder cannot be written.
    """
    name = recipe or "default"
    if name not in RECIPES:
        raise InputError(f"unknown recipe `{name}`; there are {', '.join(RECIPES)}.{nearest(name, RECIPES)}")
    model, sources = given(model, data)
    chosen = RECIPES[name] if model is None else replace(RECIPES[name], model=model)
    if sources is not None:
        chosen = replace(chosen, sources=sources, mixture="union")
    return write(folder, text(chosen))


def given(model: str | None, data: Path | None) -> tuple[str | None, str | None]:
    """`--model` and `--data` as the text has them: a name, and lines of sources. Raises InputError: no such data."""
    if data is not None and not data.is_file():
        raise InputError(f"{data}: there is no such file; give one with instruction rows, or leave --data out")
    name = None if model is None else _quoted(_path_or_id(model))
    return name, None if data is None else f"    - {{path: {_quoted(str(data.absolute()))}}}"


def write(folder: Path, written: str) -> Path:
    """Write a study.yaml into a folder, which is made where it is missing; see `init` for what is raised."""
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


def _key(key: str, value: object) -> str:
    """A key and its value, padded to where the comments stand."""
    return f"{key}: {value}".ljust(30)


def _optional(key: str, value: object, default: object = "null") -> str:
    """A key that is commented out where it has its default."""
    return _key(f"  # {key.strip()}" if value == default else key, value)


def _space(space: str) -> str:
    """A preset, or a mapping whose entries follow, with the comment of the key."""
    names, lines = "recommended | tribes2024 | tribes2024-128", space.partition("\n")
    if lines[1]:
        return f"{_key('space', lines[0])} # here ranks that a CPU trains soon; or {names}\n{lines[2]}"
    return f"{_key('space', space)} # {names}, or a mapping such as the one below:"


def text(recipe: Recipe) -> str:
    """The commented study.yaml of a recipe."""
    return f"""\
# {recipe.title}
# `meshtune check` finds every fault in this file; `meshtune tune` runs it, and continues it after any interruption.
# What is commented out shows its default. Relative paths are relative to this file's folder.

model:
{_key("  name", recipe.model)} # embedded (SmolLM2-135M-Instruct), a Hugging Face id, a folder, or a .gguf file
  # revision: null             # branch, tag or commit of a Hugging Face id
  # dtype: auto                # of the frozen base: auto | float32 | bfloat16 | float16
  # quantization: null         # of its linear layers: null | int8 | nf4 (needs the extra `gpu`)
  # device: auto               # auto | cpu | cuda | mps
  # trust_remote_code: false   # true runs code that comes with the model: only where you trust it

data:
  # Each source has one of: path (JSON, JSON Lines, CSV, Parquet, also .gz), dataset (a Hugging Face id; with its
  # subset, where it has some, and its split, `train` unless given), embedded (python-stdlib-describe |
  # python-stdlib-signature). Further keys of a source: format (auto | alpaca | dolly | prompt-completion |
  # prompt-response | messages | sharegpt) and, for the mixtures cap and repeat, share: its part of the rows, which
  # add up to 1.
  sources:
{recipe.sources}
{_key("  mixture", recipe.mixture)} # union (all rows) | cap (largest exact mix, no repeats) | repeat (with replacement)
{_key("  rows", recipe.rows)} # at most so many rows, drawn by the seed; null: all
{_key("  validation", recipe.validation)} # the loss on these is minimised: a share, a number of rows, or {{path: FILE}}
{_key("  test", recipe.test)} # the same, never read by the search: best against baseline; 0: none
{_key("  max_length", recipe.max_length)} # in tokens; longer rows are dropped. auto: so that 99 % of the rows fit
{_key("  prompt", recipe.prompt)} # auto (the model's chat template if it has one) | chat | alpaca
  # split_rows: null           # split so many (or all) and keep `rows` of them: smaller parts of the same sides
  # template_arguments: {{}}     # for the chat template, such as {{enable_thinking: false}}
  # train_on: all              # loss on: all (every answer) | last (the last one) | everything (questions too)
  # split_by: null             # a column of the rows: those that share its value stay on one side of the split
  # strict: false              # true: a row that would be dropped is a fault

training:
  # trainer: packed            # several adapters over one base; transformers: Hugging Face's Trainer with PEFT, one at
                               # a time, also for what cannot be packed; or {{import: my_package.module:function}}
{_key("  epochs", recipe.epochs)} # passes over the training rows
{_key("  batch_size", recipe.batch_size)} # rows at once on the device
{_key("  gradient_accumulation", recipe.gradient_accumulation)} # batches to one step of the optimizer
  # lr_scheduler: cosine       # constant | linear | cosine, after the warm-up
  # warmup_ratio: 0.03         # share of the steps
  # weight_decay: 0.0
  # max_grad_norm: 1.0         # gradients are clipped to this norm
{_key("  target_modules", recipe.target_modules)} # all-linear (all but the output head), or a list of module names
  # use_rslora: false          # true: scaled by alpha / sqrt(rank) in place of alpha / rank
  # use_dora: false            # true: weights are split into magnitude and direction; slower
  # init_lora_weights: true    # PEFT's start weights: true | gaussian | orthogonal | pissa | olora
  # gradient_checkpointing: false  # true: less memory, more time
  # pass_tokens: null          # of packs at once: fewer take less memory; null: what suits the device and fits
{_key("  precision", recipe.precision)} # of the products in training: auto | float32 | bfloat16 | float16
  # keep_adapters: 5           # the best so many trials, and the baseline, keep their adapters
  # checkpoint_minutes: 10.0   # how often a running trial saves where it is; null: never

objective:                     # validation loss of a LoRA fine-tuning
{_key("  at", recipe.at)} # best (the lowest epoch, whose adapter is kept) | last
# objective:                   # or any program; the last line of its output that is a JSON object has the result
#   command: [python, train.py, "--lr={{learning_rate}}", "--seed={{seed}}"]  # also {{trial}} and {{folder}}
#   result: loss               # the key to minimise
#   directory: .               # where it runs

# objectives: [validation_loss]  # several: the Pareto set is searched. Also adapter_parameters, predicted_memory,
                               # perplexity (of general text), mmlu, bbh, drop, humaneval (the share of right answers),
                               # mmlu.gold (how likely the right one is), your metrics, hyperparameters
# constraints:                 # <= or >= a number; or, of what is measured, of `untuned` or `baseline` with + - or *
#   - adapter_parameters <= 5e6  # known before training, as predicted_memory <= 24 GiB or rank <= 64: costs no trial
#   - mmlu >= untuned - 0.01
#   - perplexity <= untuned * 1.02  # the model has not forgotten its language
# guide:                       # how these are measured with each trial
#   benchmarks: null           # the folder of their files, as `evaluation.data` below
#   limit: 40                  # items of each benchmark; `meshtune evaluate` asks others
#   text: embedded             # of the perplexity: embedded (the standard library's documentation) or a file
#   measure: []                # further quantities to measure and show, such as [perplexity]

{_space(recipe.space)}
# space:                       # an interval, a list of choices or a fixed value each; the rest stays at its default
#   rank: {{low: 4, high: 256, power_of: 2}}
#   scale: {{low: 0.25, high: 32, log: true}}  # alpha over rank (alpha is rounded to a whole number); or alpha
#   step: {{low: 1e-3, high: 1, log: true}}  # learning rate x alpha; or learning_rate
#   dropout: [0, 0.05, 0.1]
#   target_modules: [all-linear, [q_proj, v_proj]]  # all, or these two; [q_proj, v_proj] would be either one
#   epochs: {{low: 1, high: 3, integer: true}}
#   weight_decay: 0.01         # also batch_size, lr_scheduler, warmup_ratio, use_rslora, use_dora, init_lora_weights

# baseline:                    # the point to beat, where the search starts; unnamed keys: as the space says
#   rank: 16
#   alpha: 32                  # or scale
#   dropout: 0
#   learning_rate: 2e-4        # or step

sampler:
{_key("  name", recipe.sampler)} # auto | mads | batch-gp | tpe | nni-tpe | nsga2 | gp | cma-es | grid | random | qmc
                               # or, instead, an Optuna sampler of yours:
  # import: null               # my_package.module:MySampler or ./file.py:MySampler; it is called with `options`
  # block_size: null           # trials proposed together; null: as many as run at once
  # options: {{}}                # of the sampler itself

# warm_start:                  # another study, whose finished trials the sampler knows from the start
#   study: ../round1           # its folder or YAML; `warm_start: ../round1` is short for this
#   values: as_is              # as_is | shifted (mads, batch-gp): its best few are evaluated again, since its
#                              # losses are of other data, epochs or models
#   again: 0                   # so many of its best are evaluated again first, with any sampler

budget:                        # the first limit that is reached ends the search
{_key("  trials", recipe.trials)} # with the baseline
  # hours: null
  # tokens: null               # trained on, over all trials
  # kilowatt_hours: null       # of the processors and GPUs, where the machine lets them be read
  # trial_hours: null          # a longer trial ends as timed_out
  # price_per_hour: null       # of this machine, in any currency: shown, and decides nothing

# stop_when:                   # ends the search before the budget is spent
#   no_improvement: 20         # after so many trials without a better one, beyond noise
#   noise: 0.0                 # the least gain in loss that counts; what `replicates` measured takes its place
#   target: null               # once the best loss is as low

# early_stopping: none         # none | default | median | asha | curve, or a mapping:
# early_stopping:
#   rule: default
#   rungs: [0.1, 0.15, 0.3, 0.5, 0.7]  # shares of a trial's tokens after which it goes on or ends
#   startup: 3                 # trials that reach their end before any is stopped; 3 at least
#   keep: 0.5                  # share that goes on from each rung, whatever the rule says
#   confidence: 0.9            # of the rule curve, that what it stops would not have become the best
#   rows: 64                   # validation rows that a rung is measured on
#   promote: 3                 # at most so many stopped trials are trained to the end before anything is chosen
#   told: predicted            # to the sampler: predicted (the loss at the end) | failed

# replicates: 0                # trainings of the best point with other seeds at the end: how large is seed noise?

worker:
  name: local                  # this machine
{_optional("  processes", recipe.processes)} # null: one a visible GPU; on a CPU one a core, as memory allows
  # threads: null              # CPU threads a process; null: cores over processes
  # pack: auto                 # trials that a process trains together, over one base; or a number
  # attempts: 3                # crashes of a trial before it is given up

# metrics:                     # your own: score(row, answer) -> float, on answers to validation rows
#   exact: {{file: metrics.py, function: score, direction: maximize}}  # or minimize

generation:                    # answers to validation rows, by the untuned model, the baseline and the best
  # rows: null                 # null: 4, or 64 where there are metrics; 0: none
  # max_new_tokens: 128

# rounds:                      # several searches, each from what the last one found; changes of the above for each
#   - {{data: {{rows: 500}}, training: {{epochs: 1}}, budget: {{trials: 50}}}}  # cheap trials
#   - {{budget: {{trials: 20}}, warm_start: {{values: shifted}}}}  # then full ones; as_is | shifted, again: 4
#                              # `hours` and `tokens` of the budget above are of all rounds together

evaluation:                    # what `meshtune evaluate` scores: the best and worst trials, the baseline, the untuned
  # protocol: instruct-eval    # instruct-eval (mmlu, bbh, drop, humaneval) | harness (tasks of lm-evaluation-harness)
{_optional("  benchmarks", recipe.benchmarks, "[]")} # such as [mmlu, humaneval]; []: all that the data hold
  # data: null                 # the folder of their files; null: the Hugging Face hub
  # tasks: null                # a folder of your own YAML tasks, for the harness
  # limit: null                # items of each benchmark, chosen by the seed below; null: all
{_optional("  best", recipe.best, 5)} # trials with the lowest loss
{_optional("  worst", recipe.worst, 0)} # trials with the highest; adapters that were not kept are trained again
  # temperature: 0.0           # 0: greedy decoding
  # samples: 1                 # answers to each problem of HumanEval, for pass_at; needs a temperature above 0
  # pass_at: []                # such as [1, 10]
  # guided: null               # a file of items that guided the search (JSON lines: benchmark, item); left out
  # seed: 0

seed: 0                        # of everything random
# folder: null                 # of the study; null: beside this file, with its name
# storage: null                # such as postgresql://user@host/db (docs/cluster.md); null: study.db in the folder
"""
