"""Which keys pay: the arithmetic of paired trainings, and a pack of them on a tiny model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CURVES = Path(__file__).parents[2] / "benchmarks" / "curves"


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CURVES)
        yield


def lines(losses: dict[tuple[int, str], tuple[float | None, ...]]) -> list[dict[str, Any]]:
    """Of a table: by point and key the losses at the first rates."""
    return [
        {"task": "embedded", "point": point, "key": key, "factor": factor, "loss": loss, "tokens": tokens}
        for (point, key), each in losses.items()
        for tokens in [200 if key == "epochs 2" else 100]
        for factor, loss in zip((1, 2, 4), each, strict=False)
    ]


def test_a_key_is_paired_with_the_default_at_its_best_rate() -> None:
    """The best one of each side; a key whose trainings are not all there has no pair, nor one without a default."""
    import what_pays

    found = what_pays.pairs_of(
        lines(
            {
                (4, "default"): (2.5, 2.4, 2.9),
                (4, "optimizer muon"): (2.6, 2.3, 2.9),
                (4, "epochs 2"): (2.2, 2.5, 2.9),
                (14, "default"): (2.5, None, 2.5),
                (14, "optimizer muon"): (None, 2.7, 2.8),
                (14, "lora_plus_ratio 4"): (2.0,),
                (18, "default"): (2.5, 2.5),
                (18, "optimizer muon"): (2.5, 2.5, 2.5),
            }
        )
    )
    assert set(found) == {
        ("embedded", point, key) for point, key in ((4, "optimizer muon"), (4, "epochs 2"), (14, "optimizer muon"))
    }
    assert found["embedded", 4, "optimizer muon"] == what_pays.Pair(2.3, 2.4, 1)
    assert found["embedded", 4, "epochs 2"] == what_pays.Pair(2.2, 2.4, 2)
    assert found["embedded", 14, "optimizer muon"].difference == pytest.approx(0.2)  # of the rates that did not diverge


def test_the_interval_is_students() -> None:
    """Of 1, 2, 3: the mean 2, and t of two degrees of freedom, 4.303, times the mean's error 1 / sqrt(3)."""
    import what_pays

    assert what_pays.interval([1, 2, 3]) == pytest.approx(
        (2, 2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4
    )
    assert math.isnan(what_pays.interval([1.0])[1])
    mean, low, _ = what_pays.interval([math.inf, 1.0])
    assert (mean, math.isnan(low)) == (math.inf, True)


def test_the_report_says_by_task_what_a_key_does() -> None:
    """Differences -.1 and -.3: -.2, and 12.706 times .1 around; the seed's deviation is a pair's over sqrt(2)."""
    import what_pays

    table = lines(
        {
            (4, "default"): (2.5, 2.4, 2.9),
            (4, "epochs 2"): (2.4, 2.3, 2.9),
            (4, "another seed"): (2.5, 2.4, 2.9),
            (14, "default"): (2.5, 2.6, 2.9),
            (14, "epochs 2"): (2.2, 2.4, 2.9),
            (14, "another seed"): (2.46, 2.6, 2.9),
        }
    )
    report = list(what_pays.report(table))
    assert "| epochs 2 | embedded | -0.2000 | -1.4706 to +1.0706 | 2 of 2 | 2.00 |" in report
    assert report[-1].strip() == "embedded: the default's loss is 2.450 in the mean; seed deviation 0.0200."


def test_points_are_of_the_better_part() -> None:
    """By rank and product; those of earlier tables keep their numbers."""
    import setting
    import what_pays

    chosen = what_pays.points()
    assert len(chosen) >= 8
    for point in chosen:
        assert 2 <= setting.parameters(point)["rank_log2"] <= 4
        assert 0.015 <= setting.parameters(point)["step"] <= 0.035


@pytest.mark.slow
def test_a_pack_trains_each_key_as_it_says(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model: steps and tokens by key, other losses for other keys, and a whole set of pairs."""
    import what_pays

    from meshtune.config.sections import ModelConfig
    from meshtune.training.models import load_model
    from tests.training.conftest import make_rows

    rows, base = (make_rows(8, 1), make_rows(4, 2)), load_model(ModelConfig(name=str(tiny_model_folder)), "cpu")
    pack = [(key, factor) for key in (what_pays.DEFAULT, *what_pays.KEYS) for factor in what_pays.RATES]
    made = [{"task": "embedded", "point": 4, **line} for line in what_pays.train(base, rows, 4, pack)]
    at = {line["key"]: line for line in made if line["factor"] == 1}
    default = at["default"]
    assert (default["steps"], default["tokens"]) == (4, sum(len(tokens) for tokens, _ in rows[0]))
    assert [at[f"batch_size {name}"]["steps"] for name in ("half", "double")] == [8, 2]
    assert (at["epochs 2"]["steps"], at["epochs 2"]["tokens"]) == (8, 2 * default["tokens"])
    assert all(math.isfinite(line["loss"]) for line in made)
    unlike = {key for key, line in at.items() if line["loss"] != default["loss"]}
    alike = {"weight_decay .1", "optimizer adamw_8bit"}
    alike |= {name for name in at if "lora_plus" in name}  # to first order: B has the default's rate
    assert unlike >= at.keys() - alike - {"default"}
    quick = [(dataclasses.replace(key, slower=1), 1) for key in what_pays.KEYS if "lora_plus" in key.name]
    assert default["loss"] not in [line["loss"] for line in what_pays.train(base, rows, 4, quick)]
    assert set(what_pays.pairs_of(made)) == {("embedded", 4, key.name) for key in what_pays.KEYS}
