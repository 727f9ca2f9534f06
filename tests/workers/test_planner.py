"""The planner: every trial in one pack, no process idle, no more than fits; limiting cases."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from meshtune.config.sections import WorkerConfig
from meshtune.errors import InputError
from meshtune.system.machine import visible_gpus
from meshtune.workers.planner import BLOCK, MOST, Nodes, Packing, cpu_processes, packing, process_specs, program_specs

GIB = 1 << 30


POINTS = [{"rank": 8}] * 20


def test_programs_are_given_gpus_by_a_cluster_that_has_some() -> None:
    def given(gpus: int, **values: Any) -> list[tuple[str, int]]:
        found = program_specs(WorkerConfig(**values), Nodes(gpus, None, (4, 4), 2**30))
        return [(spec.device, spec.gpus) for spec in found]

    assert given(4) == [("cpu", 1)] * 4  # no device of torch
    assert given(4, devices_per_trial=2) == [("cpu", 2)] * 2
    assert given(0) == [("cpu", 0)] * 8


@pytest.mark.parametrize("exact", [False, True])
def test_every_trial_is_in_one_pack_of_its_block(exact: bool) -> None:
    for count, processes, most in itertools.product(range(20), (1, 2, 5), (1, 3, 8)):
        packs = Packing(processes, most, exact)
        sizes = packs.sizes(count)
        assert sum(sizes) == count
        assert all(1 <= size <= most for size in sizes)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        numbers = packs.numbers(40, POINTS[:count])
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
    sizes = [packing(2, device="cpu", tokens=tokens).sizes(8) for tokens in (2000, 300, 150, 40)]
    assert sizes == [[1] * 8, [1] * 8, [2] * 4, [4] * 2]


def test_a_gpu_packs_as_many_as_fit() -> None:
    sizes = [packing(1, device="cuda", tokens=9000, usual=usual).sizes(8) for usual in (1, 2, 10)]
    assert sizes == [[1] * 8, [2] * 4, [8]]
    assert packing(1, device="cuda", tokens=9000).sizes(8) == [8]
    assert packing(2, device="cuda", tokens=9000).sizes(8) == [4, 4]


def by_ranks(room: int) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    """What fits where memory is so many ranks together."""
    return lambda points: sum(point["rank"] for point in points) <= room


def test_a_pack_is_as_large_as_its_own_members_allow() -> None:
    """Not as so many of the largest that the space has."""
    room = 256 + 9 * 64
    packs = packing(1, device="cuda", tokens=9000, fits=by_ranks(room))
    mixed = [{"rank": 64}] * 4 + [{"rank": 256}] + [{"rank": 64}] * 5
    assert packs.packs(mixed) == [list(range(10))]
    assert [len(pack) for pack in packs.packs([{"rank": 256}] * 10)] == [3, 3, 2, 2]
    # Even packs in the order of the points would have both large ones in one.
    two_large = [{"rank": rank} for rank in (256, 256, 64, 64)]
    assert packing(2, device="cuda", tokens=9000, fits=by_ranks(400)).packs(two_large) == [[0, 2], [1, 3]]
    assert packing(1, device="cuda", tokens=9000, fits=by_ranks(10)).packs(two_large) == [[0], [1], [2], [3]]


@hypothesis.given(
    st.lists(st.sampled_from([4, 8, 16, 32, 64, 128, 256]), max_size=40),
    st.integers(1, 9),
    st.sampled_from([1, 2, 8, MOST]),
    st.integers(1, 2000),
)
def test_any_block(ranks: list[int], processes: int, most: int, room: int) -> None:
    """Every point once, nothing above memory but what is alone, no process idle, full rounds, the same each time."""
    points = [{"rank": rank} for rank in ranks]
    fits = by_ranks(room)
    planner = Packing(processes, most, starved=True, fits=fits)
    packs = planner.packs(points)
    assert sorted(place for pack in packs for place in pack) == list(range(len(points)))
    assert all(len(pack) == 1 or fits([points[place] for place in pack]) for pack in packs)
    assert all(0 < len(pack) <= most for pack in packs)
    assert len(packs) >= min(processes, len(points))
    assert len(packs) % processes == 0 or len(packs) == len(points)
    assert planner.packs(points) == packs
    roomy = Packing(processes, most, starved=True, fits=by_ranks(10**9)).packs(points)
    assert roomy == Packing(processes, most, starved=True).packs(points)
    assert len(roomy) <= len(packs)
    numbers = planner.numbers(7, points)
    assert {number - 7 for number in numbers} == {pack[0] for pack in packs}


def test_a_block_whose_first_packs_stand_in_the_record_keeps_them() -> None:
    """Those of an earlier version may be others than are planned now."""
    packs = Packing(2, 4)
    assert packs.numbers(8, POINTS[:8]) == [8, 8, 8, 8, 12, 12, 12, 12]
    assert packs.numbers(8, POINTS[:8], [8, 8]) == [8, 8, 8, 8, 12, 12, 12, 12]
    assert packs.numbers(8, POINTS[:8], [8, 8, 10, 10]) == [8, 8, 10, 10, 12, 12, 14, 14]


def test_who_is_trained_at_once_where_trials_stop_early() -> None:
    """As many as fit whichever they are; one process's pack holds all. Before several processes the rest waits."""
    packs = Packing(1, MOST, starved=True, uneven=True, fits=by_ranks(320))
    points = [{"rank": rank} for rank in (64, 64, 256, 64, 64, 64, 64, 64)]
    assert packs.packs(points) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert packs.width(points[:4]) == 2
    assert packs.width(points[4:]) == 4
    assert packs.width([{"rank": 256}] * 3) == 1
    assert Packing(2, MOST, fits=by_ranks(320)).width(points) is None
    two = Packing(2, MOST, starved=True, uneven=True, fits=by_ranks(320))
    assert two.packs(points) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [two.width([points[place] for place in pack]) for pack in two.packs(points)] == [2, 2, 2, 2]
    assert two.fit_together(points[1:3])
    assert not two.fit_together(points[:3])
    assert replace(two, exact=True).fit_together(points), "packs of a size that was asked for are not looked at"


