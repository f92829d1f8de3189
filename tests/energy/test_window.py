"""`measure()` around somebody else's code."""

import time

import pytest

from engine.energy import Window, measure
from engine.energy.simulated import SimulatedMeter, SimulatedProfile
from engine.errors import MeterError, UsageError


def burn(seconds: float) -> None:
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


def test_steps_of_foreign_code_get_their_joules() -> None:
    with measure("estimate") as window:
        burn(0.05)
        window.mark("prefill", tokens=7)
        for _ in range(3):
            burn(0.02)
            window.mark("decode")
        burn(0.04)
    report = window.report
    assert report.source == "estimate"
    assert not report.measured
    # 4 W for busy time; other threads of this process may add a little
    assert report.phases["prefill"].energy_j == pytest.approx(0.2, rel=0.2)
    assert report.phases["decode"].energy_j == pytest.approx(0.24, rel=0.2)
    assert report.phases["prefill"].tokens == 7
    assert report.phases["decode"].tokens == 3
    assert report.unattributed_j == pytest.approx(0.16, rel=0.2)
    assert len(report.rows[0].by_forward) == 4


def test_skipped_stretches_are_nobodys() -> None:
    with measure("estimate") as window:
        burn(0.05)
        window.skip()
        burn(0.02)
        window.mark("decode")
    assert window.report.phases["decode"].energy_j == pytest.approx(0.08, rel=0.25)
    assert window.report.unattributed_j == pytest.approx(0.2, rel=0.25)


def test_a_ticking_meter_is_waited_for() -> None:
    meter = SimulatedMeter(SimulatedProfile(period_s=0.02, lag_s=0.005, window_s=0.005, decode_w=100))
    with measure(meter=meter) as window:
        time.sleep(0.1)
        window.mark("decode")
    report = window.report
    assert report.complete
    assert report.source == "simulated"
    assert report.phases["decode"].energy_j == pytest.approx(10, rel=0.5)


def test_the_report_survives_an_exception_inside() -> None:
    def fail_inside() -> None:
        nonlocal window
        with measure("estimate") as window:
            window.mark("decode")
            raise ZeroDivisionError

    window: Window | None = None
    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert window is not None
    assert window.report.phases["decode"].tokens == 1


def test_the_report_is_not_there_early() -> None:
    with measure("estimate") as window, pytest.raises(ValueError, match="when the window closes"):
        _ = window.report


def test_sources_are_checked_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="unknown energy source"), measure("sun"):
        pytest.fail("never reached")
    with (
        pytest.raises(MeterError, match="measured energy source is required"),
        measure("estimate", require_measured_energy=True),
    ):
        pytest.fail("never reached")
