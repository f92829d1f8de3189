"""GPU energy through NVML: the driver's own counter, or its instant power integrated by us.

Owns the library handle of one GPU. `pynvml` (package nvidia-ml-py) and torch are imported when a meter
is opened, never before. Every NVML error leaves this module as a `MeterError` of one line.
"""

import importlib
import os
import sys
import time
from contextlib import suppress
from typing import Any

from engine.energy.meter import Clock, Reading, Sensor
from engine.energy.sensor_profile import counter_sensor, find_profile, power_sensor
from engine.errors import MeterError

# Against an external meter the boards' own figures were off by about 5 % (A100 -5.8 %, RTX 3090 -5.6 %,
# RTX 4090 -5.3 %): arXiv 2312.02741. Software cannot remove it.
GAIN_ERROR = 0.05

POWER_INSTANT_FIELD = 186  # NVML_FI_DEV_POWER_INSTANT, mW
SM_CLOCK, MEMORY_CLOCK = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_VALUE_MEMBER = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}

_EXPLAINED = (
    ("NVMLError_LibraryNotFound", "this machine has no NVIDIA driver (libnvidia-ml was not found)"),
    ("NVMLError_DriverNotLoaded", "the NVIDIA driver is not loaded"),
    ("NVMLError_LibRmVersionMismatch", "the NVIDIA driver was updated while loaded: reboot or reload it"),
    ("NVMLError_NoPermission", "no permission to read this GPU; ask its administrator"),
    ("NVMLError_GpuIsLost", "the GPU can no longer be reached"),
)


def uuid_of_cuda_device(index: int) -> str:
    """NVML's name (`GPU-…`) of CUDA device `index`: the two count devices in different orders.

    Raises `MeterError` where torch has no such device or does not tell its UUID.
    """
    try:
        torch = importlib.import_module("torch")
        uuid = str(torch.cuda.get_device_properties(index).uuid)
    except (ImportError, AssertionError, AttributeError, RuntimeError) as error:
        raise MeterError(f"torch gives no UUID for CUDA device {index}: {_first_line(error)}") from error
    return _with_prefix(uuid)


