"""How what is trained with other seeds is scored; `test_select.py` has the whole of it."""

import pytest

from meshtune.finalists.replicates import _settings
from meshtune.finalists.stored_scores import Evidence
from meshtune.selection.measured import Measured, of_answers

SETTINGS = {"benchmarks": ["mmlu", "humaneval"], "temperature": 0.8, "samples": 10, "pass_at": [1, 10]}


@pytest.mark.parametrize(("names", "samples", "pass_at"), [(("mmlu",), 1, ()), (("mmlu", "humaneval"), 10, (1, 10))])
def test_samples_are_asked_of_humaneval_alone(names: tuple[str, ...], samples: int, pass_at: tuple[int, ...]) -> None:
    measures = tuple(of_answers(name, name, {"a": {"1": 1.0}}) for name in names)
    found = _settings(Evidence(Measured(("a",), measures), {}, (), {}, (), settings=SETTINGS))
    assert found.benchmarks == names
    assert (found.samples, found.pass_at, found.temperature) == (samples, pass_at, 0.8)
