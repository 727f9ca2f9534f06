"""Answers to validation rows: what the files hold, and how a metric's failure ends."""

from pathlib import Path

import pytest

from meshtune.config.sections import MetricConfig, ModelConfig, TrainingConfig
from meshtune.data.answers import file_of, read
from meshtune.data.store import original_rows
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.objectives.metrics import stamp
from meshtune.study import finals
from meshtune.trial import DataRef, Ending, Outcome, Request

METRIC = """
def score(row, answer):
    assert set(row) == {"instruction", "input", "output"}
    return len(answer) / 100
"""


def objective(model: Path, data: DataRef, folder: Path, metric: str = METRIC) -> LoraObjective:
    path = folder / "metrics.py"
    path.write_text(metric, encoding="utf-8")
    spec = LoraSpec(
        model=ModelConfig(name=str(model)),
        training=TrainingConfig(batch_size=8, precision="float32", epochs=1),
        data=data,
        at="best",
        folder=str(folder),
        answers=3,
        max_new_tokens=5,
        metrics={"length": MetricConfig(file=str(path))},
    )
    return LoraObjective(spec, "cpu", 1)


def outcome(made: LoraObjective, request: Request) -> Outcome:
    (found,) = [event for event in made.evaluate([request]) if isinstance(event, Outcome)]
    return found


def test_the_untuned_model_and_an_adapter_answer(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> None:
    made = objective(tiny_model_folder, tiny_data, tmp_path)
    trained = outcome(made, Request(3, {"rank": 4, "alpha": 8.0, "dropout": 0.0, "learning_rate": 0.05}, seed=0))
    assert trained.adapter == "adapters/3"
    answers = {}
    for number, adapter in ((-1, None), (-2, trained.adapter)):
        ended = outcome(made, Request(number, {}, seed=0, measure="answers", adapter=adapter))
        assert ended.ending is Ending.COMPLETE, ended.message
        answers[adapter] = read(tmp_path / file_of(adapter))
        scores = [line["scores"]["length"] for line in answers[adapter]]
        assert ended.extra == {"length": pytest.approx(sum(scores) / 3)}
    assert {path.name for path in (tmp_path / "evaluation" / "answers").iterdir()} == {"untuned.jsonl", "trial-3.jsonl"}
    rows = original_rows(Path(tiny_data.folder), "validation")
    for lines in answers.values():
        assert [line["row"] for line in lines] == [0, 4, 9], "rows stand source by source: the first are of one"
        assert {line["made"] for line in lines} == {stamp(made.spec.metrics, 3, 5)}
        for line in lines:
            original = rows[line["row"]]
            assert original.row["instruction"] in line["prompt"]
            assert line["reference"] == original.row["output"]
            assert line["scores"]["length"] == len(line["answer"]) / 100
    assert finals.scores(tmp_path)["trial-3"]["length"].count == 3


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("def score(row, answer): return 1 / 0", "metric `length` failed on an answer: ZeroDivisionError"),
        ("def scores(row, answer): return 1", "has no function `score`"),
    ],
)
def test_a_metric_that_fails_is_named_and_nothing_half_written(
    tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path, metric: str, words: str
) -> None:
    made = objective(tiny_model_folder, tiny_data, tmp_path, metric)
    ended = outcome(made, Request(-1, {}, seed=0, measure="answers"))
    assert (ended.ending, ended.retry) == (Ending.CRASHED, False)
    assert words in ended.message
    assert not (tmp_path / "evaluation").exists()
