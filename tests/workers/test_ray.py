"""The Ray worker keeps the worker contract, outlives its nodes, and refuses what cannot run there."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune import _version
from meshtune.config.sections import ModelConfig, TrainingConfig, WorkerConfig
from meshtune.errors import InputError, Stopped
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraSpec
from meshtune.testing.processes import descendants, gone
from meshtune.testing.workers import WorkerContract, collect
from meshtune.trial import DataRef, Ending, Event, Outcome, Request
from meshtune.workers import ray as ray_worker
from meshtune.workers.interface import Worker
from meshtune.workers.local import LocalWorker
from meshtune.workers.parcels import SMALL
from meshtune.workers.planner import ProcessSpec, program_specs
from meshtune.workers.ray import RayWorker, survey
from tests.ray_nodes import RayNodes, strike, until
from tests.workers.test_local import TrainingContract, program_pid, seen, spec

ray = pytest.importorskip("ray")  # the extra `ray`; CI has it
from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@contextlib.contextmanager
def node_in_bubblewrap(cluster: Cluster, cpus: int, *changes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node that sees this machine's files with some changes."""
    ray = str(Path(sys.executable).parent / "ray")
    command = ["bwrap", "--dev-bind", "/", "/", *changes, "--die-with-parent", ray, "start", "--block"]
    command += [f"--address={cluster.address}", f"--num-cpus={cpus}"]
    before = len(ray_nodes(cluster))
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while len(ray_nodes(cluster)) == before:
            assert time.monotonic() < until, "the node did not join"
            time.sleep(0.2)
        yield node
    finally:
        node.terminate()
        node.wait()


def ray_nodes(cluster: Cluster) -> list[str]:
    """The nodes that are alive."""
    found = cluster.global_state.node_table()
    return [node["NodeID"] for node in found if node["Alive"]]


def on(cluster: Cluster, folder: Path, count: int | None = 2, **config: object) -> RayWorker:
    section = WorkerConfig(name="ray", address=cluster.address, processes=count, **config)
    return RayWorker(section, spec(folder), [ProcessSpec("cpu", {}, 1)] * (count or 2), folder)


@pytest.mark.slow
class TestRay(WorkerContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make(self, folder: Path) -> Worker:
        return on(self.cluster, folder)


@pytest.mark.slow
class TestDeciding(TrainingContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make(self, folder: Path) -> Worker:
        section = WorkerConfig(name="ray", address=self.cluster.address, processes=1)
        return RayWorker(section, self.objective(folder), [ProcessSpec("cpu", {}, 1)], folder)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("here", "HOST:PORT"),
    ],
)
def test_no_cluster_at_the_address_is_one_message(tmp_path: Path, address: str, why: str) -> None:
    section = WorkerConfig(name="ray", address=address, processes=1)
    with pytest.raises(
        InputError, match=rf"worker.address: no Ray cluster can be used at {address}: .*{why}"
    ) as caught:
        RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 1)], tmp_path)
    assert "ray start --head" in str(caught.value)


@pytest.mark.slow
def test_what_no_node_has_is_one_message(cluster: Cluster, tmp_path: Path) -> None:
    section = WorkerConfig(name="ray", address=cluster.address, processes=1)
    with pytest.raises(InputError, match="a trial needs 8 CPUs; the nodes of the Ray cluster have 1, 1 CPUs"):
        RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 8)], tmp_path)
    with pytest.raises(InputError, match="a trial needs a GPU; the nodes of the Ray cluster have 0, 0 GPUs"):
        RayWorker(section, spec(tmp_path), [ProcessSpec("cuda", {}, 1, gpus=1)], tmp_path)


@pytest.mark.slow
def test_programs_see_the_gpus_that_ray_gives_them(cluster: Cluster, tmp_path: Path) -> None:
    """Which are no real ones here: a node says that it has two."""
    node = cluster.add_node(num_cpus=2, num_gpus=2)
    worker = None
    try:
        section = WorkerConfig(name="ray", address=cluster.address, processes=2)
        worker = RayWorker(section, seen(tmp_path), program_specs(section, survey(section)), tmp_path)
        until(lambda: (worker.events(0.1), worker.free() == 2)[1])
        for trial in range(2):
            worker.submit([Request(trial, {}, seed=0)])
        assert {one.loss for one in collect(worker, 2)} == {0.0, 1.0}
    finally:
        if worker is not None:
            worker.close()
        cluster.remove_node(node)


@pytest.mark.slow
def test_a_survey_says_what_the_nodes_have(cluster: Cluster) -> None:
    found = survey(WorkerConfig(name="ray", address=cluster.address))
    assert (found.gpus, found.gpu_memory, found.cpus) == (0, None, (1, 1))
    assert found.memory > 2**26
    assert (found.processes(1), found.processes(2)) == (2, 0)
    with pytest.raises(InputError, match=r"worker.accelerator: no node of the Ray cluster has the accelerator H100"):
        survey(WorkerConfig(name="ray", address=cluster.address, accelerator="H100"))


