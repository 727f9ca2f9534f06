from pathlib import Path

import pytest

from meshtune.data.formats import parse
from meshtune.data.rows import Place, Row, capped

PLACE = Place(Path("rows.jsonl"))


@pytest.mark.parametrize(
    ("item", "name", "row"),
    [
        ({"instruction": "i", "input": "c", "output": "o", "status": "ok"}, "alpaca", Row("i", "c", "o", False, 1)),
        ({"instruction": "i", "output": "o"}, "alpaca", Row("i", "", "o", False, 1)),
        ({"instruction": "i", "context": None, "response": "r"}, "dolly", Row("i", "", "r", False, 1)),
        ({"prompt": "p", "completion": "c"}, "prompt-completion", Row("p", "", "c", True, 1)),
        ({"prompt": "p", "response": "r"}, "prompt-response", Row("p", "", "r", True, 1)),
    ],
)
def test_formats_are_recognised_by_their_keys(item: dict[str, object], name: str, row: Row) -> None:
    assert parse([(1, item)], "auto", PLACE) == (name, [row], [])
    assert parse([(1, item)], name, PLACE) == (name, [row], [])


def message(item: object, named: str = "auto") -> str:
    return "\n".join(map(str, parse([(7, item)], named, PLACE)[2]))


def test_what_fits_no_format_or_several_is_a_fault() -> None:
    assert message({"question": "q", "answer": "a"}).startswith(
        "rows.jsonl:7: the keys `question`, `answer` fit no known format (alpaca: instruction, output; dolly:"
    )
    both = {"prompt": "p", "completion": "c", "response": "r"}
    assert "fit prompt-completion and prompt-response: name one with `format:`" in message(both)
    assert message(both, "prompt-response") == ""


def test_a_context_under_a_mistaken_name_is_not_lost_silently() -> None:
    item = {"instruction": "i", "inputs": "c", "output": "o"}
    assert message(item) == "rows.jsonl:7: the key `inputs` is not part of the format alpaca; rename it `input`"


def test_every_bad_row_is_a_fault_with_its_line() -> None:
    good = {"instruction": "i", "input": "", "output": "o"}
    bad = [{"instruction": "i", "outptu": "o"}, ["i", "o"], {**good, "output": 3}, {**good, "output": "\ud800"}]
    name, rows, faults = parse(enumerate([good, *bad, good], 1), "auto", PLACE)
    assert (name, [row.line for row in rows]) == ("alpaca", [1, 6])
    assert [str(fault) for fault in faults] == [
        "rows.jsonl:2: lacks `output`, which rows of the format alpaca need. Did you mean `outptu`?",
        "rows.jsonl:3: a row must be an object with named values, not a list",
        "rows.jsonl:4: `output` must be text, not a number",
        "rows.jsonl:5: `output` holds half of a surrogate pair, which is no text; remove it",
    ]


def test_faults_are_capped_at_a_readable_number() -> None:
    faults = [PLACE.fault(line, "bad") for line in range(1, 31)]
    shown = capped(faults, PLACE)
    assert len(shown) == 11
    assert str(shown[-1]) == "rows.jsonl: and 20 more faults like these"
    assert capped(faults[:10], PLACE) == faults[:10]
