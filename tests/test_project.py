"""The project's own files agree with each other: versions, pins, sizes, and what must not stand in the repository."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import typer
import yaml

import meshtune
from meshtune.cli.commands import app
from meshtune.config import file, presets
from meshtune.config.sections import is_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    """The package of a requirement, spelled as registries compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_changelog_has_the_codes_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert released[0] == meshtune.__version__


def test_the_version_is_written_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "meshtune/_version.py"


def test_the_citation_is_of_the_released_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == meshtune.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{cited['version']}] - {cited['date-released']}" in changelog
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()


def test_what_agents_read_names_files_and_targets_that_exist() -> None:
    for name in ("AGENTS.md", "llms.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        linked = re.findall(r"\]\(([^)#]+)", text) + re.findall(r"`((?:meshtune|tests)/[^`]*)`", text)
        assert linked
        assert not [path for path in linked if not (ROOT / path).exists()], name
        made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= made
        commands = set(typer.main.get_command(app).list_commands(click.Context(typer.main.get_command(app))))
        listed = re.findall(r"Main commands: (.*?)\. `meshtune", text)
        assert {word.split()[-1] for words in listed for word in re.findall(r"`([^`]+)`", words)} <= commands


def test_constraints_pin_every_dependency_to_one_version() -> None:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
    names = [name_of(pin) for pin in pins]
    assert len(names) == len(set(names))
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = {name_of(r) for group in (PROJECT["project"]["dependencies"], *extras) for r in group}
    assert needed - {"meshtune"} <= set(names)


def test_every_package_that_is_imported_is_declared() -> None:
    """What another package brings along may go with its next version."""
    spelled = {"yaml": "pyyaml", "PyNomad": "pynomadbbo", "pynvml": "nvidia-ml-py", "markdown_it": "markdown-it-py"}
    spelled |= {"mlflow": "mlflow-skinny"}
    extras = PROJECT["project"]["optional-dependencies"].values()
    declared = {name_of(r) for group in (PROJECT["project"]["dependencies"], *extras) for r in group}
    for path in (ROOT / "meshtune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "meshtune":
                    assert name_of(spelled.get(name, name)) in declared, f"{path}: {name}"


def test_every_dependency_says_which_files_use_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = text[text.index("dependencies = [") : text.index("dev = [")].splitlines()
    for before, line in itertools.pairwise(lines):
        if line.strip().startswith('"'):
            comment = f"{before if before.strip().startswith('#') else ''} {line.rpartition('#')[2]}"
            used = re.findall(r"[\w/]+\.py|\w+/", comment)
            assert used, line
            assert all((ROOT / "meshtune" / path).exists() for path in used), line


def test_no_text_holds_an_index_address_or_a_path_of_one_machine() -> None:
    parts = ("index-url", "find-links", "/home/", "/Users/", "file://")
    for path in texts():
        if path == Path(__file__) or path.suffix in {".png", ".gz", ".xz", ".parquet"}:
            continue
        text = path.read_text(encoding="utf-8")
        for part in parts:
            assert part not in text, f"{path} holds {part}"


def test_no_module_has_a_second_job() -> None:
    """House rule: a file holds one idea whole, in up to 500 lines."""
    long = {p.name: n for p in (ROOT / "meshtune").rglob("*.py") if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    for path in (ROOT / "meshtune").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_nothing_is_left_to_do_later() -> None:
    words = re.compile("TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + "Error")
    for path in (ROOT / "meshtune").rglob("*.py"):
        assert not words.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/nni-tpe.md",
        *(
            f"docs/{page}.md"
            for page in (
                "data",
                "python",
                "cluster",
                "trackers",
                "coming-from",
                "your-trainer",
                "samplers",
                "spending",
                "early-stopping",
                "guided-search",
                "rounds",
            )
        ),
    ],
)
def test_the_configs_in_readme_and_docs_are_valid(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks or name != "README.md"
    for block in blocks:
        path = tmp_path / "study.yaml"
        path.write_text(block, encoding="utf-8")
        config = file.read(path)
        lora = not is_command(config.objective)
        assert presets.build(config.space, lora=lora).parameters


def test_the_commands_in_readme_and_docs_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = "\n".join([block for kind, block in fences if not kind] + re.findall(r"`(meshtune [^`]*)`", text))
    named = set(re.findall(r"^meshtune ([a-z]+)", code, re.MULTILINE))
    assert {"init", "tune", "quickstart"} <= named
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    known |= {
        str(group.name or (group.typer_instance and group.typer_instance.info.name)) for group in app.registered_groups
    }
    assert named <= known
    targets = set(re.findall(r"^make (\w+)", code, re.MULTILINE))
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_what_the_pages_install_are_extras_of_a_clone() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    named = [found for page in pages for found in re.findall(r"pip install '(.*?)'", page.read_text(encoding="utf-8"))]
    assert {name[:2] for name in named} == {".["}  # no index has the package yet
    extras = {extra for name in named for extra in name[2:].rstrip("]").split(",")}
    assert extras <= PROJECT["project"]["optional-dependencies"].keys()


def test_the_package_is_typed() -> None:
    assert (ROOT / "meshtune" / "py.typed").exists()


def test_no_message_names_a_file_of_the_documentation() -> None:
    """A wheel has no folder docs: messages name a page by its title, which is in the site's navigation."""
    titles = set(re.findall(r"^ +- ([^:]+): docs/", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    named = 0
    for path in (ROOT / "meshtune").rglob("*"):
        if path.suffix == ".py":
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
            told = [str(node.value) for node in nodes if isinstance(node, ast.Constant) and id(node) not in prose]
        else:
            told = [path.read_text(encoding="utf-8")] if path.suffix == ".j2" else []
        for text in told:
            assert not re.search(r"docs/[a-z-]+\.md", text), path
            pages = re.findall(r'page "([^"]+)"', text)
            assert set(pages) <= titles, path
            named += len(pages)
    assert named
