"""`rounds` in study.yaml: what each round is read as, and every fault at its place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtune.config import file
from meshtune.config import rounds as config_rounds
from meshtune.config.sections import BudgetConfig, Interval, SamplerConfig, StudyConfig, WarmStartConfig
from meshtune.errors import Fault, InputError
from meshtune.system import yaml_file

TOP = """\
model: embedded
data: {sources: [{path: rows.jsonl}], rows: 1000}
training: {epochs: 2, batch_size: 8}
sampler: {name: mads, block_size: 4}
budget: {trials: 20, hours: 10}
"""


def read(folder: Path, text: str, *overrides: str) -> StudyConfig:
    (folder / "s.yaml").write_text(text)
    return file.read(folder / "s.yaml", overrides)


def rounds(config: StudyConfig, folder: Path) -> list[StudyConfig]:
    return [file.round_config(config, index, folder / "s") for index in range(len(config.rounds))]


def faults(folder: Path, text: str, *overrides: str) -> tuple[Fault, ...]:
    with pytest.raises(InputError) as raised:
        read(folder, text, *overrides)
    return raised.value.faults


def test_a_round_is_what_stands_outside_with_its_own_keys_in_place(tmp_path: Path) -> None:
    text = TOP + (
        "rounds:\n"
        "  - {data: {rows: 200}, training: {epochs: 1}, budget: {trials: 5}}\n"
        "  - {sampler: tpe, space: {learning_rate: {low: 1e-6, high: 1e-3}}, warm_start: {again: 0}}\n"
    )
    config = read(tmp_path, text)
    first, second = rounds(config, tmp_path)
    assert (first.rounds, first.folder, first.warm_start) == ((), None, None)
    assert first.data is not None
    assert second.data is not None
    assert (first.data.rows, second.data.rows, first.data.split_rows, second.data.split_rows) == (200, 1000, 1000, 1000)
    assert first.data.sources[0].path == str(tmp_path / "rows.jsonl")
    assert (first.training.epochs, first.training.batch_size, second.training.epochs) == (1, 8, 2)
    assert (first.budget, second.budget) == (BudgetConfig(trials=5, hours=10), BudgetConfig(trials=20, hours=10))
    assert (first.sampler, second.sampler) == (SamplerConfig(name="mads", block_size=4), SamplerConfig(name="tpe"))
    assert second.space == {"learning_rate": Interval(low=1e-6, high=1e-3)}
    assert second.warm_start == WarmStartConfig(study=str(tmp_path / "s" / "round1"), values="as_is", again=0)
    again = read(tmp_path, file.dump(config))
    assert again == config
    assert rounds(again, tmp_path) == [first, second]


def test_the_rows_are_split_as_one_where_one_round_has_all_of_them(tmp_path: Path) -> None:
    text = TOP.replace(", rows: 1000", "") + "rounds: [{data: {rows: 200}}, {data: {rows: 500}}, {}]\n"
    found = [each.data for each in rounds(read(tmp_path, text), tmp_path) if each.data is not None]
    assert [(each.rows, each.split_rows) for each in found] == [(200, "all"), (500, "all"), (None, "all")]
    text = TOP + "rounds: [{training: {epochs: 1}}, {}]\n"
    found = [each.data for each in rounds(read(tmp_path, text), tmp_path) if each.data is not None]
    assert [(each.rows, each.split_rows) for each in found] == [(1000, None), (1000, None)]


def test_a_warm_start_outside_is_that_of_the_first_round(tmp_path: Path) -> None:
    first, second = rounds(read(tmp_path, TOP + "warm_start: ../old\nrounds: [{}, {}]\n"), tmp_path)
    assert first.warm_start == WarmStartConfig(study=str(tmp_path.parent / "old"))
    assert second.warm_start == WarmStartConfig(study=str(tmp_path / "s" / "round1"), again=config_rounds.AGAIN)


def test_paths_and_programs_of_a_round_are_where_those_outside_are(tmp_path: Path) -> None:
    text = (
        "objective: {command: [run, '{x}'], directory: sub}\nspace: {x: {low: 0, high: 1}}\nworker: local\n"
        "rounds:\n  - objective: {command: [walk, '{x}']}\n"
        "  - {sampler: {name: tpe}, worker: {processes: 3}, metrics: {m: {file: m.py}}}\n"
    )
    first, second = rounds(read(tmp_path, text), tmp_path)
    assert [each.objective.directory for each in (first, second)] == [str(tmp_path / "sub")] * 2  # type: ignore[union-attr]
    assert [each.objective.command[0] for each in (first, second)] == ["walk", "run"]  # type: ignore[union-attr]
    assert second.metrics["m"].file == str(tmp_path / "m.py")
    assert (second.worker.name, second.worker.processes) == ("local", 3)


def test_another_kind_takes_no_options_of_the_first_along(tmp_path: Path) -> None:
    text = TOP.replace("sampler: {", "sampler: {options: {n_startup: 3}, ") + "rounds: [{sampler: {import: a:B}}]\n"
    (only,) = rounds(read(tmp_path, text), tmp_path)
    assert (only.sampler.name, only.sampler.imported) == ("import", "a:B")


def test_everything_wrong_in_any_round_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
model: embedded
data: {sources: [{path: rows.jsonl}], mixtur: cap}
training: {epochs: two}
budget: {trials: null, hours: 3}
rounds:
  - budget: {price_per_hour: 2}
    warm_start: {vales: as_is}
    folder: here
  - training: {epoch: 3}
    data: {test: 0.3, rows: 0}
    warm_start: {study: ../x, values: shifted}
    sampler: tpe
  - seed: 3
    model: other
    rounds: []
    sampler: random
    space: {rnk: [1, 2]}
  - objective: {command: [run, '{x}']}
  - seven
  - budget: {trials: null, hours: null}
"""
    found = [(fault.line, fault.key) for fault in faults(tmp_path, text)]
    assert found == [
        (2, "data.mixtur"),  # once, and not for every round
        (3, "training.epochs"),
        (6, "rounds.0.budget"),
        (7, "rounds.0.warm_start.study"),
        (7, "rounds.0.warm_start.vales"),
        (8, "rounds.0.folder"),
        (9, "rounds.1.budget"),
        (9, "rounds.1.training.epoch"),
        (10, "rounds.1.data.test"),
        (10, "rounds.1.data.rows"),
        (11, "rounds.1.warm_start.study"),
        (11, "rounds.1.warm_start.values"),
        (13, "rounds.2.seed"),
        (13, "rounds.2.budget"),
        (13, "rounds.2.warm_start"),
        (14, "rounds.2.model"),
        (15, "rounds.2.rounds"),
        (17, "rounds.2.space.rnk"),
        (18, "rounds.3.objective.command"),
        (18, "rounds.3.budget"),
        (19, "rounds.4"),
        (20, "rounds.5.budget"),
    ]


