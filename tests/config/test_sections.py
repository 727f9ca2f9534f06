"""study.yaml: short forms, all faults at once with their lines, paths, overrides, and the way back."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtune.config import file
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import (
    CommandObjectiveConfig,
    Interval,
    LoraObjectiveConfig,
    ModelConfig,
    RowsFile,
    SamplerConfig,
    StudyConfig,
    WarmStartConfig,
    WorkerConfig,
)
from meshtune.errors import Fault, InputError

MINIMAL = "model: embedded\ndata: {sources: [{path: rows.jsonl}]}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> tuple[Fault, ...]:
    with pytest.raises(InputError) as raised:
        file.read(write(folder, text), overrides)
    return raised.value.faults


def test_short_forms_and_defaults(tmp_path: Path) -> None:
    text = (
        MINIMAL + "sampler: tpe\nworker: local\ntraining:\nbaseline:\nspace: {learning_rate: {low: 1e-6, high: 1e-3}}"
    )
    config = file.read(write(tmp_path, text))
    assert config.model == ModelConfig(name="embedded")
    assert config.sampler == SamplerConfig(name="tpe")
    assert config.worker == WorkerConfig()
    assert config.training == StudyConfig().training
    assert config.space == {"learning_rate": Interval(low=1e-6, high=1e-3)}
    assert config.objective == LoraObjectiveConfig(at="best")
    assert config.data is not None
    assert (config.data.validation, config.data.test) == (0.1, 0.1)


def test_the_designs_example_is_read(tmp_path: Path) -> None:
    text = """\
model: embedded
data:
  sources:
    - {path: alpaca.json, share: 0.7}
    - {path: dolly.jsonl, share: 0.3}
  mixture: cap
  rows: 2000
  validation: 0.1
  test: 0.1
  max_length: auto
  prompt: auto
training: {epochs: 2, batch_size: 16}
space: recommended
sampler: mads
budget: {trials: 30}
worker: local
seed: 0
"""
    config = file.read(write(tmp_path, text))
    own = """space: {learning_rate: {low: 1e-6, high: 1e-3, log: true}, rank: {low: 4, high: 256, power_of: 2},
  scale: {low: 0.25, high: 32, log: true}, dropout: [0, 0.01, 0.1], weight_decay: 0.01}"""
    other = file.read(write(tmp_path, text.replace("space: recommended", own)))
    assert isinstance(other.space, dict)
    assert list(other.space) == ["learning_rate", "rank", "scale", "dropout", "weight_decay"]
    assert other.space["dropout"] == (0, 0.01, 0.1)
    assert other.model_copy(update={"space": "recommended"}) == config


def test_everything_wrong_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
model: {name: embedded, dtyp: float32}
data:
  sources:
    - {path: a.json, formt: alpaca}
  mixture: capp
  validation: 1.5
  test: {path: x, fmt: y}
training: {epochs: 0, batch_size: two, use_rslora: yes, target_modules: all_linear}
objective: {at: bestt}
space:
  rnk: [1, 2]
  alpha: {low: 1, high: .inf}
sampler: tpee
budget: {trials: null}
seed: -1
bdget: 3
"""
    found = [(fault.line, fault.key) for fault in faults(tmp_path, text)]
    assert found == [
        (1, "model.dtyp"),
        (4, "data.sources.0.formt"),
        (5, "data.mixture"),
        (6, "data.validation"),
        (7, "data.test.fmt"),
        (8, "training.epochs"),
        (8, "training.batch_size"),
        (8, "training.target_modules"),
        (8, "training.use_rslora"),
        (9, "objective.at"),
        (11, "space.rnk"),
        (12, "space.alpha.high"),
        (13, "sampler.name"),
        (14, "budget"),
        (15, "seed"),
        (16, "bdget"),
    ]
    assert all(fault.file == tmp_path / "s.yaml" for fault in faults(tmp_path, text))


