"""A file of meshtune as it stands in another package: its imports of meshtune become relative ones.

What would not work there is refused: libraries that are not allowed, relative and star imports, `import meshtune...`,
and names of meshtune's modules in strings, such as a program that is started by its module's name.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "meshtune"
WHOLE = "meshtune.samplers."  # modules that are copied whole; of others only what is imported
LIBRARIES = frozenset({"optuna", "numpy", "scipy", "PyNomad"})


class BuildError(Exception):
    """The sampler cannot be copied: which file and line, what stands there, what to write instead."""


@dataclass(frozen=True)
class Copied:
    """A module as it stands in the other package.

    Attributes:
        text: its source. needs: what it imports of meshtune, as names by module (`meshtune.errors`).
        libraries: the top-level names of other packages that it imports; those of the standard library are left out.
    """

    text: str
    needs: dict[str, frozenset[str]]
    libraries: frozenset[str]


def copied(module: str, root: Path, names: Collection[str]) -> Copied:
    """A module of the source tree `root`, whole or only `names` and what they use. Raises BuildError."""
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise BuildError(f"{module} is not a file below {root}: import from the module that defines the name")
    text = path.read_text(encoding="utf-8")
    if not module.startswith(WHOLE):
        text = excerpt(text, names, module)
    return relative(text, str(path))


def relative(text: str, where: str) -> Copied:
    """A module's text with relative imports, and what it needs. Raises BuildError with `where` and the line."""
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    needs: dict[str, set[str]] = {}
    libraries = set()
    for node in ast.walk(tree):
        here = f"{where}:{getattr(node, 'lineno', 0)}"
        match node:
            case ast.Import():
                tops = {alias.name.split(".")[0] for alias in node.names}
            case ast.ImportFrom(level=0, module=str(module)):
                tops = {module.split(".")[0]} - {PACKAGE}
                if not tops:
                    if any(alias.name == "*" for alias in node.names):
                        raise BuildError(f"{here}: import the names one by one, not *")
                    needs.setdefault(module, set()).update(alias.name for alias in node.names)
                    line, start = lines[node.lineno - 1], node.col_offset
                    old, new = f"from {module} import", f"from .{module.rpartition('.')[2]} import"
                    if not line.startswith(old, start):
                        raise BuildError(f"{here}: write `{old} ...` on one line")
                    lines[node.lineno - 1] = line[:start] + new + line[start + len(old) :]
            case ast.ImportFrom():
                raise BuildError(f"{here}: write the import absolute, as the rest of meshtune does")
            case _:
                continue
        if PACKAGE in tops:
            raise BuildError(f"{here}: write `from {PACKAGE}.... import name`, not `import {PACKAGE}...`")
        if foreign := tops - LIBRARIES - sys.stdlib_module_names:
            allowed = ", ".join(sorted(LIBRARIES))
            raise BuildError(f"{here}: the sampler imports only {allowed} and the standard library, not {foreign}")
        libraries |= tops & LIBRARIES
    for line_number, string in _strings(tree):
        if f"{PACKAGE}." in string:
            raise BuildError(f"{where}:{line_number}: {string!r} has another name outside of {PACKAGE}")
    needed = {module: frozenset(names) for module, names in needs.items()}
    return Copied("".join(lines).replace(WHOLE, ""), needed, frozenset(libraries))


def excerpt(text: str, names: Collection[str], module: str) -> str:
    """The module with only the top-level definitions `names` and those that they use. Raises BuildError."""
    tree = ast.parse(text)
    defined = {name: node for node in tree.body for name in _bound(node)}
    kept: set[ast.stmt] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in defined:
            raise BuildError(f"{module} does not define {name}")
        if (node := defined[name]) not in kept:
            kept.add(node)
            used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            waiting += [part for part in used if part in defined and not hasattr(builtins, part)]
    lines = text.splitlines()
    parts = [f'"""What the sampler needs of {module}."""', "from __future__ import annotations"]
    for node in tree.body:
        if node in kept:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
            parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n\n".join(parts) + "\n"


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds."""
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        case ast.Assign():
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of the strings that the program uses: all but those that are statements, such as docstrings."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value
