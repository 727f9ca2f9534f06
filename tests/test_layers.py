"""Imports go down one list, heavy libraries stay in their places, and the command line's help loads none of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meshtune"

# From the top down: a module imports only from layers below its own, or from its own.
LAYERS = [
    {"cli", "api"},
    {"api_calls"},
    {"cli_evaluate", "cli_prefer", "cli_select"},
    {"commands"},
    {"results", "foreign"},
    {"report", "preference"},
    {"display", "testing"},
    {"live"},
    {"words"},
    {"replicates", "promotion"},
    {"order"},
    {"finals"},
    {"selection"},
    {"study"},
    {"early_stopping"},
    {"energy"},
    {"budget", "lease", "packs", "stopping"},
    {"samplers"},
    {"workers"},
    {"objectives"},
    {"evaluation"},
    {"training"},
    {"data"},
    {"record"},
    {"judging"},
    {"storage", "recorded", "distributions", "known"},
    {"presets"},
    {"space"},
    {"config_file"},
    {"config_rounds"},
    {"config_faults"},
    {"metrics"},
    {"config"},
    {"config_guided"},
    {"config_evaluation", "config_spending"},
    {"config_values"},
    {"guided", "hyperparameters"},
    {"yaml_file"},
    {"trial", "answers", "imported", "child_signals", "child_start", "storage_url"},
    {"errors", "whole_file"},
    {"plain_text"},
]

# Where each heavy library may be imported, at the top or inside a function.
HEAVY = {
    "torch": {"training", "evaluation"},
    "peft": {"training", "evaluation"},
    "lm_eval": {"evaluation"},
    "accelerate": {"training"},
    "safetensors": {"training"},
    "gguf": {"training"},
    "transformers": {"training", "evaluation", "data"},
    "datasets": {"data"},
    "huggingface_hub": {"training"},
    "pyarrow": {"data"},
    "pandas": {"results", "api"},
    "plotly": {"report"},
    "jinja2": {"report", "preference"},
    "optuna": {
        "record",
        "known",
        "storage",
        "distributions",
        "samplers",
        "study",
        "selection",
        "testing",
        "api",
        "api_calls",
    },
    "pynvml": {"energy"},
    "sqlalchemy": {"storage"},
    "fastapi": {"preference"},
    "uvicorn": {"preference"},
    "markdown_it": {"preference"},
    "statsmodels": {"preference"},
    "krippendorff": {"preference"},
    "PyNomad": {"samplers"},
    "nni": {"samplers"},
    "scipy": {"selection", "samplers", "stopping", "preference"},
    "bitsandbytes": {"training"},
    "rich": {"display", "live", "commands", "api_calls"},
    "typer": {"cli", "cli_evaluate", "cli_prefer", "cli_select"},
    "yaml": {"yaml_file"},
    "pydantic": {
        "config",
        "config_evaluation",
        "config_guided",
        "config_spending",
        "config_values",
        "config_file",
        "config_faults",
        "objectives",
        "preference",
    },
}
NOT_FOR_HELP = (
    "torch",
    "transformers",
    "optuna",
    "datasets",
    "peft",
    "pandas",
    "numpy",
    "scipy",
    "sqlalchemy",
    "plotly",
    "jinja2",
    "fastapi",
    "uvicorn",
)

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, also inside functions; `from a import b` gives both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_module_has_its_layer() -> None:
    known = set().union(*LAYERS) | {"__init__"}
    assert {layer_of(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    heights = {name: height for height, names in enumerate(LAYERS) for name in names}
    own = heights.get(layer_of(path), -1)
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "meshtune" and len(parts) > 1 and parts[1] in heights:
            assert heights[parts[1]] >= own, f"{path}:{line}: {layer_of(path)} is below {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_places(path: Path) -> None:
    for line, name in imports(path):
        library = name.split(".")[0]
        if library in HEAVY:
            assert layer_of(path) in HEAVY[library], f"{path}:{line}: {library} is not for {layer_of(path)}"


def test_data_uses_only_tokenizers_and_configs_of_transformers() -> None:
    for path in (PACKAGE / "data").glob("*.py"):
        for line, name in imports(path):
            if name.startswith("transformers."):
                what = name.removeprefix("transformers.")
                assert "token" in what.lower() or what == "AutoConfig" or "chat_template" in what, (
                    f"{path}:{line}: {name}"
                )


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["--version"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = "import sys\nsys.argv = ['meshtune', *sys.argv[1:]]\nfrom meshtune.cli import app\n"
    code += "app(standalone_mode=False)\nprint('LOADED', *sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}
    assert "meshtune" in loaded
    assert not loaded & set(NOT_FOR_HELP)
