"""`export --push-to-hub` against a local stand-in of the hub's API, to which the real client of the hub talks."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILES = {"README.md": b"---\ntags: [lora]\n---\n# A card\n", "adapter_model.safetensors": b"\x00weights" * 100}
FACTS = {
    "meshtune": "0",
    "model": {"name": "embedded"},
    "point": {"name": "trial 3", "trial": 3},
    "run": {},
    "study": {"name": "study", "folder": None},
    "data": {},
}


class Hub(ThreadingHTTPServer):
    """Repositories by their name: whether each is private, and what was committed. `refuse`: a status for commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.private: dict[str, bool] = {}
        self.committed: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.summaries: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuse: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").split("?")[0]
        if name in self.server.private:
            self.answer({"id": name, "private": self.server.private[name], "siblings": []})
        else:
            self.answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        hub, content = self.server, self.body()
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.private[name] = asked.get("private") is True or asked.get("visibility") == "private"
            self.answer({"url": f"{hub.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith("tensors") else "regular"}
                for f in json.loads(content)["files"]
            ]
            self.answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            actions = [{**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}} for one in objects]
            self.answer({"transfer": "basic", "objects": actions})
        elif "/commit/" in self.path:
            self.commit(content)
        else:
            self.answer({"error": self.path}, 404)

    def commit(self, content: bytes) -> None:
        hub = self.server
        if hub.refuse:
            self.answer({"error": "you may not write here"}, hub.refuse)
            return
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                hub.summaries.append(value["summary"])
            elif entry["key"] == "file":
                hub.committed[value["path"]] = base64.b64decode(value["content"])
            else:
                assert hashlib.sha256(hub.stored[value["oid"]]).hexdigest() == value["oid"]
                hub.committed[value["path"]] = hub.stored[value["oid"]]
        name = "/".join(self.path.split("/")[3:5])
        self.answer({"success": True, "commitUrl": f"{hub.url}/{name}/commit/abc123", "commitOid": "abc123"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `export` leaves it."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "training.json").write_text(json.dumps(FACTS))
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": "/srv/me/base"}))
    return folder


def push(hub: Hub, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: the hub's client reads where the hub is when it is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_of_the_test", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "meshtune.cli", "export", str(folder), str(folder), "--json"]
    command += ["--push-to-hub", "me/my-adapter", *options]
    home = {"HF_HOME": str(folder.parent / "hf")}
    environment = {**os.environ, **own, **home}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_dry_run_lists_and_sends_nothing(hub: Hub, folder: Path) -> None:
    ended = push(hub, folder, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    sent = json.loads(ended.stdout)["hub"]
    assert (sent["private"], sent["commit"]) == (True, None)
    assert {file["path"] for file in sent["files"]} == {*FILES, "training.json", "adapter_config.json"}
    assert "dry run, nothing was sent; to the private repository me/my-adapter would go (4 files" in ended.stderr
    assert "800  adapter_model.safetensors" in ended.stderr
    assert (hub.private, hub.committed, hub.stored, hub.tokens) == ({}, {}, {}, set())


def test_it_is_sent_to_a_private_repository(hub: Hub, folder: Path) -> None:
    """Every file as it stands, but for the base: no path of this machine is sent."""
    for _ in range(2):  # the second time the repository is there
        ended = push(hub, folder)
        assert ended.returncode == 0, ended.stderr
    assert hub.private == {"me/my-adapter": True}
    assert hub.tokens == {"Bearer hf_of_the_test"}
    assert {name: hub.committed[name] for name in FILES} == FILES
    assert json.loads(hub.committed["training.json"]) == FACTS
    base = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert json.loads(hub.committed["adapter_config.json"]) == {"r": 8, "base_model_name_or_path": base}
    assert hub.summaries[0] == "trial 3, by meshtune"
    assert json.loads(ended.stdout)["hub"]["commit"] == f"{hub.url}/me/my-adapter/commit/abc123"


@pytest.mark.slow
def test_nothing_becomes_public_by_itself(hub: Hub, folder: Path) -> None:
    hub.private["me/my-adapter"] = False
    ended = push(hub, folder)
    assert ended.returncode == 2
    assert "`me/my-adapter` is public already" in ended.stderr
    assert hub.committed == {}
    assert push(hub, folder, "--public").returncode == 0
    assert set(hub.committed) == {*FILES, "training.json", "adapter_config.json"}


@pytest.mark.slow
def test_a_hub_that_refuses_is_one_line(hub: Hub, folder: Path) -> None:
    hub.refuse = 403
    ended = push(hub, folder)
    assert ended.returncode == 1
    assert "me/my-adapter: the hub refuses it" in ended.stderr
    assert "log in with `hf auth login`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--push-to-hub", "name"], "must be OWNER/NAME"),
        (["--dry-run"], "--public and --dry-run go with --push-to-hub"),
        (["--push-to-hub", "me/x", "--config", "trl"], "--push-to-hub sends a model and --config writes settings"),
        (["--push-to-hub", "me/x", "--trial", "7"], "holds one adapter, of trial 3"),
        (["--push-to-hub", "me/x", "--merge"], "holds an adapter of trial 3 of `study`: name another folder"),
    ],
)
def test_what_is_refused(folder: Path, options: list[str], words: str) -> None:
    from typer.testing import CliRunner

    from meshtune.cli.commands import app

    ended = CliRunner().invoke(app, ["export", str(folder), str(folder), *options])
    assert words in str(ended.exception)
