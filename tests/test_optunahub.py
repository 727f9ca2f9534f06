"""The folders for OptunaHub's registry: built from meshtune's files, they run where meshtune is not installed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import optuna
import pytest
import yaml

from meshtune import samplers
from tools.optunahub.build import BATCH_GP, MADS, PACKAGES, ROOT, Package, build
from tools.optunahub.imports import LIBRARIES, BuildError, excerpt, relative

# Where `optunahub.load_module` keeps what it has downloaded from the registry: found there, it is not downloaded.
CACHED = Path("github.com", "optuna", "optunahub-registry", "main")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OptunaHub's cache with the built folders in it."""
    cache = tmp_path_factory.mktemp("optunahub")
    for package in PACKAGES:
        build(package, cache / CACHED)
    return cache


@pytest.fixture(scope="module", params=PACKAGES, ids=lambda package: package.name)
def package(request: pytest.FixtureRequest) -> Package:
    chosen: Package = request.param
    return chosen


@pytest.fixture(scope="module")
def folder(cache: Path, package: Package) -> Path:
    return cache / CACHED / package.place


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages of this one but meshtune, whose editable installation it does not follow."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "python"


# Any use of the network ends the program.
OFFLINE = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event}{arguments}")
sys.addaudithook(refuse)
"""

STUDY = """
import importlib.util, json, pickle
import optuna, optunahub
assert importlib.util.find_spec("meshtune") is None
optuna.logging.set_verbosity(optuna.logging.WARNING)
module = optunahub.load_local_module(f"samplers/{sys.argv[2]}", registry_root=sys.argv[1])
study = optuna.create_study(sampler=getattr(module, sys.argv[3])(search_space=SPACE, seed=3))
study.optimize(objective, n_trials=8)
study.sampler = pickle.loads(pickle.dumps(study.sampler))
study.optimize(objective, n_trials=7)
print(json.dumps([[trial.params, trial.value] for trial in study.trials]))
"""

OBJECTIVE = """
import optuna
SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True),
    "rank": optuna.distributions.IntDistribution(8, 64, step=8),
}
def objective(trial):
    lr, rank = trial.suggest_float("lr", 1e-6, 1e-2, log=True), trial.suggest_int("rank", 8, 64, step=8)
    return (lr * 1e3 - 1) ** 2 + (rank - 32) ** 2 / 100
