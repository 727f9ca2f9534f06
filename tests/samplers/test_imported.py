"""Samplers of the user's own: files and modules, behind the sampler contract, and what is wrong with them."""

import sys
from pathlib import Path

import optuna
import pytest

import meshtune
from meshtune.config import file as config_file
from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError
from meshtune.samplers.build import build
from meshtune.samplers.interface import Sampler
from meshtune.system.imported import imported
from meshtune.testing.samplers import MIXED, SamplerContract, Space, points, search
from tests.kill import command_study

OWN = '''
"""Samplers that a user might write."""

import dataclasses
import random

import optuna
from beside import KEPT

from meshtune.samplers.interface import Sampler


class NearBest(optuna.samplers.BaseSampler):
    """Keeps a share of the best point's values and draws the others."""

    def __init__(self, seed=None, keep=KEPT):
        self.random = optuna.samplers.RandomSampler(seed=seed)
        self.chance = random.Random(seed)
        if not 0 <= keep <= 1:
            raise ValueError("keep must lie between 0 and 1")
        self.keep = keep

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        done = [t for t in study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]
        if done and self.chance.random() < self.keep:
            return min(done, key=lambda t: t.value).params[name]
        return self.random.sample_independent(study, trial, name, distribution)


class Unseeded(NearBest):
    def __init__(self):
        super().__init__(seed=5)


class Noting(optuna.samplers.RandomSampler):
    """Says on the trial what it is about to propose, as Optuna's grid does."""

    def before_trial(self, study, trial):
        study._storage.set_trial_system_attr(trial._trial_id, "noted", trial.number)


@dataclasses.dataclass
class Halton(Sampler):
    """The interface itself: blocks of its own, never more than `points` of them."""

    space: dict
    x0: dict | None
    block_size: int
    seed: int
    points: int = 8

    def available(self, study):
        trials = study.get_trials(deepcopy=False)
        in_block = len(trials) % self.block_size
        if in_block == 0 and not all(trial.state.is_finished() for trial in trials):
            return 0
        return min(self.block_size - in_block, self.points - len(trials))

    def infer_relative_search_space(self, study, trial):
        return self.space

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        seed = self.seed * 1000 + trial.number
        return optuna.samplers.RandomSampler(seed=seed).sample_independent(study, trial, name, distribution)

    def close(self):
        pass


def made(seed):
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)


def constrained(seed=None):
    return optuna.samplers.TPESampler(seed=seed, constraints_func=lambda trial: (0.0,))


def nothing():
    return None


class NoSampler:
    pass


number = 3
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "beside.py").write_text("KEPT = 0.5\n")
    (folder / "own_samplers.py").write_text(OWN)
    return folder / "own_samplers.py"


def built(
    own: Path,
    name: str,
    options: dict[str, object] | None = None,
    *,
    block_size: int = 1,
    seed: int = 0,
    space: Space = MIXED,
) -> Sampler:
    config = SamplerConfig.model_validate({"name": "import", "import": f"{own}:{name}", "options": options or {}})
    sampler: Sampler = build(config, space, x0=None, block_size=block_size, seed=seed)
    return sampler


class OwnContract(SamplerContract):
    name = ""

    @pytest.fixture(autouse=True)
    def _own(self, own: Path) -> None:
        self.own = own

    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        return built(self.own, self.name, block_size=block_size, seed=seed, space=space)


class TestNearBest(OwnContract):
    name = "NearBest"


class TestMadeByAFunction(OwnContract):
    name = "made"


class TestExample(OwnContract):
    """The sampler that the notebook shows."""

    name = "NearBest"

    @pytest.fixture(autouse=True)
    def _own(self) -> None:
        self.own = Path(__file__).parents[2] / "examples" / "notebook" / "my_sampler.py"


class TestModule(SamplerContract):
    """A class of an installed package, by its module."""

    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        config = SamplerConfig.model_validate({"name": "import", "import": "optuna.samplers:RandomSampler"})
        sampler: Sampler = build(config, space, x0=None, block_size=block_size, seed=seed)
        return sampler


def test_options_and_the_studys_points_reach_it(own: Path) -> None:
    study = search(optuna.create_study(), built(own, "NearBest", {"keep": 1.0}), MIXED, 5)
    assert all(point == points(study)[0] for point in points(study))


def test_without_a_seed_it_is_built_without(own: Path) -> None:
    study = search(optuna.create_study(), built(own, "Unseeded"), MIXED, 4)
    assert len(points(study)) == 4


def test_what_it_notes_before_a_trial_is_on_the_trial(own: Path) -> None:
    study = search(optuna.create_study(), built(own, "Noting"), MIXED, 3)
    assert [trial.system_attrs["noted"] for trial in study.trials] == [0, 1, 2]


def test_a_class_of_the_seam_keeps_its_own_blocks_and_its_end(own: Path) -> None:
    sampler = built(own, "Halton", {"points": 6}, block_size=4, seed=7)
    study = search(optuna.create_study(), sampler, MIXED, 20)
    assert len(study.trials) == 6  # it says itself when the space is exhausted
    again = search(optuna.create_study(), built(own, "Halton", {"points": 6}, block_size=4, seed=7), MIXED, 20)
    assert points(again) == points(study)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("NearBets", {}, r"sampler\.import: .* has no `NearBets`\. Did you mean `NearBest`\?"),
        ("NoSampler", {}, r"sampler\.import: .*is no sampler: a class that inherits from optuna"),
        ("number", {}, r"sampler\.import: .*is no sampler"),
        ("nothing", {}, r"sampler\.import: .*returned None"),
        ("NearBest", {"kept": 1}, r"sampler\.options\.kept: unknown to .*: it takes keep\. Did you mean `keep`\?"),
        ("NearBest", {"seed": 1}, r"sampler\.options\.seed: `seed` is given by meshtune: remove it"),
        ("NearBest", {"keep": 2}, r"sampler\.options: .*keep must lie between 0 and 1"),
        ("Unseeded", {"keep": 2}, r"sampler\.options\.keep: unknown .*: it takes none"),
        ("Halton", {"point": 2}, r"sampler\.options\.point: .*Did you mean `points`"),
        ("Halton", {"x0": 2}, r"sampler\.options\.x0: `x0` is given by meshtune"),
        pytest.param(
            *("constrained", {}, r"sampler\.import: .*has a `constraints_func`, which is never called"),
            marks=pytest.mark.filterwarnings("ignore::FutureWarning"),  # Optuna gives it up itself
        ),
    ],
)
def test_what_is_wrong_is_said(own: Path, name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        built(own, name, options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent_module:Name", r"there is no module `absent_module`.*`\./absent_module\.py:Name`"),
        ("optuna.absent:Name", "there is no module `optuna.absent`"),
        ("absent.py:Name", "absent.py: cannot be read"),
        ("broken.py:Name", r"broken\.py` failed \(SyntaxError: .*line 1"),
        ("raising.py:Name", r"raising\.py` failed \(ZeroDivisionError: .*raising\.py:2\)"),
        ("needing.py:Name", r"needing\.py` failed \(ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_what_cannot_be_imported_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken.py").write_text("def (\n")
    (tmp_path / "raising.py").write_text("zero = 0\n1 / zero\n")
    (tmp_path / "needing.py").write_text("import not_there\n")
    with pytest.raises(InputError, match=rf"(?s)sampler\.import: .*{words}"):
        imported(name, "sampler.import")


def test_a_file_is_the_same_until_its_text_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "values.py"
    path.write_text("value = [1]\n")
    first = imported(f"{path}:value", "k")
    assert imported(f"{path}:value", "k") is first
    path.write_text("value = [2]\n")
    assert imported(f"{path}:value", "k") == [2]
    assert first == [1]
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_is_found_beside_the_yaml(own: Path) -> None:
    for short in ("{import: own_samplers.py:NearBest}", "{import: ./own_samplers.py:NearBest, options: {keep: 0.2}}"):
        path = own.parent / "some.yaml"
        path.write_text(
            f"objective: {{command: [run, '{{x}}']}}\nspace: {{x: {{low: 0, high: 1}}}}\nsampler: {short}\n"
        )
        config = config_file.read(path)
        assert (config.sampler.name, config.sampler.imported) == ("import", f"{own}:NearBest")
        trainer = config_file.read(path, ["training.trainer.import=../trainers.py:train"]).training.trainer
        assert trainer.imported == f"{own.parents[1] / 'trainers.py'}:train"
        (own.parent / "effective.yaml").write_text(config_file.dump(config))
        assert config_file.read(own.parent / "effective.yaml") == config


@pytest.mark.parametrize("given", ["a b", "module", "module:", "file.py", "m:a.b", "./file.txt:Name"])
def test_what_names_nothing_is_a_fault(tmp_path: Path, given: str) -> None:
    values = {"objective": {"command": ["run", "{x}"]}, "space": {"x": [1, 2]}, "sampler": {"import": given}}
    with pytest.raises(InputError, match=r"sampler\.import: .*package\.module:Name or file\.py:Name is"):
        config_file.parse(values, tmp_path)


def test_a_study_runs_and_continues_with_it_also_when_it_was_moved(own: Path, tmp_path: Path) -> None:
    def study(folder: Path) -> Path:
        path = command_study(folder, trials=8, block=2)
        for file in own.parent.glob("*.py"):
            (folder / file.name).write_text(file.read_text())
        text = path.read_text()
        path.write_text(text.replace("name: mads", "import: own_samplers.py:NearBest, options: {keep: 0.3}"))
        return path

    whole = meshtune.tune(study(tmp_path / "whole"), progress=False)
    meshtune.tune(study(tmp_path / "cut"), trials=4, progress=False)
    (tmp_path / "cut").rename(tmp_path / "moved")
    moved = meshtune.tune(tmp_path / "moved" / "study.yaml", progress=False)
    columns = [name for name in whole.trials if str(name).startswith("params_")]
    assert columns
    assert moved.trials[columns].equals(whole.trials[columns])
    with pytest.raises(InputError, match=r"sampler\.options\.keeps: unknown"):
        meshtune.tune(moved.folder, overrides=["sampler.options.keeps=0.3"], trials=9, progress=False)
