"""Tasks of the harness: the scores that its own model class gives, over one base, and what is refused."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.evaluation import harness, store
from meshtune.evaluation.adapters import Candidate, on
from tests.evaluation.made import question

CHOICE = """\
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, dev: {shots}}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 3
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
FREE = """\
task: own_free
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, dev: {shots}}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 2
output_type: generate_until
generation_kwargs: {{until: ["\\n", "e"], max_gen_toks: 12, do_sample: false}}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{letter}}}}"
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def write_tasks(tmp_path: Path) -> Path:
    """A user's own tasks, on local files, in a folder."""
    tmp_path.mkdir(exist_ok=True)
    for name, count in (("rows", 7), ("shots", 4)):
        lines = []
        for n in range(count):
            text, *choices, letter = question(n)
            choices[3] = "a choice of several tokens"
            lines.append(json.dumps({"question": text, "choices": choices, "answer": 1, "letter": letter}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    for name, text in (("choice", CHOICE), ("free", FREE)):
        filled = text.format(rows=tmp_path / "rows.jsonl", shots=tmp_path / "shots.jsonl")
        (tmp_path / f"{name}.yaml").write_text(filled)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path)


def places(folder: Path) -> Callable[[str, Candidate], store.AnswerFile]:
    return lambda task, one: harness.place_of(folder, task, one, {"limit": None, "seed": 0}, "tiny")


def test_scores_are_those_of_its_own_model_class(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], folder: Path, tmp_path: Path
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    found = harness.tasks(("own_choice", "own_free"), folder, None, 0)
    events: list[Any] = []
    told = harness.run(base, tokenizer, candidates[:2], found, places(tmp_path / "out"), events.append)
    for candidate in candidates[:2]:
        with on(base, candidate) as model:
            theirs = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
                tasks=list(found.names),
                task_manager=found.manager,
                bootstrap_iters=0,
            )
        for name, metric in (("own_choice", "acc"), ("own_free", "exact_match")):
            mine = told[candidate.name][name][0]
            assert mine.verdict.value == theirs["results"][name][f"{metric},none"]
            assert mine.items == 7
            (path,) = (tmp_path / "out").rglob(f"{name}-*/{candidate.name}.samples.jsonl")
            samples = {line["doc_id"]: line for line in map(json.loads, path.read_text().splitlines())}
            for sample in theirs["samples"][name]:
                own = samples[sample["doc_id"]]
                if name == "own_free":
                    assert own["resps"] == sample["resps"]
                    continue
                for (a, _), (b, _) in zip(
                    (row[0] for row in own["resps"]), (row[0] for row in sample["resps"]), strict=True
                ):
                    assert a == pytest.approx(b, abs=1e-4)
    assert told["untuned"]["own_choice"][0].chance == 0.25
    assert told["untuned"]["own_free"][0].chance == 0
    assert told["untuned"]["own_choice"][1] == told["trial-1"]["own_choice"][1]
    again: list[Any] = []
    harness.run(base, tokenizer, candidates[:2], found, places(tmp_path / "out"), again.append)
    assert all(event.done == event.total for event in again)  # nothing was asked again


def test_a_limit_is_spread_and_fixed(folder: Path) -> None:
    one = harness.tasks(("own_choice",), folder, 3, 0).chosen["own_choice"]
    assert one is not None
    assert len(one["own_choice"]) == 3
    assert harness.tasks(("own_choice",), folder, 3, 0).chosen["own_choice"] == one
    spread = harness._subset({"a": 10, "b": 10, "c": 10}, 6, 0)
    assert {name: len(numbers) for name, numbers in spread.items()} == {"a": 2, "b": 2, "c": 2}
    for limit in (7, 8):  # there are seven: the set is the whole one
        assert harness.tasks(("own_choice",), folder, limit, 0).chosen["own_choice"] is None


def group(folder: Path) -> Path:
    """Both tasks as a group."""
    (folder / "both.yaml").write_text("group: own_both\ntask: [own_choice, own_free]\n")
    return folder


