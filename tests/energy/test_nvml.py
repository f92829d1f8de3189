"""NVML meters against a pretended driver."""

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.energy import nvml
from engine.energy.nvml import NvmlCounterMeter, NvmlPowerMeter, NvmlReadings, uuid_of_cuda_device
from engine.energy.simulated import VirtualClock
from engine.errors import MeterError
from tests.energy.fake_nvml import UUID, FakeNvml


@pytest.fixture
def driver(monkeypatch, tmp_path):
    fake = FakeNvml()
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def one_line(error) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def test_counter_is_whole_microjoules(driver):
    clock = VirtualClock(3.0)
    meter = NvmlCounterMeter(UUID, clock=clock)
    driver.counter_mj = 2**53 + 1  # a float would lose the last millijoule
    reading = meter.read()
    assert reading.energy_uj == (2**53 + 1) * 1000
    assert reading.before_s == reading.after_s == 3.0
    assert (meter.name, meter.measured, meter.device) == ("nvml", True, "NVIDIA Pretend 9000")
    assert meter.sensor.period_s is None
    assert meter.sensor.resolution_uj == 1000
    assert meter.sensor.gain_error == 0.05
    assert meter.sensor.peak_w == 700.0


def test_uuid_without_prefix(driver):
    NvmlCounterMeter(UUID.removeprefix("GPU-"))


def test_close_ends_the_session_once(driver):
    meter = NvmlCounterMeter(UUID)
    assert driver.sessions == 1
    meter.close()
    meter.close()
    assert driver.sessions == 0
    with pytest.raises(MeterError, match="closed"):
        meter.read()


def test_close_survives_a_lost_gpu(driver):
    meter = NvmlCounterMeter(UUID)
    driver.errors["nvmlShutdown"] = driver.NVMLError("GPU is lost")
    meter.close()


def test_unknown_power_limit(driver):
    driver.limit_mw = None
    assert NvmlCounterMeter(UUID).sensor.peak_w is None


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError) as error:
        NvmlCounterMeter(UUID)
    assert "nvidia-ml-py" in one_line(error)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("NVMLError_LibraryNotFound", "no NVIDIA driver"),
        ("NVMLError_DriverNotLoaded", "not loaded"),
        ("NVMLError_NoPermission", "permission"),
        ("NVMLError", "something new"),
    ],
)
@pytest.mark.parametrize("where", ["Init", "DeviceGetHandleByUUID", "DeviceGetTotalEnergyConsumption"])
def test_every_error_becomes_one_line(driver, kind, words, where):
    driver.errors[f"nvml{where}"] = getattr(driver, kind)("something new\nand long")
    with pytest.raises(MeterError) as error:
        NvmlCounterMeter(UUID)
    assert words in one_line(error)
    assert driver.sessions == 0, "a meter that fails to open leaves no session behind"


def test_error_while_reading(driver):
    meter = NvmlCounterMeter(UUID)
    driver.errors["nvmlDeviceGetTotalEnergyConsumption"] = driver.NVMLError("GPU is lost")
    with pytest.raises(MeterError, match="GPU is lost"):
        meter.read()


@pytest.mark.parametrize("meter_type", [NvmlCounterMeter, NvmlPowerMeter])
def test_unknown_device(driver, meter_type):
    with pytest.raises(MeterError, match="no GPU with the UUID GPU-beef"):
        meter_type("beef")
    assert driver.sessions == 0


def test_no_counter_suggests_power(driver):
    driver.counter_mj = None
    with pytest.raises(MeterError, match="--energy-source nvml-power"):
        NvmlCounterMeter(UUID)
    assert driver.sessions == 0


@pytest.mark.parametrize("meter_type", [NvmlCounterMeter, NvmlPowerMeter])
def test_mig_is_refused(driver, meter_type):
    driver.mig = [1, 1]
    with pytest.raises(MeterError, match="MIG is enabled on NVIDIA Pretend 9000"):
        meter_type(UUID)
    driver.mig = [0, 1]  # pending only: the whole GPU is still one
    meter_type(UUID)


@pytest.mark.parametrize("uuid", ["MIG-slice", "slice"])
def test_mig_slice_is_refused_by_its_own_uuid(driver, uuid):
    driver.uuids.add("MIG-slice")
    with pytest.raises(MeterError, match="MIG is enabled on MIG-slice"):
        NvmlCounterMeter(uuid)


def test_a_new_power_counts_for_the_time_before_it(driver):
    clock = VirtualClock()
    meter = NvmlPowerMeter(UUID, clock=clock)
    assert meter.read().energy_uj == 0
    clock.sleep(0.5)
    driver.instant_mw = 300_000
    assert meter.read().energy_uj == 150_000_000  # 300 W x 0.5 s
    clock.sleep(0.25)
    assert meter.read().energy_uj == 225_000_000
    assert meter.name == "nvml-power"
    assert meter.note.startswith("instant power")


def test_fractions_of_a_microjoule_are_carried(driver):
    driver.instant_mw = 333  # 0.333 µJ a µs: rounding each read would give 0
    clock = VirtualClock()
    meter = NvmlPowerMeter(UUID, clock=clock)
    for microseconds in range(1, 10_001):
        clock.jump(microseconds * 1e-6)
        driver.instant_mw = 332 if microseconds % 2 else 334
        meter.read()
    assert meter.read().energy_uj == pytest.approx(3330, abs=1)


