"""The keys of a foreign YAML file while it is read: what was taken, what is left and why, and faults with their lines.

Whatever stands in the file ends in one of three places: a value of study.yaml, the list of what is left, or a fault.
Keys that say nothing (null, false, empty) are taken silently.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault
from meshtune.space.hyperparameters import LORA, Number
from meshtune.system.yaml_file import Document, Place
from meshtune.training.recipe import DECAY

DEFAULT_WARMUP = 0.03
_SECRET = re.compile(r"(key|token|secret|password|webhook_url)$")  # such values are not printed
_COUNT = LORA["epochs"]
_SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
_ADAMW_8BIT = ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")
_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf")

NO_COUNTERPART = "no counterpart in study.yaml"
ONE_FILE = "validation rows are split from the data, or stand in one file"
# Why keys of either tool are left: a reason a line, below it how the names of its keys begin.
_REASONS = """
`model.quantization` (int8 or nf4) is all that says how a base is quantized; its scales are not quantized again
    load_in_ quantization_ model_quantization quantize_ double_quantization bnb_ gptq
rows are trained as they are, never packed into one
    sample_packing eval_sample_packing packing neat_packing pad_to_sequence_len group_by_length batch_flattening
how attention and kernels are computed is left to the libraries
    flash_attn flash_attention sdp_attention xformers_attention eager_attention attn_implementation enable_liger
    liger_ lora_mlp_kernel lora_qkv_kernel lora_o_kernel use_unsloth torch_compile tf32 plugins
    gradient_checkpointing_kwargs activation_offloading cut_cross_entropy fused_ flex_attn
    experts_implementation use_kernels use_scattermoe
the length of a training is given in epochs
    max_steps
only the adapter is trained
    lora_modules_to_save additional_target unfrozen_parameters
adapters stand on modules, not on single parameters
    lora_target_parameters
the embedding is not trained
    loraplus_lr_embedding embedding_lr
how a trial ends early is the study's to say
    early_stopping loss_watchdog
only text is trained on
    image_ video_ freeze_ processor_type skip_prepare_dataset
the end of a turn follows from the chat template
    eot_tokens
AdamW has its usual constants
    adam_beta adam_epsilon optim_args
several devices of a trial hold the whole model each (worker.devices_per_trial)
    deepspeed fsdp ddp device_map ray_ tensor_parallel context_parallel sequence_parallel expert_parallel
files, logs and progress are meshtune's own
    output_dir overwrite_ logging_ log_level save eval per_device_eval_batch_size predict_with_generate do_eval
    do_predict wandb_ mlflow_ comet_ swanlab_ use_swanlab use_tensorboard plot_loss report_to run_name hub_
    push_to_hub include_ resume_from_checkpoint load_best_model_at_end metric_for_best_model greater_is_better
data are prepared once, into the study's folder
    dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory preprocessing_ dataloader_
    tokenized_path overwrite_cache streaming
how models are loaded follows from the model itself
    model_type tokenizer_type tokenizer_use_fast use_fast_tokenizer is_ strict low_cpu_mem_usage
the tokenizer is used as it is; a missing padding token is handled
    special_tokens tokens resize_
runs code that comes with the model: write `trust_remote_code: true` yourself where you trust it
    trust_remote_code
