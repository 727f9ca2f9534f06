"""What the tests of `foreign` share: a study, its points, the known names of settings, and two usual files."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from meshtune.config import file
from meshtune.config.sections import StudyConfig
from meshtune.export.foreign import ForeignStudy, settings_of

POINT = {"rank": 16, "alpha": 32.0, "dropout": 0.05, "learning_rate": 2e-4}
FACTS = {
    "study": "support",
    "trial": 12,
    "loss": 1.25,
    "baseline_loss": 1.5,
    "untuned_loss": 2.0,
    "epoch": 2,
    "precision": "bfloat16",
    "prompt": "chat",
}

# A usual QLoRA training, written from the documented keys.
AXOLOTL = """\
base_model: some-org/base-7b
load_in_4bit: true
adapter: qlora
datasets:
  - path: some-org/instructions
    type: alpaca
    split: train
  - path: chats.jsonl
    ds_type: json
    type: chat_template
    field_messages: conversations
    message_property_mappings:
      role: from
      content: value
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_32bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
weight_decay: 0.0
wandb_project:
wandb_api_key: abc123
loraplus_lr_ratio: 16
"""

# A usual LoRA training, written from the documented keys.
LLAMAFACTORY = """\
### model
model_name_or_path: some-org/base-7b
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
### dataset
dataset: mine,theirs
dataset_dir: rows
template: qwen3_nothink
cutoff_len: 1024
mask_history: true
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 2.5
warmup_ratio: 0.1
lr_scheduler_type: cosine
bf16: true
val_size: 100
### output
output_dir: saves
logging_steps: 10
"""

INFO = """{
  "mine": {"file_name": "mine.json", "columns": {"prompt": "instruction", "query": "context", "response": "response"}},
  "theirs": {"hf_hub_url": "some-org/chats", "subset": "en", "formatting": "sharegpt"}
}"""


def known(section: str) -> set[str]:
    """The names of a section of known_keys.txt."""
    for block in (Path(__file__).parent / "known_keys.txt").read_text().split("\n\n"):
        head, _, names = block.strip().partition("\n")
        if head.startswith(f"[{section}]"):
            return set(names.split())
    raise KeyError(section)


def config(sources: list[dict[str, Any]] | None = None, **sections: Any) -> StudyConfig:
    """A study's config; sections in place of the usual ones."""
    data = {"sources": sources or [{"dataset": "some-org/rows", "format": "alpaca"}], **sections.pop("data", {})}
    return file.parse({"model": "some-org/base-7b", "data": data, **sections}, Path("/nowhere"))


def study(point: dict[str, Any] | None = None, facts: dict[str, Any] | None = None, **given: Any) -> ForeignStudy:
    """A study as it is written."""
    return settings_of(config(**given), {**POINT, **(point or {})}, 1024, FACTS if facts is None else facts)


points = st.fixed_dictionaries(
    {
        "rank": st.integers(1, 512),
        "alpha": st.integers(1, 512).map(float),
        "dropout": st.floats(0, 0.5),
        "learning_rate": st.floats(1e-6, 1e-2),
    }
)
trainings = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 9),
        "batch_size": st.integers(1, 64),
        "gradient_accumulation": st.integers(1, 64),
        "lr_scheduler": st.sampled_from(["constant", "linear", "cosine", "wsd"]),
        "warmup_ratio": st.sampled_from([0.0, 0.03, 0.5]) | st.floats(0, 0.99),
        "weight_decay": st.floats(0, 1),
        "max_grad_norm": st.floats(0.01, 10),
        "lora_plus_ratio": st.sampled_from([1.0, 16.0]),
        "optimizer": st.sampled_from(["adamw", "adamw_8bit"]),
        "neftune_alpha": st.sampled_from([0.0, 5.0]),
        "target_modules": st.sampled_from(["all-linear", ["q_proj"], ["q_proj", "v_proj"]]),
        "use_rslora": st.booleans(),
        "use_dora": st.booleans(),
        "init_lora_weights": st.sampled_from([True, "pissa"]),
        "gradient_checkpointing": st.booleans(),
        "precision": st.sampled_from(["bfloat16", "float16", "float32"]),
    }
)
rows = st.sampled_from(
    [
        [{"dataset": "org/rows", "format": "alpaca"}],
        [{"dataset": "org/rows", "split": "half", "format": "dolly"}, {"path": "/a/b.jsonl", "format": "alpaca"}],
        [{"path": "/a/b.jsonl", "format": "messages"}, {"path": "/a/b.csv", "format": "sharegpt"}],
        [{"path": "/a/b.parquet", "format": "prompt-completion"}, {"path": "/c.json", "format": "prompt-response"}],
    ]
)
