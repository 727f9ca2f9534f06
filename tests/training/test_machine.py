"""What memory a process may still take: as the system says, and as control groups say."""

import sys
from pathlib import Path

import pytest
import torch

from meshtune.system.machine import memory_available
from meshtune.training import machine

GIB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files, and 8 GiB available."""
    for name, content in {"proc/meminfo": "MemTotal: 1 kB\nMemAvailable:    8388608 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine() -> None:
    found = machine.available("cpu")
    assert found is not None
    assert 1 << 20 < found < 1 << 50
    assert machine.available("meta") is None


def test_no_control_group(tmp_path: Path) -> None:
    assert memory_available(system(tmp_path, {})) == 8 * GIB


@pytest.mark.parametrize("limit", ["max", str(100 * GIB)])
def test_a_limit_that_does_not_bind(tmp_path: Path, limit: str) -> None:
    group = {"memory.max": limit, "memory.current": "5", "memory.stat": "inactive_file 0\n"}
    files = {f"sys/fs/cgroup/job/{name}": text for name, text in group.items()}
    assert memory_available(system(tmp_path, {"proc/self/cgroup": "0::/job\n", **files})) == 8 * GIB


def test_version_2_and_a_limit_above(tmp_path: Path) -> None:
    """The batch job allows 3 GiB, of which 1 is used and a half of that is cache; the step inside allows more."""
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/memory.max": f"{3 * GIB}\n",
        "sys/fs/cgroup/job/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/job/memory.stat": f"anon 7\ninactive_file {GIB // 2}\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": "0\n",
        "sys/fs/cgroup/job/step/memory.stat": "inactive_file 0\n",
    }
    assert memory_available(system(tmp_path, files)) == int(2.5 * GIB)


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """The path is the host's; what the container sees is mounted as the root."""
    files = {
        "proc/self/cgroup": "5:cpu:/docker/ab\n4:memory:/docker/ab\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 4096\n",
    }
    assert memory_available(system(tmp_path, files)) == GIB + 4096


def test_a_gpu_as_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with least; a program of that name stands in for the driver's."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$4" = "-i" ] && [ "$5" = "0,3" ] || [ "$3" = "-i" ] || exit 1\necho 40000\necho 30000\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine._gpu_free(["0", "3"]) == 30000 << 20
    assert machine._gpu_free([]) is None
    program.write_text("#!/bin/sh\necho no devices\nexit 6\n")
    assert machine._gpu_free(["0"]) is None


@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
def test_an_error_after_which_a_gpu_computes_nothing_more(kind: type[RuntimeError]) -> None:
    """By its kind, where torch has one for it, else by its words; also where it is the cause of another error."""
    assert machine.is_device_lost(kind("CUDA error: an illegal memory access was encountered"))
    caused = ValueError("of a trial")
    caused.__cause__ = kind("CUDA error: an illegal memory access was encountered")
    assert machine.is_device_lost(caused)
    assert not machine.is_device_lost(kind("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not machine.is_device_lost(ValueError("CUDA error"))
