"""What one adapter is trained with: the study's training section, with the trial's hyperparameters in its place.

Both trainers read it. Values only: nothing is trained here, and torch is not loaded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from meshtune.errors import Fault, InputError, nearest
from meshtune.space.hyperparameters import LORA, WHOLE

if TYPE_CHECKING:
    from meshtune.config.sections import TrainingConfig
    from meshtune.space.space import Space

REQUIRED = ("rank", "alpha", "dropout", "learning_rate")
DECAY = 0.2  # of the steps in which `wsd` lets its rate fall, the last ones
LATER = ("lora_plus_ratio", "optimizer", "neftune_alpha")  # keys that earlier versions did not know
NO_VECTORS = "`muon` takes matrices only, and DoRA trains vectors too: write `adamw`, or `use_dora: false`"
CHANGING = ("pissa", "olora")  # start weights that change the base's
DECIDING = ("target_modules", "use_dora", "init_lora_weights")  # hyperparameters that may keep a trial from a pack
KNOWN = tuple(name for name in LORA if name not in ("scale", "step"))  # which are decoded before they come here


@dataclass(frozen=True)
class Recipe:
    """One adapter's training, complete.

    Attributes:
        alpha: the adapter's product is scaled by alpha / rank (rsLoRA: alpha / sqrt(rank)).
        batch_size: rows of a micro-batch; `gradient_accumulation` of them make an optimizer step.
        lr_scheduler: `constant`, `linear`, `cosine` or `wsd`, after `warmup_ratio` of the steps of linear warm-up.
        use_rslora, use_dora, init_lora_weights: as PEFT's `LoraConfig` names them.
        target_modules: `all-linear` (the output head excepted) or names of modules.
        seed: of the adapter's start, the dropout masks and the order of the rows.
        pass_tokens: that the packed trainer computes at once, at most; None: what suits the device. Rows are cut by it,
            on which the dropout masks depend.
        lora_plus_ratio: of the rate of B to `learning_rate`, which is A's.
        optimizer: `adamw`, `adamw_8bit` or `muon`, which takes matrices only, so not DoRA's magnitudes.
        neftune_alpha: of the noise on embeddings in training (NEFTune); 0: there is none.
    """

    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    epochs: int
    batch_size: int
    gradient_accumulation: int
    lr_scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    target_modules: str | tuple[str, ...]
    use_rslora: bool
    use_dora: bool
    init_lora_weights: bool | str
    gradient_checkpointing: bool
    precision: str
    seed: int
    pass_tokens: int | None = None
    lora_plus_ratio: float = 1.0
    optimizer: str = "adamw"
    neftune_alpha: float = 0.0

    def __repr__(self) -> str:
        """What tells trainings apart in saved states: without keys that came later, where they have their default."""
        names = (field.name for field in fields(self) if field.name not in LATER or field.name in self.later)
        return f"Recipe({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def later(self) -> dict[str, Any]:
        """The keys that earlier versions did not know, where they have not their default."""
        return {name: getattr(self, name) for name in LATER if getattr(self, name) != getattr(Recipe, name)}


def recipe(training: TrainingConfig, hyperparameters: Mapping[str, Any], seed: int) -> Recipe:
    """The recipe of a trial: what its hyperparameters name takes the place of what the config says.

    `target_modules` may be given as one text, with commas between the names.

    Raises:
        InputError: a hyperparameter is missing, unknown or beyond what can be trained.
    """
    faults = [Fault("is missing", key=name) for name in REQUIRED if name not in hyperparameters]
    for name, value in hyperparameters.items():
        if name not in KNOWN:
            faults.append(
                Fault(f"unknown hyperparameter; there are {', '.join(KNOWN)}.{nearest(name, KNOWN)}", key=name)
            )
        elif (message := LORA[name].fault(value)) is not None:
            faults.append(Fault(message, key=name))
    given = {name: hyperparameters.get(name, getattr(training, name)) for name in ("optimizer", "use_dora")}
    if given["optimizer"] == "muon" and given["use_dora"]:
        faults.append(Fault(NO_VECTORS, key="optimizer"))
    if faults:
        raise InputError(faults)
    names = {field.name for field in fields(Recipe)}
    values = {name: value for name, value in training.model_dump().items() if name in names}
    values |= {name: int(value) if name in WHOLE else value for name, value in hyperparameters.items()}
    values["target_modules"] = target_modules(values["target_modules"])
    values["gradient_checkpointing"] = values["gradient_checkpointing"] is True  # a plan makes one of `auto`
    return Recipe(**values, seed=seed)


def other_steps(training: TrainingConfig, fixed: Mapping[str, Any] | None = None) -> list[str]:
    """The keys by which an adapter is trained otherwise than by AdamW with one rate, or with noise.

    `fixed` ones, of the space, count before the section.
    """
    unset, given = type(training)(), fixed or {}
    return [name for name in LATER if given.get(name, getattr(training, name)) != getattr(unset, name)]


def target_modules(value: Any) -> str | tuple[str, ...]:
    """`all-linear` or the names, which may come as one text with commas between them."""
    if value == "all-linear":
        return "all-linear"
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names if name.strip())


def check_cut(recipe: Recipe) -> None:
    """Refuse what reads or changes weights of a base that is cut over devices. Raises InputError."""
    start = recipe.init_lora_weights
    what = "DoRA (`use_dora: true`) reads" if recipe.use_dora else f"the start weights `{start}` change"
    if recipe.use_dora or start in CHANGING:
        text = f"{what} the base's weights, and each device has a part of them: leave one of the two out"
        raise InputError(Fault(text, key="worker.shard_model"))


def variants(space: Space, baseline: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Of the hyperparameters that decide whether a trial can be packed, all combinations that the study may hold."""
    held: dict[str, tuple[Any, ...]] = {name: (space.fixed[name],) for name in DECIDING if name in space.fixed}
    for dimension in space.dimensions:
        if dimension.name in DECIDING:
            held[dimension.name] = dimension.listed
    for values in itertools.product(*held.values()):
        yield dict(zip(held, values, strict=True))
    if baseline is not None:
        yield {name: baseline[name] for name in DECIDING if name in baseline}


def schedule(recipe: Recipe, steps: int) -> tuple[str, dict[str, Any]]:
    """The schedule of so many steps as Transformers names it, and its arguments beside the warm-up and the steps.

    `wsd` (warm-up, stable, decay) stays at its rate until the last `DECAY` of the steps, in which it falls in a line.
    """
    match recipe.lr_scheduler:
        case "constant":
            return "constant_with_warmup", {}  # Transformers' own `constant` knows no warm-up
        case "wsd":
            return "warmup_stable_decay", {"num_decay_steps": decay_steps(recipe, steps), "decay_type": "linear"}
        case name:
            return name, {}


def steps_of(recipe: Recipe, rows: int) -> int:
    """Optimizer steps of so many rows."""
    return recipe.epochs * math.ceil(rows / (recipe.batch_size * recipe.gradient_accumulation))


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Of so many."""
    return math.ceil(recipe.warmup_ratio * steps)


def decay_steps(recipe: Recipe, steps: int) -> int:
    """Of so many with `wsd`: after the warm-up at least."""
    return min(math.ceil(DECAY * steps), steps - warmup_steps(recipe, steps))
