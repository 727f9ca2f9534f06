"""The documentation site's pages, out of the repository's own: `python -m tools.site OUT`, then `zensical build`.

The folder has the repository's layout, so that links hold in both. The README is its first page. The pages under
`docs/reference/` are made here, from the code: every key of study.yaml with its type and default, as `meshtune init`
explains it, and every command with its options.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from meshtune.cli.commands import app
from meshtune.config.sections import StudyConfig
from meshtune.config.template import DEFAULT, text

Schema = dict[str, Any]
ROOT = Path(__file__).parents[1]
SHOWN = ("docs", "examples", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", "LICENSE")
PYTHON = """# The Python interface

[The guide](../python.md) shows it at work.

::: meshtune.api
    options: {members: [tune, load, Study]}

::: meshtune.results
    options: {members: [Result]}

::: meshtune.samplers.mads.sampler
    options: {members: [MadsSampler]}

::: meshtune.samplers.gp.sampler
    options: {members: [BatchGPSampler]}

::: meshtune.workers.interface
::: meshtune.trial
::: meshtune.errors
"""


def main() -> None:
    """Make the folder anew."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SHOWN]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            to = out / ("index.md" if name == "README.md" else name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to)
    decisions = sorted((out / "docs" / "decisions").glob("*.md"), reverse=True)
    heads = [page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for page in decisions]
    titles = (f"- {page.name[:10]}: [{head}]({page.name})" for page, head in zip(decisions, heads, strict=True))
    listed = "\n".join(("# Decisions", "", "Why things are as they are, with what was measured.", "", *titles, ""))
    (out / "docs" / "decisions" / "index.md").write_text(listed, encoding="utf-8")
    reference = out / "docs" / "reference"
    reference.mkdir(exist_ok=True)
    schema = json.dumps(StudyConfig.model_json_schema(), indent=1)
    (reference / "study.schema.json").write_text(schema + "\n", encoding="utf-8")
    for page, written in (("study-yaml", study_yaml()), ("commands", commands()), ("python", PYTHON)):
        (reference / f"{page}.md").write_text(written, encoding="utf-8")


def study_yaml() -> str:
    """Every key of study.yaml: what `meshtune init` writes about it, and the types and defaults of the code."""
    schema = StudyConfig.model_json_schema()
    lines = [
        "# Keys of study.yaml",
        "",
        "`meshtune init` writes this file, in which every key is explained. `meshtune check` finds every fault in one.",
        "Editors that know JSON Schema complete its keys with [study.schema.json](study.schema.json).",
        "",
        "```yaml",
        text(DEFAULT).rstrip(),
        "```",
        "",
        "## Types and defaults",
        "",
        "| key | allowed | default |",
        "|---|---|---|",
        *(f"| `{key}` | {what} | {default} |" for key, what, default in keys(schema, schema)),
    ]
    return "\n".join(lines) + "\n"


def keys(schema: Schema, section: Schema, before: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted keys with what is allowed and the default, of a section and those inside it."""
    for name, field in section["properties"].items():
        inner = [schema["$defs"][part["$ref"].rsplit("/", 1)[1]] for part in _parts(field) if "$ref" in part]
        for one in inner:
            yield from keys(schema, one, f"{before}{name}.")
        what = _allowed(field)
        if what and not (inner and what == "null"):
            given = f"`{json.dumps(field['default'])}`" if "default" in field else ""
            default = "must be given" if name in section.get("required", ()) else given
            yield before + name, what, default


def _parts(field: Schema) -> list[Schema]:
    """The kinds of value that a field may have; of a list, those of its items that are sections."""
    found = field.get("anyOf") or field.get("oneOf") or [field]
    nested = [part for one in found for part in (_parts(one) if "anyOf" in one or "oneOf" in one else [one])]
    return nested + [part["items"] for part in nested if "$ref" in part.get("items", {})]


def _allowed(field: Schema) -> str:
    said = [_words(part) for part in _parts(field)]
    return ", or ".join(dict.fromkeys(word for word in said if word))


def _words(part: Schema) -> str:
    """What a part allows; empty for a section, whose keys stand in lines of their own."""
    if "const" in part or "enum" in part:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in part.get("enum", [part.get("const")]))
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
        "object": "a mapping",
    }
    if part.get("type") == "array":
        return "" if "$ref" in part["items"] else f"a list of: {_words(part['items']) or 'values'}"
    signs = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    limits = [f"{sign} {part[key]}" for key, sign in signs.items() if key in part]
    return f"{words.get(part.get('type', ''), '')} {' and '.join(limits)}".strip()


def commands() -> str:
    """Every command with its arguments and options."""
    found = ["# Commands\n\n`meshtune COMMAND --help` prints the same.\n"]
    for path, command in _commands(typer.main.get_command(app), "meshtune"):
        rows = []
        for parameter in command.params:
            name = "/".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
            said = (getattr(parameter, "help", None) or "").replace("\n", " ").replace("|", "\\|")
            rows.append(f"| `{name}` | {said} |")
        table = ["", "| | |", "|---|---|", *rows] if rows else []
        found.append("\n".join([f"## {path}", "", (command.help or "").strip(), *table, ""]))
    return "\n".join(found)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    inside = getattr(command, "commands", None)  # Typer's groups need not be Click's own class
    if inside is None:
        yield path, command
        return
    for name, inner in inside.items():
        yield from _commands(inner, f"{path} {name}")


if __name__ == "__main__":
    main()
