"""Whether scores are right: `instruct-eval` against an independent plain script, `harness` against lm-eval's own model.

The plain script (scoring_plain.py) asks one item at a time with `generate`; the harness runs `HFLM` one request at a
time on local copies of its tasks of MMLU and BBH (no few-shot examples, and three of its own). Both sides in float32,
without an adapter and with one. HumanEval is compared under `instruct-eval` alone, since the harness's task needs the
hub. One JSON line a protocol, candidate and benchmark: items, scores of both sides, the furthest likelihoods (nats) and
items whose verdict differs, those where two tokens lay within 1e-3 logits of each other counted apart as `near`.

What is done is kept in the folder of --out, so that an ended run goes on.

    python benchmarks/scoring_agreement.py --data DIR --out FOLDER [--mmlu 200] [--bbh 200] [--humaneval 164]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval import tasks as lm_eval_tasks
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from scoring import made_candidates

from meshtune.config.sections import ModelConfig
from meshtune.data.tokenizer import load_tokenizer, window
from meshtune.evaluation import adapters, harness, store
from meshtune.evaluation.adapters import Candidate
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.run import AnswerSettings, BenchmarkRunner, place_of
from meshtune.evaluation.sandbox.judge import code_check
from meshtune.system.machine import cores
from meshtune.training.models import load_model

MARGIN = 1e-3  # logits between the two likeliest tokens, above which both sides must agree
HARNESS = {"mmlu": ("mmlu/default", "mmlu_"), "bbh": ("bbh/fewshot", "bbh_fewshot_")}
Values = dict[str, Any]


def plain(asked: Values, path: Path) -> dict[tuple[str, str], Values]:
    """Lines of the plain script by benchmark and item; those that the file has are not asked again."""
    path.touch()
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
    path.write_text(whole, encoding="utf-8")
    known = {(line["benchmark"], line["item"]) for line in map(json.loads, whole.splitlines())}
    items = {name: [item for item in of if (name, item) not in known] for name, of in asked["items"].items()}
    if any(items.values()):
        script = [sys.executable, str(Path(__file__).with_name("scoring_plain.py"))]
        with path.open("a", encoding="utf-8") as out:
            subprocess.run(script, input=json.dumps({**asked, "items": items}), text=True, check=True, stdout=out)
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(line["benchmark"], line["item"]): line for line in lines}


def instruct_eval(
    base: Any, model: ModelConfig, candidate: Candidate, arguments: Any, found: Sequence[Benchmark]
) -> None:
    """Compare one candidate under `instruct-eval`, and print a line a benchmark."""
    out, tokenizer, how = arguments.out, load_tokenizer(model), AnswerSettings(model.name)
    begun = time.perf_counter()
    for _ in BenchmarkRunner(base, tokenizer, window(model, tokenizer), found, out / "ours", how).ask([candidate]):
        pass
    ours = time.perf_counter() - begun
    asked = {
        "model": base.name_or_path,
        "adapter": candidate.adapter and str(candidate.adapter),
        "data": str(arguments.data),
        "items": {benchmark.name: [item.id for item in benchmark.items] for benchmark in found},
        "threads": torch.get_num_threads(),
    }
    begun = time.perf_counter()
    other = plain(asked, out / f"plain-{candidate.name}.jsonl")
    theirs = time.perf_counter() - begun
    for benchmark in found:
        lines = store.read(place_of(out / "ours", benchmark, candidate, how))
        pairs = [(item, lines[item.id, 0], other[benchmark.name, item.id]) for item in benchmark.items]
        if benchmark.name == "humaneval":
            verdicts = code_check(cores())([(item.truth, line["code"]) for item, _, line in pairs])
            for (_, _, line), (passed, _) in zip(pairs, verdicts, strict=True):
                line["correct"] = passed
        apart = [abs(mine["log_likelihoods"][mine["right"]] - line["log_likelihood"]) for _, mine, line in pairs]
        near = [item.id for item, _, line in pairs if line["margin"] <= MARGIN]
        tell(
            *("instruct-eval", candidate, benchmark.name),
            scores=[(mine["correct"], line["correct"]) for _, mine, line in pairs],
            furthest=max(apart),
            differ=[item.id for item, mine, line in pairs if mine["correct"] != line["correct"]],
            near=near,
            setting=f"seconds of this run: meshtune {ours:.0f}, the plain script {theirs:.0f}",
        )


def task_copies(found: Sequence[Benchmark], folder: Path) -> list[str]:
    """Copies of the harness's tasks whose data are local files; returns their names."""
    names = []
    for benchmark in found:
        place, prefix = HARNESS[benchmark.name]
        source = Path(next(iter(lm_eval_tasks.__path__))) / place
        for group in sorted({item.group for item in benchmark.items}):
            written = next(path for path in source.glob("*.yaml") if path.stem.removeprefix("mmlu_") == group)
            task = yaml.safe_load(written.read_text(encoding="utf-8"))
            template = yaml.safe_load((source / task.pop("include")).read_text(encoding="utf-8"))
            rows = [row_of(benchmark, item) for item in benchmark.items if item.group == group]
            data = folder / f"{prefix}{group}.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            task = {**template, **task, "dataset_path": "json", "task": f"local_{prefix}{group}"}
            task["dataset_kwargs"] = {"data_files": {"test": str(data)}}
            for name in ("dataset_name", "tag", "task_alias", "fewshot_split"):
                task.pop(name, None)
            if benchmark.name == "mmlu":
                del task["fewshot_config"]  # it has no shots unless they are asked for
            (folder / f"{prefix}{group}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
            names.append(task["task"])
    return names


def row_of(benchmark: Benchmark, item: Any) -> Values:
    """A document as the harness's data sets have it."""
    if benchmark.name == "bbh":
        return {"input": item.text.removesuffix("\nAnswer:"), "target": item.truth["target"]}
    parts = re.fullmatch(r"(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\nAnswer:", item.text, re.DOTALL)
    question, *choices = parts.groups() if parts is not None else ()
    return {"question": question, "choices": choices, "answer": "ABCD".index(item.truth["target"])}


def own_harness(
    base: Any, model: ModelConfig, candidate: Candidate, arguments: Any, found: Sequence[Benchmark]
) -> None:
    """Compare one candidate under `harness`, and print a line a benchmark."""
    folder = arguments.out / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    names = task_copies(found, folder)
    tasks = harness.tasks(names, folder, None, 0)
    tokenizer = load_tokenizer(model)

    def place(task: str, one: Candidate) -> store.AnswerFile:
        return harness.place_of(arguments.out / "ours", task, one, {}, model.name)

    begun = time.perf_counter()
    harness.run(base, tokenizer, [candidate], tasks, place, lambda _: None)
    ours = time.perf_counter() - begun
    kept = arguments.out / f"harness-{candidate.name}.json"
    begun = time.perf_counter()
    if not kept.exists():
        with adapters.on(base, candidate) as adapted:
            theirs = simple_evaluate(
                model=HFLM(pretrained=adapted, tokenizer=tokenizer, batch_size=1),
                tasks=names,
                task_manager=tasks.manager,
                bootstrap_iters=0,
                log_samples=True,
            )
        kept.write_text(json.dumps({key: theirs[key] for key in ("results", "samples")}, default=str))
    theirs = json.loads(kept.read_text())
    seconds = f"seconds of this run: meshtune {ours:.0f}, HFLM {time.perf_counter() - begun:.0f}"
    for benchmark in found:
        metric, prefix = ("acc", "mmlu_") if benchmark.name == "mmlu" else ("exact_match", "bbh_fewshot_")
        scores, differ, near, furthest = [], [], [], 0.0
        for name in (name for name in names if name.startswith(f"local_{prefix}")):
            mine = samples_of(place(name, candidate).path.with_suffix(".samples.jsonl"))
            for sample in theirs["samples"][name]:
                own, label = mine[sample["doc_id"]], f"{name}/{sample['doc_id']}"
                scores.append((own[metric], sample[metric]))
                if benchmark.name == "mmlu":
                    pairs = [(a[0][0], b[0][0]) for a, b in zip(own["resps"], sample["resps"], strict=True)]
                    furthest = max(furthest, *(abs(a - b) for a, b in pairs))
                    first, second = sorted((b for _, b in pairs), reverse=True)[:2]
                    near += [label] if first - second <= MARGIN else []
                if own[metric] != sample[metric] or (benchmark.name == "bbh" and own["resps"] != sample["resps"]):
                    differ.append(label)
        tell(
            "harness",
            candidate,
            benchmark.name,
            scores=scores,
            furthest=furthest,
            differ=differ,
            near=near,
            setting=seconds,
        )


def samples_of(path: Path) -> dict[int, Values]:
    """The harness's documents with answers and verdicts, as they are stored, by number."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["doc_id"]: line for line in lines}


def tell(
    protocol: str,
    candidate: Candidate,
    benchmark: str,
    *,
    scores: Sequence[tuple[float, float]],
    furthest: float,
    differ: Sequence[str],
    near: Sequence[str],
    setting: str,
) -> None:
    """One line of what was compared."""
    line = {
        "name": "scoring_agreement",
        **{"protocol": protocol, "benchmark": benchmark, "candidate": candidate.name, "items": len(scores)},
        "ours": round(sum(mine for mine, _ in scores) / len(scores), 6),
        "theirs": round(sum(other for _, other in scores) / len(scores), 6),
        "furthest": furthest,
        "differ": [item for item in differ if item not in near],
        "near": len(near),
        "setting": setting,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="`embedded` or a folder")
    parser.add_argument("--data", type=Path, required=True, help="a folder with those of MMLU, BBH and HumanEval")
    parser.add_argument("--out", type=Path, required=True, help="the folder that keeps what is done")
    for name, count in (("mmlu", 200), ("bbh", 200), ("humaneval", 164)):
        parser.add_argument(f"--{name}", type=int, default=count, help="items")
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    limits = {name: getattr(arguments, name) for name in ("mmlu", "bbh", "humaneval")}
    limits = {name: limit for name, limit in limits.items() if limit}
    found = [
        each.limited(limits[each.name], 0) for each in registry.load(tuple(limits), arguments.data, code_check(cores()))
    ]
    model = ModelConfig(name=arguments.model)
    base = load_model(model, "cpu")
    arguments.out.mkdir(parents=True, exist_ok=True)
    adapter = Candidate("candidate-0", arguments.out / "adapters" / "0")
    if adapter.adapter is not None and not adapter.adapter.exists():
        made_candidates(base, arguments.out / "adapters", 1)
    sides: Sequence[tuple[Callable[..., None], Sequence[Benchmark]]] = (
        (instruct_eval, found),
        (own_harness, [benchmark for benchmark in found if benchmark.name in HARNESS]),
    )
    for compare, benchmarks in sides:
        for candidate in (Candidate("untuned", None), adapter):
            if benchmarks:
                compare(base, model, candidate, arguments, benchmarks)


if __name__ == "__main__":
    main()