"""
REASONS = {
    why: tuple(starts.split()) for why, starts in re.findall(r"^(\S.*)\n((?: {4}.*\n)+)", _REASONS, flags=re.MULTILINE)
}


@dataclass(frozen=True)
class Left:
    """A key that was not carried over: its dotted name, its value and the reason."""

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        text = json.dumps(self.value, ensure_ascii=False) if not isinstance(self.value, str) else self.value
        text = "***" if _SECRET.search(self.key) else " ".join(text.split())
        return f"{self.key}: {text if len(text) <= 60 else text[:57] + '...'} ({self.why})"


class Keys:
    """A document, and what has become of its keys. Paths in it are relative to `folder`, the file's own."""

    def __init__(self, document: Document, file: Path):
        self.values = document.values
        self.lines = document.lines
        self.file = file
        self.folder = file.absolute().parent
        self.faults: list[Fault] = []
        self.left: list[Left] = []
        self._taken: set[str] = set()

    def given(self, key: str) -> bool:
        """Whether the file gives a value for the key."""
        return self.values.get(key) is not None

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default; from now on it counts as read."""
        self._taken.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def fault(self, key: str | Place, message: str) -> None:
        """Note a fault at the line of a key, or of the nearest one around it; without one, at the first line."""
        place = (key,) if isinstance(key, str) else key
        inside = place
        while inside and inside not in self.lines:
            inside = inside[:-1]
        self.faults.append(Fault(message, self.file, self.lines.get(inside, 1), _dotted(place)))

    def leave(self, key: str | Place, why: str) -> None:
        """Note that a key is not carried over."""
        place = (key,) if isinstance(key, str) else key
        value: Any = self.values
        for step in place:
            value = value[int(step)] if isinstance(value, list) else value.get(step)
        self._taken.add(str(place[0]))
        self.left.append(Left(_dotted(place), value, why))

    def rest(self) -> None:
        """Leave every key that was not read, unless it says nothing."""
        for key, value in self.values.items():
            if key not in self._taken and value not in (None, False, "", [], {}):
                reasons = [why for why, starts in REASONS.items() if key.startswith(starts)]
                self.leave(key, reasons[0] if reasons else NO_COUNTERPART)

    def text(self, key: str) -> str:
        """A text that must be there; a fault where it is not."""
        value = self.take(key)
        if isinstance(value, str) and value.strip():
            return value
        self.fault(key, "is missing: text is needed" if value is None else f"`{value}` is not text")
        return ""

    def hyperparameter(self, key: str, name: str, default: Any) -> Any:
        """A hyperparameter under its foreign key; a fault where meshtune cannot train with it, or it is missing."""
        value = _number(self.take(key, default))
        kind = LORA[name]
        if value is None:
            self.fault(key, "is missing, and the tool itself has no default for it")
        elif (message := kind.fault(value)) is not None:
            self.fault(key, message)
        elif isinstance(kind, Number) and kind.whole:
            return int(value)
        return value

    def whole(self, key: str, default: int) -> int:
        """A whole number of at least 1; a fault where it is none."""
        value = _number(self.take(key, default))
        message = _COUNT.fault(value)
        if message is not None:
            self.fault(key, message)
            return default
        return int(value)

    def positive(self, key: str, default: float) -> float:
        """A number above 0; a fault where it is none."""
        value = _number(self.take(key, default))
        message = LORA["learning_rate"].fault(value)
        if message is not None:
            self.fault(key, message)
            return default
        return float(value)

    def epochs(self, key: str, default: int) -> int:
        """Epochs, which are whole here: part of one is rounded up, and left."""
        value = _number(self.take(key, default))
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            self.fault(key, f"`{value}` is not allowed; a number above 0 is")
            return default
        if value != math.ceil(value):
            self.leave(key, f"epochs are whole here: {math.ceil(value)} is taken")
        return math.ceil(value)

    def start_weights(self, key: str) -> bool | str:
        """PEFT's `init_lora_weights`, where meshtune knows it."""
        value = self.take(key, True)
        if LORA["init_lora_weights"].fault(value) is None:
            return value if isinstance(value, str) else True
        self.leave(key, "the start weights of meshtune are true, gaussian, orthogonal, pissa and olora")
        return True

    def precision(self, bf16: Iterable[str], fp16: Iterable[str], *, default: str) -> str:
        """The precision of the products: the first key of a kind that is on; float32 where one is switched off."""
        on = {key: self.take(key) for key in (*bf16, *fp16)}
        if any(on[key] is True or on[key] in ("full", "true") for key in bf16):
            return "bfloat16"
        if any(on[key] is True for key in fp16):
            return "float16"
        if any(on[key] == "auto" for key in bf16):
            return "auto"
        return "float32" if any(value is False for value in on.values()) else default

    def optimizer(self, key: str) -> str:
        """The optimizer, by its name here; AdamW in place of another one, which is left."""
        given = self.take(key, "adamw_torch")
        if given in _ADAMW_8BIT:
            return "adamw_8bit"
        if given not in _ADAMW:
            self.leave(key, "trials are trained with AdamW (adamw_torch or adamw_bnb_8bit) or Muon")
        return "adamw"


def schedule(keys: Keys, key: str, *, default: str, default_warmup: float) -> dict[str, Any]:
    """`lr_scheduler` and `warmup_ratio`; a number of warm-up steps is left, since meshtune takes a share."""
    name = str(keys.take(key, default))
    scheduler = _SCHEDULERS.get(name, "cosine")
    if name not in _SCHEDULERS:
        keys.leave(key, "the schedulers of meshtune are constant, linear, cosine and wsd: cosine is taken")
    if scheduler == "wsd" and keys.take("lr_scheduler_kwargs") is not None:
        keys.leave(
            "lr_scheduler_kwargs", f"the rate of `wsd` falls in a line, in the last {100 * DECAY:g} % of the steps"
        )
    ratio = keys.hyperparameter("warmup_ratio", "warmup_ratio", default_warmup)
    steps = _number(keys.take("warmup_steps"))
    if steps is not None and isinstance(steps, int | float) and 0 <= steps < 1:
        ratio = steps if steps or not keys.given("warmup_ratio") else ratio
    elif steps is not None:
        ratio = DEFAULT_WARMUP
        keys.leave("warmup_steps", f"the warm-up is a share of the steps here: {DEFAULT_WARMUP} is taken")
    if name == "constant" and ratio:
        if keys.given("warmup_ratio"):
            keys.leave("warmup_ratio", "without effect where the scheduler is `constant`")
        ratio = 0.0
    return {"lr_scheduler": scheduler, "warmup_ratio": ratio}


def share(keys: Keys, key: str) -> int | float | None:
    """Validation rows: a share or a number; None where the file sets none aside."""
    value = _number(keys.take(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or not math.isfinite(value):
        keys.fault(key, f"`{value}` is not allowed; a share below 1 or a number of rows is")
        return None
    if value == 0:
        keys.leave(key, "the search needs validation rows: the usual share is taken")
        return None
    if 0 < value < 1:
        return value
    return int(value)


def scalars(keys: Keys, key: str, given: Any) -> dict[str, Any]:
    """The entries of a mapping that are single values; the others are left."""
    if not isinstance(given, dict):
        keys.fault(key, "must be a mapping")
        return {}
    for name, value in given.items():
        if not isinstance(value, bool | int | float | str):
            keys.leave((key, name), "only single values are carried over")
    return {name: value for name, value in given.items() if isinstance(value, bool | int | float | str)}


def place_of(name: str, folder: Path) -> str:
    """A model's or data set's name: an absolute path where it is one or looks like one, else as it is given.

    A relative path is looked for from the file's folder, then from where the command runs.
    """
    for start in (folder, Path.cwd()):
        if name and (start / name).exists():
            return os.path.abspath(start / name)
    looks = name.startswith((".", "/", "~")) or name.count("/") > 1
    looks = looks or name.lower().endswith((".json", ".jsonl", ".csv", ".parquet", ".gguf", ".gz"))
    return os.path.abspath(folder / os.path.expanduser(name)) if name and looks else name


def _number(value: Any) -> Any:
    """Texts such as `1e-4` in quotes are numbers to these tools."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))
