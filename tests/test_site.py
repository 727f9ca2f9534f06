"""The documentation site: built strictly, its links and anchors lead somewhere, and it works without a network."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tools import site

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.anchors = list[str](), list[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages and mkdocs.yml."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copyfile(ROOT / "mkdocs.yml", folder / "mkdocs.yml")
    subprocess.run([sys.executable, "-m", "tools.site", folder / "build" / "pages"], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def built(pages: Path) -> Path:
    """What `make docs` builds."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", pages / "mkdocs.yml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return pages / "build" / "site"


def test_links_and_anchors_lead_somewhere_and_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    read = {path.resolve(): Page(path) for path in built.rglob("*.html") if path.name != "404.html"}
    assert len(read) > 40
    broken = []
    for path, page in read.items():
        assert not [one for one in page.loaded if urlsplit(one).netloc], path
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            inside = target in read and parts.fragment and unquote(parts.fragment) not in read[target].anchors
            if not target.exists() or inside:
                broken.append(f"{path.relative_to(built)}: {link}")
    assert not broken


def test_the_search_finds_a_key_and_a_command(built: Path) -> None:
    """It reads one file of the site."""
    (index,) = [path for name in ("search.json", "search_index.json") for path in built.rglob(name)]
    text = json.dumps(json.loads(index.read_text(encoding="utf-8")))
    assert "early_stopping" in text
    assert "meshtune evaluate" in text


def test_material_for_mkdocs_builds_the_same_pages(pages: Path, built: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", pages / "mkdocs.yml", "-d", tmp_path / "out"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    def names(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")}

    assert names(tmp_path / "out") == names(built)


def test_every_page_of_docs_is_in_the_menu_or_linked_from_one_that_is() -> None:
    menu = json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in menu, page


def test_the_reference_has_every_key_and_every_command() -> None:
    keys, commands = site.study_yaml(), site.commands()
    for key in ("data.sources.share", "training.lr_scheduler", "worker.slurm", "early_stopping.rungs", "storage"):
        assert f"| `{key}` |" in keys
    for command in ("tune", "evaluate", "prefer create"):
        assert f"## meshtune {command}\n" in commands
