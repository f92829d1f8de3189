"""From the name of an energy source to an open meter. Knows every source, imports only the chosen one."""

import time

from engine.energy.meter import Clock, Meter
from engine.errors import MeterError, UsageError

SOURCES = ("auto", "nvml", "nvml-power", "rapl", "estimate", "simulated[:PROFILE]", "replay:FILE")


def check_source(source: str) -> tuple[str, str]:
    """(its name, its file or ""). Raises `UsageError` for a source that nobody knows; opens nothing."""
    name, colon, argument = source.partition(":")
    choices = [choice.partition(":")[0].partition("[")[0] for choice in SOURCES]
    if name not in choices or (colon and name not in ("simulated", "replay")):
        raise UsageError(f"unknown energy source {source!r}; choose one of {', '.join(SOURCES)}")
    if not argument and (colon or name == "replay"):
        raise UsageError(f"energy source {source!r} lacks its file; the choices are {', '.join(SOURCES)}")
    return name, argument


def open_meter(source: str, *, cuda_device: int | None, clock: Clock = time.monotonic) -> Meter:
    """Open `source` for a model on CUDA device `cuda_device` (torch's index), or on the CPU for None.

    `auto` is nvml for a CUDA device, otherwise rapl where it can be read, otherwise the estimate, whose
    note then says why. Raises `UsageError` for an unknown source or one that does not cover the device,
    `MeterError` for one that cannot be opened here.
    """
    name, argument = check_source(source)
    if name == "auto":
        return _open_auto(cuda_device, clock)
    if name in ("nvml", "nvml-power"):
        return _open_nvml(name, cuda_device, clock)
    if name == "rapl":
        return _open_rapl(cuda_device, clock)
    if name == "estimate":
        return _open_estimate(cuda_device, clock)
    if name == "simulated":
        from engine.energy.simulated import SimulatedMeter, load_profile

        return SimulatedMeter(load_profile(argument or "default"), clock=clock)
    from engine.energy.replay import ReplayMeter

    return ReplayMeter(argument, clock=clock)


def require_measured(meter: Meter) -> None:
    """Raise `MeterError` unless the joules are measured by hardware, on this machine, in this run."""
    if not meter.measured:
        raise MeterError(f"a measured energy source is required, {meter.name!r} is not one ({meter.note})")


def host_meter(meter: Meter) -> Meter | None:
    """RAPL beside a GPU's meter, where it can be read."""
    if not meter.name.startswith("nvml"):
        return None
    try:
        return open_meter("rapl", cuda_device=None)
    except MeterError:
        return None


def _open_auto(cuda_device: int | None, clock: Clock) -> Meter:
    if cuda_device is not None:
        return _open_nvml("nvml", cuda_device, clock)
    try:
        return _open_rapl(None, clock)
    except MeterError as reason:
        estimate = _open_estimate(None, clock)
        estimate.note += f"; rapl was not used: {reason}"
        return estimate


def _open_nvml(name: str, cuda_device: int | None, clock: Clock) -> Meter:
    if cuda_device is None:
        raise MeterError(f"energy source {name!r} measures a CUDA GPU, and the model runs on the CPU")
    from engine.energy.nvml import NvmlCounterMeter, NvmlPowerMeter, uuid_of_cuda_device

    uuid = uuid_of_cuda_device(cuda_device)
    return NvmlCounterMeter(uuid, clock=clock) if name == "nvml" else NvmlPowerMeter(uuid, clock=clock)


def _open_rapl(cuda_device: int | None, clock: Clock) -> Meter:
    if cuda_device is not None:
        raise UsageError(f"rapl measures CPUs, and the model runs on CUDA device {cuda_device}: use nvml")
    from engine.energy.rapl import RaplMeter

    return RaplMeter(clock=clock)


def _open_estimate(cuda_device: int | None, clock: Clock) -> Meter:
    if cuda_device is not None:
        raise UsageError(
            f"the estimate covers CPUs only in this version, and the model runs on CUDA device {cuda_device}"
        )
    from engine.energy.estimate import CpuEstimateMeter

    return CpuEstimateMeter(clock=clock)
