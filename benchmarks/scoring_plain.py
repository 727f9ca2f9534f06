"""The protocol of Instruct-Eval written down once more, as plainly as can be: nothing of meshtune is imported.

One item at a time: its prompt from the files, `generate`, the verdict. As a program it reads a JSON object (`model`,
`adapter` or null, `data`, `items`: ids by benchmark, `threads`) from standard input and prints a JSON line an item:
`answer`, `correct`, `code` (of HumanEval, to be run elsewhere), `log_likelihood` of the right answer, and `margin`, the
least distance between the two highest logits on the way. HumanEval's answers end at the first blank line behind code,
where the protocol cuts them.
"""

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

LIMIT = 2048


def mmlu(data: Path, item: str) -> tuple[list[str], str, str]:
    """The prompts with 5, 4, .. 0 shots, the right continuation, the target."""
    subject, number = item.split("/")

    def shown(row: list[str]) -> str:
        return row[0] + "".join(f"\n{x}. {choice}" for x, choice in zip("ABCD", row[1:5], strict=True)) + "\nAnswer:"

    with (data / "dev" / f"{subject}_dev.csv").open(newline="", encoding="utf-8") as file:
        dev = list(csv.reader(file))[:5]
    with (data / "test" / f"{subject}_test.csv").open(newline="", encoding="utf-8") as file:
        row = list(csv.reader(file))[int(number)]
    head = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
    shots = [f"{shown(shot)} {shot[5]}\n\n" for shot in dev]
    return [head + "".join(shots[:k]) + shown(row) for k in range(5, -1, -1)], f" {row[5]}", row[5]


def bbh(data: Path, item: str) -> tuple[list[str], str, str]:
    task, number = item.split("/")
    rows = json.loads((data / f"{task}.json").read_text(encoding="utf-8"))["examples"]
    row = rows[int(number)]
    shots = [f"{shot['input']}\nAnswer: {shot['target']}\n\n" for shot in rows[:3]]
    prompts = ["".join(shots[:k]) + f"{row['input']}\nAnswer:" for k in range(3, -1, -1)]
    return prompts, f" {row['target']}", row["target"]


def humaneval(data: Path, item: str) -> tuple[list[str], str, str]:
    with gzip.open(data / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        problem = next(row for row in map(json.loads, file) if row["task_id"] == item)
    line = "Please complete the following Python code without providing any additional tasks such as testing or"
    return [f"{line} explanations\n{problem['prompt']}"], problem["canonical_solution"], ""


READERS = {"mmlu": (mmlu, "mmlu*", 2), "bbh": (bbh, "bbh*", 32), "humaneval": (humaneval, "humaneval*", 512)}


def code_of(answer: str) -> str:
    """Indents padded to even widths, leading line ends dropped, cut at the first blank line."""
    lines = answer.split("\n")
    for number, line in enumerate(lines):
        if (len(line) - len(line.lstrip(" "))) % 2 == 1:
            lines[number] = " " + line
    return "\n".join(lines).lstrip("\n").split("\n\n")[0]


class BlankLine(StoppingCriteria):  # type: ignore[misc]  # untyped
    """Ends an answer that has code and a blank line behind it."""

    def __init__(self, tokenizer: Any, start: int):
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        text = self.tokenizer.decode(input_ids[0, self.start :], skip_special_tokens=True)
        return torch.tensor(["\n\n" in text.lstrip("\n")])


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(asked.get("threads", 1))
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    if asked["adapter"] is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, asked["adapter"]).eval()
    for name, items in asked["items"].items():
        read, folder, new = READERS[name]
        for item in items:
            prompts, right, target = read(next(Path(asked["data"]).glob(folder)), item)
            tokens = (tokenizer(prompt, return_tensors="pt").input_ids for prompt in prompts)
            ids = next(ids for ids in tokens if ids.shape[1] <= LIMIT)
            start = ids.shape[1]
            stops = StoppingCriteriaList([BlankLine(tokenizer, start)] if name == "humaneval" else [])
            settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=tokenizer.eos_token_id)
            settings.update(output_logits=True, return_dict_in_generate=True, pad_token_id=tokenizer.eos_token_id)
            with torch.no_grad():
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=settings, stopping_criteria=stops
                )
                after = tokenizer(right, add_special_tokens=False, return_tensors="pt").input_ids
                logits = model(torch.cat([ids, after], 1)).logits[0, start - 1 : -1]
            answer = tokenizer.decode(out.sequences[0, start:], skip_special_tokens=True)
            logs = torch.log_softmax(logits.double(), -1).gather(1, after[0][:, None]).sum().item()
            highest = torch.cat(out.logits).topk(2, dim=-1).values
            line = {"benchmark": name, "item": item, "answer": answer}
            if name == "humaneval":
                line["code"] = code_of(answer)
            else:
                line["correct"] = answer.strip().startswith(target)
            line |= {"log_likelihood": logs, "margin": (highest[:, 0] - highest[:, 1]).min().item()}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