COMMAND = "objective: {command: [run, '{x}']}\n"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (MINIMAL + "sampelr: mads", "sampelr", "Did you mean `sampler`?"),
        (MINIMAL + "sampler: made", "sampler.name", "gp, cma-es, grid, random, qmc, import. Did you mean `mads`?"),
        (MINIMAL + "sampler: {name: mads, blok_size: 3}", "sampler.blok_size", "Did you mean `block_size`?"),
        (MINIMAL + "space: tribes2025", "space", "unknown preset `tribes2025`"),
        (MINIMAL + "space: tribes2025", "space", "Did you mean `tribes2024`?"),
        (MINIMAL + "space: [1]", "space", "a mapping of keys is"),
        (MINIMAL + "space: {}", "space", "at least one is"),
        (MINIMAL + "space: {rank: 8}", "space", "nothing is searched"),
        (MINIMAL + "space: {rank: [8, 8]}", "space.rank", "`8` stands twice"),
        (MINIMAL + "space: {rank: {low: 8, high: 4}}", "space.rank", "low 8 is above high 4: exchange them"),
        (MINIMAL + "space: {rank: {low: 8, high: 8}}", "space.rank", "write the value alone"),
        (MINIMAL + "space: {rank: {low: 6, high: 8, power_of: 2}}", "space.rank", "needs bounds such as 4 and 256"),
        (MINIMAL + "space: {rank: {low: 0, high: 8}}", "space.rank", "a whole number at least 1 is"),
        (MINIMAL + "space: {weight_decay: {low: 0, high: 1, log: true}}", "space.weight_decay", "a low above 0, not 0"),
        (MINIMAL + "space: {rank: {low: 4, high: .inf}}", "space.rank.high", "a finite number is"),
        (MINIMAL + "space: {rank: {low: 4}}", "space.rank.high", "must be given"),
        (MINIMAL + "space: {rank: {low: 4, hihg: 8}}", "space.rank.hihg", "Did you mean `high`?"),
        (MINIMAL + "space: {rank: null}", "space.rank", "a number, text, true or false is"),
        (MINIMAL + "space: {alpha: [1, 2], scale: [1, 2]}", "space.scale", "`alpha` is given too"),
        (MINIMAL + "space: {step: [1, 2], learning_rate: 3}", "space.step", "`learning_rate` is given too"),
        (MINIMAL + "space: {lr_scheduler: {low: 1, high: 2}}", "space.lr_scheduler", "has no order"),
        (MINIMAL + "space: {lr_scheduler: [cosin, linear]}", "space.lr_scheduler", "Did you mean `cosine`?"),
        (MINIMAL + "space: {dropout: [0, 1.5]}", "space.dropout", "at least 0 and at most 1"),
        (MINIMAL + "baseline: {rank: eight}", "baseline.rank", "`eight` is not allowed; a whole number at least 1 is"),
        (MINIMAL + "baseline: {rnak: 8}", "baseline.rnak", "Did you mean `rank`?"),
        (MINIMAL + "baseline: {use_rslora: 1}", "baseline.use_rslora", "allowed are true, false"),
        (MINIMAL + "budget: {trials: 0}", "budget.trials", "must be above 0"),
        (MINIMAL + "budget: {trials: 1.5}", "budget.trials", "a whole number is"),
        (MINIMAL + "budget: {trials: true}", "budget.trials", "a whole number is"),
        (MINIMAL + "budget: {hours: .inf}", "budget.hours", "a finite number is"),
        (MINIMAL + "budget: {trials: null}", "budget", "there is no limit"),
        (MINIMAL + "budget: 3", "budget", "a mapping of keys is"),
        (MINIMAL + "training: {epochs: '2'}", "training.epochs", "a whole number is"),
        (
            MINIMAL + "training: {target_modules: q_proj}",
            "training.target_modules",
            "all-linear or a list of module names",
        ),
        (MINIMAL + "seed: 2147483648", "seed", "must be below 2.14748e+09"),
        ("data: {sources: [{path: a}]}", "model", "must be given: a LoRA objective needs it"),
        ("model: 5\ndata: {sources: [{path: a}]}", "model", "a mapping of keys is"),
        ("model: embedded", "data", "must be given"),
        ("model: embedded\ndata: {sources: []}", "data.sources", "at least one is"),
        ("model: embedded\ndata: {}", "data.sources", "must be given"),
        ("model: embedded\ndata: {sources: [{share: 1}]}", "data.sources.0", "exactly one of `path`, `dataset`"),
        (
            "model: embedded\ndata: {sources: [{path: a, dataset: b}]}",
            "data.sources.0",
            "given: `path` and `dataset`",
        ),
        (
            "model: embedded\ndata: {mixture: cap, sources: [{path: a, share: 0.7}, {path: b, share: 0.2}]}",
            "data",
            "add up to 0.9; they must add up to 1",
        ),
        (
            "model: embedded\ndata: {mixture: cap, sources: [{path: a, share: 0.7}, {path: b}]}",
            "data",
            "given for 1 of 2 sources",
        ),
        (
            "model: embedded\ndata: {mixture: repeat, sources: [{path: a}, {path: b}]}",
            "data",
            "`mixture: repeat` needs a `share`",
        ),
        (
            "model: embedded\ndata: {sources: [{path: a, share: 0.5}, {path: b, share: 0.5}]}",
            "data",
            "`mixture: union` takes all rows",
        ),
        ("model: embedded\ndata: {sources: [{path: a}], validation: 0}", "data.validation", "a share between 0 and 1"),
        ("model: embedded\ndata: {sources: [{path: a}], validation: 1.0}", "data.validation", "`1.0` is not allowed"),
        ("model: embedded\ndata: {sources: [{path: a}], test: -1}", "data.test", "0 for none"),
        ("model: embedded\ndata: {sources: [{path: a}], validation: v.json}", "data.validation", "{path: FILE}"),
        ("model: embedded\ndata: {sources: [{path: a}], validation: 0.5, test: 0.5}", "data", "none are left"),
        ("model: embedded\ndata: {sources: [{path: a}], max_length: 0}", "data.max_length", "must be above 0"),
        ("model: embedded\ndata: {sources: [{path: a}], max_length: all}", "data.max_length", "auto or a number of"),
        (COMMAND, "space", "a command's space must be given"),
        (COMMAND + "space: {x: {low: 1, high: 0}}", "space.x", "exchange them"),
        (COMMAND + "space: {x: [1, 2]}\nbaseline: {y: 1}", "baseline.y", "the space has x"),
        (COMMAND + "space: {x: [1, 2], z: [3, 4]}\nbaseline: {x: 1}", "baseline", "`z` is missing"),
        (COMMAND + "space: {x: [1, 2], seed: [1, 2]}", "space.seed", "is filled in by meshtune"),
        (COMMAND + "space: {x: [1, 2], my-x: 3}", "space.my-x", "letters, digits and _"),
        (COMMAND + "space: {x: {low: .nan, high: 1}}", "space.x.low", "a finite number is"),
        ("objective: {command: run}\nspace: {x: [1, 2]}", "objective.command", "a list is"),
        ("objective: {command: [run, 5]}\nspace: {x: [1, 2]}", "objective.command.1", "text is"),
        ("objective: {command: [run], reslt: y}\nspace: {x: [1, 2]}", "objective.reslt", "Did you mean `result`?"),
        (MINIMAL + "warm_start: {stuyd: x}", "warm_start.stuyd", "Did you mean `study`?"),
        (MINIMAL + "warm_start: {values: as_is}", "warm_start.study", "must be given"),
        (MINIMAL + "warm_start: 5", "warm_start", "a mapping of keys is"),
        (MINIMAL + "warm_start: {study: x, values: shiftd}", "warm_start.values", "Did you mean `shifted`?"),
        (
            MINIMAL + "warm_start: x\nsampler: qmc",
            "warm_start",
            "earlier trials; auto, mads, batch-gp, tpe, nni-tpe can",
        ),
        (MINIMAL + "warm_start: x\nsampler: {import: a:B}", "warm_start", "`a:B` cannot start from earlier trials"),
        (
            MINIMAL + "warm_start: {study: x, values: shifted}\nsampler: tpe",
            "warm_start.values",
            "for the samplers auto, mads, batch-gp",
        ),
        (MINIMAL + "objective: {at: best, result: x}", "objective.result", "unknown key; there are at."),
    ],
)
def test_each_fault_names_its_key_and_says_what_is_allowed(tmp_path: Path, text: str, key: str, message: str) -> None:
    found = [fault for fault in faults(tmp_path, text) if fault.key == key]
    assert len(found) == 1
    assert message in found[0].message


