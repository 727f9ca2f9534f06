"""Builds the samplers' packages as OptunaHub's registry asks: `python -m tools.optunahub.build FOLDER`.

A sampler's files are those of meshtune, found by following the imports from the sampler and from its child program.
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
from dataclasses import dataclass
from pathlib import Path

from tools.optunahub.imports import BuildError, Copied, copied

ROOT = Path(__file__).parents[2]
TEMPLATES = Path(__file__).parent / "package"
DISTRIBUTIONS = {"PyNomad": "PyNomadBBO"}  # where the name to install is not the name to import


@dataclass(frozen=True)
class Package:
    """A package of the registry.

    Attributes:
        name: by which users load it: never to be changed. sampler: its class.
        exports: what can be imported from it, by module; the first one is the sampler's.
        child: a program that is started by its path, hence imported by none.
    """

    name: str
    sampler: str
    exports: dict[str, str]
    child: str | None = None

    @property
    def place(self) -> Path:
        """In the registry."""
        return Path("package", "samplers", self.name)

    @property
    def module(self) -> str:
        """The sampler's."""
        return next(iter(self.exports))

    @property
    def written(self) -> dict[str, Path]:
        """The files that are no modules of meshtune, and their templates."""
        own = {name: TEMPLATES / self.name / name for name in ("README.md", "example.py")}
        return own | {"LICENSE": TEMPLATES / "LICENSE", "ruff.toml": TEMPLATES / "ruff-registry.toml"}


MADS = Package(
    "mads",
    "MadsSampler",
    {"meshtune.samplers.mads.sampler": "MadsSampler"},
    child="meshtune.samplers.mads.nomad_process",
)
BATCH_GP = Package(
    "batch_gp",
    "BatchGPSampler",
    {"meshtune.samplers.gp.sampler": "BatchGPSampler", "meshtune.samplers.recommend": "recommend"},
)
PACKAGES = (MADS, BATCH_GP)


def build(package: Package, folder: Path, root: Path = ROOT) -> Path:
    """Write a package's folder below `folder`, in place of an earlier one, and return its path.

    Raises:
        BuildError: a file cannot be copied, or the registry's linter refuses it.
    """
    modules = _modules(package, root)
    texts = {f"{module.rpartition('.')[2]}.py": part.text for module, part in modules.items()}
    if len(texts) < len(modules):
        raise BuildError(f"two files would have the same name: {', '.join(sorted(modules))}")
    imports = [f"from .{module.rpartition('.')[2]} import {name}\n" for module, name in package.exports.items()]
    names = ", ".join(f'"{name}"' for name in package.exports.values())
    texts["__init__.py"] = f"{''.join(imports)}\n\n__all__ = [{names}]\n"
    if written := package.written.keys() & texts.keys():
        raise BuildError(f"{', '.join(sorted(written))} would be written twice")
    texts |= {name: source.read_text(encoding="utf-8") for name, source in package.written.items()}
    libraries = frozenset({"optuna"}).union(*(part.libraries for part in modules.values()))
    texts["requirements.txt"] = "".join(f"{line}\n" for line in _requirements(root, libraries))
    texts["README.md"] = _filled(texts["README.md"], package, root, texts["example.py"])
    target = folder / package.place
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
    _format(target)
    return target


def _modules(package: Package, root: Path) -> dict[str, Copied]:
    """The sampler, the child program, and all that they import of meshtune, by module."""
    child = package.child
    wanted = {module: frozenset[str]() for module in (*package.exports, *([child] if child else []))}
    modules: dict[str, Copied] = {}
    waiting = set(wanted)
    while waiting:
        module = waiting.pop()
        modules[module] = copied(module, root, wanted[module])
        for needed, names in modules[module].needs.items():
            if not names <= wanted.get(needed, frozenset()) or needed not in modules:
                wanted[needed] = wanted.get(needed, frozenset()) | names
                waiting.add(needed)
    if child and modules[child].needs:
        raise BuildError(f"{child} is a program, not part of a package: it cannot import {set(modules[child].needs)}")
    return modules


def _requirements(root: Path, libraries: frozenset[str]) -> list[str]:
    """The project's own requirements of these libraries."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    by_name = {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    return sorted(by_name[DISTRIBUTIONS.get(library, library)] for library in libraries)


def _filled(readme: str, package: Package, root: Path, example: str) -> str:
    """The read-me with the tested version of Optuna, the sampler's arguments and the example."""
    pin = re.search(r"^optuna==(.*)$", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        raise BuildError("constraints.txt does not pin optuna")
    code = example.partition('"""\n')[2].strip()  # without its docstring
    for mark, text in {"{{optuna}}": pin[1], "{{arguments}}": _arguments(package, root), "{{example}}": code}.items():
        if readme.count(mark) != 1:
            raise BuildError(f"the template of README.md holds {mark} {readme.count(mark)} times, not once")
        readme = readme.replace(mark, text)
    return readme


def _arguments(package: Package, root: Path) -> str:
    """The signature of the sampler and the `Args` of its docstring as a nested list."""
    tree = ast.parse(root.joinpath(*package.module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    sampler = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == package.sampler)
    init = next(n for n in sampler.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    signature = ast.unparse(init.args).removeprefix("self, ").replace("=", " = ")
    section = re.search(r"^Args:\n((?: .*\n|\n)+)", ast.get_docstring(sampler) or "", re.MULTILINE)
    if section is None:
        raise BuildError(f"the docstring of {package.sampler} has no section `Args:`")
    items = re.split(r"\n(?=\w)", textwrap.dedent(section[1]).strip())
    lines = []
    for item in items:
        names, _, text = " ".join(item.split()).partition(": ")
        lines.append(f"  - {', '.join(f'`{name}`' for name in names.split(', '))}: {text}")
    described = set(re.findall(r"^  - (.*?):", "\n".join(lines), re.MULTILINE))
    arguments = {f"`{a.arg}`" for a in (*init.args.args, *init.args.kwonlyargs)} - {"`self`"}
    if missing := arguments - {name for names in described for name in names.split(", ")}:
        raise BuildError(f"the docstring of {package.sampler} says nothing of {', '.join(sorted(missing))}")
    return "\n".join([f"- `{package.sampler}({signature})`", *lines])


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
    """Build all packages below the folder that is named, and say where."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.optunahub.build FOLDER")
    try:
        for package in PACKAGES:
            print(build(package, Path(sys.argv[1])))
    except BuildError as error:
        sys.exit(f"tools.optunahub.build: {error}")


if __name__ == "__main__":
    main()