def test_the_block_where_nothing_says_otherwise() -> None:
    """As many as there are processes; a GPU gets a poll; packs that are asked for fill every process."""
    assert packing(2, device="cpu", tokens=2000).block_size == 2
    assert packing(2, device="cpu", tokens=40).block_size == 2, "a larger one costs the search"
    assert packing(1, device="cuda", tokens=2000).block_size == BLOCK
    assert packing(12, device="cuda", tokens=2000).block_size == 12
    assert packing(8, device="cuda", tokens=2000).block_size == 8
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


def test_devices_of_a_trial_are_groups_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,7")

    def groups(**section: int) -> list[str]:
        specs = process_specs(WorkerConfig(**section), "cuda")
        assert {spec.devices for spec in specs} == {section["devices_per_trial"]}
        return [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in specs]

    assert groups(devices_per_trial=2) == ["0,1", "2,3"]
    assert groups(devices_per_trial=2, processes=3) == ["0,1", "2,3", "0,1"]
    assert groups(devices_per_trial=5) == ["0,1,2,3,7"]
    with pytest.raises(InputError, match=r"devices_per_trial: a trial is to take 6 devices, and there are 5 GPUs: giv"):
        groups(devices_per_trial=6)
    with pytest.raises(InputError, match="there is 1 device of this kind: give at most 1"):
        process_specs(WorkerConfig(devices_per_trial=2), "mps")
    monkeypatch.setattr("meshtune.workers.planner.cores", lambda: 8)
    (one, other) = process_specs(WorkerConfig(devices_per_trial=2, processes=2), "cpu")
    assert (one.threads, one.devices) == (other.threads, other.devices) == (2, 2)
    nodes = Nodes(0, None, (5, 2), GIB)
    assert len(process_specs(WorkerConfig(devices_per_trial=2), "cpu", nodes=nodes)) == 3


def test_a_gpu_that_only_torch_sees_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ROCm, or in a container without nvidia-smi."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in process_specs(WorkerConfig(), "cuda")] == ["0"]
    assert len(process_specs(WorkerConfig(processes=2), "cuda")) == 2


def test_several_gpus_get_a_pack_each() -> None:
    """Of as many trials as speed gains by and memory holds, where the search is long enough for such blocks."""

    def block(gpus: int, gains: int, trials: float | None, usual: int = 64, uneven: bool = False) -> int:
        packs = packing(gpus, device="cuda", tokens=300, usual=usual, gains=gains, trials=trials, uneven=uneven)
        if not uneven:
            assert max(packs.sizes(packs.block_size)) <= usual
        return packs.block_size

    assert block(8, 4, 1000) == 32
    assert block(8, 4, 1000, usual=2) == 16
    assert block(8, 16, 240) == 40, "six blocks at least"
    assert block(8, 1, 1000) == 8, "nothing is gained"
    assert block(8, 16, None) == 8, "hours say nothing of trials"
    assert block(8, 16, 1000, uneven=True) == 8, "thresholds are fixed when a block is proposed"
    assert block(1, 16, 30) == 8
    assert block(1, 16, 1000) == 16
    assert Packing(8, 64, starved=True, usual=64, gains=4, block=100).sizes(32) == [4] * 8