def test_the_integral_ticks_with_the_sensor_not_with_our_reads(driver):
    """Between two updates of the power nothing new is known; a steady power still advances, every 0.25 s."""
    clock = VirtualClock()
    meter = NvmlPowerMeter(UUID, clock=clock)
    changes = []
    last = meter.read().energy_uj
    for millisecond in range(1, 601):
        clock.jump(millisecond / 1000)
        driver.instant_mw = 100_000 + 50_000 * ((millisecond // 60) % 2 if millisecond < 300 else 1)
        now = meter.read().energy_uj
        if now != last:
            changes.append(millisecond)
        last = now
    assert changes == [60, 120, 180, 240, 300, 550]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.251, 2), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_power_integral_is_monotone_and_complete(steps):
    driver, clock = FakeNvml(), VirtualClock(1e6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pynvml", driver)
        meter = NvmlPowerMeter(UUID, clock=clock)
    exact_uj, last_uj = 0.0, 0
    for elapsed_s, power_mw in steps:
        before_s = clock()
        clock.sleep(elapsed_s)
        driver.instant_mw = power_mw
        energy_uj = meter.read().energy_uj
        assert energy_uj >= last_uj
        exact_uj += (clock() - before_s) * power_mw * 1000
        last_uj = energy_uj
    # Times are rounded to ns: 1 ns x 1 kW = 1 µJ a step.
    assert last_uj == pytest.approx(exact_uj, abs=2 + 2 * len(steps))


@pytest.mark.parametrize("instant_mw", [None, 0])
def test_power_falls_back_and_says_so(driver, instant_mw):
    driver.instant_mw = instant_mw
    clock = VirtualClock()
    meter = NvmlPowerMeter(UUID, clock=clock)
    clock.sleep(1.0)
    assert meter.read().energy_uj == 90_000_000
    assert "no instant power" in meter.note


def test_power_falls_back_where_fields_are_unknown(driver, monkeypatch):
    def unsupported(handle, fields):
        raise driver.NVMLError_FunctionNotFound("Function Not Found")

    monkeypatch.setattr(driver, "nvmlDeviceGetFieldValues", unsupported)
    clock = VirtualClock()
    meter = NvmlPowerMeter(UUID, clock=clock)
    clock.sleep(1.0)
    assert meter.read().energy_uj == 90_000_000


def test_no_power_at_all(driver):
    driver.instant_mw = driver.average_mw = None
    with pytest.raises(MeterError, match="no power"):
        NvmlPowerMeter(UUID)
    assert driver.sessions == 0


def test_instant_power_that_stops(driver):
    meter = NvmlPowerMeter(UUID)
    driver.instant_mw = None
    with pytest.raises(MeterError, match="stopped giving its instant power"):
        meter.read()


def test_readings_are_what_nvml_tells(driver):
    readings = NvmlReadings(UUID.removeprefix("GPU-"))
    assert (readings.name, readings.uuid, readings.driver) == ("NVIDIA Pretend 9000", UUID, "999.99")
    assert (readings.instant_w(), readings.draw_w(), readings.counter_j()) == (100.0, 90.0, 5.0)
    driver.instant_mw = driver.average_mw = driver.counter_mj = None
    assert (readings.instant_w(), readings.draw_w(), readings.counter_j()) == (None, None, None)
    driver.errors["nvmlDeviceGetPowerUsage"] = driver.NVMLError("GPU is lost")
    with pytest.raises(MeterError, match="GPU is lost"):
        readings.draw_w()
    readings.close()
    assert driver.sessions == 0


def test_a_driver_that_does_not_tell_its_version(driver):
    driver.errors["nvmlSystemGetDriverVersion"] = driver.NVMLError("no")
    assert NvmlReadings(UUID).driver == ""


def test_counter_wants_the_real_library_by_the_same_names():
    """The pretended driver proves nothing if the real module spells a name differently."""
    real = pytest.importorskip("pynvml")
    asked = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVMLError"))]
    asked += [name for name, _ in nvml._EXPLAINED]
    assert [name for name in asked if not hasattr(real, name)] == []
    assert real.NVML_FI_DEV_POWER_INSTANT == nvml.POWER_INSTANT_FIELD
    assert {name for name, _ in real.c_nvmlValue_t._fields_} == set(nvml._VALUE_MEMBER.values())


def fake_torch(monkeypatch, get_properties):
    cuda = SimpleNamespace(get_device_properties=get_properties)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize("told", [UUID, UUID.removeprefix("GPU-")])
def test_uuid_of_cuda_device(monkeypatch, told):
    fake_torch(monkeypatch, lambda index: SimpleNamespace(uuid=told))
    assert uuid_of_cuda_device(0) == UUID


@pytest.mark.parametrize("error", [AssertionError("Invalid device id"), RuntimeError("no CUDA\nat all")])
def test_uuid_of_a_device_that_is_not_there(monkeypatch, error):
    def get_properties(index):
        raise error

    fake_torch(monkeypatch, get_properties)
    with pytest.raises(MeterError) as raised:
        uuid_of_cuda_device(7)
    assert "CUDA device 7" in one_line(raised)


def test_uuid_unknown_to_an_old_torch(monkeypatch):
    fake_torch(monkeypatch, lambda index: SimpleNamespace(name="GPU"))
    with pytest.raises(MeterError, match="no UUID for CUDA device 0"):
        uuid_of_cuda_device(0)
