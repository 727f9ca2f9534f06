"""Which keys pay: the arithmetic of paired trainings, and a pack of them on a tiny model."""

from __future__ import annotations

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


def lines(losses: dict[tuple[int, str, float], float | None]) -> list[dict[str, Any]]:
    """Of a table, by point, key and rate."""
    return [
        {
            "task": "embedded",
            "point": point,
            "key": key,
            "rate": rate,
            "loss": loss,
            "tokens": 200 if "2" in key else 100,
        }
        for (point, key, rate), loss in losses.items()
    ]


def test_a_key_is_paired_with_as_many_rates_of_the_default() -> None:
    """The better one of each side; one rate against one; a key whose trainings are not all there has no pair."""
    import what_pays

    muon = "optimizer muon"
    found = what_pays.pairs_of(
        lines(
            {
                (4, "default", 1): 2.5,
                (4, "default", 2): 2.4,
                (4, muon, 4): 2.6,
                (4, muon, 8): 2.3,
                (4, "epochs 2", 1): 2.2,
                (14, "default", 1): 2.5,
                (14, "default", 2): None,
                (14, muon, 4): None,
                (14, muon, 8): 2.7,
                (14, "lora_plus_ratio 4", 1 / 4): 2.0,
            }
        )
    )
    assert set(found) == {("embedded", 4, muon), ("embedded", 4, "epochs 2"), ("embedded", 14, muon)}
    assert found["embedded", 4, muon] == what_pays.Pair(2.3, 2.4, 1)
    assert found["embedded", 4, "epochs 2"] == what_pays.Pair(2.2, 2.5, 2)
    assert found["embedded", 14, muon].difference == pytest.approx(0.2)  # of what diverged, the other rate


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
            (4, "default", 1): 2.5,
            (4, "default", 2): 2.4,
            (4, "epochs 2", 1): 2.4,
            (14, "default", 1): 2.5,
            (14, "default", 2): 2.6,
            (14, "epochs 2", 1): 2.2,
            (4, "another seed", 1): 2.5,
            (14, "another seed", 1): 2.46,
        }
    )
    report = list(what_pays.report(table))
    assert "| epochs 2 | embedded | -0.2000 | -1.4706 to +1.0706 | 2 of 2 | 2.00 |" in report
    assert report[-1].strip() == "embedded: the default's loss is 2.500 in the mean; seed deviation 0.0200."


def test_points_are_of_the_better_part() -> None:
    """By rank and product; those of earlier tables keep their numbers."""
    import setting
    import what_pays

    chosen = what_pays.points()
    assert chosen[:6] == [4, 14, 18, 24, 52, 62]
    assert all(0.006 <= setting.parameters(point)["step"] <= 0.025 for point in chosen)


@pytest.mark.slow
def test_a_pack_trains_each_key_as_it_says(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model: steps and tokens by key, other losses for other keys, and a whole set of pairs."""
    import what_pays

    from meshtune.config.sections import ModelConfig
    from meshtune.training.models import load_model
    from tests.training.conftest import make_rows

    rows, base = (make_rows(8, 1), make_rows(4, 2)), load_model(ModelConfig(name=str(tiny_model_folder)), "cpu")
    made = what_pays.train(base, rows, "embedded", 4)
    at = {(line["key"], line["rate"]): line for line in made}
    assert len(at) == sum(len(key.rates) for key in (what_pays.DEFAULT, *what_pays.KEYS))
    default = at["default", 1]
    assert (default["steps"], default["tokens"]) == (4, sum(len(tokens) for tokens, _ in rows[0]))
    assert [at[f"batch_size {name}", 1]["steps"] for name in ("half", "double")] == [8, 2]
    assert (at["epochs 2", 1]["steps"], at["epochs 2", 1]["tokens"]) == (8, 2 * default["tokens"])
    other = [line["loss"] for (key, rate), line in at.items() if (key, rate) != ("default", 1)]
    assert None not in other
    unlike = [line["key"] for line in made if line["loss"] != default["loss"]]
    assert set(unlike) >= {key.name for key in what_pays.KEYS} - {"weight_decay .1", "optimizer adamw_8bit"}
    assert set(what_pays.pairs_of(made)) == {("embedded", 4, key.name) for key in what_pays.KEYS}
