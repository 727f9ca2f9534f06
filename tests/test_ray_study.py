"""A study on a Ray cluster has the record of one on this machine, also where a node does not see its folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.kill import record_of, run
from tests.test_kill_lora import lora_study
from tests.workers.test_ray import node_in_bubblewrap


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def on_ray(folder: Path, model: Path, address: str, trials: int) -> Path:
    """The study of `lora_study`, shorter, and on the cluster."""
    path = lora_study(folder, model)
    text = path.read_text().replace("epochs: 3", "epochs: 2").replace("trials: 20", f"trials: {trials}")
    text = text.replace("mads, block_size: 6", "random, block_size: 4")
    path.write_text(text.replace("name: local, ", f"name: ray, address: '{address}', ").replace("pack: 3", "pack: 2"))
    return path


def on_this_machine(path: Path) -> None:
    """Take the study away from the cluster."""
    text = path.read_text()
    start, end = text.index("name: ray"), text.index("processes: 2")
    path.write_text(text[:start] + "name: local, " + text[end:])


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_record_is_that_of_one_machine_though_a_node_does_not_see_the_folder(
    cluster: Cluster, tiny_model_folder: Path, tmp_path: Path
) -> None:
    alone = on_ray(tmp_path / "alone", tiny_model_folder, cluster.address, 8)
    on_this_machine(alone)
    assert run(alone).returncode == 0
    path = on_ray(tmp_path / "spread", tiny_model_folder, cluster.address, 8)
    (path.parent / "study").mkdir()
    with node_in_bubblewrap(cluster, 1, "--tmpfs", str(path.parent / "study")):
        ended = run(path)
    assert ended.returncode == 0, ended.stderr
    assert record_of(path) == record_of(alone)
    names = {entry.name for entry in (path.parent / "study").iterdir()}
    assert names == {"adapters", "data", "evaluation", "logs", "study.db", "study.yaml"}
    for adapter in (alone.parent / "study" / "adapters").iterdir():
        weights = "adapter_model.safetensors"
        assert (path.parent / "study/adapters" / adapter.name / weights).read_bytes() == (
            adapter / weights
        ).read_bytes()