def test_a_command_needs_neither_model_nor_data(tmp_path: Path) -> None:
    config = file.read(write(tmp_path, COMMAND + "space: {x: {low: -1, high: 1}, name: [a, b]}"))
    assert config.objective == CommandObjectiveConfig(command=("run", "{x}"), directory=str(tmp_path))
    assert config.space == {"x": Interval(low=-1, high=1), "name": ("a", "b")}
    assert config.model is None


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "base").mkdir(parents=True)
    text = "model: base\ndata: {sources: [{path: ../a.json}, {path: /b.json}], validation: {path: v.json}}\nfolder: out"
    text += "\nwarm_start: ../round1"
    path = write(tmp_path / "deep", text)
    monkeypatch.chdir(tmp_path)
    config = file.read(Path("deep/s.yaml"))
    assert config.data is not None
    assert [source.path for source in config.data.sources] == [str(tmp_path / "a.json"), "/b.json"]
    assert config.data.validation == RowsFile(path=str(tmp_path / "deep" / "v.json"))
    assert config.model == ModelConfig(name=str(tmp_path / "deep" / "base"))
    assert config.folder == str(tmp_path / "deep" / "out")
    assert config.warm_start == WarmStartConfig(study=str(tmp_path / "round1"))
    assert file.study_folder(path, config) == tmp_path / "deep" / "out"
    assert file.study_folder(path, config, Path("else")) == Path("else")
    assert file.study_folder(path, StudyConfig()) == tmp_path / "deep" / "s"


