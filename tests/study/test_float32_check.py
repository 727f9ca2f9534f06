"""The finalists' order, checked in float32: what is measured, what is said of it, and when it is left out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshtune.record.log import Record
from meshtune.study import float32_check
from meshtune.study.finals import Runner
from meshtune.study.loop import Running
from meshtune.trial import Ending, Outcome, Request
from tests.kill import run
from tests.report.made import made_study, status_of
from tests.study.test_loop import SPACE, AtOnce
from tests.test_kill_lora import lora_study
from tests.test_kill_lora import status_of as told_status

UNTUNED = 9.0
LOSSES = (3.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0)  # of trials 0, the baseline, to 6


def study(folder: Path, precision: str = "bfloat16", losses: Sequence[float] = LOSSES) -> Record:
    """Seven complete trials, of which the baseline is one; their adapters are folders."""
    record = Record(f"sqlite:///{folder / 'study.db'}", "study", SPACE, fixed={"validation_precision": precision})
    record.note("untuned", {"loss": UNTUNED})
    for number, loss in enumerate(losses):
        record.enqueue({"x": loss / 10, "k": 0}, origin="start" if number else "baseline", seed=0)
        adapter = folder / "adapters" / str(number)
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").touch()
        outcome = Outcome(number, 1, Ending.COMPLETE, loss=loss, adapter=f"adapters/{number}")
        record.tell(outcome, elapsed=1.0)
    return record


def measured(folder: Path, record: Record, exact: Mapping[str | None, float], **given: Any) -> list[Request]:
    """Measure with these losses in float32 by adapter; returns what was asked for."""

    def answer(request: Request) -> Outcome:
        loss = exact[request.adapter]
        rows = tuple((loss * 10 + wobble, 10) for wobble in (-1.0, 0.0, 1.0))
        return Outcome(request.trial, request.attempt, Ending.COMPLETE, loss=loss, row_losses=rows)

    worker = AtOnce(answer)
    events = float32_check.measure(record, folder, Runner(worker, 0, None, 2), **{"no_room": None, **given})
    assert all(isinstance(event, Running) for event in events)
    return worker.submitted


def exactly(**changed: float) -> dict[str | None, float]:
    """The study's own losses in float32, but for some trials'."""
    losses: dict[str | None, float] = {None: UNTUNED}
    losses |= {f"adapters/{number}": loss for number, loss in enumerate(LOSSES)}
    for name, loss in changed.items():
        losses[f"adapters/{name.removeprefix('trial_')}"] = loss
    return losses


def test_the_same_order(tmp_path: Path) -> None:
    record = study(tmp_path)
    assert float32_check.checked(record, tmp_path) is None
    asked = measured(tmp_path, record, exactly())
    assert {(request.adapter, request.measure) for request in asked} == {
        (None, "float32"),
        *((f"adapters/{number}", "float32") for number in range(5)),
    }
    assert all(request.trial < 0 for request in asked)
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert (found["holds"], found["best"], found["skipped"]) == (True, "trial-2", None)
    assert [model["name"] for model in found["models"]] == [*(f"trial-{n}" for n in (2, 1, 0, 3, 4)), "untuned"]
    assert float32_check.sentence(found) == (
        "Measured again with the base in float32, the 6 finalists stand in the same order as in bfloat16."
    )
    assert measured(tmp_path, record, exactly()) == [], "nothing is measured twice"


def test_others_change_places(tmp_path: Path) -> None:
    record = study(tmp_path)
    measured(tmp_path, record, exactly(trial_3=5.5))
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert (found["holds"], found["best"]) == (False, "trial-2")
    assert "trial 2 stays the best; others stand in another order" in float32_check.sentence(found)


def test_another_is_the_best(tmp_path: Path) -> None:
    record = study(tmp_path)
    measured(tmp_path, record, exactly(trial_1=0.5))
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert (found["holds"], found["best"]) == (False, "trial-1")
    assert found["difference"]["mean"] == pytest.approx(-0.5)
    assert "trial 1 is better than trial 2, the best in bfloat16, by 0.5000 (95 % interval" in float32_check.sentence(
        found
    )
    assert "noise" not in float32_check.sentence(found)
    assert "which is within noise" in float32_check.sentence(
        {**found, "difference": {"mean": -0.1, "low": -0.3, "high": 0.1}}
    )


def test_a_baseline_behind_the_best_few_is_measured_too(tmp_path: Path) -> None:
    record = study(tmp_path, losses=(8.0, *LOSSES[1:]))
    names = {request.adapter for request in measured(tmp_path, record, exactly())}
    assert names == {None, "adapters/0", *(f"adapters/{number}" for number in range(1, 6))}


def test_without_room_it_is_said(tmp_path: Path) -> None:
    record = study(tmp_path)
    assert measured(tmp_path, record, {}, no_room="that needs about 32 GB, and this GPU has 24 GB a process") == []
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert found["holds"] is None
    assert float32_check.sentence(found) == (
        "The order of the finalists, measured in bfloat16, was not checked in float32: that needs about 32 GB, and this"
        " GPU has 24 GB a process."
    )


def test_a_measurement_that_fails_does_not_fail_the_study(tmp_path: Path) -> None:
    record = study(tmp_path)

    def out_of_memory(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.OUT_OF_MEMORY, message="no room")

    list(float32_check.measure(record, tmp_path, Runner(AtOnce(out_of_memory), 0, None, 2), no_room=None))
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert "measuring with the base in float32 ended as out_of_memory: no room" in found["skipped"]
    assert len(measured(tmp_path, record, exactly())) == 6, "the next run tries again"


def test_a_study_in_float32_needs_none(tmp_path: Path) -> None:
    assert not float32_check.needed(study(tmp_path, "float32"))


def test_the_page_says_it(tmp_path: Path) -> None:
    from meshtune.report.page import StudyContent, study_page

    made = made_study(tmp_path, 6)
    status = {**status_of(made), "order_checked": {"precision": "float32 over nf4", "skipped": "no </p> room"}}
    page = study_page(StudyContent(status, {}, None, {}), csv="trials.csv")
    assert "measured in float32 over nf4, was not checked in float32: no &lt;/p&gt; room." in page


@pytest.mark.slow
def test_a_quantized_study_checks_its_order(tiny_model_folder: Path, tmp_path: Path) -> None:
    """From the command line: trained in packs over nf4, finalists over the whole base; the losses are others."""
    path = lora_study(tmp_path / "study", tiny_model_folder)
    quick = ("training.epochs=1", "sampler.name=random", "generation.rows=0", "worker.processes=1", "budget.trials=2")
    model = f"model={{name: {tiny_model_folder}, quantization: nf4}}"
    ended = run(path, *(word for pair in (*quick, model) for word in ("--set", pair)))
    assert ended.returncode == 0, ended.stderr
    status: dict[str, Any] = told_status(path)
    found = status["order_checked"]
    assert (found["precision"], found["skipped"]) == ("float32 over nf4", None)
    assert {model["name"] for model in found["models"]} >= {"untuned", "trial-0"}
    for model in found["models"]:
        assert model["loss"] != model["exact"]
        assert model["loss"] == pytest.approx(model["exact"], abs=0.3)
    assert "Measured again with the base in float32" in ended.stderr
    stored = json.loads((path.parent / "study" / "evaluation" / "order.json").read_text())
    assert all(len(entry["rows"]) == 10 for entry in stored["measured"].values())


def test_a_promoted_trial_is_a_finalist(tmp_path: Path) -> None:
    record = study(tmp_path)
    number = len(LOSSES)
    record.enqueue({"x": 0.05, "k": 1}, origin="start", seed=0, thresholds=((10, 0.0),))
    record.tell(Outcome(number, 1, Ending.STOPPED_EARLY, loss=4.0, rungs=((10, 4.0),)), elapsed=1.0)
    place = tmp_path / "adapters" / str(number)
    place.mkdir()
    (place / "adapter_config.json").touch()
    record.promote(Outcome(number, 1, Ending.COMPLETE, loss=0.5, adapter=f"adapters/{number}"))
    asked = measured(tmp_path, record, {**exactly(), f"adapters/{number}": 0.5})
    assert f"adapters/{number}" in {request.adapter for request in asked}
    found = float32_check.checked(record, tmp_path)
    assert found is not None
    assert found["models"][0]["name"] == f"trial-{number}"