def test_a_group_of_tasks_with_other_metrics(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], folder: Path, tmp_path: Path
) -> None:
    found = harness.tasks(("own_both",), group(folder), 5, 0)
    with pytest.raises(InputError, match="`own_free` has no `acc`; name them one by one"):
        harness.run(base, tokenizer, candidates[:1], found, places(tmp_path / "out"), lambda _: None)


def test_chance_where_choices_are_asked_without_the_question_too(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], folder: Path, tmp_path: Path
) -> None:
    path = folder / "choice.yaml"
    path.write_text(path.read_text().replace("metric_list: [", "metric_list: [{metric: acc_mutual_info}, "))
    found = harness.tasks(("own_choice",), folder, 3, 0)
    told = harness.run(base, tokenizer, candidates[:1], found, places(tmp_path / "out"), lambda _: None)
    assert told["untuned"]["own_choice"][0].chance == 0.25


@pytest.mark.parametrize("most", [512, 600])
def test_answers_that_leave_no_room_for_a_prompt(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], folder: Path, tmp_path: Path, most: int
) -> None:
    assert base.config.max_position_embeddings == 512
    path = folder / "free.yaml"
    path.write_text(path.read_text().replace("max_gen_toks: 12", f"max_gen_toks: {most}"))
    found = harness.tasks(("own_choice", "own_free"), folder, 3, 0)
    what = f"`own_free` asks for answers of up to {most} tokens, and the model takes 512 in all: lower `generation"
    with pytest.raises(InputError, match=what):
        harness.run(base, tokenizer, candidates[:1], found, places(tmp_path / "out"), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_document_counts_once_whatever_its_filters(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], folder: Path, tmp_path: Path
) -> None:
    path = folder / "free.yaml"
    first = "{function: take_first}"
    path.write_text(
        f"{path.read_text()}filter_list: [{{name: x, filter: [{first}]}}, {{name: y, filter: [{first}]}}]\n"
    )
    found = harness.tasks(("own_free",), folder, 3, 0)
    told = harness.run(base, tokenizer, candidates[:1], found, places(tmp_path / "out"), lambda _: None)
    assert told["untuned"]["own_free"][0].items == 3


def test_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="name some"):
        harness.tasks((), folder, None, 0)
    with pytest.raises(InputError, match="no such folder"):
        harness.tasks(("own_choice",), folder / "none", None, 0)
    with pytest.raises(InputError, match="leaves 1 of the tasks of `own_both` without an item"):
        harness.tasks(("own_both",), group(folder), 1, 0)
    (folder / "rows.jsonl").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        harness.tasks(("own_choice",), folder, None, 0)


@pytest.mark.slow
def test_while_a_task_is_fetched_the_hub_does_not_tell_each_try() -> None:
    hub, told = logging.getLogger("huggingface_hub"), list[logging.LogRecord]()

    class Offline:
        def load(self, names: list[str]) -> None:
            hub.getChild("utils").warning("Retrying in 1s")
            raise ConnectionError(f"{names}: no network")

    handler = logging.Handler(logging.NOTSET)
    handler.emit = told.append  # type: ignore[method-assign]
    hub.addHandler(handler)
    try:
        with pytest.raises(InputError, match="`mmlu` is not in the local cache, and the Hugging Face hub cannot be"):
            harness._loaded(Offline(), "mmlu")
    finally:
        hub.removeHandler(handler)
    assert told == []


def test_a_task_that_is_no_yaml_is_told_beside_its_name(folder: Path) -> None:
    (folder / "free.yaml").write_text("task: own_free\ndoc_to_text: !function a.b\nmetric_list: [{metric: acc\n")
    with pytest.raises(InputError) as raised:
        harness.tasks(("own_free",), folder, None, 0)
    unknown, malformed = map(str, raised.value.faults)
    assert "no task called `own_free`" in unknown
    assert malformed.startswith(f"{folder / 'free.yaml'}:4: is not YAML: ")


@pytest.mark.slow
def test_names_are_checked() -> None:
    with pytest.raises(InputError, match=r"no task called `helaswag`\. Did you mean `hellaswag`"):
        harness.tasks(("helaswag",), None, None, 0)
