"""Files of questions, answers and votes; markdown; secrets."""

import json
import stat
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.preference import private, questions, votes
from meshtune.preference.markdown import render
from meshtune.preference.questions import read_answers, read_questions, sample
from meshtune.preference.schema import Plan, check
from meshtune.preference.store import Store
from tests.preference.made import made

VICUNA = Path(__file__).parents[3] / "shared" / "data" / "vicuna"


def lines(path: Path, *values: object) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values) + "\n", encoding="utf-8")
    return path


@pytest.mark.skipif(not VICUNA.exists(), reason="the real files are not here")
def test_real_files_are_read() -> None:
    asked = read_questions(VICUNA / "question.jsonl")
    turns = read_questions(VICUNA / "fastchat_vicuna_bench_question.jsonl")
    assert [one.text for one in asked] == [one.text for one in turns]
    assert len(read_questions(VICUNA / "mt_bench_question.jsonl")) == 80
    name, answers = read_answers(VICUNA / "answer_alpaca-13b.jsonl")
    assert name == "alpaca-13b:v1"
    assert set(answers) == {one.id for one in asked}
    thirty = sample(asked, 30, 0)
    assert len(thirty) == 30
    assert thirty == sample(asked, 30, 0) != sample(asked, 30, 1)


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"question_id": 1, "text": "a"}, "{", {"question_id": 2}, "[1]", {"text": 3})
    with pytest.raises(InputError) as raised:
        read_questions(path)
    assert [fault.line for fault in raised.value.faults] == [2, 3, 4, 5]
    twice = lines(tmp_path / "t.jsonl", {"question_id": 1, "text": "a"}, {"question_id": 1, "text": "b"})
    with pytest.raises(InputError, match="more than once"):
        read_questions(twice)
    with pytest.raises(InputError, match="2 models"):
        read_answers(
            lines(
                tmp_path / "a.jsonl",
                {"question_id": 1, "text": "a", "model_id": "x"},
                {"question_id": 2, "text": "a", "model_id": "y"},
            )
        )
    with pytest.raises(InputError, match="there are 1 questions"):
        sample(read_questions(lines(tmp_path / "one.jsonl", {"text": "a"})), 2, 0)


def test_answers_are_flagged_and_strange_text_is_kept_readable(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"question_id": 1, "text": " "}\n{"question_id": 2, "text": "a\\ud800\\u0000b\\u2028c"}\n')
    name, answers = read_answers(path)
    assert name == "m"
    assert answers["1"].flag == "empty"
    assert answers["2"].text == "a?\ufffdb\u2028c"


def test_a_plan_that_lacks_answers_is_refused() -> None:
    asked = [questions.Question("1", "a"), questions.Question("2", "b")]
    given = {"x": {"1": questions.Answer("1", "y")}}
    with pytest.raises(InputError) as raised:
        check(Plan(asked, given, 0, 0))
    for part in ("two models", "--annotators 0", "`x` has no answer to 1 of 2"):
        assert part in str(raised.value)


def test_secrets_and_the_seal_are_their_owners(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    for name in (private.SECRETS, private.SEAL, "preference.db"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / private.SECRETS).chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        private.read_secrets(folder)
    (folder / private.SEAL).write_text((folder / private.SEAL).read_text().replace("one", "two"))
    with pytest.raises(InputError, match="was changed"):
        private.open_seal(folder, "0" * 64)


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    with pytest.raises(InputError, match="votes yet, so the study stays open"):
        votes.of_study(folder, close=True)
    with pytest.raises(InputError, match="the study is open"):
        votes.of_study(folder)
    (folder / private.SECRETS).write_text('{"key": "zz"')
    with pytest.raises(InputError, match="is damaged"):
        private.read_secrets(folder)
    for name in ("preference.db-wal", "preference.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "preference.db").write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        Store(folder)
    with pytest.raises(InputError, match="is damaged"):
        votes.of_study(folder, close=True)


def test_all_faults_of_a_file_of_votes_come_at_once(tmp_path: Path) -> None:
    right = {"annotator": "p1", "question": "1", "left": "x", "right": "y", "choice": "a", "origin": "people"}
    path = lines(
        tmp_path / "votes.jsonl",
        right,
        {**right, "left": "y", "right": "x"},  # the same pair again
        {key: value for key, value in right.items() if key != "origin"},
        {**right, "question": 2, "strength": 4, "left_length": "long"},
        {**right, "question": "3", "choise": "b"},
        [1],
        "[" * 100_000,
        {"answer1_id": "u"},
        {**right, "question": "4", "right": "x"},
    )
    with pytest.raises(InputError) as raised:
        votes.of_file(path)
    assert [fault.line for fault in raised.value.faults] == [2, 3, 4, 5, 6, 7, 8, 9]
    for part in (
        "line 1 is the same annotator's",
        "`origin` is needed",
        "`strength`",
        "Did you mean `choice`",
        "`text`",
    ):
        assert part in str(raised.value)


def test_links_are_signed() -> None:
    token = private.link(b"key", 3, 1)
    assert private.read_link(b"key", token) == (3, 1)
    assert private.read_link(b"other", token) is None
    for other in ("", "3.1.", token.replace("3.1", "4.1"), token + "a", "3.1." + "\u0661" * 22, token[:-1]):
        assert private.read_link(b"key", other) is None
    assert private.form_token(b"key", token) != private.form_token(b"key", "admin")


def test_what_an_answer_holds_can_do_nothing() -> None:
    html = render(
        "<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n[a](javascript:alert(1)) [b](data:text/html,x)"
        " [c](https://example.org 'title') ![d](https://example.org/x.png) <https://example.org/e>"
        "\n\n<a onclick='x()'>f</a>\n\n# Top\n\n```html onload=x\n<b>&</b>\n```\n\n| a |\n|:-:|\n| <i> |\n"
    )
    for part in ("<script", "<img", 'href="javascript', 'href="data', "<a onclick", "style=", "onload", "<h1", "<i>"):
        assert part not in html, part
    assert '<a href="https://example.org" rel="noopener noreferrer nofollow" target="_blank">c</a>' in html
    assert "&lt;script&gt;" in html
    assert '<pre tabindex="0"><code>&lt;b&gt;&amp;&lt;/b&gt;\n</code></pre>' in html
    assert "<h3>Top</h3>" in html


@pytest.mark.parametrize("text", ["**open", "```\nno end", "> " * 5000, "[" * 19_000, "x" * 100_000, "*a _b" * 5000])
def test_broken_and_endless_markdown_is_shown(text: str) -> None:
    assert len(render(text)) > 0


def test_nothing_is_said_to_be_nothing() -> None:
    assert "empty" in render(" \n ")