@pytest.mark.slow
def test_a_study_connects_once(cluster: Cluster, tmp_path: Path) -> None:
    """What surveyed the cluster holds the processes; where it is gone meanwhile, another does."""
    section = WorkerConfig(name="ray", address=cluster.address, processes=1)
    for gone_meanwhile in (False, True):
        survey(section)
        survey(section)
        (held,) = ray_worker._held
        pid = held.driver.pid
        if gone_meanwhile:
            os.kill(pid, signal.SIGKILL)
        worker = RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 1)], tmp_path)
        try:
            assert worker._driver is not None
            assert (worker._driver.pid == pid) is not gone_meanwhile
            assert not ray_worker._held
            worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0)])
            assert [one.loss for one in collect(worker, 1)] == [9.0]
        finally:
            worker.close()


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_gets_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ray start` does where there is one; a cluster that asks for none is joined all the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    for mode in ("token", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        nodes = RayNodes()
        try:
            monkeypatch.delenv("RAY_AUTH_MODE")
            found = survey(WorkerConfig(name="ray", address=nodes.address))
            assert found is not None
            assert found.cpus == (1, 1)
        finally:
            nodes.kill()


@pytest.mark.slow
def test_a_cluster_of_its_own_leaves_no_token_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would write one, and each `ray start` from then on would ask for it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    program = "from meshtune.workers.ray_cluster import ray, start_here\n"
    program += "start_here(num_cpus=1, include_dashboard=False)\n"
    program += "print(ray.get(ray.remote(lambda: 9).remote()))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout == "9\n", ended.stderr
    assert not (tmp_path / ".ray").exists()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_its_trials_an_attempt_and_a_new_one_is_used(
    cluster: Cluster, tmp_path: Path
) -> None:
    lost = cluster.add_node(num_cpus=1)
    worker = on(cluster, tmp_path, 3)
    try:
        for trial in range(3):
            worker.submit([Request(trial, {"x": float(trial), "do": "sleep"}, seed=0)])
        cluster.remove_node(lost, allow_graceful=False)
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        assert outcome.retry
        assert "is gone" in outcome.message
        assert worker.free() == 0
        joined = cluster.add_node(num_cpus=1)
        until = time.monotonic() + 60
        while not worker.free() and time.monotonic() < until:
            assert not any(isinstance(event, Outcome) for event in worker.events(0.5))
        worker.submit([Request(outcome.trial, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
        assert [(one.attempt, one.loss) for one in collect(worker, 1)] == [(2, 9.0)]
    finally:
        worker.close()
        cluster.remove_node(joined)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("way", ["shared", "bytes", "files"])
def test_a_checkpoint_follows_its_trial_to_another_node(
    cluster: Cluster,
    tmp_path: Path,
    tiny_model_folder: Path,
    tiny_data: DataRef,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """The node is lost without grace. The trial goes on from there, and has the losses of one that was left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the nodes
    places = [ProcessSpec("cpu", {}, 2)]  # only these nodes have room for two threads
    hyperparameters = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}

    def objective(folder: Path) -> ObjectiveSpec:
        folder.mkdir()
        training = TrainingConfig(batch_size=2, precision="float32", epochs=15, checkpoint_minutes=0.005)
        model = ModelConfig(name=str(tiny_model_folder))
        spec = LoraSpec(model=model, training=training, data=tiny_data, at="last", folder=str(folder))
        return ObjectiveSpec("lora", spec.model_dump(mode="json"))

    alone = LocalWorker(objective(tmp_path / "alone"), places, tmp_path / "alone")
    try:
        alone.submit([Request(0, hyperparameters, seed=0)])
        (calm,) = collect(alone, 1, seconds=200)
    finally:
        alone.close()
    folder = tmp_path / "study"
    there = objective(folder)
    unseen = [] if way == "shared" else ["--tmpfs", str(folder)]
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    with contextlib.ExitStack() as nodes:
        first = nodes.enter_context(node_in_bubblewrap(cluster, 2, *unseen))
        url = f"local://{bucket}" if way == "files" else None
        section = WorkerConfig(name="ray", address=cluster.address, processes=1, files=url)
        worker = RayWorker(section, there, places, folder)
        try:
            worker.submit([Request(0, hyperparameters, seed=0)])
            seen = list[Event]()
            until(lambda: seen.extend(worker.events(0.1)) or (folder / "checkpoints" / "0" / "state.pt").exists(), 200)
            assert not any(isinstance(event, Outcome) for event in seen), "the trial had ended before"
            assert (folder / "checkpoints" / "0" / "state.pt").stat().st_size > SMALL
            assert len(list(bucket.glob("*/mark"))) == (way == "files")
            strike({first.pid, *descendants(first.pid)}, signal.SIGKILL)
            (crashed,) = collect(worker, 1, seconds=200)
            assert (crashed.ending, crashed.lost) == (Ending.CRASHED, True)
            nodes.enter_context(node_in_bubblewrap(cluster, 2, *unseen))
            until(lambda: not worker.events(0.2) and worker.free() == 1)
            worker.submit([Request(0, hyperparameters, seed=0, attempt=2)])
            while not (outcomes := [event for event in worker.events(0.2) if isinstance(event, Outcome)]):
                continue
        finally:
            worker.close()
    if way == "shared":
        said = "".join(path.read_text() for path in folder.glob("logs/ray-*"))
        assert "the training goes on from" in said
    else:  # what the second attempt writes where it finds a state to go on from
        assert (folder / "checkpoints" / "0" / "retried").read_text().startswith("2 ")
    assert (outcomes[0].ending, outcomes[0].attempt) == (Ending.COMPLETE, 2)
    assert (outcomes[0].loss, outcomes[0].losses) == (calm.loss, calm.losses)
    adapters = [place / "adapters" / "0" / "adapter_model.safetensors" for place in (folder, tmp_path / "alone")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert not list(bucket.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_node_that_does_not_reach_the_files_is_refused_before_any_trial(cluster: Cluster, tmp_path: Path) -> None:
    """One that shares the study's folder needs no other way."""
    (tmp_path / "study").mkdir()
    section = WorkerConfig(name="ray", address=cluster.address, processes=1, files="memory://bucket")
    why = r"worker: \S+ does not see memory://bucket/\S+ \(FileNotFoundError"
    with node_in_bubblewrap(cluster, 2, "--tmpfs", str(tmp_path / "study")), pytest.raises(InputError, match=why):
        RayWorker(section, spec(tmp_path / "study"), [ProcessSpec("cpu", {}, 2)], tmp_path / "study")


@pytest.mark.slow
def test_without_a_number_of_places_it_grows_with_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    worker = on(cluster, tmp_path, None)
    joined = None
    try:
        assert worker.free() == 2
        joined = cluster.add_node(num_cpus=1)
        until = time.monotonic() + 60
        while worker.free() < 3 and time.monotonic() < until:
            worker.events(0.5)
        assert worker.free() == 3
    finally:
        worker.close()
        if joined is not None:
            cluster.remove_node(joined)


@pytest.mark.slow
def test_a_driver_that_is_killed_is_started_again_and_what_ran_has_crashed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtune.workers.ray.PAUSES", (0.1,))
    worker = on(cluster, tmp_path)
    try:
        assert worker._driver is not None
        family = descendants(worker._driver.pid) | {worker._driver.pid}
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        program = program_pid(tmp_path)
        os.kill(worker._driver.pid, signal.SIGKILL)
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        assert "the program that speaks with the Ray cluster died" in outcome.message
        assert gone({*family, program})
        until = time.monotonic() + 60
        while not worker.free() and time.monotonic() < until:
            worker.events(0.5)
        worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
        assert [one.loss for one in collect(worker, 1)] == [9.0]
    finally:
        worker.close()


@pytest.mark.slow
def test_a_node_with_another_version_is_refused_before_any_trial(cluster: Cluster, tmp_path: Path) -> None:
    """The only node that has room for two threads has another file of the version in its place."""
    (tmp_path / "version.py").write_text('__version__ = "0.0.9"\n')
    with node_in_bubblewrap(cluster, 2, "--ro-bind", str(tmp_path / "version.py"), _version.__file__):
        section = WorkerConfig(name="ray", address=cluster.address, processes=1)
        with pytest.raises(InputError, match=r"worker: \S+ has meshtune 0.0.9, this machine .*: install the same"):
            RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 2)], tmp_path)


@pytest.mark.slow
def test_a_head_that_is_lost_is_waited_for_and_in_the_end_the_study_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it cannot be reached the first times; one that stays away is no fault of the input."""
    monkeypatch.setattr("meshtune.workers.ray.PAUSES", (0.5,) * 200)
    nodes = RayNodes()
    try:
        section = WorkerConfig(name="ray", address=nodes.address, processes=1)
        worker = RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 1)], tmp_path)
        try:
            worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
            program_pid(tmp_path)
            nodes.kill()
            (outcome,) = collect(worker, 1, seconds=180)
            assert (outcome.ending, outcome.lost, outcome.retry) == (Ending.CRASHED, True, True)
            until(lambda: worker.events(0.2) == [] and worker._deaths >= 3)
            assert worker._why.startswith(f"no Ray cluster can be used at {nodes.address}")
            nodes.start()
            until(lambda: worker.events(0.2) == [] and worker.free() == 1)
            worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
            assert [one.loss for one in collect(worker, 1)] == [9.0]
            monkeypatch.setattr("meshtune.workers.ray.PAUSES", (0.1,))
            nodes.kill()
            with pytest.raises(Stopped, match=r"the Ray cluster is lost, .* run the same again") as stopped:
                until(lambda: worker.events(0.5) != [])
            assert stopped.value.exit_code == 75
        finally:
            worker.close()
    finally:
        nodes.kill()