def test_the_python_that_runs_nni_may_stand_beside_the_file_and_may_change(tmp_path: Path) -> None:
    text = MINIMAL + "sampler: {name: nni-tpe, options: {python: nni-env/bin/python, gamma: 0.5}}"
    sampler = file.read(write(tmp_path, text)).sampler
    assert sampler.options == {"python": str(tmp_path / "nni-env/bin/python"), "gamma": 0.5}
    assert sampler.fixed["options"] == {"gamma": 0.5}
    on_the_path = file.read(write(tmp_path, text.replace("nni-env/bin/python", "python3"))).sampler
    assert on_the_path.options["python"] == "python3"
    assert on_the_path.fixed == sampler.fixed


@pytest.mark.parametrize(
    ("name", "absolute"),
    [("org/name", False), ("embedded", False), ("x.gguf", True), ("./m", True), ("../m", True)],
)
def test_a_models_name_is_a_path_where_it_looks_like_one(tmp_path: Path, name: str, absolute: bool) -> None:
    config = file.read(write(tmp_path, MINIMAL.replace("embedded", name)))
    assert config.model is not None
    assert config.model.name == (os.path.normpath(tmp_path / name) if absolute else name)


def test_overrides(tmp_path: Path) -> None:
    config = file.read(
        write(tmp_path, MINIMAL),
        (
            "model.dtype=float32",
            "data.sources.0.format=dolly",
            "data.max_length=512",
            "budget.trials=7",
            "sampler=mads",
            "warm_start=/round1",
            "warm_start.values=shifted",
            "training.target_modules=[q_proj, v_proj]",
            "space={step: {low: 1e-3, high: 1, log: true}}",
        ),
    )
    assert config.model == ModelConfig(name="embedded", dtype="float32")
    assert config.data is not None
    assert (config.data.sources[0].format, config.data.max_length) == ("dolly", 512)
    assert (config.budget.trials, config.sampler.name) == (7, "mads")
    assert config.warm_start == WarmStartConfig(study="/round1", values="shifted")
    assert config.training.target_modules == ("q_proj", "v_proj")
    assert config.space == {"step": Interval(low=1e-3, high=1, log=True)}


def test_faults_of_overrides_name_them(tmp_path: Path) -> None:
    given = ("budget.trials=0", "data.sources.3.share=1", "nonsense", "seed.x=1", "sampler=[", "trainin.epochs=3")
    texts = [str(fault) for fault in faults(tmp_path, MINIMAL + "seed: 4", given)]
    assert len(texts) == len(given)
    for override in given:
        assert any(text.startswith(f"--set {override}: ") for text in texts)
    assert any("`data.sources` has the items 0 to 0, not `3`" in text for text in texts)
    assert any("`seed` is `4`, which has no `x`" in text for text in texts)


