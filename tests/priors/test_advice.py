"""Advice: what it says where much is known, little, and nothing; and what it refuses."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshtune import priors
from meshtune.cli.commands import app
from meshtune.config import presets
from meshtune.errors import InputError
from meshtune.priors import advice, advise, effects, runs
from tools.fit_priors import table

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {"rows": 99_840, "steps": 780, "batch_size": 128}


def test_of_a_strange_family_the_start_is_the_constant() -> None:
    found = advise(hidden_size=4096, family="llama", **SIZES)
    assert found.start == {"rank": 128, "alpha": 32, "dropout": 0.0, "learning_rate": 3e-4}
    assert "none of this family" in found.rests_on
    assert "outside" not in found.rests_on


def test_of_a_known_generation_the_model_decides_and_is_surer() -> None:
    known, strange = (advise(hidden_size=4096, family=family, **SIZES) for family in ("qwen3", "llama"))
    assert known.start["learning_rate"] > 5e-4  # the best of the grids of qwen3 have 1e-3
    assert advise(hidden_size=4096, family="qwen3.5", **SIZES).start["learning_rate"] < 5e-4
    assert known.gain[2] < strange.gain[2] / 2
    assert known.trials <= strange.trials
    assert "10 of qwen3" in known.rests_on


def test_a_text_has_lines_that_can_be_read_and_no_end_that_is_not_known() -> None:
    found = advise(hidden_size=576, family="smollm2", rows=128, steps=8, batch_size=16)
    assert found.trials == advice.MOST_TRIALS + 1
    assert found.to_gain().endswith("; more than 0.1 % are left after 24 trials")
    lines = found.text().splitlines()
    assert max(map(len, lines)) <= advice.WIDTH + 11
    (first,) = (number for number, line in enumerate(lines) if line.startswith("rests on"))
    assert " ".join(line[11:] for line in lines[first:]) == found.rests_on


def test_the_json_has_exactly_the_promised_keys() -> None:
    found = advise(hidden_size=4096, family="llama", rows=10_000, steps=500, batch_size=16).to_json()
    assert list(found) == ["start", "portfolio", "expected_gain", "trials", "rests_on"]
    assert list(found["expected_gain"]) == ["mean", "low", "high"]
    assert 0 <= found["expected_gain"]["low"] < found["expected_gain"]["mean"] < found["expected_gain"]["high"] < 1
    assert len(found["portfolio"]) == advice.PORTFOLIO
    points = [found["start"], *found["portfolio"]]
    assert len({json.dumps(point) for point in points}) == len(points)
    assert all(list(point) == ["rank", "alpha", "dropout", "learning_rate"] for point in points)


@pytest.mark.parametrize(("most", "rank"), [(512, 128), (100, 64), (16, 16), (4, 4), (3, 3), (1, 1)])
def test_the_largest_rank_bounds_all_points(most: int, rank: int) -> None:
    found = advise(hidden_size=4096, family="llama", max_rank=most, **SIZES)
    assert found.start["rank"] == rank
    assert all(point["rank"] <= rank for point in found.portfolio)


def test_shorter_trainings_start_at_higher_rates() -> None:
    found = [advise(hidden_size=4096, family="llama", steps=n, batch_size=128) for n in (780, 200, 25, 5)]
    starts = [each.start["learning_rate"] for each in found]
    assert starts[0] < starts[1] < starts[2] == starts[3]  # not beyond what is known


def test_outside_of_what_is_known_it_says_so_and_is_less_sure() -> None:
    inside, outside = (advise(hidden_size=4096, family="qwen3", steps=n, batch_size=128) for n in (780, 50_000))
    assert outside.start["learning_rate"] == 3e-4
    assert "of qwen3, but of sizes or lengths too far from yours, so the start is the constant" in outside.rests_on
    assert "too far" not in inside.rests_on
    assert "outside what is known: steps 50,000, known 25 to 780" in outside.rests_on
    assert outside.gain[2] - outside.gain[1] > inside.gain[2] - inside.gain[1]
    many = advise(hidden_size=4096, family="llama", rows=100, steps=780, batch_size=64)
    assert "passes over the rows 499" in many.rests_on


MOST = {"hidden_size": runs.MOST["hidden_size"], "steps": runs.MOST_OF_ANY, "batch_size": runs.MOST_OF_ANY}
SHIPPED = advice.shipped()
ENDS = {
    name: [end(getattr(task.facts, name) for task in SHIPPED.known) for end in (min, max)] for name in MOST
}  # of what is known


def sizes(most: int) -> st.SearchStrategy[int]:
    """From 1 to the most, alike on a log scale."""
    return st.floats(0, 1).map(lambda share: min(most, round(most**share)))


def away(facts: runs.Facts, share: float) -> runs.Facts:
    """Facts moved by this share of their way, on a log scale, back to the nearest known sizes (1: there)."""
    moved = {}
    for name, (low, high) in ENDS.items():
        value = getattr(facts, name)
        moved[name] = round(value * (min(max(value, low), high) / value) ** share)
    return replace(facts, **moved)


FACTS = st.builds(
    runs.Facts,
    family=st.sampled_from(["llama", "qwen3", "qwen3.5", "kimi-k2", "gpt-oss", "smollm2", "other"]),
    rows=st.none(),
    **{name: sizes(most) for name, most in MOST.items()},
)


@settings(max_examples=25, deadline=None)
@given(facts=FACTS, rank=sizes(runs.MOST["rank"]).filter(lambda rank: rank >= 4))
def test_whatever_the_sizes_the_points_lie_in_the_recommended_space(facts: runs.Facts, rank: int) -> None:
    found = advice.advice(SHIPPED, facts, max_rank=rank)
    (step,) = (each.parameter for each in presets.recommended().dimensions if each.name == "step")
    for point in (found.start, *found.portfolio):
        assert step.low <= point["learning_rate"] * point["alpha"] <= step.high
        assert 4 <= point["rank"] <= min(rank, 128)
    mean, low, high = found.gain
    assert 0 <= low <= mean <= high < 1
    far = any(not low <= 2 * getattr(facts, name) <= 4 * high for name, (low, high) in ENDS.items())
    assert ("the points are those for twice or half the nearest known, and less sure" in found.rests_on) == far


@settings(max_examples=25, deadline=None)
@given(facts=FACTS, share=st.floats(0, 1))
@example(facts=runs.Facts("qwen3.5", 19, None, 1911, 1), share=0.125)
def test_the_interval_is_never_narrower_further_outside(facts: runs.Facts, share: float) -> None:
    far, near = (advice.advice(SHIPPED, each).gain for each in (facts, away(facts, share)))
    # The widest is 0 to 86 %, whose lower end moves a little.
    assert far[2] - far[1] >= (near[2] - near[1]) * (1 - 1e-4)


@settings(max_examples=25, deadline=None)
@given(facts=FACTS, rows=st.lists(sizes(runs.MOST_OF_ANY), min_size=2, max_size=2))
@example(runs.Facts("qwen3", 4096, None, 780, 128), [99_840, 39_936]).via("2.5 passes, beyond which it widens")
def test_the_interval_is_never_narrower_with_more_passes(facts: runs.Facts, rows: list[int]) -> None:
    few, many = (advice.advice(SHIPPED, replace(facts, rows=each)) for each in sorted(rows, reverse=True))
    assert many.gain[2] - many.gain[1] >= (few.gain[2] - few.gain[1]) * (1 - 1e-4)


def test_more_passes_than_are_known_widen_the_interval_until_ones_own_table_has_as_many(tmp_path: Path) -> None:
    def width(epochs: int, **own: Any) -> float:
        found = advise(hidden_size=4096, family="qwen3", rows=9_984, steps=78 * epochs, batch_size=128, **own)
        assert ("passes over the rows" in found.rests_on) == (epochs > 2 and not own)
        return found.gain[2] - found.gain[1]

    def kept(epochs: int) -> float:  # the same steps, in one pass
        found = advise(hidden_size=4096, family="qwen3", rows=9_984 * epochs, steps=78 * epochs, batch_size=128)
        return found.gain[2] - found.gain[1]

    assert width(2) == kept(2)
    assert 1.5 * kept(3) < width(3) < kept(3) + 0.5
    assert width(6) / kept(6) > width(3) / kept(3) > 1
    own = [task for task in runs.read(runs.SHIPPED) if task.facts.family == "qwen3"][:1]
    text = json.dumps({**json.loads(own[0].line()), "rows": own[0].facts.rows // 3})
    (tmp_path / "ours.jsonl").write_text(text)
    assert width(3, priors=[tmp_path / "ours.jsonl"]) < width(3)


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as raised:
        advise(hidden_size=0, family="lama", rows=10, batch_size=16, steps=-1, max_rank=0)
    assert [fault.key for fault in raised.value.faults] == ["hidden_size", "steps", "max_rank", "family", "batch_size"]
    with pytest.raises(InputError, match="hidden_size: is needed"):
        advise(family="llama")


@pytest.mark.parametrize("name", ["rows", "steps", "batch_size", "max_rank"])
def test_sizes_that_no_float_can_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="at most 1,000,000,000,000,000 is"):
        advise(**{"hidden_size": 4096, "family": "llama", "steps": 780, name: 10**400})


def test_faults_of_sizes_of_the_model_and_of_tables_are_said_together(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError) as raised:
        advise(str(tmp_path / "none"), rows=0, priors=[tmp_path / "empty.jsonl", tmp_path / "missing.jsonl"])
    said = str(raised.value)
    assert all(
        part in said
        for part in ("rows: `0`", "model: there is no folder", "; give the hidden size", "empty.jsonl: holds no task")
    )
    assert "missing.jsonl: the table of runs cannot be read" in said


@pytest.mark.parametrize("rank", [1, 8])
def test_few_places_to_try_are_not_said_to_be_enough(rank: int) -> None:
    found = advise(hidden_size=4096, family="qwen3", steps=1, batch_size=128, max_rank=rank)
    assert found.trials == advice.MOST_TRIALS + 1
    assert "left after 24 trials" in found.to_gain()


def test_a_teams_own_runs_count(tmp_path: Path) -> None:
    shape: effects.Effects = (-0.9, -3.5, 1.0, 0.05, 0.002)  # its best rates are ten times higher
    task = {
        "model": "ours",
        "family": "llama",
        "hidden_size": 4096,
        "data": "d",
        "source": "s",
        "licence": "l",
        **SIZES,
    }
    rates = [3e-4, 1e-3, 3e-3, 1e-2]
    task["runs"] = [
        {**{"rank": rank, "alpha": 32, "dropout": 0.0, "learning_rate": rate}, "loss": 2 + value}
        for rank in (16, 128)
        for rate in rates
        for value in [effects.relative_loss(shape, 32 * rate, rank)]
    ]
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(task)}\n{json.dumps({**task, 'model': 'ours, too'})}\n")
    found = advise(hidden_size=4096, family="llama", priors=[path], **SIZES)
    assert found.start["learning_rate"] > 2e-3
    assert "2 of llama" in found.rests_on
    path.write_text("".join(json.dumps({**task, "family": "other"}) + "\n" for _ in range(2)))
    assert "none of this family" in advise(hidden_size=4096, family="other", priors=[path], **SIZES).rests_on
    path.write_text("{}")
    with pytest.raises(InputError, match="runs: is missing"):
        advise(hidden_size=4096, family="llama", priors=[path], **SIZES)


def test_the_shipped_model_is_that_of_the_shipped_table() -> None:
    written = json.loads(advice.SHIPPED.read_text(encoding="utf-8"))
    assert written["provenance"]["sha256"] == hashlib.sha256(runs.SHIPPED.read_bytes()).hexdigest()
    fitted = table(runs.read(runs.SHIPPED))
    for facts in ({"family": "llama", "hidden_size": 4096}, {"family": "qwen3", "hidden_size": 2048}):
        ours, theirs = (advice.expected(each, runs.Facts(**facts, **SIZES)) for each in (advice.shipped(), fitted))
        assert ours.means == pytest.approx(theirs.means, abs=0.02)


def test_what_the_readme_shows_is_what_it_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ meshtune (advise .*)\n((?:(?![`$]).+\n)+)", text, re.MULTILINE)
    assert len(shown) == 2
    for command, printed in shown:
        assert CliRunner().invoke(app, command.split()).output == printed
    assert priors.advise is advise
