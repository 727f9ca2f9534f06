"""Energy out of counters: which are read, wraps and resets, what is missing, and what a study took over its runs."""

from pathlib import Path

import pytest

from meshtune.config import presets
from meshtune.config.sections import Interval
from meshtune.errors import InputError, MeshtuneError
from meshtune.plan import energy
from meshtune.plan.energy import Account, Counter, Meter
from meshtune.record.log import Record

RANGE = 1_000_000


def powercap(folder: Path, **joules: float) -> Path:
    """A folder as Linux has it, with these domains."""
    for number, (name, counted) in enumerate(joules.items()):
        domain = folder / f"intel-rapl:{number}"
        domain.mkdir(exist_ok=True)
        (domain / "name").write_text(name.replace("_", "-") + "\n")
        (domain / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (domain / "energy_uj").write_text(f"{round(counted * 1e6)}\n")
    return folder


def test_packages_and_memory_are_added_and_what_lies_in_them_is_not(tmp_path: Path) -> None:
    powercap(tmp_path, package_0=0.1, core=0.1, dram=0.2, psys=0.1)
    meter = energy.meter((), needed=True, powercap=tmp_path)
    assert meter is not None
    assert meter.joules() == 0
    powercap(tmp_path, package_0=0.3, core=0.2, dram=0.25, psys=0.9)
    assert meter.joules() == pytest.approx(0.25)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    powercap(tmp_path, package_0=0.9)
    meter = energy.meter((), needed=True, powercap=tmp_path)
    assert meter is not None
    for counted, total in ((0.1, 0.2), (0.95, 1.05), (0.0, 1.1)):
        powercap(tmp_path, package_0=counted)
        assert meter.joules() == pytest.approx(total)


def test_one_that_never_wraps_was_reset() -> None:
    counted = [500]
    meter = Meter([Counter("GPU 0", lambda: counted[0], 1e-3)])
    counted[0] = 200
    assert meter.joules() == pytest.approx(0.2)


def test_what_is_missing_is_said_where_it_is_needed(tmp_path: Path) -> None:
    assert energy.meter((), needed=False, powercap=tmp_path) is None
    with pytest.raises(InputError) as raised:
        energy.meter((), needed=True, powercap=tmp_path)
    (fault,) = raised.value.faults
    assert fault.key == "budget.kilowatt_hours"
    assert "no RAPL counters" in fault.message
    assert "`hours` or `tokens`" in fault.message


def test_a_gpu_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    powercap(tmp_path, package_0=0.1)
    assert energy.meter(("99",), needed=False, powercap=tmp_path) is None
    words = "the package that reads GPUs|NVIDIA's driver does not answer|GPU 99 has no energy counter"
    with pytest.raises(InputError, match=words):
        energy.meter(("99",), needed=True, powercap=tmp_path)


def test_a_domain_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    powercap(tmp_path, package_0=0.1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(InputError, match="intel-rapl:0"):
        energy.meter((), needed=True, powercap=tmp_path)


def test_a_counter_that_goes_away_ends_the_search_with_words(tmp_path: Path) -> None:
    meter = energy.meter((), needed=True, powercap=powercap(tmp_path, package_0=0.1))
    assert meter is not None
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(MeshtuneError, match="package-0 cannot be read any more"):
        meter.joules()


def test_a_counter_that_is_not_needed_may_go_away(tmp_path: Path) -> None:
    meter = energy.meter((), needed=False, powercap=powercap(tmp_path, package_0=0.1))
    assert meter is not None
    powercap(tmp_path, package_0=0.3)
    assert meter.joules() == pytest.approx(0.2)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules() == pytest.approx(0.2)
    assert meter.broken


def test_a_study_adds_up_what_its_runs_took(tmp_path: Path) -> None:
    space = presets.build({"x": Interval(low=-1, high=1)}, lora=False)
    counted = [0]
    for _ in range(2):
        record = Record(f"sqlite:///{tmp_path / 'study.db'}", "study", space, fixed={})
        account = Account(record, Meter([Counter("package-0", lambda: counted[0], 1.0)]))
        counted[0] += 30
        account.save()
    Account(record, None).save()
    note = Record(f"sqlite:///{tmp_path / 'study.db'}", "study").notes[energy.NOTE]
    assert note["joules"] == pytest.approx(60)
    assert note["seconds"] > 0