def test_parse_takes_a_dict_and_leaves_it_alone(tmp_path: Path) -> None:
    values: dict[str, Any] = {"model": "embedded", "data": {"sources": ({"path": Path("a.json")},)}}
    config = file.parse(values, tmp_path)
    assert config.data is not None
    assert config.data.sources[0].path == str(tmp_path / "a.json")
    assert values["data"]["sources"][0]["path"] == Path("a.json")
    with pytest.raises(InputError, match="is no plain value"):
        file.parse({"model": {1, 2}}, tmp_path)
    with pytest.raises(InputError, match=r"^seed: "):
        file.parse({**values, "seed": "x"}, tmp_path)


def _sections(tmp_path: Path) -> st.SearchStrategy[dict[str, Any]]:
    words = st.text(min_size=1, max_size=8)
    share = st.floats(0.01, 0.49)
    sides = share | st.integers(1, 10**6) | st.fixed_dictionaries({"path": words})
    lists = st.lists(st.floats(0, 1), min_size=2, max_size=4, unique=True)
    space = st.just("tribes2024") | st.fixed_dictionaries(
        {"dropout": lists, "learning_rate": st.just({"low": 1e-6, "high": 1e-3, "log": True})},
        optional={
            "use_rslora": st.booleans(),
            "lr_scheduler": st.just(["cosine", "linear"]),
            "rank": st.integers(1, 512),
        },
    )
    optional = {
        "training": st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 9), "weight_decay": share}),
        "objective": st.fixed_dictionaries({"at": st.sampled_from(["best", "last"])}),
        "space": space,
        "baseline": st.fixed_dictionaries({}, optional={"scale": st.floats(1e-3, 1e3), "rank": st.integers(1, 99)}),
        "sampler": st.fixed_dictionaries({"name": st.just("tpe")}, optional={"options": st.dictionaries(words, words)}),
        "budget": st.fixed_dictionaries({"trials": st.none(), "hours": st.floats(1e-6, 1e6)}),
        "seed": st.integers(0, 2**31 - 1),
        "folder": words,
        "warm_start": words | st.fixed_dictionaries({"study": words, "values": st.just("as_is")}),
        "storage": st.sampled_from(["postgresql://me:p w@host/db", "sqlite:////a b.db", "${URL}"]),
    }
    sources = st.lists(st.fixed_dictionaries({"dataset": st.text(), "split": st.text()}), min_size=1, max_size=3)
    data = st.fixed_dictionaries({"sources": sources}, optional={"validation": sides, "test": sides | st.just(0)})
    return st.fixed_dictionaries({"model": st.just("embedded"), "data": data}, optional=optional)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_the_effective_config_reads_as_an_equal_one(tmp_path: Path, data: st.DataObject) -> None:
    values = data.draw(_sections(tmp_path))
    config = file.parse(values, tmp_path)
    assert file.read(write(tmp_path, file.dump(config))) == config


