"""The one reader and writer of YAML: plain values, and the line of every key.

Scalars are read and written as YAML 1.2 does (core schema): `1e-6` is a number, `yes` and `on` are text. Duplicate
keys, tags that would make objects, values that contain themselves, aliases that stand for very many values, and
anything but a mapping at the top are faults. What a key means is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meshtune.errors import Fault, InputError

Place = tuple[str | int, ...]

_STANDARD = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_PLAIN = ("str", "map", "seq", *_CORE_SCHEMA)
_REPEATED = 10_000  # values that aliases may stand for: aliases of lists of aliases double with each line


@dataclass(frozen=True)
class Document:
    """A YAML file: its values, and the line (from 1) of every key and item by its place in them."""

    values: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's name; emptied of YAML 1.1)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


for _name, _pattern in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_STANDARD + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def read(path: Path) -> Document:
    """Read a file. Raises InputError: missing, unreadable, not UTF-8, or whatever `parse` refuses."""
    return parse(_text(path), path)


def read_as_tools(path: Path) -> dict[str, Any]:
    """The values of another tool's file as that tool has them: by YAML 1.1, where `1e-4` is text and `no` is false.

    Raises InputError: missing, unreadable, no YAML, or anything but a mapping at the top.
    """
    read(path)  # for its faults
    try:
        return dict(yaml.safe_load(_text(path)))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(Fault(f"is no YAML: {error}", path)) from error


def dump_for_tools(values: Mapping[str, Any]) -> str:
    """Text from which another tool, by YAML 1.1, reads just these values."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def check(path: Path) -> None:
    """Raise InputError where a file cannot be read as YAML, whatever its tags would make."""
    _compose(_text(path), path)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(Fault("there is no such file; `meshtune init FOLDER` writes one", path)) from error
    except IsADirectoryError as error:
        raise InputError(Fault("is a folder: name the YAML file in it", path)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(Fault("is not UTF-8 text: save it as UTF-8", path, line)) from error
    except OSError as error:
        raise InputError(Fault(f"cannot be read: {error.strerror}", path)) from error


def parse(text: str, file: Path | str | None = None) -> Document:
    """Read a text. Raises InputError with every fault that can be seen at once; `file` is what they name."""
    node = _compose(text, file)
    if not isinstance(node, yaml.MappingNode):
        given = "is empty" if node is None else "is not a mapping"
        raise InputError(Fault(f"{given}: keys with values are needed, such as `model: embedded`", file, 1))
    reader = _Reader(file)
    values = reader.value(node, ())
    if reader.faults:
        raise InputError(reader.faults)
    return Document(values, reader.lines)


def value(text: str, file: Path | str | None = None) -> Any:
    """Read one value, as it would stand behind a key. Raises InputError."""
    node = _compose(text, file)
    reader = _Reader(file)
    read_value = None if node is None else reader.value(node, ())
    if reader.faults:
        raise InputError(reader.faults)
    return read_value


def dump(values: Mapping[str, Any]) -> str:
    """Text that `parse` reads back as the same plain values."""
    # all but ASCII escaped: PyYAML changes some of the rarer line breaks otherwise
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=100))


def _compose(text: str, file: Path | str | None) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(Fault(f"is not YAML: {problem}", file, line)) from error
    except RecursionError as error:
        raise InputError(Fault("is nested too deeply", file)) from error
    return node


class _Reader:
    """Turns nodes into plain values; collects lines and faults on the way."""

    def __init__(self, file: Path | str | None):
        self.file = file
        self.lines: dict[Place, int] = {}
        self.faults: list[Fault] = []
        self._seen = set[int]()  # nodes that were read: an alias is the same node again
        self._repeated = 0
        self._open: list[yaml.Node] = []  # around the one that is read: an alias to one of them has no end

    def value(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        name = node.tag.removeprefix(_STANDARD)
        if name not in _PLAIN:
            return self._fault(f"the tag `{node.tag}` is not allowed: only plain values are read", line, place)
        if any(node is outer for outer in self._open):
            return self._fault("the alias stands inside the value that it names", line, place)
        self._repeated += id(node) in self._seen
        self._seen.add(id(node))
        if self._repeated > _REPEATED:
            what = f"aliases stand for more than {_REPEATED:,} values from here on: write fewer of them"
            key = place[:1]  # the alias stands below it; the line of its node is that of the value that it names
            raise InputError(Fault(what, self.file, self.lines[key], ".".join(map(str, key))))
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(name, node.value)
            except ValueError:
                return self._fault(f"`{node.value[:40]}` cannot be read as {name}", line, place)
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            read: Any = self._mapping(node, place)
        else:
            read = [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        self._open.pop()
        return read

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault("a key must be plain text", line, place)
                continue
            inside = (*place, key_node.value)
            if key_node.value in values:
                first = self.lines[inside]
                self._fault(f"the key stands twice, on lines {first} and {line}: remove one", line, inside)
                continue
            self.lines[inside] = line
            values[key_node.value] = self.value(value_node, inside)
        return values

    def _fault(self, message: str, line: int, place: Place) -> None:
        self.faults.append(Fault(message, self.file, line, ".".join(map(str, place))))


def _scalar(name: str, text: str) -> Any:
    match name:
        case "null":
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        case "float":
            # Python has the same words without the dot
            return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        case "str":
            return text
    raise ValueError(f"not a {name}")
