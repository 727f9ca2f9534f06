"""A study on a Ray cluster has the record of one on this machine, whatever its nodes see and whether they stay."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from meshtune.testing.processes import descendants
from tests.kill import meshtune, record_of, run, run_apart
from tests.test_kill_lora import lora_study
from tests.workers.test_ray import node_in_bubblewrap

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on this machine."""
    path = study(tmp_path_factory.mktemp("ray") / "alone", tiny_model_folder, "{name: local, processes: 2, threads: 1")
    assert run(path).returncode == 0
    return path


def study(folder: Path, model: Path, worker: str) -> Path:
    """The study of `lora_study`, shorter, in packs of two."""
    path = lora_study(folder, model)
    text = path.read_text().replace("epochs: 3", "epochs: 2").replace("trials: 20", "trials: 12")
    text = text.replace("mads, block_size: 6", "random, block_size: 4")
    path.write_text(text[: text.index("worker: ")] + f"worker: {worker}, pack: 2, attempts: 10}}\n")
    return path


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_record_is_that_of_one_machine_though_a_node_does_not_see_the_folder(
    alone: Path, cluster: Cluster, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the node
    path = study(tmp_path / "spread", tiny_model_folder, f"{{name: ray, address: '{cluster.address}'")
    folder = path.parent / "study"
    folder.mkdir()
    with node_in_bubblewrap(cluster, 1, "--tmpfs", str(folder)):
        ended = run_apart(path)
    assert ended.returncode == 0, ended.stderr
    assert record_of(path) == record_of(alone)
    kept = list((tmp_path / "cache/meshtune/processes/data").iterdir())
    assert len(kept) == 1  # the node had work
    assert {entry.name for entry in folder.iterdir()} == {
        "adapters", "data", "evaluation", "logs", "study.db", "study.yaml"
    }  # fmt: skip
    for adapter in (alone.parent / "study" / "adapters").iterdir():
        spread = folder / "adapters" / adapter.name / "adapter_model.safetensors"
        assert spread.read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_a_node_is_lost_inside_a_pack_and_another_joins(
    alone: Path, cluster: Cluster, tiny_model_folder: Path, tmp_path: Path
) -> None:
    lost = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    path = study(tmp_path / "spread", tiny_model_folder, f"{{name: ray, address: '{cluster.address}', processes: 3")
    running = subprocess.Popen(meshtune("tune", path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    logs = path.parent / "study" / "logs"
    wait_until(lambda: len(list(logs.glob("ray-*"))) == 3)  # all three have a pack, and log what they do
    cluster.remove_node(lost, allow_graceful=False)
    with stopped():  # else the others could be done before the new node is there
        cluster.add_node(num_cpus=1)
        wait_until(lambda: len(list(logs.glob("ray-*"))) == 4)
    _, errors = running.communicate(timeout=400)
    assert running.returncode == 0, errors
    assert record_of(path) == record_of(alone)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """The processes that train stand still meanwhile."""
    training = [
        pid
        for pid in descendants(os.getpid())
        if b"meshtune.workers.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in training:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in training:
            os.kill(pid, signal.SIGCONT)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
