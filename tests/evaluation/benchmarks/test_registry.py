"""Benchmarks out of folders: what they hold, both formats, and what is wrong with damaged ones."""

import gzip
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import meshtune
from meshtune.errors import InputError
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.space.goals import BENCHMARKS
from tests.evaluation import made


def load(folder: Path, *names: str) -> list[Benchmark]:
    return registry.load(names, folder, made.no_check)


@made.needs_real_files
def test_the_real_sets_are_named_by_their_counts() -> None:
    names = {b.name: b.set_name for b in load(made.REAL)}
    assert names == {
        "mmlu": "mmlu: 57 subjects, 14,079 items, not the published 14,042",
        "bbh": "bbh: 27 tasks, 6,430 items",
        "drop": "drop: 1 item, not the published 6,285",
        "humaneval": "humaneval: 164 items",
    }


SCORED = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from meshtune.cli.commands import app
from meshtune.config import template
from meshtune.evaluation import scoring
from meshtune.evaluation.benchmarks import registry
from meshtune.report.score_files import TITLES
(toy,) = registry.load((), Path(sys.argv[1]), lambda pairs: ())
judged = toy.judge([(item, answer) for item, answer in zip(toy.items, ("2", " 5", "no"), strict=True)])
none = {"scores": {}, "log_likelihoods": None, "shots": 0, "cut": False}
lines = {(item.id, 0): {**none, "correct": one.correct} for item, one in zip(toy.items, judged, strict=True)}
print(toy.set_name, scoring.score(toy, lines).verdict.value, TITLES["toy"], sep="|")
print("toy;" in CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output)
print(template.text(template.DEFAULT).count("humaneval, toy"))
"""


def test_a_benchmark_is_one_file_and_one_line(tmp_path: Path) -> None:
    """In a copy of the package."""
    package = Path(str(inspect.getsourcefile(meshtune))).parent
    shutil.copytree(package, tmp_path / "meshtune", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("toy.py"), tmp_path / "meshtune" / "evaluation" / "benchmarks" / "toy.py")
    names = tmp_path / "meshtune" / "space" / "goals.py"
    line = "BENCHMARKS = ("
    assert names.read_text().count(line) == 1
    names.write_text(names.read_text().replace('"humaneval")', '"humaneval", "toy")'))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.txt").write_text("1 + 1 = 2\n2 + 3 = 5\n4 + 4 = 8\n")
    done = subprocess.run(
        [sys.executable, "-c", SCORED, tmp_path / "data"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"toy: 3 items|{2 / 3}|Toy sums\nTrue\n2\n"


def test_every_benchmark_is_named_where_people_look() -> None:
    docs = Path(__file__).parents[3] / "docs"
    for one in registry.ALL:
        assert one.name in BENCHMARKS
        assert f"| {one.name} |" in (docs / "evaluation.md").read_text()
        assert f"`{one.name}`" in (docs / "guided-search.md").read_text()


def test_prompts(tmp_path: Path) -> None:
    mmlu, bbh, drop, humaneval = load(made.make_all(tmp_path))
    item = next(item for item in mmlu.items if item.id == "simple_sums/2")
    block = "What is 2 + 1?\nA. 2\nB. 3\nC. 0\nD. none\nAnswer:"
    header = "The following are multiple choice questions (with answers) about  simple sums.\n\n"
    assert mmlu.prompt(item, 0) == header + block
    assert mmlu.prompt(item, 1) == header + "What is 0 + 1?\nA. 0\nB. 1\nC. 0\nD. none\nAnswer: B\n\n" + block
    assert mmlu.prompt(item).count("Answer: B\n\n") == 5
    assert (item.gold, item.choices) == (" B", (" A", " B", " C", " D"))
    assert bbh.items[0].id == "boolean_expressions/3"
    assert bbh.prompt(bbh.items[0], 1) == "boolean_expressions 0\nAnswer: True\n\nboolean_expressions 3\nAnswer:"
    shots = drop.shots[""].blocks
    assert len(shots) == 3
    assert all(item.text.partition(".")[0] not in "".join(shots) for item in drop.items)
    assert all("When?" not in item.text for item in drop.items)
    assert humaneval.prompt(humaneval.items[1]).endswith('\ndef add1(x):\n    """ Add 1. """\n')


def make_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def mmlu_rows(count: int) -> list[dict[str, Any]]:
    parts = [made.question(n) for n in range(count)]
    return [{"question": q[0], "subject": "logic", "choices": q[1:5], "answer": "ABCD".index(q[5])} for q in parts]


def drop_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"query_id": str(n), "passage": f"p {n}", "question": "?", "answers_spans": {"spans": ["x"], "types": ["span"]}}
        for n in range(count)
    ]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_downloaded_mmlu_is_not_taken_for_drop(tmp_path: Path) -> None:
    for side in ("dev", "test", "validation"):
        make_parquet(tmp_path / "mmlu" / "all" / f"{side}-00000-of-00001.parquet", mmlu_rows(6))
    assert [b.set_name for b in load(tmp_path)] == ["mmlu: 1 subjects, 6 items, not the published 14,042"]
    make_parquet(tmp_path / "drop" / "data" / "validation-00000-of-00001.parquet", drop_rows(8))
    both = load(tmp_path)
    assert [b.name for b in both] == ["mmlu", "drop"]
    assert load(tmp_path / "drop")[0].digest == both[1].digest


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines_under_any_name(tmp_path: Path, packed: bool) -> None:
    problems = [{key: text.format(n=n, m=n + 1) for key, text in made.PROBLEM.items()} for n in range(4)]
    paths = [write_lines(tmp_path / "drop" / "validation.jsonl", drop_rows(8))]
    paths += [write_lines(tmp_path / "human-eval" / "test.jsonl", problems)]
    for path in paths if packed else ():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    write_lines(tmp_path / "drop" / "train.jsonl", drop_rows(20))  # the set that is scored goes first
    found = {b.name: len(b.all_items) for b in load(tmp_path)}
    assert found == {"drop": 5, "humaneval": 4}


def test_a_folder_named_after_a_benchmark_that_holds_none_is_refused(tmp_path: Path) -> None:
    made.make_all(tmp_path)
    (tmp_path / "drop" / "drop_dataset_dev.json").rename(tmp_path / "drop" / "dev.json")
    with pytest.raises(InputError, match=r"holds no data of drop: .*; rename what `drop` holds, or name the"):
        load(tmp_path)
    assert [b.name for b in load(tmp_path, "mmlu", "bbh")] == ["mmlu", "bbh"]


def test_all_in_one_folder(tmp_path: Path) -> None:
    apart = load(made.make_all(tmp_path / "apart"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("bbh", "drop", "humaneval"):
        shutil.copytree(tmp_path / "apart" / name, flat, dirs_exist_ok=True)
    assert [b.digest for b in load(flat)] == [b.digest for b in apart[1:]]
    (flat / "navigate.json").write_text("[]")
    with pytest.raises(InputError) as raised:
        load(flat)
    assert str(raised.value) == f"{flat / 'navigate.json'}: is no task of BBH: it has no list `examples`"
    hub = tmp_path / "hub"
    rows = [{"input": f"navigate {n}", "target": "x"} for n in range(8)]
    make_parquet(hub / "navigate" / "test-00000-of-00001.parquet", rows)
    problem = {key: text.format(n=1, m=2) for key, text in made.PROBLEM.items()}
    make_parquet(hub / "openai_humaneval" / "test-00000-of-00001.parquet", [problem])
    assert [(b.name, len(b.all_items)) for b in load(hub)] == [("bbh", 5), ("humaneval", 1)]


@pytest.mark.parametrize("answer", [1.0, True, "1", None, 4])
def test_answers_of_mmlu_are_whole_numbers(tmp_path: Path, answer: Any) -> None:
    make_parquet(tmp_path / "mmlu" / "all" / "dev-0.parquet", mmlu_rows(5))
    path = make_parquet(tmp_path / "mmlu" / "all" / "test-0.parquet", [{**mmlu_rows(1)[0], "answer": answer}])
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    wanted = "needs four texts `choices` and a whole number `answer` from 0 to 3"
    assert f"{path}:1: {wanted}" in str(raised.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"answer": {"date": "2001"}},
        {"answer": {"date": {"year": [2001]}}},
        {"answer": {"spans": 5}},
        {"answer": {"spans": "Hawks"}},
        {"answer": {"spans": [None]}},
        {"answer": {"number": False}},
        {"answer": [1]},
        {"validated_answers": True},
        {"validated_answers": ["x"]},
    ],
)
def test_odd_answers_of_drop(tmp_path: Path, odd: Mapping[str, Any]) -> None:
    path = made.make_drop(tmp_path / "drop") / "drop_dataset_dev.json"
    passages = json.loads(path.read_text())
    for name in ("passage_1", "passage_3"):
        passages[name]["qa_pairs"][1] |= odd
    path.write_text(json.dumps(passages))
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    assert [str(fault).partition(" needs an `answer` or a list")[0] for fault in raised.value.faults] == [
        f"{path}: question 1 of the passage `passage_{n}`" for n in (1, 3)
    ]


def test_answers_of_drop_are_those_of_who_validated_it(tmp_path: Path) -> None:
    """As in the Hugging Face data set: the author's counts only where there is none; one of two kinds is none."""
    path = made.make_drop(tmp_path / "drop") / "drop_dataset_dev.json"
    before = load(tmp_path)[0]
    passages = json.loads(path.read_text())
    pairs = [pair for section in passages.values() for pair in section["qa_pairs"] if pair["question"] != "When?"]
    for pair in pairs:
        pair["validated_answers"] = [pair["answer"], pair["answer"]]
        pair["answer"] = {"number": "", "date": {}, "spans": ["what its author meant"]}
    path.write_text(json.dumps(passages))
    assert load(tmp_path)[0].digest == before.digest
    asked = {item.id: item for item in before.items}
    left = [pair for pair in pairs if pair["query_id"] in asked]
    left[0]["validated_answers"] = []
    left[1]["validated_answers"][1] = {**left[1]["validated_answers"][1], "spans": ["and a text"]}
    path.write_text(json.dumps(passages))
    assert len(load(tmp_path)[0].items) < len(before.items)
    ids = {item.id for item in load(tmp_path)[0].items}
    assert not ids & {left[0]["query_id"], left[1]["query_id"]}


