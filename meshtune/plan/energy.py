"""The energy that a search takes, from counters that the machine keeps anyway: RAPL for its processors and memory
(Linux, under /sys/class/powercap), NVML for NVIDIA GPUs. They count whatever runs there; what has no counter (disks,
fans, losses of the power supply) is not in it, and nothing is estimated.

The counters of GPUs have not been read on a real one yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, MeshtuneError, extra
from meshtune.record.log import Record

POWERCAP = Path("/sys/class/powercap")
NOTE = "energy"
COUNTED = ("package-", "dram")  # RAPL domains that do not lie in one another


@dataclass(frozen=True)
class Counter:
    """A counter that only goes up: of `joules` each, and from 0 again after `wraps` of them (None: never)."""

    name: str
    read: Callable[[], int]
    joules: float
    wraps: int | None = None


class Meter:
    """Joules since it was made. Read it more often than a counter wraps, which takes minutes at least.

    Where a counter cannot be read any more it raises MeshtuneError if it is `needed`, else it stands still and is
    `broken`.
    """

    def __init__(self, counters: Sequence[Counter], *, needed: bool = True):
        self._counters, self._needed = counters, needed
        self.broken = False
        self._last = [_read(counter) for counter in counters]
        self._joules = 0.0

    def joules(self) -> float:
        """Up to now."""
        if not self.broken:
            try:
                self._read_all()
            except MeshtuneError:
                if self._needed:
                    raise
                self.broken = True
        return self._joules

    def _read_all(self) -> None:
        for index, counter in enumerate(self._counters):
            now = _read(counter)
            more = now - self._last[index]
            if more < 0:  # where it does not wrap it was reset
                more = now if counter.wraps is None else more + counter.wraps
            self._last[index] = now
            self._joules += more * counter.joules


def _read(counter: Counter) -> int:
    try:
        return counter.read()
    except OSError as error:
        what = f"the energy counter of {counter.name} cannot be read any more ({error}). Everything finished is saved"
        raise MeshtuneError(f"{what}; without `budget.kilowatt_hours` the study goes on") from error


def meter(gpus: Sequence[str], *, needed: bool, powercap: Path = POWERCAP) -> Meter | None:
    """A meter of this machine's processors and of GPUs, by their numbers or UUIDs as CUDA_VISIBLE_DEVICES has them.

    None where one of them cannot be read. Raises InputError, with all that is missing, where it is `needed`.
    """
    counters, missing = _of_processors(powercap)
    if gpus:
        of_gpus, also = _of_gpus(gpus)
        counters, missing = [*counters, *of_gpus], [*missing, *also]
    if not missing:
        return Meter(counters, needed=needed)
    if needed:
        text = "the energy of this machine cannot be read: {}; set a limit in `hours` or `tokens` in place of it"
        raise InputError([Fault(text.format(what), key="budget.kilowatt_hours") for what in missing])
    return None


def _of_processors(powercap: Path) -> tuple[list[Counter], list[str]]:
    counters, missing = [], []
    for domain in sorted(powercap.glob("intel-rapl:*")):  # AMD's have this name too
        try:
            name = (domain / "name").read_text(encoding="ascii").strip()
            if not name.startswith(COUNTED):
                continue
            wraps = int((domain / "max_energy_range_uj").read_text(encoding="ascii"))
            counters.append(Counter(name, _file(domain / "energy_uj"), 1e-6, wraps))
            counters[-1].read()
        except PermissionError:
            path = domain / "energy_uj"
            missing.append(f"{path} may be read by root alone (`sudo chmod a+r {path}` lets you)")
        except (OSError, ValueError) as error:
            missing.append(f"{domain}: {error}")
    if not counters and not missing:
        missing.append(f"there are no RAPL counters under {powercap} (Linux has them; many virtual machines do not)")
    return counters, missing


def _file(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text(encoding="ascii"))


def _of_gpus(names: Sequence[str]) -> tuple[list[Counter], list[str]]:
    try:
        import pynvml
    except ImportError:
        return [], [f"the package that reads GPUs is not installed: {extra('energy')}"]
    counters: list[Counter] = []
    missing = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], [f"NVIDIA's driver does not answer ({error})"]
    for name in dict.fromkeys(names):
        try:
            by_number = name.isdigit()
            of = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
            counters.append(Counter(f"GPU {name}", _gpu(pynvml, of(int(name) if by_number else name)), 1e-3))
            counters[-1].read()
        except (pynvml.NVMLError, OSError) as error:
            missing.append(f"GPU {name} has no energy counter ({error})")
    return counters, missing


def _gpu(pynvml: Any, handle: Any) -> Callable[[], int]:
    def read() -> int:
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    return read


class Account:
    """A study's energy over all its runs: what its record says, and what a meter has counted since.

    Without a meter it stays as it is. `seconds` go with `joules` in the record, so that both say whether all of the
    study was metered.
    """

    def __init__(self, record: Record, meter: Meter | None):
        self._record, self._meter = record, meter
        self._begun = time.monotonic()
        self._before: dict[str, float] = record.notes.get(NOTE) or {"joules": 0.0, "seconds": 0.0}

    def joules(self) -> float:
        """Up to now."""
        return self._before["joules"] + (0.0 if self._meter is None else self._meter.joules())

    def save(self) -> None:
        """Make it durable."""
        joules = self.joules()
        if self._meter is not None and not self._meter.broken:
            seconds = self._before["seconds"] + time.monotonic() - self._begun
            self._record.note(NOTE, {"joules": joules, "seconds": seconds})
