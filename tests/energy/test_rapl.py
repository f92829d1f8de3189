"""RAPL counters in a pretended powercap tree."""

import os

import pytest

from engine.energy.rapl import RaplMeter
from engine.energy.simulated import VirtualClock
from engine.errors import MeterError

RANGE_UJ = 262_143_328_850


def add_zone(root, name, label, energy_uj, range_uj=RANGE_UJ):
    zone = root / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{label}\n")
    (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    return zone / "energy_uj"


def test_packages_are_summed_and_nothing_else_is(tmp_path):
    first = add_zone(tmp_path, "intel-rapl:0", "package-0", 1_000)
    second = add_zone(tmp_path, "intel-rapl:1", "package-1-die-0", 70_000)
    others = [
        add_zone(tmp_path, "intel-rapl:2", "psys", 5),
        add_zone(tmp_path, "intel-rapl:0:0", "core", 5),
        add_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5),
    ]
    (tmp_path / "intel-rapl").mkdir()
    meter = RaplMeter(tmp_path)
    assert meter.read().energy_uj == 0
    for other in others:
        other.write_text("999999\n")
    first.write_text("1500\n")
    second.write_text("70007\n")
    assert meter.read().energy_uj == 507
    assert (meter.name, meter.measured, meter.device) == ("rapl", True, "2 CPU packages")
    assert meter.sensor.gain_error is None
    meter.close()


def test_wraparound(tmp_path):
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 300)
    clock = VirtualClock()
    meter = RaplMeter(tmp_path, clock=clock)
    for raw_uj, expected_uj in ((RANGE_UJ - 100, 200), (50, 350), (60, 360)):
        clock.sleep(0.1)
        counter.write_text(str(raw_uj))
        assert meter.read().energy_uj == expected_uj
    meter.close()


def test_reset_is_not_taken_for_a_wrap(tmp_path):
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    clock = VirtualClock()
    meter = RaplMeter(tmp_path, clock=clock)
    clock.sleep(1000.0)
    meter.read()
    clock.sleep(0.1)
    counter.write_text("0")  # a wrap would mean 2.6 MW
    with pytest.raises(MeterError, match="intel-rapl:0 was reset"):
        meter.read()
    meter.close()


def test_no_permission_says_what_to_do(tmp_path, monkeypatch):
    add_zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("engine.energy.rapl.os.open", refuse)  # root may read anything, modes prove nothing
    with pytest.raises(MeterError, match=r"sudo chmod a\+r .*energy_uj") as error:
        RaplMeter(tmp_path)
    assert "\n" not in str(error.value)


def test_files_are_not_leaked_when_a_later_package_fails(tmp_path):
    add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    add_zone(tmp_path, "intel-rapl:1", "package-1", "bogus")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MeterError, match="intel-rapl:1 holds"):
        RaplMeter(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("present", [False, True])
def test_no_packages(tmp_path, present):
    if present:
        add_zone(tmp_path, "intel-rapl:0", "psys", 0)
    with pytest.raises(MeterError, match="no RAPL package counters"):
        RaplMeter(tmp_path / "" if present else tmp_path / "missing")


def test_half_a_zone(tmp_path):
    add_zone(tmp_path, "intel-rapl:0", "package-0", 0).unlink()
    with pytest.raises(MeterError, match="cannot read the RAPL counters"):
        RaplMeter(tmp_path)


def test_counter_that_turns_to_rubbish(tmp_path):
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path)
    counter.write_text("")
    with pytest.raises(MeterError, match="not a number"):
        meter.read()
    meter.close()


def test_closed(tmp_path):
    add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path)
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match="closed"):
        meter.read()