def test_whole_numbers_are_answers_of_drop(tmp_path: Path) -> None:
    path = made.make_drop(tmp_path / "drop") / "drop_dataset_dev.json"
    before = load(tmp_path)[0].digest
    passages = json.loads(path.read_text())
    answer = passages["passage_0"]["qa_pairs"][0]["answer"]
    assert answer["number"] == "0"
    answer["number"] = 0
    path.write_text(json.dumps(passages))
    assert load(tmp_path)[0].digest == before


@pytest.mark.parametrize("spans", [["x"], {"spans": "Hawks"}, {"spans": [1.5]}, {"spans": None}, None, 5])
def test_odd_rows_of_drop(tmp_path: Path, spans: Any) -> None:
    rows = drop_rows(8)
    rows[3]["answers_spans"] = spans
    path = write_lines(tmp_path / "drop" / "drop.jsonl", rows)
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    assert str(raised.value) == f"{path}:4: has no list of texts `answers_spans.spans`"


@pytest.mark.parametrize("odd", [1, None, ["x"], {"a": 1}, True])
def test_odd_rows_of_bbh_and_humaneval(tmp_path: Path, odd: Any) -> None:
    path = made.make_bbh(tmp_path / "bbh") / "navigate.json"
    task = json.loads(path.read_text())
    task["examples"][1]["target"], task["examples"][4] = odd, odd
    path.write_text(json.dumps(task))
    problem = {key: text.format(n=1, m=2) for key, text in made.PROBLEM.items()}
    lines = write_lines(tmp_path / "humaneval" / "test.jsonl", [problem, {**problem, "test": odd}])
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    assert [str(fault) for fault in raised.value.faults] == [
        f"{tmp_path / 'bbh'}: navigate: example 1: has no text `target`",
        f"{tmp_path / 'bbh'}: navigate: example 4: has no text `input`",
        f"{tmp_path / 'bbh'}: navigate: example 4: has no text `target`",
        f"{lines}:2: has no text `test`",
    ]


