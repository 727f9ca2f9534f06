"""Tokenizers and rows that the tests of the data make on the spot."""

from pathlib import Path
from typing import Any

from meshtune.config.sections import DataConfig
from meshtune.data.rows import Row

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n' + m.content | trim + '[end]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
LINES = ["the quick brown fox", "Write a response to the request.\n\n### Response:\n", "jumps over\n\nthe lazy dog"] * 3
INSTRUCTIONS = Path(__file__).parents[3] / "shared" / "data" / "instructions"


def make_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Any:
    """A small byte-level BPE whose padding token is its end token, and which puts <s> first, as a Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "[end]"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))],
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def row(prompt: str, response: str, context: str = "", verbatim: bool = False) -> Row:
    return Row(prompt, context, response, verbatim, 1)


def alpaca(count: int, start: int = 0) -> list[dict[str, str]]:
    """Different rows of one length, nearly."""
    return [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in range(start, start + count)]


def config(*paths: str, **fields: Any) -> DataConfig:
    """A data section over files."""
    shares = fields.pop("shares", [None] * len(paths))
    sources = [{"path": path, "share": share} for path, share in zip(paths, shares, strict=True)]
    return DataConfig.model_validate({"sources": sources, **fields})
