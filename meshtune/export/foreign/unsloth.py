"""A Python script that trains with Unsloth, which has no file of settings.

The script is complete: it loads the rows, makes tokens and labels as meshtune does (loss on the answers and the token
that ends them, too long rows dropped), and trains with TRL's SFTTrainer on Unsloth's model. Settings stand at its top.
"""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.training import ForeignStudy

# Unsloth takes names, not `all-linear`; these are its own default.
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write(study: ForeignStudy) -> tuple[str, list[str]]:
    """The script without its head, and notes on what is different there."""
    recipe, model = study.recipe, study.model
    notes = say.of_model(study) + say.of_data(study, cut=False, shares=False, files=False) + say.of_epochs(study)
    notes += say.of_calls(study)
    modules = say.targets(study)
    if modules is None:
        notes.append(f"target_modules: all-linear is written as {', '.join(MODULES)}, which Llama-like models have.")
    start = recipe.init_lora_weights
    if start not in (True, "gaussian"):
        notes.append(f"init_lora_weights: Unsloth does not take {start}; PEFT's usual start is taken.")
        start = True
    bf16, fp16 = say.mixed_precision(study, notes)
    loading: dict[str, Any] = {"model_name": study.model_name, "max_seq_length": study.max_length}
    loading |= {"revision": model.revision} if model.revision else {}
    loading |= {"trust_remote_code": True} if model.trust_remote_code else {}
    loading |= {"dtype": None, "load_in_4bit": model.quantization == "nf4"}
    loading |= {"load_in_8bit": True} if model.quantization == "int8" else {}
    lora: dict[str, Any] = {"r": recipe.rank, "lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout}
    lora |= {"target_modules": modules or MODULES, "bias": "none", "use_rslora": recipe.use_rslora}
    lora |= {"init_lora_weights": start, "use_gradient_checkpointing": recipe.gradient_checkpointing}
    lora |= {"random_state": recipe.seed, **({"use_dora": True} if recipe.use_dora else {})}
    training: dict[str, Any] = {
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": say.scheduler(study),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": "adamw_torch",
        "bf16": bf16,
        "fp16": fp16,
        "seed": recipe.seed,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "output_dir": "outputs",
        "report_to": "none",
    }
    sources = [
        {"load": (source.kind, source.path), "format": source.format}
        if source.path
        else {"load": (source.dataset, source.subset, source.split), "format": source.format}
        for source in study.sources
    ]
    constants = {
        "MODEL": loading,
        "LORA": lora,
        "TRAINING": training,
        "SOURCES": sources,
        "VALIDATION": study.validation_size,
        "MAX_LENGTH": study.max_length,
        "WARMUP_RATIO": recipe.warmup_ratio,
        "PROMPT": study.prompt,
        "TRAIN_ON": study.data.train_on,
        "TEMPLATE_ARGUMENTS": dict(study.data.template_arguments),
    }
    return _HEAD + "".join(f"{name} = {_literal(value)}\n" for name, value in constants.items()) + _BODY, notes


def _literal(value: Any) -> str:
    """A value as Python writes it, an entry a line."""
    match value:
        case dict() if value:
            return "{\n" + "".join(f"    {key!r}: {entry!r},\n" for key, entry in value.items()) + "}"
        case list() if value:
            return "[\n" + "".join(f"    {entry!r},\n" for entry in value) + "]"
        case _:
            return repr(value)


_HEAD = '''"""LoRA fine-tuning with Unsloth: install `unsloth`, then run this file with Python."""

import json

'''

_BODY = '''
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\\n\\n### Instruction:\\n{question}\\n\\n### Response:\\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\\n\\n### Instruction:\\n{question}\\n\\n### Input:\\n{context}\\n\\n### Response:\\n"
)
FIELDS = {  # question, context and answer of a row
    "alpaca": ("instruction", "input", "output"),
    "dolly": ("instruction", "context", "response"),
    "prompt-completion": ("prompt", None, "completion"),
    "prompt-response": ("prompt", None, "response"),
}
ROLES = {  # other names of speakers, by the one that chat templates know
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}


def decoded(value):
    """A list, which some rows hold as JSON text."""
    return json.loads(value) if isinstance(value, str) and value.strip() else value or []


def conversation(row):
    """The turns of a row and its tools, as chat templates take them."""
    turns = []
    for turn in decoded(row.get("messages") or row.get("conversations")):
        role = turn.get("role") or turn.get("from")
        content = turn.get("content") if turn.get("role") else turn.get("value")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content)
        # data sets give every turn all keys, null where they are absent
        others = {key: value for key, value in turn.items() if key not in ("from", "value") and value is not None}
        turns.append({**others, "role": ROLES.get(role, role), "content": content or ""})
    if row.get("system") and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": row["system"]})
    return turns, decoded(row.get("tools")) or None


def pieces(row, kind, tokenizer):
    """The text of a row in pieces, each with whether it is learned."""
    if kind in FIELDS:
        question, context, answer = (row.get(key) or "" if key else "" for key in FIELDS[kind])
        if kind.startswith("prompt-"):
            return [(question, False), (answer + tokenizer.eos_token, True)]
        if PROMPT == "alpaca":
            asked = (ALPACA_INPUT if context.strip() else ALPACA).format(question=question, context=context)
            return [(asked, False), (answer + tokenizer.eos_token, True)]
        asked = f"{question}\\n\\n{context}" if context.strip() else question
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        tools = None
    else:
        turns, tools = conversation(row)

    def render(turns, ask):
        return tokenizer.apply_chat_template(
            turns, tools=tools, tokenize=False, add_generation_prompt=ask, **TEMPLATE_ARGUMENTS
        )

    found, done = [], ""
    for number, turn in enumerate(turns):
        if number and turn["role"] == "assistant":
            before, after = render(turns[:number], True), render(turns[: number + 1], False)
            if not (before.startswith(done) and after.startswith(before)):
                raise ValueError("the chat template rewrites earlier turns: write one row a turn")
            answer = after[len(before) :].rstrip()  # what stands behind the end of the turn is not learned
            found += [(before[len(done) :], False), (answer, turn.get("weight") != 0)]
            done = before + answer
    return found


def encode(row, kind, tokenizer):
    """Tokens of a row, and the labels that the loss counts; -100 is counted by none."""
    parts = pieces(row, kind, tokenizer)
    last = max((number for number, (_, learned) in enumerate(parts) if learned), default=-1)
    chat = kind not in FIELDS or (PROMPT == "chat" and not kind.startswith("prompt-"))
    tokens, labels = [], []
    for number, (text, learned) in enumerate(parts):
        # a chat template writes its own beginning of the text
        ids = tokenizer(text, add_special_tokens=number == 0 and not chat)["input_ids"]
        if number == 0 and not chat and ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text
        counts = TRAIN_ON == "everything" or (learned and (TRAIN_ON == "all" or number == last))
        tokens += ids
        labels += ids if counts else [-100] * len(ids)
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


def load(source, tokenizer):
    """The rows of a source as tokens; too long ones, and those without an answer, are dropped."""
    from datasets import load_dataset

    if len(source["load"]) == 2:
        kind, path = source["load"]
        rows = load_dataset(kind, data_files=path, split="train")
    else:
        name, subset, split = source["load"]
        rows = load_dataset(name, subset, split=split)
    kind = source["format"]
    rows = rows.map(lambda row: encode(row, kind, tokenizer), remove_columns=rows.column_names)
    return rows.filter(lambda row: len(row["input_ids"]) <= MAX_LENGTH and set(row["labels"]) != {-100})


def main():
    import math

    from unsloth import FastLanguageModel  # before transformers and trl, which it changes
    from datasets import concatenate_datasets
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(**MODEL)
    model = FastLanguageModel.get_peft_model(model, **LORA)
    rows = concatenate_datasets([load(source, tokenizer) for source in SOURCES])
    sides = rows.train_test_split(test_size=VALIDATION, seed=TRAINING["seed"])
    a_step = TRAINING["per_device_train_batch_size"] * TRAINING["gradient_accumulation_steps"]
    steps = math.ceil(len(sides["train"]) / a_step) * TRAINING["num_train_epochs"]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),  # which keeps the labels
        train_dataset=sides["train"],
        eval_dataset=sides["test"],
        args=SFTConfig(
            **TRAINING,
            max_length=MAX_LENGTH,
            warmup_steps=math.ceil(WARMUP_RATIO * steps),
        ),
    )
    trainer.train()
    model.save_pretrained("outputs/adapter")
    tokenizer.save_pretrained("outputs/adapter")


if __name__ == "__main__":
    main()
'''
