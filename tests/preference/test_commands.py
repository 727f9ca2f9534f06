"""`prefer create`, `serve` and `analyze` as a user meets them, over a study of the tiny model."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.export.chosen import choose, kept_adapter
from meshtune.preference.commands import CreateOptions, analysis_text, create, find
from meshtune.preference.design import what_it_sees
from meshtune.preference.private import open_seal
from tests.finalists.made import finished_study


@pytest.fixture(scope="module")
def study(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of two trials, of which the second is the best."""
    folder = tmp_path_factory.mktemp("preferred")
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 4, test: 0}\n"
        "training: {epochs: 1, batch_size: 8, precision: float32}\n"
        "space: {rank: 4, learning_rate: {low: 1e-6, high: 3e-3, log: true}}\n"
        "baseline: {rank: 4, alpha: 32, learning_rate: 1e-6}\n"
        "sampler: random\n"
        "budget: {trials: 2}\n"
    )
    return finished_study(folder, tiny_model_folder, settings, rows=24)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "asked.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{n}: repeat"}) for n in range(6)), encoding="utf-8")
    return path


def texts(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Text and flag by model and question."""
    with contextlib.closing(sqlite3.connect(folder / "preference.db")) as connection:
        digest = connection.execute("SELECT value FROM meta WHERE key = 'seal'").fetchone()[0]
        seal = open_seal(folder, digest)
        query = "SELECT a.id, q.source, a.text, a.flag FROM answer a JOIN question q ON q.id = a.question"
        return {(seal.answers[key], source): (text, flag) for key, source, text, flag in connection.execute(query)}


def by_peft(study: Path, word: str, prompt: str, count: int) -> str:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    chosen = choose(study, word)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model.name)
    model = AutoPeftModelForCausalLM.from_pretrained(str(kept_adapter(chosen)), dtype="float32").eval()
    asked: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    given = model.generate(**asked, max_new_tokens=count, do_sample=False)[0, asked["input_ids"].shape[1] :]
    return str(tokenizer.decode(given, skip_special_tokens=True)).strip()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # inside PEFT
def test_two_models_of_a_study_answer(study: Path, questions: Path) -> None:
    result = create(CreateOptions(study, questions, annotators=2, sample=4, max_new_tokens=8))
    assert result["models"] == ["best (trial 1)", "baseline (trial 0)"]
    folder = find(study)
    assert folder == find(study.parent) == find(study.parent / "study.yaml") == study / "preference"
    held = texts(folder)
    assert len(held) == 8
    for model in result["models"]:
        number = next(source for name, source in held if name == model)
        prompt = f"{int(number) - 1}: repeat"
        assert held[model, number][0] == by_peft(study, model.partition(" ")[0], prompt, 8).replace("\0", "\ufffd")
    cut = sum(flag == "cut" for _, flag in held.values())
    assert cut == sum(flags.get("cut", 0) for flags in result["flags"].values())
    assert any("80 % power" in line or "power only" in line for line in result["warnings"])
    with pytest.raises(InputError, match="--out"):
        create(CreateOptions(study, questions, annotators=2))  # nothing is overwritten
    seal = json.loads((folder / "sealed.json").read_text())
    assert seal["made"]["decoding"] == "greedy"
    assert seal["made"]["points"]["best (trial 1)"]["trial"] == 1


def test_drawn_answers_are_the_same_for_a_seed(study: Path, questions: Path, tmp_path: Path) -> None:
    drawn: dict[str, Any] = {"words": ("1", "untuned"), "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 6}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        create(CreateOptions(study, questions, out=tmp_path / name, seed=seed, annotators=1, **drawn))
    first, again, other = (texts(tmp_path / name) for name in "abc")
    assert {name for name, _ in first} == {"trial 1", "untuned"}
    assert first == again != other


def test_what_cannot_be_compared_is_refused(study: Path, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same model"):
        create(CreateOptions(study, questions, words=("best", "1"), out=tmp_path / "a"))
    with pytest.raises(InputError, match="untuned"):
        create(CreateOptions(study, questions, words=("untuned", "untuned"), out=tmp_path / "a"))
    with pytest.raises(InputError, match="no such trial"):
        create(CreateOptions(study, questions, words=("best", "9"), out=tmp_path / "a"))
    with pytest.raises(InputError) as raised:
        create(CreateOptions(None, questions, answers=[questions], detect=2, temperature=-1, top_p=0, annotators=0))
    assert len(str(raised.value).splitlines()) == 6
    with pytest.raises(InputError, match="no preference study"):
        find(tmp_path)
    assert not any(tmp_path.iterdir())


def test_ready_answers_through_the_command_line(questions: Path, tmp_path: Path) -> None:
    files = []
    for name in ("x", "y", "z"):
        lines = [{"question_id": n, "text": f"{name} says {n}", "model_id": f"model-{name}"} for n in range(1, 7)]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    given = [part for file in files for part in ("--answers", str(file))]
    out = str(tmp_path / "p")
    arguments = ["prefer", "create", "--questions", str(questions), "--annotators", "3", "--out", out, *given]
    done = CliRunner().invoke(app, [*arguments, "--detect", "0.5", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["models"] == ["model-x", "model-y", "model-z"]
    assert result["power"]["detect"] == 0.5
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, InputError)
    shown = CliRunner().invoke(app, [*arguments[:-6], *given[:4], "--out", str(tmp_path / "q")])
    assert "questions needed" in shown.stdout
    tiny = CliRunner().invoke(
        app,
        [
            *arguments[:4],
            *given[:4],
            "--sample",
            "1",
            "--annotators",
            "1",
            "--detect",
            "0.001",
            "--out",
            str(tmp_path / "r"),
        ],
    )
    assert "\nno net preference is seen with 80 % power\n" in tiny.stdout
    assert "0.1 %" in tiny.stdout
    for asks in (["Degree", "Degree"], ["annotator"], [" "]):
        with pytest.raises(InputError, match="--ask"):
            create(CreateOptions(None, questions, answers=files, out=tmp_path / "s", asks=asks))


def test_what_analyze_prints() -> None:
    strengths = [{"name": "x", "value": 0.5, "low": -0.25, "high": 1.25}]
    result = {"verdicts": ["S. a"], "stamp": "S", "left_out": {"people": 2}, "files": {"index.html": "page"}}
    assert analysis_text({**result, "bradley_terry": {"strengths": strengths}}).splitlines() == [
        *("S. a.", "S. strength (Bradley-Terry, log odds): x +0.50 [-0.25, +1.25]."),
        *("not counted: 2 votes of people", "wrote page"),
    ]
    for none in (None, {"reason": "why"}):
        assert len(analysis_text({**result, "bradley_terry": none}).splitlines()) == 3


def test_the_paper_design_and_larger_ones() -> None:
    """30 questions and 10 annotators see a lead of 5 % hardly ever."""
    seen = what_it_sees(30, 10, 2, 0.05)
    assert seen["power"] == pytest.approx(0.1, abs=0.02)
    assert seen["smallest"] > 0.2
    both = next(row["both"] for row in seen["needed"] if row["lead"] == 0.05)
    assert what_it_sees(*both, 2, 0.05)["power"] >= 0.8
    assert what_it_sees(30, 30, 3, 0.05)["power"] == pytest.approx(seen["power"])  # ten annotators a pair