def message(folder: Path, text: str, *overrides: str) -> str:
    return "\n".join(map(str, faults(folder, text, *overrides)))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("[{}, {sampler: random}]", "rounds.1.warm_start: the sampler `random` cannot start from earlier trials"),
        ("[{}, {warm_start: ../x}]", "rounds.1.warm_start: this round starts from round 1"),
        (
            "[{}, {warm_start: {study: ../x}}]",
            "rounds.1.warm_start.study: this round starts from round 1: leave it out",
        ),
        ("[{storage: sqlite:///x}]", "rounds.0.storage: cannot be a round's own: one storage holds all rounds"),
        ("[{model: {dtype: float32}}]", "rounds.0.model: cannot be a round's own: the model is that of all rounds"),
        ("[{data: {max_length: 8}}]", "rounds.0.data.max_length: cannot be a round's own: the rounds share the rows"),
        ("[{objective: {command: [a]}}]", "rounds.0.objective.command: the objective is of one kind in all rounds"),
        ("[{trainin: {}}]", "rounds.0.trainin: unknown key; there are"),
        ("[7]", "rounds.0: `7` is not allowed; a mapping of keys is"),
        ("{budget: {}}", "rounds: "),
        ("[{budget: {trials: null}}, {}]", "rounds.0.budget: there is no limit after which the next round begins"),
    ],
)
def test_what_cannot_be_a_round(tmp_path: Path, own: str, words: str) -> None:
    assert words in message(tmp_path, TOP + f"rounds: {own}\n")


def test_limits_of_one_round_and_of_all(tmp_path: Path) -> None:
    text = TOP + "rounds: [{budget: {trials: null, kilowatt_hours: 1}}, {}]\n"
    assert rounds(read(tmp_path, text), tmp_path)[0].budget.kilowatt_hours == 1
    text = TOP.replace("hours: 10", "kilowatt_hours: 1") + "rounds: [{}, {}]\n"
    assert "budget.kilowatt_hours: the energy of all rounds together is not counted" in message(tmp_path, text)


@pytest.mark.parametrize("outside", ["", "early_stopping: none\n"])
def test_early_stopping_without_a_rule_is_on_in_that_round(tmp_path: Path, outside: str) -> None:
    config = read(tmp_path, TOP + outside + "rounds: [{early_stopping: {rows: 32}}, {}]\n")
    first, second = rounds(config, tmp_path)
    assert (first.early_stopping.rule, first.early_stopping.rows) == ("default", 32)
    assert second.early_stopping.rule == "none"


def test_a_total_of_trials_that_no_round_would_follow(tmp_path: Path) -> None:
    text = TOP + "rounds: [{budget: {trials: 3}}, {}]\n"
    assert "each round has its own number of trials: --set rounds.0.budget.trials=N" in message(
        tmp_path, text, "budget.trials=9"
    )
    config = read(tmp_path, text, "rounds.0.budget.trials=9", "training.epochs=7")
    first, second = rounds(config, tmp_path)
    assert (first.budget.trials, first.training.epochs, second.training.epochs) == (9, 7, 7)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=3)


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing recursive values, on a busy machine
@given(MAPPINGS, MAPPINGS)
def test_joining_is_idempotent_and_keeps_what_was_given(base: dict[str, Any], own: dict[str, Any]) -> None:
    joined = config_rounds.merged(base, own)
    assert config_rounds.merged(joined, own) == joined
    assert config_rounds.merged({}, own) == own
    assert config_rounds.merged(base, {}) == base
    assert set(joined) == set(base) | set(own)


def test_the_example_in_the_guide_is_valid(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "rounds.md"
    text = guide.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    config = file.parse(yaml_file.parse(text).values, tmp_path)
    assert len(rounds(config, tmp_path)) == 2
