"""Builds `package/samplers/mads` as OptunaHub's registry asks: `python -m tools.optunahub.build FOLDER`.

The sampler's files are those of meshtune, found by following the imports from the sampler and from the child program.
The read-me's list of arguments is that of the sampler, its example is `example.py`, its versions are the tested ones.
The registry's formatter, with the settings that it has there, is run over all files.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

from tools.optunahub.imports import BuildError, Copied, copied

ROOT = Path(__file__).parents[2]
PLACE = Path("package", "samplers", "mads")  # the name by which users load it: never to be changed
TEMPLATES = Path(__file__).parent / "package"
WRITTEN = {name: name for name in ("LICENSE", "README.md", "example.py")} | {"ruff.toml": "ruff-registry.toml"}
SAMPLER = "meshtune.samplers.mads"
CHILD = "meshtune.samplers.nomad_process"  # started by its path, hence imported by none
DISTRIBUTIONS = {"PyNomad": "PyNomadBBO"}  # where the name to install is not the name to import


def build(folder: Path, root: Path = ROOT) -> Path:
    """Write the registry's folder below `folder`, in place of an earlier one, and return its path.

    Raises:
        BuildError: a file cannot be copied, or the registry's linter refuses it.
    """
    modules = _modules(root)
    texts = {f"{module.rpartition('.')[2]}.py": part.text for module, part in modules.items()}
    if len(texts) < len(modules):
        raise BuildError(f"two files would have the same name: {', '.join(sorted(modules))}")
    texts["__init__.py"] = 'from .mads import MadsSampler\n\n\n__all__ = ["MadsSampler"]\n'
    if written := WRITTEN.keys() & texts.keys():
        raise BuildError(f"{', '.join(sorted(written))} would be written twice")
    texts |= {name: (TEMPLATES / source).read_text(encoding="utf-8") for name, source in WRITTEN.items()}
    libraries = frozenset({"optuna"}).union(*(part.libraries for part in modules.values()))
    texts["requirements.txt"] = "".join(f"{line}\n" for line in _requirements(root, libraries))
    texts["README.md"] = _filled(texts["README.md"], root, texts["example.py"])
    target = folder / PLACE
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
    _format(target)
    return target


def _modules(root: Path) -> dict[str, Copied]:
    """The sampler, the child program, and all that they import of meshtune, by module."""
    wanted: dict[str, frozenset[str]] = {SAMPLER: frozenset(), CHILD: frozenset()}
    modules: dict[str, Copied] = {}
    waiting = set(wanted)
    while waiting:
        module = waiting.pop()
        modules[module] = copied(module, root, wanted[module])
        for needed, names in modules[module].needs.items():
            if not names <= wanted.get(needed, frozenset()) or needed not in modules:
                wanted[needed] = wanted.get(needed, frozenset()) | names
                waiting.add(needed)
    if modules[CHILD].needs:
        raise BuildError(f"{CHILD} is a program, not part of a package: it cannot import {set(modules[CHILD].needs)}")
    return modules


def _requirements(root: Path, libraries: frozenset[str]) -> list[str]:
    """The project's own requirements of these libraries."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    by_name = {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    return sorted(by_name[DISTRIBUTIONS.get(library, library)] for library in libraries)


def _filled(readme: str, root: Path, example: str) -> str:
    """The read-me with the tested version of Optuna, the sampler's arguments and the example."""
    pin = re.search(r"^optuna==(.*)$", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        raise BuildError("constraints.txt does not pin optuna")
    code = example.partition('"""\n')[2].strip()  # without its docstring
    for mark, text in {"{{optuna}}": pin[1], "{{arguments}}": _arguments(root), "{{example}}": code}.items():
        if readme.count(mark) != 1:
            raise BuildError(f"the template of README.md holds {mark} {readme.count(mark)} times, not once")
        readme = readme.replace(mark, text)
    return readme


def _arguments(root: Path) -> str:
    """The signature of the sampler and the `Args` of its docstring as a nested list."""
    tree = ast.parse(root.joinpath(*SAMPLER.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    sampler = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "MadsSampler")
    init = next(n for n in sampler.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    signature = ast.unparse(init.args).removeprefix("self, ").replace("=", " = ")
    section = re.search(r"^Args:\n((?: .*\n|\n)+)", ast.get_docstring(sampler) or "", re.MULTILINE)
    if section is None:
        raise BuildError("the docstring of MadsSampler has no section `Args:`")
    items = re.split(r"\n(?=\w)", textwrap.dedent(section[1]).strip())
    lines = []
    for item in items:
        names, _, text = " ".join(item.split()).partition(": ")
        lines.append(f"  - {', '.join(f'`{name}`' for name in names.split(', '))}: {text}")
    described = set(re.findall(r"^  - (.*?):", "\n".join(lines), re.MULTILINE))
    arguments = {f"`{a.arg}`" for a in (*init.args.args, *init.args.kwonlyargs)} - {"`self`"}
    if missing := arguments - {name for names in described for name in names.split(", ")}:
        raise BuildError(f"the docstring of MadsSampler says nothing of {', '.join(sorted(missing))}")
    return "\n".join([f"- `MadsSampler({signature})`", *lines])


def _format(target: Path) -> None:
    """Sort the imports and lay out the code as the registry does."""
    files = sorted(map(str, target.glob("*.py")))  # named one by one: ruff leaves out folders called `build`
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--no-cache", "--quiet", "--config", str(target / "ruff.toml")]
    for command in ([*ruff, "check", "--fix", *options, *files], [*ruff, "format", *options, *files]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"ruff refuses the files of {target}:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Build below the folder that is named, and say where."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.optunahub.build FOLDER")
    try:
        print(build(Path(sys.argv[1])))
    except BuildError as error:
        sys.exit(f"tools.optunahub.build: {error}")


if __name__ == "__main__":
    main()
