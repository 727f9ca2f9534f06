"""Conversations through the whole preparation: rows, groups, originals, and what people are shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshtune.config.sections import DataConfig, ModelConfig
from meshtune.data import store
from meshtune.data.build import PreparedData, load, prepare
from meshtune.data.store import ORIGINAL_SIDES, Rows, original_rows
from meshtune.data.summary import describe
from meshtune.data.tokenizer import load_tokenizer
from meshtune.data.tokens import segments, segments_of
from meshtune.errors import InputError, StudyMismatch
from tests.data.made import alpaca, config
from tests.data.templates import GEMMA, QWEN_3, tokenizer

Write = Callable[..., str]
SIDES = ("train", "validation", "test")


def chats(count: int, turns: int = 2, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "user": f"u{n % 9}",
            "messages": [
                {"role": ("user", "assistant")[turn % 2], "content": f"{n} says {turn}: größer 🙂"}
                for turn in range(2 * turns)
            ],
        }
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("gemma")
    tokenizer(GEMMA).save_pretrained(folder)
    return ModelConfig(name=str(folder))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer(QWEN_3).save_pretrained(folder)
    return ModelConfig(name=str(folder))


def users(prepared: PreparedData, side: str) -> set[str]:
    return {row.row["user"] for row in original_rows(Path(prepared.ref.folder), side)}


def test_a_conversation_is_one_row(write: Write, gemma: ModelConfig, tmp_path: Path) -> None:
    prepared = prepare(config(write(chats(40))), gemma, 0, tmp_path / "data")
    summary = prepared.summary
    assert (summary.sources[0].format, summary.sources[0].unrolled, summary.train.rows) == ("messages", 0, 32)
    found = original_rows(tmp_path / "data", "validation")
    rows, fast = Rows.open(prepared.ref, "validation"), load_tokenizer(gemma)
    assert len(found) == len(rows) == 4
    lines = Path(write([], "none.jsonl")).with_name("rows.jsonl").read_text(encoding="utf-8").splitlines()
    for original, (tokens, trained) in zip(found, rows, strict=True):
        assert original.source == "rows.jsonl"
        assert original.row == json.loads(lines[original.line - 1])
        last = original.row["messages"][-1]["content"]
        assert fast.decode(tokens[original.answer_start :]) == last + "<end_of_turn>"
        assert trained[original.answer_start :].all()
        assert not trained[original.answer_start - 1]
    with pytest.raises(InputError, match=r"train\.rows\.jsonl: is missing or damaged"):
        original_rows(tmp_path / "data", "train")


def test_unrolled_rows_are_counted_and_stay_together(write: Write, qwen: ModelConfig, tmp_path: Path) -> None:
    prepared = prepare(config(write(chats(40, turns=3)), max_length=512), qwen, 0, tmp_path / "data")
    (source,) = prepared.summary.sources
    assert (source.read, source.unrolled, source.kept) == (40, 120, 120)
    assert "rows.jsonl: 40 conversations are 120 rows: the chat template rewrites" in describe(prepared.summary)
    lines = {side: [row.line for row in original_rows(tmp_path / "data", side)] for side in ORIGINAL_SIDES}
    assert [len(held) for held in lines.values()] == [12, 12]
    for held in lines.values():
        assert all(held.count(line) == 3 for line in held)
    assert not set(lines["validation"]) & set(lines["test"])
    assert len({row.answer_start for row in original_rows(tmp_path / "data", "test")[:3]}) == 3
    settings = {"train_on": "last", "template_arguments": {"enable_thinking": False}}
    other = prepare(config(write(chats(40, turns=3)), max_length=512, **settings), qwen, 0, tmp_path / "last")
    assert (other.summary.sources[0].unrolled, other.summary.train.rows) == (0, 32)
    assert "learned: the last answer of a row alone (train_on: last)" in describe(other.summary)
    with pytest.raises(StudyMismatch) as raised:
        prepare(config(write(chats(40, turns=3)), max_length=512), qwen, 0, tmp_path / "last")
    assert [fault.key for fault in raised.value.faults[:-1]] == ["data.template_arguments", "data.train_on"]


def test_everything_is_learned(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    for style in ("chat", "alpaca"):
        data = config(write(alpaca(40)), train_on="everything", prompt=style)
        rows = Rows.open(prepare(data, chat_model, 0, tmp_path / style).ref, "train")
        assert all(trained[1:].all() and not trained[0] for _, trained in rows)


def test_rows_of_one_group_are_on_one_side(write: Write, gemma: ModelConfig, tmp_path: Path) -> None:
    data = config(write(chats(90)), split_by="user", validation=0.23, test=0.12)
    prepared = prepare(data, gemma, 0, tmp_path / "data")
    assert (prepared.summary.validation.rows, prepared.summary.test.rows) == (20, 10)
    held = users(prepared, "validation") | users(prepared, "test")
    assert (len(users(prepared, "validation")), len(held)) == (2, 3)
    assert "rows of one `user` are on one side" in describe(prepared.summary)
    with pytest.raises(InputError, match=r"rows of one `user`, and equal texts, stay on one side, .* smallest has 10"):
        prepare(config(write(chats(90)), split_by="user", validation=8), gemma, 0, tmp_path / "small")
    bad = [*chats(20), {**chats(1)[0], "user": None}, {"usr": "x", "messages": chats(1)[0]["messages"]}, *chats(1)]
    bad[22]["messages"] = [{"role": "user", "content": "again"}, *bad[22]["messages"]]
    with pytest.raises(InputError) as raised:
        prepare(config(write(bad), split_by="user"), gemma, 0, tmp_path / "bad")
    *groups, template = raised.value.faults
    assert (template.line, "refuses it: Conversation roles must alternate" in template.message) == (23, True)
    assert [(fault.line, fault.message) for fault in groups] == [
        (21, "`user` is null, but `data.split_by` needs text or a number"),
        (22, "lacks `user`, which `data.split_by` names. Did you mean `usr`?"),
    ]


def test_groups_of_a_file_of_its_own_leave_the_mix(write: Write, gemma: ModelConfig, tmp_path: Path) -> None:
    own = write([row for row in chats(9, start=900) if row["user"] in ("u1", "u2")], "v.jsonl")
    data = config(write(chats(90)), split_by="user", validation={"path": own}, test=0)
    prepared = prepare(data, gemma, 0, tmp_path / "data")
    assert prepared.summary.sources[0].dropped == {"its `user` is also in the validation file": 20}
    assert (prepared.summary.train.rows, prepared.summary.validation.rows) == (70, 2)


def test_near_duplicates_are_counted(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    said = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen " * 3
    rows = [{"instruction": f"task {n % 20}", "output": f"{said} {n % 20} {'!' * (n // 20)}"} for n in range(40)]
    rows += alpaca(60)
    own = write([{"instruction": "TASK 3", "output": said + " 3"}, *alpaca(1, 100)], "v.jsonl")
    data = config(write(rows), validation={"path": own}, test=0)
    summary = prepare(data, chat_model, 0, tmp_path / "data").summary
    assert (summary.train.near, summary.validation.near, summary.validation.rows) == (0, 1, 2)
    assert "1 of 2 validation rows are nearly a training row" in describe(summary)


def test_what_the_template_refuses_is_told_with_its_words(write: Write, gemma: ModelConfig, tmp_path: Path) -> None:
    rows = chats(20)
    rows[4]["messages"].insert(2, {"role": "user", "content": "again"})
    rows[6]["messages"].insert(0, {"role": "system", "content": "Be."})
    with pytest.raises(InputError) as raised:
        prepare(config(write(rows)), gemma, 0, tmp_path / "data")
    first, second = raised.value.faults
    assert (first.line, second.line) == (5, 7)
    assert "refuses it: Conversation roles must alternate" in first.message
    assert "(turns 2 and 3 are" not in first.message
    assert first.message.endswith("(turns 3 and 4 are both `user`)")
    assert second.message == "the model's chat template refuses it: System role not supported"
    assert not (tmp_path / "data").exists()


def test_memory_is_a_further_limit_of_auto(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    rows = [*alpaca(20), *({"instruction": f"{n}", "output": "x" * 300} for n in range(20))]
    summary = prepare(config(write(rows)), chat_model, 0, tmp_path / "data", memory_length=100).summary
    assert (summary.max_length, summary.sources[0].dropped) == (100, {"over max_length": 20})


def test_segments_joined_are_the_row(write: Write, gemma: ModelConfig, tmp_path: Path) -> None:
    prepared, fast = prepare(config(write(chats(40))), gemma, 0, tmp_path / "data"), load_tokenizer(gemma)
    shown, rows = segments(prepared.ref, fast, 3), Rows.open(prepared.ref, "train")
    assert [("".join(text for text, _ in row)) for row in shown] == [fast.decode(rows[n][0]) for n in (0, 16, 31)]
    for row in shown:
        assert [learned for _, learned in row] == [False, True, False, True]
        assert row[1][0].endswith(" says 1: größer 🙂<end_of_turn>")
    assert len(segments(prepared.ref, fast, 99)) == 32
    assert segments(prepared.ref, fast, 0) == []


def test_a_border_inside_a_character_cuts_no_character() -> None:
    fast = tokenizer(GEMMA)
    tokens = np.array(fast("a🙂b", add_special_tokens=False)["input_ids"], np.int32)
    assert len(tokens) == 6
    for border in range(1, 6):
        before = "a" if border < 5 else "a🙂"
        expected = [(before, False), ("a🙂b".removeprefix(before), True)]
        assert segments_of(tokens, np.arange(6) >= border, fast) == expected


def test_data_of_the_first_version_are_read(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    data = config(write(alpaca(40)))
    first = prepare(data, chat_model, 0, tmp_path / "data")
    path = tmp_path / "data" / store.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["layout"] = 1
    for key in ("train_on", "template_arguments", "split_by"):
        del manifest["settings"][f"data.{key}"]
    for key in ("train_on", "split_by"):
        del manifest["summary"][key]
    for side in SIDES:
        del manifest["summary"][side]["near"]
    for source in manifest["summary"]["sources"]:
        del source["unrolled"]
    path.write_text(json.dumps(manifest))
    assert prepare(data, chat_model, 0, tmp_path / "data") == load(tmp_path / "data") == first
    with pytest.raises(StudyMismatch, match=r"data\.train_on: was all, is now last"):
        prepare(DataConfig.model_validate({**data.model_dump(), "train_on": "last"}), chat_model, 0, tmp_path / "data")