def test_early_stopping_is_a_rule_or_a_mapping(tmp_path: Path) -> None:
    assert file.read(write(tmp_path, MINIMAL)).early_stopping.rule == "none"
    median = file.read(write(tmp_path, MINIMAL + "early_stopping: median"), ("early_stopping.keep=0.5",))
    assert median.early_stopping == EarlyStoppingConfig(rule="median", keep=0.5)
    given = file.read(write(tmp_path, MINIMAL + "early_stopping: {rungs: [0.2, 0.6]}")).early_stopping
    assert (given.rule, given.rungs) == ("default", (0.2, 0.6))
    by_model = file.read(write(tmp_path, MINIMAL + "early_stopping: model")).early_stopping
    assert (by_model.confidence, by_model.freeze) == (0.98, True)
    given = file.read(write(tmp_path, MINIMAL + "early_stopping: {rule: model, confidence: 0.9, freeze: false}"))
    assert (given.early_stopping.confidence, given.early_stopping.freeze) == (0.9, False)
    for text, size in (("20 GB", 20 * 10**9), ("1.5GiB", 3 << 29), (".5 MB", 500_000), ("1000", 1000), ("null", None)):
        limited = file.read(write(tmp_path, MINIMAL + f"early_stopping: {{freeze: true, disk: {text}}}"))
        assert limited.early_stopping.disk == size
        assert file.read(write(tmp_path, file.dump(limited))) == limited


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ("early_stopping: medan", "early_stopping.rule", "Did you mean `median`"),
        ("early_stopping: {rungs: []}", "early_stopping.rungs", "at least one"),
        ("early_stopping: {rungs: [0.5, 0.3]}", "early_stopping.rungs", "rungs ascend"),
        ("early_stopping: {rungs: [0.5, 1]}", "early_stopping.rungs.1", "below 1"),
        ("early_stopping: {rungs: ['0.5']}", "early_stopping.rungs.0", "a number is"),
        ("early_stopping: {startup: 0}", "early_stopping.startup", "above 0"),
        ("early_stopping: {keep: 0}", "early_stopping.keep", "above 0"),
        ("early_stopping: {keep: 1.5}", "early_stopping.keep", "at most 1"),
        ("early_stopping: {confidence: 0.5}", "early_stopping.confidence", "above 0.5"),
        ("early_stopping: {rows: 0}", "early_stopping.rows", "above 0"),
        ("early_stopping: {promote: -1}", "early_stopping.promote", "at least 0"),
        ("early_stopping: {value: lost}", "early_stopping.value", "predicted, failed"),
        ("early_stopping: {freeze: true, disk: 20 gigs}", "early_stopping.disk", "`gigs` in `20 gigs` is no unit"),
        ("early_stopping: {freeze: true, disk: 0 GB}", "early_stopping.disk", "a size above 0 is, such as `20 GB`"),
        ("early_stopping: {freeze: true, disk: much}", "early_stopping.disk", "`much` is not allowed; a size above 0"),
        ("early_stopping: {freeze: true, disk: true}", "early_stopping.disk", "a size above 0 is"),
        ("early_stopping: {disk: 20 GB}", "early_stopping", "write `freeze: true` beside it"),
        ("stop_when: {}", "stop_when", "could end the search"),
        ("worker: {name: ray, autoscale: true}", "worker", "`autoscale` needs `processes`"),
        ("worker: {autoscale: true, processes: 2}", "worker", "`autoscale` is read where `name` is ray, not local"),
        ("stop_when: {target: 1.5, noise: 0.1}", "stop_when", "belongs to `no_improvement`"),
        ("stop_when: {no_improvement: 0}", "stop_when.no_improvement", "above 0"),
        ("stop_when: {expected_gain: 0}", "stop_when.expected_gain", "above 0"),
        ("stop_when: {expected_gain: 1}", "stop_when.expected_gain", "below 1"),
        ("stop_when: {expected_gain: 0.1 per cent}", "stop_when.expected_gain", "such as `0.1 %`"),
        ("stop_when: {expected_gain: 100 %}", "stop_when.expected_gain", "a share above 0 and below 1"),
        ("replicates: 1", "replicates", "2 or more"),
        ("budget: {trials: null}", "budget", "`kilowatt_hours`"),
        ("budget: {kilowatt_hours: 0}", "budget.kilowatt_hours", "above 0"),
    ],
)
def test_faults_of_spending(tmp_path: Path, given: str, key: str, words: str) -> None:
    found = faults(tmp_path, MINIMAL + given)
    assert [fault.key for fault in found] == [key]
    assert words in found[0].message


def test_what_a_program_cannot_give(tmp_path: Path) -> None:
    text = "objective: {command: [run, '{x}']}\nspace: {x: {low: 0, high: 1}}\nreplicates: 3\nearly_stopping: default\n"
    assert sorted(str(fault.key) for fault in faults(tmp_path, text)) == ["early_stopping", "replicates"]
    seeded = text.replace("'{x}'", "'{x}', '{seed}'").replace("default", "none")
    assert file.read(write(tmp_path, seeded)).replicates == 3


def test_a_key_of_an_earlier_version_is_read_by_its_new_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a hint, but for a file that meshtune wrote itself."""
    text = MINIMAL + "early_stopping: {rule: median, told: failed}"
    config = file.read(write(tmp_path, text))
    assert config.early_stopping == EarlyStoppingConfig(rule="median", value="failed")
    assert "early_stopping.told` is called `value` now" in caplog.text
    caplog.clear()
    assert file.read(write(tmp_path, file.WRITTEN + text)) == config
    assert file.read(write(tmp_path, file.dump(config))) == config
    assert not caplog.text
    assert [f.key for f in faults(tmp_path, text.replace("failed", "lost"))] == ["early_stopping.value"]
