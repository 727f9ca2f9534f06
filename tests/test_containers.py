"""The container files cannot be built here; that they name what there is, can be told."""

import re
from pathlib import Path

import pytest

from tests.test_project import PROJECT, ROOT

CONTAINERS = ROOT / "examples" / "container"


def copied(text: str) -> set[str]:
    """What a Dockerfile (COPY A B.. TO) or an Apptainer definition (%files: A TO) takes from the clone."""
    docker = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    files = re.search(r"^%files\n((?:    .*\n)+)", text, re.MULTILINE)
    return {*docker, *(line.split()[0] for line in (files[1].splitlines() if files else []))}


@pytest.mark.parametrize("name", ["Dockerfile", "meshtune.def"])
def test_a_container_is_made_of_what_the_package_is_made_of(name: str) -> None:
    text = (CONTAINERS / name).read_text(encoding="utf-8")
    archive = {path.removeprefix("/") for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    assert copied(text) == archive - {"CITATION.cff"} | {"pyproject.toml", "constraints.txt"}
    assert all((ROOT / path).exists() for path in copied(text))
    image = re.search(r"^(?:FROM|From:) python:(\d+\.\d+)-slim$", text, re.MULTILINE)
    assert image is not None
    assert f"Programming Language :: Python :: {image[1]}" in PROJECT["project"]["classifiers"]
    assert "--constraint /source/constraints.txt '/source[train]'" in text
    embedded = re.search(r"^EMBEDDED := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert embedded is not None
    assert f"--no-deps {embedded[1]}" in text


def test_the_guide_names_the_variables_of_the_containers() -> None:
    docker = (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")
    guide = Path(ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for variable in ("HF_HOME", "MESHTUNE_CACHE"):
        assert variable in docker
        assert variable in guide
    assert re.search(r"^USER meshtune$", docker, re.MULTILINE)