def test_without_network_a_folder_is_asked_for() -> None:
    with pytest.raises(InputError) as raised:
        registry.load(["mmlu", "drop"], None, lambda _: ())
    *hub, advice = raised.value.faults
    assert ["not in the local cache" in fault.message for fault in hub] == [True, True]
    assert "is given as `--data`" in advice.message


def test_rows_of_the_hub_are_the_same_items(tmp_path: Path) -> None:
    from meshtune.evaluation.benchmarks import bbh, drop, mmlu

    read = {b.name: b for b in load(made.make_all(tmp_path))}
    rows = {
        side: [
            ("x", n, {"question": q[0], "subject": subject, "choices": q[1:5], "answer": "ABCD".index(q[5])})
            for subject in ("logic", "simple_sums")
            for n, q in enumerate(map(made.question, range(count)))
        ]
        for side, count in (("dev", 5), ("test", 6))
    }
    assert mmlu.from_rows(rows["dev"], rows["test"], "x").digest == read["mmlu"].digest
    tasks = {path.stem: json.loads(path.read_text())["examples"] for path in sorted((tmp_path / "bbh").glob("*.json"))}
    assert bbh.from_tasks(tasks, "x", []).digest == read["bbh"].digest
    questions = []
    for section in made.drop_passages(6).values():
        for pair in section["qa_pairs"]:
            spans = [pair["answer"]["number"]] if pair["question"] != "When?" else ["1 May 1900", "0"]
            row = {"query_id": pair["query_id"], "passage": section["passage"], "question": pair["question"]}
            questions.append((1, {**row, "answers_spans": {"spans": spans}}))
    assert drop.from_rows(questions, "x").digest == read["drop"].digest


