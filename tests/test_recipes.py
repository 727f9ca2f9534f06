"""The recipes of `examples/ray`, as far as they can be checked without what they are for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kill import command_study, record_of
from tests.slurm_cluster import SlurmCluster, missing

RECIPES = Path(__file__).parents[1] / "examples" / "ray"


def test_ray_takes_the_file_of_a_cluster() -> None:
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((RECIPES / "cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["provider"]["type"] == "local"
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]


def test_manifests_are_whole() -> None:
    job = yaml.safe_load((RECIPES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("meshtune tune ")
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert {"resources", "setup", "run", "num_nodes"} <= task.keys()
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    subprocess.run(["bash", "-n", RECIPES / "ray.sbatch"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_a_ray_cluster_in_a_job_of_slurm(tmp_path: Path) -> None:
    study = command_study(tmp_path / "study", sampler="random", trials=6)
    study.write_text(study.read_text().replace("name: local, processes: 2", "name: ray, processes: 2, threads: 1"))
    script = (RECIPES / "ray.sbatch").read_text()
    kept = [line for line in script.splitlines() if "--gpus-per-node" not in line]  # there is none
    (tmp_path / "ray.sbatch").write_text("\n".join(kept).replace("--nodes=2", "--nodes=1").replace("task=16", "task=2"))
    cluster = SlurmCluster(tmp_path / "slurm")
    try:
        cluster.environment["PATH"] = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
        cluster.environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(
            ["sbatch", "--wait", f"--chdir={tmp_path}", tmp_path / "ray.sbatch", study],
            capture_output=True,
            text=True,
            env=cluster.environment,
            check=False,
            timeout=400,
        )
        log = "\n".join(path.read_text() for path in tmp_path.glob("meshtune-ray-*.log"))
        assert done.returncode == 0, done.stderr + log
    finally:
        cluster.close()
    assert len(record_of(study)) == 6
