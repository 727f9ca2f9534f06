"""The floor plan: imports go down one list of rooms, without circles inside a room; heavy libraries stay in theirs; the
command line's help loads none of them; and names are the field's words.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meshtune"

# From the top down: a room imports only from rooms below it. docs/architecture.md says what each is for.
ROOMS = [
    {"cli", "api"},
    {"results"},
    {"pipeline"},
    {"preference"},
    {"finalists"},
    {"export"},
    {"report"},
    {"study"},
    {"plan"},
    {"stopping"},
    {"selection"},
    {"samplers"},
    {"workers"},
    {"objectives"},
    {"evaluation"},
    {"training"},
    {"data"},
    {"priors"},
    {"record"},
    {"config"},
    {"space"},
    {"system"},
    {"trial"},
    {"errors", "_version"},
    {"plain_text"},
]
HEIGHTS_TOP = ROOMS[0]  # cli and the Python interface share the view
HEIGHTS = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
BESIDE = {"testing", "__init__"}  # contracts for people who write their own parts; the package's own names

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
    "resvg_py": {"report"},
    "mlflow": {"study"},
    "trackio": {"study"},
    "wandb": {"study"},
    "optuna_dashboard": {"study"},
    "tensorboard": {"study"},
    "jinja2": {"system"},
    "optuna": {"record", "samplers", "study", "selection", "testing", "api"},
    "pynvml": {"system", "plan"},
    "sqlalchemy": {"record"},
    "fastapi": {"preference"},
    "uvicorn": {"preference"},
    "markdown_it": {"preference"},
    "statsmodels": {"preference"},
    "krippendorff": {"preference"},
    "PyNomad": {"samplers"},
    "ray": {"workers"},
    "fsspec": {"workers"},
    "submitit": {"workers"},
    "nni": {"samplers"},
    "scipy": {"selection", "samplers", "stopping", "preference", "priors"},
    "bitsandbytes": {"training"},
    "rich": {"cli", "api"},
    "typer": {"cli"},
    "yaml": {"system"},
    "ruamel": {"system"},
    "pydantic": {"config", "objectives", "preference"},
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
    "resvg_py",
    "jinja2",
    "fastapi",
    "uvicorn",
)
# What a command does not wait for before it has read the study and its record; what trains or fits loads it.
NOT_AT_START = {
    "meshtune.study.status": {"torch", "transformers", "peft", "pandas", "scipy.stats", "scipy.optimize"},
    "meshtune.study.tune": {"torch", "transformers", "peft", "pandas", "scipy.stats", "scipy.optimize"},
    "meshtune.plan.training": {"peft", "datasets", "pandas", "accelerate", "scipy.stats", "scipy.optimize"},
}
# Words that were coined here and that docs/glossary.md replaces by the field's.
COINED = {"told", "guided", "guides", "judging", "spending", "spent", "sureness", "afterwards", "originals", "asked"}

ADVICE = ["advise", "--hidden-size", "4096", "--family", "llama", "--rows", "10000", "--batch-size", "16"]

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, also inside functions; `from a import b` gives a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = names & set(MODULES)
            yield from ((node.lineno, name) for name in sorted(inner))
            if inner != names:
                yield node.lineno, str(node.module)


def test_every_module_is_in_a_room() -> None:
    assert {room_of(module) for module in MODULES} <= set(HEIGHTS) | BESIDE


def test_imports_go_down() -> None:
    up = [
        f"{path}:{line}: {room_of(module)} is below {room_of(name)}"
        for module, path in MODULES.items()
        for line, name in imports(path)
        if name.startswith("meshtune.") and room_of(module) not in BESIDE
        if room_of(name) != room_of(module) and HEIGHTS[room_of(name)] <= HEIGHTS[room_of(module)]
        if {room_of(module), room_of(name)} - HEIGHTS_TOP
    ]
    assert not up, "\n".join(up)


def test_no_module_imports_itself_by_way_of_others() -> None:
    below = {module: {name for _, name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    below.pop("meshtune")  # its `__getattr__` offers the Python interface, which is not imported before it is used
    found: dict[str, bool] = {}  # module: whether its walk has ended

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert found.get(module) is not False, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module in found:
            return
        found[module] = False
        for name in sorted(below.get(module, ())):
            walk(name, (*way, module))
        found[module] = True

    for module in sorted(below):
        walk(module, ())


def test_heavy_libraries_stay_in_their_rooms() -> None:
    strayed = [
        f"{path}:{line}: {name} is not for {room_of(module)}"
        for module, path in MODULES.items()
        for line, name in imports(path)
        if room_of(module) not in HEAVY.get(name.split(".")[0], {room_of(module)})
    ]
    assert not strayed, "\n".join(strayed)


def test_data_uses_only_tokenizers_and_configs_of_transformers() -> None:
    for path in (PACKAGE / "data").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transformers"):
                for alias in node.names:
                    what = f"{node.module}.{alias.name}".lower()
                    assert "token" in what or "autoconfig" in what or "chat_template" in what, f"{path}: {what}"


def words(name: str) -> set[str]:
    return {word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", part)}


def test_names_are_the_fields_words() -> None:
    coined = [f"{path}: {path.stem}" for path in FILES if words(path.stem) & COINED]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and words(node.name) & COINED:
                coined.append(f"{path}:{node.lineno}: {node.name}")
    assert not coined, "docs/glossary.md has the words to use instead:\n" + "\n".join(coined)


def at_import(path: Path) -> Iterator[str]:
    """What importing a file imports: statements outside functions and `if TYPE_CHECKING`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", NOT_AT_START)
def test_a_command_starts_without_what_it_may_not_need(module: str) -> None:
    ways, left = {module: module}, [module]
    for name in left:  # grows
        for other in at_import(MODULES[name]):
            way = f"{ways[name]} -> {other}"
            assert other not in NOT_AT_START[module], way
            assert other.split(".")[0] not in NOT_AT_START[module], way
            parts = other.split(".")
            for inner in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
                if inner in MODULES and inner not in ways:
                    ways[inner] = way
                    left.append(inner)


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["--version"], ADVICE, [*ADVICE, "--json"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = "import sys\nsys.argv = ['meshtune', *sys.argv[1:]]\nfrom meshtune.cli.commands import app\n"
    code += "app(standalone_mode=False)\nprint('LOADED', *sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}
    assert "meshtune" in loaded
    assert not loaded & set(NOT_FOR_HELP)
