import json
from dataclasses import replace

from meshtune.data.summary import SideSummary, SourceSummary, Summary, describe, warnings

SUMMARY = Summary(
    sources=(
        SourceSummary("alpaca.json", "alpaca", "mix", 52002, {"empty response": 2}, 52000, 27.84, 64.6),
        SourceSummary("dolly.jsonl", "dolly", "mix", 15011, {}, 15011, 118.1, 91.3),
    ),
    train=SideSummary(53610, 47117, (37527, 16083), 9_000_000, 4_000_000),
    validation=SideSummary(13402, 10000, (9381, 4021), 2_000_000, 1_000_000),
    test=SideSummary(0, 0, (0, 0), 0, 0),
    mixture="repeat",
    prompt="alpaca",
    max_length=512,
)

TABLE = """\
source            read  dropped    kept  prompt  response      train     valid.  test
alpaca.json     52,002        2  52,000    27.8      64.6     37,527      9,381     0
dolly.jsonl     15,011        0  15,011   118.1      91.3     16,083      4,021     0
all rows                                                      53,610     13,402     0
all tokens                                                 9,000,000  2,000,000     0
learned tokens                                             4,000,000  1,000,000     0
different rows                                                47,117     10,000     0
(prompt, response: mean tokens of the kept rows; mixture repeat, prompt alpaca, at most 512 tokens a row)
alpaca.json: 2 dropped (0.0038 %): empty response
no row is cut: it is taken whole or dropped"""


def test_the_table_for_people() -> None:
    assert describe(SUMMARY) == TABLE


def test_few_rows_and_templated_ones_are_warned_about() -> None:
    small = replace(
        SUMMARY, validation=SideSummary(29, 29, (29, 0), 900, 400, near=3), test=SideSummary(2, 2, (2, 0), 9, 9)
    )
    filled = replace(small, test=SideSummary(40, 40, (40, 0), 900, 400, templated=4))
    assert describe(small).splitlines()[-3:] == [
        "only 29 validation rows: the search chooses by luck; give at least 30 (`data.validation`)",
        "3 of 29 validation rows are nearly a training row (4/5 of their phrases)",
        "only 2 test rows: an interval over them says little; give at least 30 (`data.test`)",
    ]
    words = "4 of 40 test rows are a training row with other names or numbers: their loss says little about texts of"
    assert words in warnings(filled.to_dict())[-1]
    assert not warnings(replace(SUMMARY, test=SideSummary(40, 40, (40, 0), 900, 400, templated=3)).to_dict())


def test_a_summary_survives_json() -> None:
    assert Summary.from_dict(json.loads(json.dumps(SUMMARY.to_dict()))) == SUMMARY
