"""Every example runs as it stands, and so does what the README and the guide to Python show."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

import meshtune
from meshtune.config import file
from meshtune.system import yaml_file
from tests.kill import run

ROOT = Path(__file__).parents[1]


def test_any_program(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "any_program", tmp_path / "example")
    ended = run(tmp_path / "example" / "study.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    status = json.loads(ended.stdout)
    assert sum(count for name, count in status["trials"].items() if name not in ("proposed", "pending")) == 16
    assert status["best"]["loss"] < status["baseline"]["loss"]
    assert status["expected_gain"]["trials"] == 20


MADS = ROOT / "examples" / "optuna_mads.py"
HEAVY = ("torch", "transformers", "peft", "datasets", "pandas", "plotly", "pydantic", "typer", "yaml")
WITHOUT_HEAVY = """
import runpy, sys
heavy = sys.argv[2:]
sys.modules |= dict.fromkeys(heavy)  # an import of one of them fails
runpy.run_path(sys.argv[1])
assert not [name for name in sys.modules if name.split(".")[0] in heavy and sys.modules[name] is not None]
"""


def check_pareto_set(printed: str) -> None:
    """Feasible points none of which is at least as good as another in both values."""
    lines = re.findall(r"^(\{.*\}) (\[.*\])$", printed, re.MULTILINE)
    points = [(ast.literal_eval(params), ast.literal_eval(values)) for params, values in lines]
    assert len(points) > 5
    assert all(point["y"] + 9 * point["x"] >= 6 for point, _ in points)
    assert all(values == [point["x"], (1 + point["y"]) / point["x"]] for point, values in points)
    seconds = [second for _, second in sorted(values for _, values in points)]
    assert seconds == sorted(seconds, reverse=True)


def test_batch_gp_in_plain_optuna_loads_no_heavy_library() -> None:
    command = [sys.executable, "-c", WITHOUT_HEAVY, str(ROOT / "examples" / "optuna_batch_gp.py"), *HEAVY]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    best = re.search(r"^best (\{.*\}) (.*)$", ended.stdout, re.MULTILINE)
    assert best
    assert float(best[2]) < 0.3
    assert "recommended {" in ended.stdout


def test_mads_in_plain_optuna_loads_no_heavy_library() -> None:
    command = [sys.executable, "-c", WITHOUT_HEAVY, str(MADS), *HEAVY]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    check_pareto_set(ended.stdout)


@pytest.mark.slow
def test_mads_in_plain_optuna_runs_beside_the_slim_core_alone(tmp_path: Path) -> None:
    """`pip install meshtune` without extras, into an environment of its own."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", ROOT]
    subprocess.run(pip, check=True, cwd=tmp_path, env=alone)
    code = "import importlib.util, sys; sys.exit(str([n for n in sys.argv[1:] if importlib.util.find_spec(n)] or ''))"
    extras = ("torch", "transformers", "peft", "datasets", "pandas", "plotly")
    found = subprocess.run([python, "-c", code, *extras], capture_output=True, text=True, check=False, env=alone)
    assert found.stderr.strip() == ""
    shutil.copy(MADS, tmp_path)
    ended = subprocess.run([python, MADS.name], capture_output=True, text=True, check=False, cwd=tmp_path, env=alone)
    assert ended.returncode == 0, ended.stderr
    check_pareto_set(ended.stdout)


BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS)
def test_configurations_of_the_readme_are_valid(text: str, tmp_path: Path) -> None:
    config = file.parse(yaml_file.parse(text).values, tmp_path)
    assert config.budget.trials is not None
    assert len(text.splitlines()) < 25


NOTEBOOK = ROOT / "examples" / "notebook"


def cells() -> list[dict[str, Any]]:
    notebook = json.loads((NOTEBOOK / "meshtune.ipynb").read_text(encoding="utf-8"))
    return list(notebook["cells"])


def test_the_notebook_holds_no_outputs() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))  # nothing is read from, or left in, the user's home
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "notebook"
    shutil.copytree(NOTEBOOK, folder)
    notebook = nbformat.read(folder / "meshtune.ipynb", as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(folder)}})
    ended = client.execute()
    outputs = {cell["source"]: cell.get("outputs", []) for cell in ended["cells"]}
    table = next(output["data"]["text/html"] for output in outputs["study"])
    assert "best (trial " in table
    shown = [source for source in outputs if source.startswith("study.plot_")]
    assert len(shown) == 4
    assert all(outputs[source] for source in shown)
    assert (folder / "report.html").stat().st_size > 10_000
    streams = [output for made in outputs.values() for output in made if output["output_type"] == "stream"]
    assert {output["name"] for output in streams} == {"stdout"}  # no warning below any cell
    assert "\x1b" not in "".join(output["text"] for output in streams)


def blocks_of_the_guide() -> list[tuple[str, bool]]:
    """The Python blocks of docs/python.md, and whether each needs the adapter of a LoRA study."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    found = re.findall(r"(<!-- needs an adapter -->\n)?```python\n(.*?)```", text, re.DOTALL)
    return [(block, bool(mark)) for mark, block in found]


def test_the_python_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    guide = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"<!-- program.py -->\n```text\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    (sampler,) = re.findall(r"\]\(\.\./(examples/[a-z/_]+\.py)\)", guide)
    shutil.copy(ROOT / sampler, tmp_path)
    (tmp_path / "study.yaml").write_text(
        re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[0] + "budget: {trials: 3}\n"
    )
    names: dict[str, Any] = {}
    for block, needs_adapter in blocks_of_the_guide():
        if needs_adapter:
            _check_calls(block)
        else:
            exec(compile(block, "docs/python.md", "exec"), names)
    assert names["study"].state == "finished"
    assert len(meshtune.load("study").trials) == 6
    assert (tmp_path / "trials.csv").exists()


def _check_calls(block: str) -> None:
    """Every call of `study.NAME(..)` is one that a study takes."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("study.plot_endings()."):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("study."):
            method = getattr(meshtune.Study, ast.unparse(node.func).removeprefix("study."))
            given = {str(keyword.arg): None for keyword in node.keywords}
            inspect.signature(method).bind(None, *node.args, **given)
