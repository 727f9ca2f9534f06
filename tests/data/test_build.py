import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshtune.config.sections import DataConfig, ModelConfig
from meshtune.data.build import load, prepare
from meshtune.data.store import Rows, epoch_order
from meshtune.data.summary import Summary, describe
from meshtune.data.tokenizer import load_tokenizer
from meshtune.errors import InputError, StorageError, StudyMismatch
from meshtune.trial import DataRef
from tests.data.made import INSTRUCTIONS, alpaca, config

Write = Callable[..., str]
SIDES = ("train", "validation", "test")


def texts(ref: DataRef, side: str, model: ModelConfig) -> list[str]:
    tokenizer = load_tokenizer(model)
    return [tokenizer.decode(tokens) for tokens, _ in Rows.open(ref, side)]  # type: ignore[arg-type]


def test_rows_come_back_as_they_were_written(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    prepared = prepare(config(write(alpaca(50)), test=0.2), chat_model, 0, tmp_path / "data")
    assert [len(Rows.open(prepared.ref, side)) for side in SIDES] == [35, 5, 10]  # type: ignore[arg-type]
    held = [text for side in SIDES for text in texts(prepared.ref, side, chat_model)]
    expected = [f"<s>[user]\nquestion {n}[end]\n[assistant]\nanswer {n}[end]" for n in range(50)]
    assert sorted(held) == sorted(expected)
    rows = Rows.open(prepared.ref, "train")
    assert rows.tokens == sum(rows.lengths) == sum(len(tokens) for tokens, _ in rows) == prepared.summary.train.tokens
    assert rows.label_tokens == sum(int(trained.sum()) for _, trained in rows) == prepared.summary.train.label_tokens
    with pytest.raises(IndexError):
        rows[35]


def test_a_second_call_reads_what_is_there(write: Write, chat_folder: Path, tmp_path: Path) -> None:
    path = write(alpaca(50))
    first = prepare(config(path), ModelConfig(name=str(chat_folder)), 3, tmp_path / "data")
    assert load(tmp_path / "data") == first
    program = (
        "import sys; from pathlib import Path; from meshtune.config.sections import *\n"
        "from meshtune.data.build import prepare\n"
        f"data, model = DataConfig(sources=(SourceConfig(path={path!r}),)), ModelConfig(name={str(chat_folder)!r})\n"
        f"print(prepare(data, model, 3, Path({str(tmp_path / 'data')!r})).ref.fingerprint)\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == [first.ref.fingerprint, "[]"]


def test_equal_settings_give_equal_fingerprints(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    data = config(write(alpaca(50)))
    one, two, other = (
        prepare(data, chat_model, seed, tmp_path / name) for seed, name in ((0, "one"), (0, "two"), (1, "other"))
    )
    assert one.ref.fingerprint == two.ref.fingerprint != other.ref.fingerprint
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_other_settings_or_sources_are_refused_with_what_differs(
    write: Write, chat_model: ModelConfig, tmp_path: Path
) -> None:
    path = write(alpaca(50))
    prepare(config(path), chat_model, 0, tmp_path / "data")
    with pytest.raises(StudyMismatch) as raised:
        prepare(config(path, max_length=99), chat_model, 1, tmp_path / "data")
    lines = str(raised.value).splitlines()
    assert sorted(lines[:-1]) == ["data.max_length: was auto, is now 99", "seed: was 0, is now 1"]
    moved = Path(path).rename(tmp_path / "moved.jsonl")
    prepare(config(str(moved)), chat_model, 0, tmp_path / "data")
    moved.write_text(moved.read_text() + json.dumps(alpaca(1)[0]))
    with pytest.raises(StudyMismatch, match=rf"data\.sources\.0: {re.escape(str(moved))} holds other rows than"):
        prepare(config(str(moved)), chat_model, 0, tmp_path / "data")


def test_rows_of_other_data_are_refused(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    ref = prepare(config(write(alpaca(50))), chat_model, 0, tmp_path / "data").ref
    with pytest.raises(InputError, match="holds other data than the study was made with"):
        Rows.open(DataRef(ref.folder, "0" * 64), "train")
    with pytest.raises(InputError, match="holds no prepared data"):
        Rows.open(DataRef(str(tmp_path), ref.fingerprint), "train")
    (tmp_path / "data" / "train.tokens.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"train\.tokens\.npy: is missing or damaged"):
        Rows.open(ref, "train")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda data: flip(data / "train.tokens.npy"),
    "a cut file": lambda data: os.truncate(data / "validation.trained.npy", 130),
    "a lost file": lambda data: (data / "test.starts.npy").unlink(),
    "no end of the rows": lambda data: (data / "test.rows.jsonl").write_text(""),
    "half of the manifest": lambda data: os.truncate(data / "manifest.json", 100),
    "no manifest": lambda data: (data / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damaged", list(DAMAGE))
def test_damaged_files_are_made_again(damaged: str, write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    data, folder = config(write(alpaca(50)), test=0.2), tmp_path / "data"
    first = prepare(data, chat_model, 0, folder, memory_length=40)
    assert first.damage is None
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGE[damaged](folder)
    # the manifest says how long rows may be, where there is one: what the device has memory for may have changed
    again = prepare(data, chat_model, 0, folder, memory_length=40 if "manifest" in damaged else 20)
    assert again.damage is not None
    assert again.damage.startswith(f"{tmp_path}/data")
    assert replace(again, damage=None) == first
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    assert [path.name for path in tmp_path.iterdir() if "data" in path.name] == ["data"]
    assert prepare(data, chat_model, 0, folder) == first


def test_what_cannot_be_made_again_is_left_and_said(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    data, folder = config(write(alpaca(50))), tmp_path / "data"
    prepare(data, chat_model, 0, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))  # as of another tokenizer
    with pytest.raises(StudyMismatch, match=r"the tokens are damaged .* makes from the same rows differs"):
        prepare(data, chat_model, 0, folder)
    assert json.loads((folder / "manifest.json").read_text())["fingerprint"] == "0" * 64


def test_dropped_rows_are_counted_by_reason(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    rows = [*alpaca(40), {"instruction": "empty", "output": "  "}, {"instruction": "long", "output": "x" * 200}]
    summary = prepare(config(write(rows), max_length=60), chat_model, 0, tmp_path / "data").summary
    assert summary.sources[0].dropped == {"empty response": 1, "over max_length": 1}
    assert (summary.sources[0].read, summary.sources[0].kept, summary.max_length) == (42, 40, 60)
    assert Summary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary
    assert "rows.jsonl: 1 dropped (2.4 %): over max_length" in describe(summary)
    with pytest.raises(InputError) as raised:
        prepare(config(write(rows), max_length=60, strict=True), chat_model, 0, tmp_path / "strict")
    assert [(fault.line, fault.message.split(" (")[0]) for fault in raised.value.faults] == [
        (41, "the response is empty"),
        (42, "226 tokens, over the max_length of 60"),
    ]
    assert not (tmp_path / "strict").exists()


def test_max_length_auto_covers_99_of_100_rows(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    rows = [*alpaca(198), *({"instruction": f"{n}", "output": "x" * 300} for n in range(2))]
    summary = prepare(config(write(rows)), chat_model, 0, tmp_path / "data").summary
    assert summary.sources[0].dropped == {"over max_length": 2}
    strict = prepare(config(write(rows), strict=True), chat_model, 0, tmp_path / "strict").summary
    assert strict.sources[0].dropped == {}
    assert strict.max_length > 300


def test_a_source_that_keeps_no_row_is_a_fault(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    good, empty = write(alpaca(50)), write([{"instruction": "a", "output": ""}] * 3, "empty.jsonl")
    with pytest.raises(InputError, match=r"empty\.jsonl: keeps none of its 3 rows \(3 empty response; max_length"):
        prepare(config(good, empty), chat_model, 0, tmp_path / "data")
    with pytest.raises(InputError, match=r"keeps none of its 50 rows \(50 over max_length; max_length 5\)"):
        prepare(config(good, max_length=5), chat_model, 0, tmp_path / "data")


def test_no_text_stands_on_two_sides(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    doubled = [*alpaca(60), *alpaca(30), *({**row, "output": row["output"] + "\r\n"} for row in alpaca(20))]
    for mixture in ("union", "cap", "repeat"):
        shares = {} if mixture == "union" else {"shares": [0.7, 0.3]}
        data = config(write(doubled), write(alpaca(30, 50), "b.jsonl"), mixture=mixture, **shares)
        prepared = prepare(data, chat_model, 0, tmp_path / mixture)
        sides = [{text.strip() for text in texts(prepared.ref, side, chat_model)} for side in SIDES]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert sum(map(len, sides)) == sum(
            side.distinct for side in (prepared.summary.train, prepared.summary.validation, prepared.summary.test)
        )


def test_sides_from_files_of_their_own(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    mix, validation, test = write(alpaca(50)), write(alpaca(20, 40), "v.jsonl"), write(alpaca(10, 55), "t.jsonl")
    data = config(mix, validation={"path": validation}, test={"path": test})
    summary = prepare(data, chat_model, 0, tmp_path / "data").summary
    assert (summary.train.rows, summary.validation.rows, summary.test.rows) == (40, 15, 10)
    assert [source.dropped for source in summary.sources] == [
        {"also in the validation file": 10},
        {},
        {"also in the test file": 5},
    ]
    with pytest.raises(StudyMismatch, match=r"data\.test"):
        prepare(config(mix, validation={"path": validation}, test=5), chat_model, 0, tmp_path / "data")


def test_without_test_rows(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    prepared = prepare(config(write(alpaca(50)), test=0), chat_model, 0, tmp_path / "data")
    rows = Rows.open(prepared.ref, "test")
    assert (len(rows), rows.tokens, rows.label_tokens, list(rows)) == (0, 0, 0, [])


def test_a_max_length_beyond_the_models_window_is_a_fault(
    write: Write, tiny_model_folder: Path, tmp_path: Path
) -> None:
    data = config(write(alpaca(50)), max_length=4096)
    with pytest.raises(InputError, match=r"data\.max_length: 4096 tokens are more than the model's window of 512"):
        prepare(data, ModelConfig(name=str(tiny_model_folder)), 0, tmp_path / "data")


def test_all_faults_of_settings_and_sources_at_once(chat_model: ModelConfig, tmp_path: Path) -> None:
    data = config("/no/a.jsonl", "/no/b.jsonl", validation={"path": "/no/v.jsonl"})
    with pytest.raises(InputError) as raised:
        prepare(data, chat_model, 0, tmp_path / "data")
    assert [fault.key for fault in raised.value.faults] == ["data.sources.0", "data.sources.1", "data.validation"]


def test_a_folder_that_cannot_be_written(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    path = write(alpaca(50))
    with pytest.raises(StorageError, match="cannot be written to"):
        prepare(config(path), chat_model, 0, Path(path) / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="cannot be written to"):
        prepare(config(path), chat_model, 0, tmp_path / "full")
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing_half_written(write: Write, chat_model: ModelConfig, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    data, limits = config(write(alpaca(1000))), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))  # no file over 20 kB: fails as a full disk does
    try:
        with pytest.raises(StorageError, match="cannot be written to"):
            prepare(data, chat_model, 0, tmp_path / "study" / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "study").iterdir()) == []


def test_epoch_order_is_a_permutation_of_seed_and_epoch() -> None:
    orders = [epoch_order(100, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert epoch_order(100, 0, 0).tolist() == orders[0]
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]


def test_the_real_files(chat_model: ModelConfig, tmp_path: Path) -> None:
    paths = [INSTRUCTIONS / name for name in ("alpaca_libre_tasks_v1.jsonl", "dolly_hhrlhf_train_small.jsonl")]
    if not all(path.exists() for path in paths):
        pytest.skip("the instruction files are not here")
    data = config(*map(str, paths), shares=[0.7, 0.3], mixture="cap", max_length=2048)
    summary = prepare(data, chat_model, 0, tmp_path / "data").summary
    first, second = summary.sources
    assert (first.format, first.read, first.dropped) == ("alpaca", 2375, {"empty response": 237})
    assert (second.format, second.read) == ("prompt-response", 1000)
    total = sum(side.rows for side in (summary.train, summary.validation, summary.test))
    assert total == min(int(first.kept / 0.7), int(second.kept / 0.3))
    alpaca_rows = sum(side.by_source[0] for side in (summary.train, summary.validation, summary.test))
    assert alpaca_rows / total == pytest.approx(0.7, abs=1 / total)


def test_the_config_of_the_embedded_sources(chat_model: ModelConfig, tmp_path: Path) -> None:
    sources = [
        {"embedded": "python-stdlib-describe", "share": 0.7},
        {"embedded": "python-stdlib-signature", "share": 0.3},
    ]
    data = DataConfig.model_validate({"sources": sources, "mixture": "cap", "rows": 400})
    summary = prepare(data, chat_model, 0, tmp_path / "data").summary
    assert (summary.train.by_source, summary.validation.rows, summary.test.rows) == ((224, 96), 40, 40)


@pytest.mark.parametrize("mixture", ["union", "cap", "repeat"])
def test_fewer_rows_of_the_same_split_are_parts_of_the_same_sides(
    mixture: str, write: Write, chat_model: ModelConfig, tmp_path: Path
) -> None:
    """So that no study trains on, or chooses by, what another one of these holds back."""
    share = {} if mixture == "union" else {"share": 1.0}
    data = config(write(alpaca(80)), mixture=mixture, test=0.2, validation=0.2)
    data = data.model_copy(update={"sources": tuple(s.model_copy(update=share) for s in data.sources)})
    sides = {}
    for rows, split_rows in ((60, None), (40, 60), (20, 60)):
        changed = data.model_copy(update={"rows": rows, "split_rows": split_rows})
        made = prepare(changed, chat_model, 0, tmp_path / str(rows))
        sides[rows] = {side: texts(made.ref, side, chat_model) for side in SIDES}
        assert [len(held) for held in sides[rows].values()] == [rows * 6 // 10, rows // 5, rows // 5]
    for fewer in (40, 20):
        assert all(set(sides[fewer][side]) <= set(sides[60][side]) for side in SIDES)
        assert not set(sides[60]["test"]) & {*sides[fewer]["train"], *sides[fewer]["validation"]}
    whole = prepare(data, chat_model, 0, tmp_path / "all")
    part = prepare(data.model_copy(update={"rows": 20, "split_rows": "all"}), chat_model, 0, tmp_path / "part")
    assert set(texts(part.ref, "test", chat_model)) <= set(texts(whole.ref, "test", chat_model))
