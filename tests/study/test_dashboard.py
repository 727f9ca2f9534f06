"""optuna-dashboard over a study's record: a real server, which shows and refuses what would write."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from meshtune.testing.processes import gone
from tests.kill import command, command_study, meshtune, run


@pytest.mark.slow
def test_it_shows_the_record_and_writes_nothing(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="random", trials=4)
    assert run(path).returncode == 0
    server = subprocess.Popen(meshtune("dashboard", path, "--port", 0), stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        address = line.split()[1].removesuffix("/dashboard")
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/dashboard") as page:
            assert page.status == 200
        with urllib.request.urlopen(f"{address}/api/studies") as answer:
            (study,) = json.load(answer)["study_summaries"]
        assert study["study_name"] == "study"
        with urllib.request.urlopen(f"{address}/api/studies/{study['study_id']}") as answer:
            assert len(json.load(answer)["trials"]) == 4
        before = (tmp_path / "study" / "study.db").read_bytes()
        for method in ("DELETE", "POST", "PUT"):
            asked = urllib.request.Request(f"{address}/api/studies/{study['study_id']}", method=method)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked)
            assert refused.value.code == 403
        assert (tmp_path / "study" / "study.db").read_bytes() == before
        taken = command("dashboard", path, "--port", address.rpartition(":")[2])
        assert taken.returncode == 2
        assert "choose another --port" in taken.stderr
    finally:
        server.terminate()
        server.wait(timeout=120)
    assert gone({server.pid})


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = command_study(tmp_path, sampler="random", trials=1)
    assert run(path).returncode == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = command("dashboard", path)
    assert refused.returncode == 2
    assert "`meshtune dashboard` needs the package `optuna_dashboard`" in refused.stderr
    assert "[dashboard]" in refused.stderr
