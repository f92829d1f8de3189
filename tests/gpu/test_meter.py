"""NVML beside CUDA: the same device by its UUID, a counter that rises, power of a plausible size."""

import time

import pytest
import torch

from bench.cuda.overhead import counter
from bench.cuda.setting import FULL, Setting
from bench.stamp import stamp
from engine.energy import measure
from engine.energy.nvml import NvmlReadings, uuid_of_cuda_device


def test_nvml_names_the_device_that_torch_names() -> None:
    readings = NvmlReadings(uuid_of_cuda_device(0))
    try:
        assert readings.name == torch.cuda.get_device_name(0) and readings.driver
        power_w = readings.draw_w()
        assert power_w is not None and 5 < power_w < 2000
    finally:
        readings.close()


def test_work_takes_joules_that_the_counter_counts() -> None:
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    with measure("nvml", cuda_device=0) as window:
        window.skip()
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < 2.0:
            a @ a
            torch.cuda.synchronize()
        window.mark("work")
    phase = window.report.phases["work"]
    assert window.report.measured and phase.energy_j is not None
    assert 10 < phase.energy_j < 2 * 1500


def test_the_counter_ticks_and_joules_of_blocks_are_told() -> None:
    device = torch.device("cuda", 0)
    where = stamp("bench.gpu", [], device)
    setting = Setting("overhead", device, "gpu", FULL, where, "nvml", None, time.monotonic() + 60)
    with counter(setting) as ticked:
        first, second = ticked(), ticked()
    assert second > first
    assert where.clock_mhz is not None and where.versions["driver"] is not None


def test_a_uuid_of_no_device_is_refused() -> None:
    from engine.errors import MeterError

    with pytest.raises(MeterError, match="knows no GPU"):
        NvmlReadings("GPU-00000000-0000-0000-0000-000000000000")
