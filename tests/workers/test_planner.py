"""The planner: every trial in one pack, no process idle, no more than fits; limiting cases."""

import itertools

import pytest

from meshtune.config.sections import WorkerConfig
from meshtune.system.machine import visible_gpus
from meshtune.workers.planner import BLOCK, Packing, cpu_processes, packing, process_specs

GIB = 1 << 30


@pytest.mark.parametrize("exact", [False, True])
def test_every_trial_is_in_one_pack_of_its_block(exact: bool) -> None:
    for count, processes, most in itertools.product(range(20), (1, 2, 5), (1, 3, 8)):
        packs = Packing(processes, most, exact)
        sizes = packs.sizes(count)
        assert sum(sizes) == count
        assert all(1 <= size <= most for size in sizes)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        numbers = packs.numbers(40, count)
        assert sorted(numbers) == numbers
        assert [numbers.count(number) for number in dict.fromkeys(numbers)] == sizes
        assert all(numbers[number - 40] == number for number in numbers), "a pack is called after its first trial"
        assert packs.at_once(count) == sum(sizes[:processes])


def test_no_process_stands_idle_for_a_pack() -> None:
    for count, processes, most in itertools.product(range(1, 20), (1, 2, 3, 5), (1, 3, 8)):
        number = len(Packing(processes, most).sizes(count))
        assert number >= min(count, processes)
        assert number == count or number % processes == 0, "all rounds are full"
    assert Packing(2, 8).sizes(8) == [4, 4]
    assert Packing(2, 8, exact=True).sizes(8) == [8]


def test_a_cpu_packs_only_what_is_too_small_alone() -> None:
    """Products are at their peak from some hundred rows."""
    sizes = [packing(2, device="cpu", tokens=tokens, free=None, extra=1).sizes(8) for tokens in (2000, 300, 150, 40)]
    assert sizes == [[1] * 8, [1] * 8, [2] * 4, [4] * 2]


def test_a_gpu_packs_as_many_as_fit() -> None:
    sizes = [packing(1, device="cuda", tokens=9000, free=free, extra=GIB).sizes(8) for free in (-GIB, 0, GIB, 9 * GIB)]
    assert sizes == [[1] * 8, [1] * 8, [2] * 4, [8]]
    assert packing(1, device="cuda", tokens=9000, free=None, extra=GIB).sizes(8) == [8]
    assert packing(2, device="cuda", tokens=9000, free=None, extra=GIB).sizes(8) == [4, 4]


def test_the_block_where_nothing_says_otherwise() -> None:
    """As many as there are processes; a GPU gets a poll; packs that are asked for fill every process."""
    assert packing(2, device="cpu", tokens=2000, free=None, extra=1).block_size == 2
    assert packing(2, device="cpu", tokens=40, free=None, extra=1).block_size == 2, "a larger one costs the search"
    assert packing(1, device="cuda", tokens=2000, free=None, extra=1).block_size == BLOCK
    assert packing(12, device="cuda", tokens=2000, free=None, extra=1).block_size == 12
    assert Packing(2, 3, exact=True).block_size == 6
    for exact in (False, True):
        assert Packing(2, 3, exact, uneven=True).block_size == Packing(2, 3, exact).block_size, (
            "its losses are not used"
        )


def test_processes_of_a_cpu() -> None:
    """One a core, as far as memory and a block go; at least one."""
    assert cpu_processes(2, available=None, needed=GIB) == 2
    assert cpu_processes(64, available=None, needed=GIB) == BLOCK
    assert cpu_processes(8, available=3 * GIB, needed=GIB) == 3
    assert cpu_processes(8, available=0, needed=GIB) == 1


def test_processes_on_a_cpu_share_the_cores() -> None:
    assert len(process_specs(WorkerConfig(), "cpu")) == 1
    two = process_specs(WorkerConfig(processes=2, threads=1), "cpu")
    assert [one.threads for one in two] == [1, 1]
    assert two[0].environment["OMP_WAIT_POLICY"] == "passive"


def test_processes_on_gpus_respect_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert visible_gpus() == ["2", "3", "5"]
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in process_specs(WorkerConfig(), "cuda")] == ["2", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_gpu_that_only_torch_sees_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ROCm, or in a container without nvidia-smi."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in process_specs(WorkerConfig(), "cuda")] == ["0"]
    assert len(process_specs(WorkerConfig(processes=2), "cuda")) == 2
