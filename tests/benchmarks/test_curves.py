"""The long tables of learning curves: they are trained as a study trains, and read as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.presets import recommended
from meshtune.config.sections import ModelConfig
from meshtune.training.models import load_model
from meshtune.training.packed.trainer import train
from meshtune.training.recipe import recipe
from meshtune.training.steps import Rungs, Step, Trained
from tests.training.conftest import make_rows

CURVES = Path(__file__).parents[2] / "benchmarks" / "curves"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CURVES)
        yield


@pytest.fixture(scope="module")
def trained(tiny_model_folder: Path) -> Any:
    """The base, rows of 51 steps, and the curves of three points and of one with cosine over them."""
    import make
    import tasks

    base, rows = load_model(ModelConfig(name=str(tiny_model_folder)), "cpu"), (make_rows(34, 1), make_rows(5, 2))
    bench = make.Bench(base, *rows)
    packs: list[list[tasks.Training]] = [[("wsd", point, 0) for point in (4, 9, 14)], [("cosine", 4, 0)]]
    return base, rows, [curve for pack in packs for curve in bench.run(pack)]


def test_a_curve_is_that_of_the_packed_trainer(trained: Any) -> None:
    """At all shares; but for the precision of measuring, which is float32 in a study."""
    import setting
    import tasks

    base, rows, curves = trained
    for curve in curves:
        schedule, point, seed = curve.training
        made = recipe(tasks.training(schedule), recommended().decode(setting.parameters(point)), seed)
        *steps, end = list(train(base, *rows, made, at="last", rungs=Rungs(tuple(curve.tokens), rows[1])))
        at_rungs = [step for step in steps if isinstance(step, Step) and step.rung is not None]
        assert [step.step for step in at_rungs] == curve.steps
        assert [step.rung_loss for step in at_rungs] == pytest.approx(curve.losses, abs=0.03)
        assert isinstance(end, Trained)
        assert curve.losses[-1] == pytest.approx(end.loss, abs=0.03)
        assert any(curve.averaged) == (schedule == "wsd")


def test_a_cooling_leaves_the_training_as_it_was(trained: Any) -> None:
    """It has a quarter more steps, ends at another loss, and tells averages from where it branched off."""
    import make
    import tasks

    base, rows, curves = trained
    assert [curve.cooled is None for curve in curves] == [False, False, True, True]  # point 14, and cosine
    for curve in curves[:2]:
        line = curve.line()
        assert [branch["step"] for branch in line["cooled"]] == [6, 11, 21]
        assert [branch["end_step"] for branch in line["cooled"]] == [8, 14, 27]
        for branch in line["cooled"]:
            place = line["steps"].index(branch["step"])
            assert branch["averages"][str(tasks.SPREAD)] == line["averaged"][place]
            assert branch["loss"] != line["losses"][place]
    (alone,) = make.Bench(base, *rows).run([("wsd", 4, 0)])
    assert alone.losses == pytest.approx(curves[0].losses, abs=0.02)


def test_what_is_in_a_table_is_not_made_again(tmp_path: Path) -> None:
    """A line that was cut is made again; a table of another setting is refused."""
    import make
    import tasks

    table, said = tmp_path / "some-252.jsonl", {"task": "some", "versions": {}}
    assert make.read(table, said) == set()
    whole = json.dumps({"schedule": "wsd", "point": 3, "seed": 0}) + "\n"
    table.write_text(table.read_text() + whole + whole[:20])
    assert make.read(table, {**said, "versions": {"torch": "2"}}) == {("wsd", 3, 0)}
    assert table.read_text().endswith(whole)
    with pytest.raises(SystemExit, match="another task"):
        make.read(table, {"task": "other"})
    every = [training for pack in tasks.packs(4) for training in pack]
    assert len(every) == len(set(every)) == 41 + 16 + 11


def test_averages_are_compared_by_point(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a table of these curves: lines of JSON, with the points that count."""
    import averages
    import tasks

    head = {"task": "some", "shares": tasks.SHARES, "cool_at": tasks.COOL_AT, "decay_from": 0.8}
    head |= {"spread": tasks.SPREAD, "spreads": tasks.SPREADS}
    table = tmp_path / "some-252.jsonl"
    table.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *(curve.line() for curve in trained[2]))))
    for title, samples in averages.samples([table], every=True):
        averages.report(title, samples)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"name", "ours", "theirs", "ratio", "low", "high", "setting"} == found[0].keys()
    assert "2 points" in found[0]["setting"]  # that were cooled
    assert "3 points" in found[-1]["setting"]  # that ended
    assert found[0]["ratio"] == pytest.approx(found[0]["theirs"] / found[0]["ours"], rel=0.01)