def test_a_limit_is_a_fixed_subset_spread_over_the_groups(tmp_path: Path) -> None:
    (mmlu,) = load(made.make_mmlu(tmp_path / "mmlu", subjects=[f"s{n}" for n in range(10)]).parent, "mmlu")
    few = mmlu.limited(20, 0)
    assert few.limited(20, 0).digest == few.digest == mmlu.limited(20, 0).digest != mmlu.limited(20, 1).digest
    assert len(few.items) == len({item.id for item in few.items}) == 20
    assert {sum(item.group == group for item in few.items) for group in mmlu.shots} == {2}
    assert few.set_name.endswith("60 items, not the published 14,042; 20 of them, chosen with seed 0")
    left = mmlu.without({"s0/0", "s3/1"})
    assert len(left.items) == 58
    assert "2 left out that guided the search" in left.limited(5, 0).set_name
    assert mmlu.limited(60, 0) is mmlu


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`mmul`; there are mmlu, bbh, drop, humaneval\. Did you mean `mmlu`"):
        load(tmp_path, "mmul", "bbh")
    with pytest.raises(InputError, match=r"holds no data of bbh: `<task>\.json`"):
        load(made.make_mmlu(tmp_path / "mmlu").parent, "mmlu", "bbh")
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_damage_is_reported_all_at_once(tmp_path: Path) -> None:
    made.make_all(tmp_path)
    (tmp_path / "mmlu" / "dev" / "logic_dev.csv").unlink()
    path = tmp_path / "mmlu" / "test" / "simple_sums_test.csv"
    path.write_text(path.read_text().replace(",B", ",E", 1) + "cut off,1\n")
    (tmp_path / "bbh" / "navigate.json").write_text('{"examples": [{"input": "a", "tar')
    whole = (tmp_path / "humaneval" / "HumanEval.jsonl.gz").read_bytes()
    (tmp_path / "humaneval" / "HumanEval.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "drop" / "drop_dataset_dev.json").write_text(json.dumps({"p": {"passage": "x", "qa_pairs": [{}]}}))
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    text = str(raised.value)
    assert f"{path}:7: has 2 fields instead of 6" in text
    assert "navigate.json:1: is no whole JSON file" in text
    assert "HumanEval.jsonl.gz: is no whole gzip file" in text
    assert "question 0 of the passage `p` needs texts" in text
    path.write_text(path.read_text().replace("cut off,1\n", ""))
    with pytest.raises(InputError) as raised:
        load(tmp_path, "mmlu")
    assert f"{path}:1: `E` is no answer" in str(raised.value)
    assert "the subject `logic` has 0 of the 5 shots" in str(raised.value)


def test_items_that_would_be_scored_wrongly(tmp_path: Path) -> None:
    made.make_all(tmp_path)
    path = tmp_path / "bbh" / "navigate.json"
    task = json.loads(path.read_text())
    task["examples"][5]["target"] = ""
    task["examples"][6]["input"] = "half \ud800"
    path.write_text(json.dumps(task))
    rows = gzip.decompress((tmp_path / "humaneval" / "HumanEval.jsonl.gz").read_bytes())
    same = rows.replace(b"HumanEval/1", b"HumanEval/0").replace(b'"HumanEval/2"', b'"Human\\ud800Eval/2"')
    (tmp_path / "humaneval" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(same))
    with pytest.raises(InputError) as raised:
        load(tmp_path, "mmlu", "bbh", "humaneval")
    assert [fault.message.partition(";")[0] for fault in raised.value.faults] == [
        "bbh: items whose right answer is empty: 1, such as `navigate/5`",
        "bbh: items with half of a character (a lone surrogate): 1, such as `navigate/6`",
        "humaneval: names of items that stand there more than once: 1, such as `HumanEval/0`",
        "humaneval: items with half of a character (a lone surrogate): 1, such as `Human\\ud800Eval/2`",
    ]


def test_problems_lacking_a_field(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b'{"task_id": "a", "prompt": "b"}\n'))
    with pytest.raises(InputError, match="has no text `canonical_solution`"):
        load(tmp_path, "humaneval")
