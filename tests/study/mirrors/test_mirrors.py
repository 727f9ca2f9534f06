"""Trackers mirror a study: what they hold is read back by their own means, and equals the record."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import Tracker
from meshtune.errors import InputError
from meshtune.plan.locate import existing
from meshtune.study.mirrors.facts import TrialFacts, facts_of, trials_of
from meshtune.study.mirrors.outbox import Cursor, mirror
from tests.kill import command, command_study, run

TRIALS = 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = command_study(tmp_path_factory.mktemp("finished") / "mine", sampler="random", trials=TRIALS)
    assert run(path, "--json").returncode == 0
    return path.parent


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "mine")) / "study.yaml"


def trials(study: Path) -> list[TrialFacts]:
    found = list(trials_of(existing(study)))
    assert len(found) == TRIALS
    return found


def send(study: Path, tracker: str) -> int:
    ended = command("mirror", study, "--to", tracker)
    assert ended.returncode == 0, ended.stderr
    return sum(int(word) for word in ended.stdout.split() if word.isdigit())


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def test_tensorboard_holds_the_records_numbers_in_float32(study: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for again in range(2):
        assert send(study, "tensorboard") == TRIALS
        assert send(study, "tensorboard") == 0
        (study.parent / "study" / "mirrors" / "tensorboard.json").unlink()  # a crash before it was written
        for facts in trials(study):
            folder = study.parent / "study" / "mirrors" / "tensorboard" / f"trial-{facts.number}"
            (file,) = folder.iterdir()
            held: dict[tuple[str, int], list[float]] = {}
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.HasField("tensor") and value.tensor.float_val:
                        held.setdefault((value.tag, event.step), []).append(value.tensor.float_val[0])
            told = {(name, int(at)): value for name, points in facts.series.items() for at, value in points}
            told |= {(name, 0): value for name, value in facts.numbers.items()}
            assert held == {key: [float32(value)] for key, value in told.items()}, again


def mlflow_runs(study: Path, address: str) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(facts_of(existing(study)).name)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == len({run.data.tags["meshtune.trial"] for run in runs})
    found = {run.data.tags["meshtune.trial"]: run for run in runs}
    above = found.pop("study")
    for facts in trials(study):
        run_ = found[str(facts.number)]
        assert run_.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert run_.data.tags["ending"] == facts.ending
        assert run_.data.params == {name: str(value) for name, value in facts.hyperparameters.items()}
        assert {name: run_.data.metrics[name] for name in facts.numbers} == facts.numbers
        for name, points in facts.series.items():
            history = client.get_metric_history(run_.info.run_id, name)
            assert sorted((metric.step, metric.value) for metric in history) == sorted(points)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own code
def test_mlflow_holds_one_run_a_trial_with_the_records_numbers(study: Path) -> None:
    address = f"sqlite:///{study.parent / 'study' / 'mirrors' / 'mlflow' / 'mlflow.db'}"
    assert send(study, "mlflow") == TRIALS
    runs = mlflow_runs(study, address)
    assert len(runs) == TRIALS
    from mlflow.tracking import MlflowClient

    whole, cut = (runs[str(trials(study)[at].number)].info.run_id for at in (0, 1))
    MlflowClient(tracking_uri=address).delete_tag(cut, "meshtune.digest")  # as a crash leaves it
    (study.parent / "study" / "mirrors" / "mlflow.json").unlink()
    assert send(study, "mlflow") == TRIALS
    kept = {run.info.run_id for run in mlflow_runs(study, address).values()}
    assert whole in kept
    assert cut not in kept


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "trackio"])
def test_studies_of_one_name_on_one_tracker_leave_each_other_alone(tracker: Tracker, tmp_path: Path) -> None:
    """In a process of its own, as below."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom meshtune.study.mirrors.facts import StudyFacts, TrialFacts\n"
        "from meshtune.study.mirrors.outbox import send\n"
        "def show(folder, loss):\n"
        "    facts = TrialFacts(0, {'rank': 8}, 'search', 'complete', 1.0, {}, {'loss': loss})\n"
        "    list(send(StudyFacts('mine', Path(folder)), [facts], sys.argv[1], artifacts=False))\n"
        "show('one', 1.0)\nshow('other', 2.0)\nshow('one', 3.0)\n"  # a promoted trial is shown anew
        "if sys.argv[1] == 'mlflow':\n"
        "    from mlflow.tracking import MlflowClient\n"
        "    client = MlflowClient(os.environ['MLFLOW_TRACKING_URI'])\n"
        "    runs = client.search_runs([client.get_experiment_by_name('mine').experiment_id])\n"
        "    print(sorted(run.data.metrics['loss'] for run in runs if run.data.metrics))\n"
        "else:\n"
        "    from trackio.sqlite_storage import SQLiteStorage as S\n"
        "    runs = [(run['name'], run['id']) for run in S.get_run_records('mine')]\n"
        "    print(sorted(S.get_logs('mine', name, run_id=number)[0]['loss'] for name, number in runs))\n"
    )
    place = {"TRACKIO_DIR": str(tmp_path / "trackio"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", program, tracker],
        env={**os.environ, **place},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[2.0, 3.0]"


@pytest.mark.slow
def test_trackio_holds_the_records_numbers(study: Path, tmp_path: Path) -> None:
    """In a process of its own: trackio reads where its files lie as it is imported."""
    place = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    name = facts_of(existing(study)).name
    for _ in range(2):
        sent = subprocess.run(
            [sys.executable, "-m", "meshtune.cli", "mirror", study, "--to", "trackio"], env=place, check=False
        )
        assert sent.returncode == 0
        (study.parent / "study" / "mirrors" / "trackio.json").unlink()
    read = (
        "import json, sys\nfrom trackio.sqlite_storage import SQLiteStorage as S\n"
        "runs = [(r['name'], r['id']) for r in S.get_run_records(sys.argv[1])]\n"
        "print(json.dumps([[n, S.get_logs(sys.argv[1], n, run_id=i), S.get_run_config(sys.argv[1], n, run_id=i)]"
        " for n, i in runs]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", read, name], env=place, capture_output=True, text=True, check=True
    ).stdout
    held = {run_name: (logs, config) for run_name, logs, config in json.loads(out.splitlines()[-1])}
    assert len(json.loads(out.splitlines()[-1])) == len(held) == TRIALS
    for facts in trials(study):
        logs, config = held[f"trial {facts.number}"]
        assert {name: config[name] for name in facts.hyperparameters} == facts.hyperparameters
        assert config["ending"] == facts.ending
        for series, points in facts.series.items():
            assert [(log[f"{series}_at"], log[series]) for log in logs if series in log] == list(map(tuple, points))
        (numbers,) = [log for log in logs if "seconds" in log]
        assert {name: numbers[name] for name in facts.numbers} == facts.numbers


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: LevelDB's log format, in blocks of 32 KiB, behind a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full one, or the last part of one
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_offline_holds_the_records_numbers(study: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    assert send(study, "wandb") == TRIALS
    for facts in trials(study):
        (file,) = (study.parent / "study" / "mirrors" / "wandb" / f"trial-{facts.number}").rglob("*.wandb")
        rows, summary, config, ended = list[dict[str, Any]](), dict[str, Any](), dict[str, Any](), None
        for data in records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                rows.append(
                    {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                )
            if record.WhichOneof("record_type") == "run":
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.WhichOneof("record_type") == "summary":
                summary |= {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
                }
            if record.WhichOneof("record_type") == "exit":
                ended = record.exit.exit_code
        assert {name: config[name] for name in facts.hyperparameters} == facts.hyperparameters
        for series, points in facts.series.items():
            assert [(row[f"{series}_at"], row[series]) for row in rows if series in row] == list(map(tuple, points))
        assert {name: summary[name] for name in facts.numbers} == facts.numbers
        assert ended == (0 if facts.succeeded else 1)


def test_a_cursor_that_is_damaged_begins_anew(study: Path) -> None:
    found = existing(study)
    file = found.folder / "mirrors" / "mlflow.json"
    file.parent.mkdir()
    file.write_text('{"0": ')
    assert len(Cursor(facts_of(found), "mlflow").behind(trials(study))) == TRIALS


def test_bad_input_gets_one_message(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"`report_to` names no tracker; .*--to: mlflow, trackio, wandb, tensorboard"):
        mirror(existing(study))
    ended = command("mirror", study, "--to", "neptune")
    assert ended.returncode == 2
    assert "`--to neptune` is not allowed; known trackers: mlflow, trackio, wandb, tensorboard" in ended.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    ended = command("mirror", study, "--to", "mlflow")
    assert ended.returncode == 1
    assert f"{TRIALS} of {TRIALS} trials are not there yet; run the same again once it answers" in ended.stderr
    (existing(study).folder / "mirrors" / "tensorboard").write_text("")
    ended = command("mirror", study, "--to", "tensorboard")
    assert ended.returncode == 2
    assert " ".join(ended.stderr.split()).endswith("mirrors/tensorboard cannot be written: File exists")


@pytest.fixture(scope="module")
def server_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of MLflow, in an environment of its own: the study needs its client only."""
    from importlib.metadata import version

    from uv import find_uv_bin

    folder = tmp_path_factory.mktemp("mlflow") / "env"
    for arguments in (
        ["venv", "--quiet", folder],
        ["pip", "install", "--quiet", "--python", folder / "bin" / "python"],
    ):
        wanted = [f"mlflow=={version('mlflow-skinny')}"] if arguments[0] == "pip" else []
        subprocess.run([find_uv_bin(), *arguments, *wanted], check=True)
    return folder / "bin" / "mlflow"


def served(program: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server over a SQLite file, once it answers."""
    command_ = [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command_ += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        folder / "files",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        list(map(str, command_)),
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while True:
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            time.sleep(0.2)


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
    return number


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_costs_the_study_nothing_and_is_told_the_rest_later(
    server_program: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("PROGRAM_SECONDS", "4")
    server = served(server_program, tmp_path, port)
    path = command_study(tmp_path / "mine", "report_to: [mlflow]", sampler="random", trials=TRIALS, processes=1)
    running = subprocess.Popen([sys.executable, "-m", "meshtune.cli", "tune", path], stderr=subprocess.PIPE, text=True)
    cursor = path.parent / "study" / "mirrors" / "mlflow.json"
    while not cursor.exists():  # it has been told a trial
        assert running.poll() is None
        time.sleep(0.1)
    os.killpg(server.pid, 9)
    server.wait()
    said = running.communicate()[1]
    assert running.returncode == 0, said
    left = TRIALS - len(json.loads(cursor.read_text()))
    assert left > 0
    assert f"mlflow: {left} trial" in said
    server = served(server_program, tmp_path, port)
    try:
        ended = command("mirror", path)
        assert ended.returncode == 0, ended.stderr
        assert len(mlflow_runs(path, address)) == TRIALS
    finally:
        os.killpg(server.pid, 9)
        server.wait()