"""


def run(python: Path, cache: Path, program: str, *arguments: str | Path) -> str:
    """What a program prints, run without network outside of the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OPTUNAHUB_CACHE_HOME": str(cache), "GIT_PYTHON_REFRESH": "quiet"}  # quiet: no need of git
    command = [python, "-c", OFFLINE + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cache, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_study_without_meshtune_is_that_of_meshtune(stranger: Path, cache: Path, package: Package) -> None:
    printed = run(stranger, cache, OBJECTIVE + STUDY, cache / CACHED / "package", package.name, package.sampler)
    names: dict[str, object] = {}
    exec(OBJECTIVE, names)
    sampler = getattr(samplers, package.sampler)(search_space=names["SPACE"], seed=3)
    study = optuna.create_study(sampler=sampler)
    study.optimize(names["objective"], n_trials=15)
    sampler.close()
    assert json.loads(printed) == [[trial.params, trial.value] for trial in study.trials]
    assert len({json.dumps(trial.params) for trial in study.trials}) == 15


EXAMPLE = "import runpy\nrunpy.run_path(sys.argv[1])\n"


def test_the_example_of_mads_prints_a_pareto_set(stranger: Path, cache: Path) -> None:
    printed = run(stranger, cache, EXAMPLE, cache / CACHED / MADS.place / "example.py")
    found = [ast.literal_eval(values) for values in re.findall(r"\} (\[.*\])$", printed, re.MULTILINE)]
    assert len(found) > 1
    assert [y for _, y in sorted(found)] == sorted((y for _, y in found), reverse=True)


def test_the_example_of_batch_gp_recommends_a_point(stranger: Path, cache: Path) -> None:
    printed = run(stranger, cache, EXAMPLE, cache / CACHED / BATCH_GP.place / "example.py")
    found = re.search(r"^recommended (\{.*\}) (.*)$", printed, re.MULTILINE)
    assert found is not None
    point = ast.literal_eval(found[1])
    assert point["kind"] == "b"
    assert abs(point["x"] - 0.1) < 0.1
    assert abs(float(found[2])) < 0.02


def test_the_front_matter_is_what_the_registry_asks_for(folder: Path) -> None:
    head, _, text = (folder / "README.md").read_text(encoding="utf-8").removeprefix("---\n").partition("---\n")
    front = yaml.safe_load(head)
    assert set(front) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert all(front.values())
    assert "sampler" in front["tags"]
    assert front["license"] == "MIT License"
    assert (folder / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")
    assert f"optuna=={front['optuna_versions'][0]}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == ["Abstract", "APIs", "Installation", "Example", "Others"]
    assert not re.search(r"\{\{|</?[a-z]+>", text)  # no place left to fill in, and no HTML


def test_the_files_import_each_other_and_nothing_of_meshtune(folder: Path) -> None:
    files = {path.stem for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in files
            elif isinstance(node, ast.Import | ast.ImportFrom):
                name = node.names[0].name if isinstance(node, ast.Import) else str(node.module)
                assert name.split(".")[0] in LIBRARIES | sys.stdlib_module_names | {"optunahub"}, path


def test_the_requirements_are_those_of_the_sampler(folder: Path, package: Package) -> None:
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = {"optuna", "numpy", "PyNomadBBO" if package is MADS else "scipy"}
    assert {re.split(r"[<>=]", line)[0] for line in lines} == needed
    assert all(f'"{line}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8") for line in lines)


def test_a_second_build_leaves_nothing_of_the_first(tmp_path: Path, package: Package) -> None:
    first = build(package, tmp_path)
    made = {path.name: path.read_bytes() for path in first.iterdir()}
    (first / "old.py").write_text("import meshtune\n", encoding="utf-8")
    assert {path.name: path.read_bytes() for path in build(package, tmp_path).iterdir()} == made


def test_the_files_pass_the_registrys_type_check(folder: Path) -> None:
    """Its options, and as there Python 3.10 with no package installed."""
    options = ["--no-site-packages", "--ignore-missing-imports", "--explicit-package-bases", "--python-version=3.10"]
    options += ["--disallow-untyped-defs", "--disallow-untyped-calls", "--no-implicit-reexport", "--strict-equality"]
    options += ["--warn-redundant-casts", "--extra-checks", "--disallow-incomplete-defs", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", os.devnull, *sorted(folder.glob("*.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import pandas.api\n", r"here:1: the sampler imports only PyNomad, numpy, optuna, scipy .* not \{'pandas'\}"),
        ("def f():\n    from torch import nn\n", r"here:2: .* not \{'torch'\}"),
        ("import os, meshtune.errors\n", "here:1: write `from meshtune.*import name`"),
        ("from meshtune.errors import *\n", "here:1: import the names one by one"),
        ("from .errors import SamplerError\n", "here:1: write the import absolute"),
        ("from  meshtune.errors import SamplerError\n", "here:1: write `from meshtune.errors import ...` on one line"),
        (
            '"""Text."""\n\nRUN = ["-m", "meshtune.samplers.mads.nomad_process"]\n',
            "here:3: 'meshtune.samplers.mads.nomad_process'",
        ),
    ],
)
def test_what_would_not_work_elsewhere_is_refused(text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        relative(text, "here")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "mads/nomad_process.py",
            "import json\n",
            "import json\nfrom meshtune.errors import nearest\n",
            "a program, not part",
        ),
        (
            "mads/sampler.py",
            "from meshtune.samplers.interface import",
            "from meshtune.samplers import",
            "samplers is not a file below",
        ),
        ("mads/sampler.py", "        seed: of NOMAD", "        of NOMAD", "says nothing of `seed`"),
        ("mads/sampler.py", "    Args:\n", "    Arguments:\n", "has no section `Args:`"),
    ],
)
def test_a_sampler_that_cannot_be_copied_is_refused(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "meshtune", tmp_path / "meshtune")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "meshtune" / "samplers" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BuildError, match=message):
        build(MADS, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_imports_become_relative_wherever_they_stand() -> None:
    text = (
        '"""See `meshtune.samplers.interface`."""\n'
        "import os, numpy.linalg\n"
        "from meshtune.samplers.encoding import (\n    key as key_of,\n    whole,\n)\n"
        "def f():\n    x = 1; from meshtune.errors import SamplerError  # meshtune's own\n"
    )
    found = relative(text, "here")
    assert found.text == (
        '"""See `interface`."""\n'
        "import os, numpy.linalg\n"
        "from .encoding import (\n    key as key_of,\n    whole,\n)\n"
        "def f():\n    x = 1; from .errors import SamplerError  # meshtune's own\n"
    )
    assert found.needs == {
        "meshtune.samplers.encoding": frozenset({"key", "whole"}),
        "meshtune.errors": frozenset({"SamplerError"}),
    }
    assert found.libraries == {"numpy"}


def test_an_excerpt_holds_what_it_uses_and_no_more() -> None:
    text = (
        "import os\nimport sys\nfrom dataclasses import dataclass, field\n"
        "LIMIT: int = 3\nOTHER = sys.argv\n\n\n"
        "@dataclass\nclass Base:\n    x: int = LIMIT\n\n\n"
        "class Error(Base):\n    pass\n\n\ndef unused():\n    return os.name\n"
    )
    kept = ast.parse(excerpt(text, {"Error"}, "meshtune.errors"))
    assert [type(node).__name__ for node in kept.body] == [
        "Expr", "ImportFrom", "ImportFrom", "AnnAssign", "ClassDef", "ClassDef",
    ]  # fmt: skip
    names: dict[str, type] = {}
    exec(excerpt(text, {"Error"}, "meshtune.errors"), names)
    assert names["Error"]().x == 3
    with pytest.raises(BuildError, match=r"meshtune.errors does not define Missing"):
        excerpt(text, {"Missing"}, "meshtune.errors")
