"""What `evaluate` says outside a terminal: a line at a benchmark's end, and one after a minute without any."""

import io

from rich.console import Console

from meshtune.cli.bars import EvaluateView
from meshtune.evaluation.run import AnswerProgress


def test_a_file_says_how_far_the_answers_are_after_a_minute_without_a_line() -> None:
    said, now = io.StringIO(), [0.0]
    with EvaluateView(Console(file=said), clock=lambda: now[0]) as view:
        view.show("loading the model")
        for at, done in ((10, 1), (65, 5), (70, 6), (130, 9), (131, 12)):
            now[0] = float(at)
            view.show(AnswerProgress("trial-2", "mmlu", done, 12))
    assert said.getvalue().splitlines() == [
        "loading the model",
        "    trial-2: mmlu, 5 of 12 answers",
        "    trial-2: mmlu, 9 of 12 answers",
        "trial-2: mmlu, 12 answers",
    ]