class NvmlCounterMeter:
    """The driver's energy counter, `nvmlDeviceGetTotalEnergyConsumption`: mJ since the driver was loaded.

    It covers the whole board, every process on it included, and needs a Volta GPU or newer. How often it
    changes is not documented (10 to 106 ms were seen), so the period is left to characterisation.
    `uuid` may lack the prefix `GPU-`. Raises `MeterError` when the GPU cannot be opened.
    """

    name = "nvml"
    measured = True

    def __init__(self, uuid: str, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._gpu = _Gpu(uuid)
        self.device = self._gpu.name
        self.sensor = Sensor(
            period_s=None,
            lag_s=None,
            window_s=None,
            resolution_uj=1000,
            gain_error=GAIN_ERROR,
            peak_w=self._gpu.power_limit_w,
        )
        profile, self.note = find_profile(self._gpu.uuid, self._gpu.driver(), "counter")
        if profile is not None:
            self.sensor = counter_sensor(profile, self.sensor)
        try:
            self.read()
        except MeterError:
            self.close()
            raise

    def read(self) -> Reading:
        """The counter now, in µJ. Raises `MeterError` when NVML refuses it."""
        before_s = self._clock()
        energy_mj = self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption", unsupported=_NO_COUNTER)
        return Reading(before_s, self._clock(), int(energy_mj) * 1000)

    def other_processes(self) -> tuple[int, ...]:
        """Processes that have work on the GPU now, this one left out. Raises `MeterError` when NVML fails."""
        return self._gpu.other_processes()

    def close(self) -> None:
        self._gpu.close()


class NvmlPowerMeter:
    """Instant power (field 186) integrated over this meter's own reads.

    The integral advances when the power that NVML gives has changed, or after 0.25 s of the same power: the
    sensor's own updates are the ticks, not our reads, between which nothing new is known. A reading tells of
    the time before it, so that a new power counts for the time since the last advance. It starts at 0 when
    the meter is opened.
    Where the GPU has no instant power, `nvmlDeviceGetPowerUsage` takes its place and `note` says so.
    Raises `MeterError` when the GPU cannot be opened.
    """

    name = "nvml-power"
    measured = True

    def __init__(self, uuid: str, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._gpu = _Gpu(uuid)
        self.device = self._gpu.name
        self.sensor = Sensor(
            period_s=None,
            lag_s=None,
            window_s=None,
            gain_error=GAIN_ERROR,
            peak_w=self._gpu.power_limit_w,
        )
        self._time_ns = 0
        self._integral = 0  # in picojoules (mW x ns): whole numbers, nothing is ever rounded away
        try:
            self._instant = bool(self._gpu.instant_mw())
            self._power_mw = self._read_mw()
        except MeterError:
            self.close()
            raise
        self._time_ns = _nanoseconds(self._clock())
        self.note = (
            "instant power integrated between polls; the sensor may see only part of the time "
            "(25 ms of every 100 ms on A100 and H100, arXiv 2312.02741)"
            if self._instant
            else "this GPU has no instant power: power.draw, maybe a 1 s average, integrated between polls"
        )
        channel = "instant" if self._instant else "draw"
        profile, remark = find_profile(self._gpu.uuid, self._gpu.driver(), channel)
        if profile is not None:
            self.sensor = power_sensor(profile, self.sensor)
        self.note += f"; {remark}"

    def read(self) -> Reading:
        """The integral now, in µJ since opening. Raises `MeterError` when NVML gives no power."""
        before_s = self._clock()
        power_mw = self._read_mw()
        after_s = self._clock()
        time_ns = _nanoseconds((before_s + after_s) / 2)
        if power_mw == self._power_mw and time_ns - self._time_ns < _HOLD_NS:
            return Reading(before_s, after_s, self._integral // 1_000_000)
        self._integral += power_mw * max(time_ns - self._time_ns, 0)
        self._power_mw, self._time_ns = power_mw, max(time_ns, self._time_ns)
        return Reading(before_s, after_s, self._integral // 1_000_000)

    def other_processes(self) -> tuple[int, ...]:
        """Processes that have work on the GPU now, this one left out. Raises `MeterError` when NVML fails."""
        return self._gpu.other_processes()

    def close(self) -> None:
        self._gpu.close()

    def _read_mw(self) -> int:
        if not self._instant:
            return int(self._gpu.ask("nvmlDeviceGetPowerUsage", unsupported="this GPU reports no power"))
        power_mw = self._gpu.instant_mw()
        if power_mw is None:
            raise MeterError(f"{self.device} stopped giving its instant power")
        return power_mw


class NvmlReadings:
    """What NVML tells of one GPU, as it tells it: for characterising the sensor, not for accounts.

    `name`, `uuid`, `driver` as NVML gives them, the driver "" where it does not. Raises `MeterError` when
    the GPU cannot be opened, and from every reading when NVML fails.
    """

    def __init__(self, uuid: str) -> None:
        self._gpu = _Gpu(uuid)
        self.name, self.uuid = self._gpu.name, self._gpu.uuid
        self.driver = self._gpu.driver()

    def instant_w(self) -> float | None:
        """Instant power (field 186); None where there is none."""
        power_mw = self._gpu.instant_mw()
        return None if power_mw is None else power_mw / 1000

    def draw_w(self) -> float | None:
        """`nvmlDeviceGetPowerUsage`, on some GPUs an average over 1 s; None where there is none."""
        power_mw = self._gpu.ask("nvmlDeviceGetPowerUsage", unsupported=None)
        return None if power_mw is None else power_mw / 1000

    def counter_j(self) -> float | None:
        """The driver's energy counter; None where there is none."""
        energy_mj = self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption", unsupported=None)
        return None if energy_mj is None else energy_mj / 1000

    def utilisation(self) -> tuple[float, float] | None:
        """Shares of the driver's last sample period (1/6 to 1 s) in which a kernel ran, and in which the
        memory was read or written; None where it does not tell. One busy multiprocessor counts as all.
        """
        rates = self._gpu.ask("nvmlDeviceGetUtilizationRates", unsupported=None)
        return None if rates is None else (rates.gpu / 100, rates.memory / 100)

    def clocks_hz(self) -> tuple[float, float] | None:
        """Of the multiprocessors and of the memory, now; None where they are not told."""
        found = [
            self._gpu.ask("nvmlDeviceGetClockInfo", kind, unsupported=None)
            for kind in (SM_CLOCK, MEMORY_CLOCK)
        ]
        return None if None in found else (found[0] * 1e6, found[1] * 1e6)

    def other_processes(self) -> tuple[int, ...]:
        """Processes that have work on the GPU now, this one left out. Raises `MeterError` when NVML fails."""
        return self._gpu.other_processes()

    def close(self) -> None:
        self._gpu.close()


# A steady load may show the same power for long. Updates come every 100 ms, on the A100 every 101.2: an
# integral that moved after 100 ms of the same power would leave the next update a millisecond to stand for.
_HOLD_NS = 250_000_000
_NO_COUNTER = "this GPU has no energy counter (Volta and newer have one): use --energy-source nvml-power"


class _Gpu:
    """One GPU opened by UUID: the NVML session, its handle, its name and its power limit."""

    def __init__(self, uuid: str) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise MeterError("NVML needs a Python package: pip install nvidia-ml-py") from error
        self._handle: Any = None
        self.uuid = _with_prefix(uuid)
        self._call("start", self._nvml.nvmlInit)
        self._open = True
        try:
            self._handle = self._find(uuid)
            self.name = str(self.ask("nvmlDeviceGetName", unsupported="this GPU does not tell its name"))
            mig_mode = self.ask("nvmlDeviceGetMigMode", unsupported=None)
            if mig_mode is not None and mig_mode[0] == 1:
                raise MeterError(_mig_refusal(self.name))
            limit_mw = self.ask("nvmlDeviceGetEnforcedPowerLimit", unsupported=None)
            self.power_limit_w = limit_mw / 1000 if limit_mw else None
        except BaseException:
            self.close()
            raise

    def ask(self, function: str, *arguments: Any, unsupported: str | None) -> Any:
        """`function(handle, *arguments)`; where it is missing: `MeterError(unsupported)`, None for None."""
        if not self._open:
            raise MeterError("the NVML meter is closed")
        try:
            call = getattr(self._nvml, function, None)  # an old pynvml lacks the newer ones
            if call is None:
                raise _UnsupportedError(f"this version of nvidia-ml-py has no {function}")
            return self._call(function, call, self._handle, *arguments)
        except _UnsupportedError as error:
            if unsupported is None:
                return None
            raise MeterError(unsupported) from error

    def instant_mw(self) -> int | None:
        """Field 186 in mW, or None where this GPU or driver does not have it."""
        fields = self.ask("nvmlDeviceGetFieldValues", [POWER_INSTANT_FIELD], unsupported=None)
        if fields is None or fields[0].nvmlReturn != 0 or fields[0].valueType not in _VALUE_MEMBER:
            return None
        return int(getattr(fields[0].value, _VALUE_MEMBER[fields[0].valueType]))

    def other_processes(self) -> tuple[int, ...]:
        """Numbers of the processes with work on the GPU, without ours; none where NVML does not tell them.

        In a container NVML may number processes as the host does. Ours is then not in the list by its number,
        but has a context if torch made one: one of the list is left out for it.
        """
        listed = self.ask("nvmlDeviceGetComputeRunningProcesses", unsupported=None) or ()
        numbers = sorted({int(process.pid) for process in listed})
        if os.getpid() in numbers:
            numbers.remove(os.getpid())
        elif numbers and _torch_has_context():
            numbers.pop()
        return tuple(numbers)

    def driver(self) -> str:
        """The driver's version, "" where it is not told."""
        version = getattr(self._nvml, "nvmlSystemGetDriverVersion", None)
        try:
            return str(self._call("tell its version", version)) if version else ""
        except MeterError:
            return ""

    def close(self) -> None:
        if self._open:
            self._open = False
            with suppress(MeterError):  # a lost GPU cannot be closed, and nothing more is wanted of it
                self._call("shut down", self._nvml.nvmlShutdown)

    def _find(self, uuid: str) -> Any:
        full = _with_prefix(uuid)
        if full.startswith("MIG-"):
            raise MeterError(_mig_refusal(full))
        lost = (self._nvml.NVMLError_NotFound, self._nvml.NVMLError_InvalidArgument)
        try:
            return self._call("open the GPU", self._nvml.nvmlDeviceGetHandleByUUID, full, passing=lost)
        except lost:
            pass
        try:  # CUDA names a MIG slice by a UUID of its own, which torch gives without its prefix
            slice_uuid = full.replace("GPU-", "MIG-", 1)
            self._call("open the GPU", self._nvml.nvmlDeviceGetHandleByUUID, slice_uuid, passing=lost)
        except lost:
            raise MeterError(f"NVML knows no GPU with the UUID {full}") from None
        raise MeterError(_mig_refusal(slice_uuid))

    def _call(
        self, doing: str, function: Any, *arguments: Any, passing: tuple[type[Exception], ...] = ()
    ) -> Any:
        """`function(*arguments)`; errors of the kinds in `passing` stay as they are."""
        nvml = self._nvml
        try:
            return function(*arguments)
        except passing:
            raise
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound) as error:
            raise _UnsupportedError(f"NVML cannot {doing}: {error}") from error
        except nvml.NVMLError as error:
            for name, line in _EXPLAINED:
                kind = getattr(nvml, name, None)
                if kind is not None and isinstance(error, kind):
                    raise MeterError(f"NVML: {line}") from error
            raise MeterError(f"NVML failed ({doing}): {_first_line(error)}") from error


class _UnsupportedError(MeterError):
    """This GPU or this driver does not have what was asked for."""


def _mig_refusal(device: str) -> str:
    return f"MIG is enabled on {device}: NVML's energy is the whole GPU's, not one slice's, so it is refused"


def _torch_has_context() -> bool:
    """Whether this process has a context on a GPU; asked of torch only where it is loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _with_prefix(uuid: str) -> str:
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _nanoseconds(time_s: float) -> int:
    return round(time_s * 1e9)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
