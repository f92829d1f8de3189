"""One check of something on the device: a record of its error beside what is allowed, or of how it failed."""

import math
from collections.abc import Callable

from bench.cuda.setting import Setting, arm_of, first_line
from bench.record import Case, Metric, Record, Value


class DeviceBroken(RuntimeError):
    """Nothing runs on the device any more in this process; what broke it is written down."""


def check(
    setting: Setting,
    phase: str,
    name: str,
    found: Callable[[], tuple[float, float]],
    note: str = "",
) -> None:
    """A record of (error, allowed), or of the failure's text. Raises `DeviceBroken`."""
    case = Case("kernel", True, phase, 1, 0)
    arm = arm_of(setting, "none", name, note)
    metrics: dict[str, Metric]
    derived: dict[str, Value] = {}
    failure: Exception | None = None
    try:
        error, allowed = found()
        if not math.isfinite(error):
            raise ValueError("the result has numbers that are not finite")
        metrics, derived = {"error": Metric("1", (error,))}, {"allowed": Value("1", allowed)}
        told = "ok" if error <= allowed else "WRONG"
        setting.say(f"{phase}: {name}: {told}, off by {error:.3g}, {allowed:.3g} is allowed")
    except Exception as error:
        metrics, failure = {"error": Metric("1", (), first_line(error))}, error
        setting.say(f"{phase}: {name}: FAILED: {first_line(error)}")
    setting.emit(Record(setting.benchmark, setting.where, arm, case, setting.group(phase), metrics, derived))
    if failure is not None and is_broken(setting):
        raise DeviceBroken(first_line(failure)) from failure


def is_broken(setting: Setting) -> bool:
    """Whether an error before, such as an illegal address, has taken the device from this process."""
    try:
        setting.synchronise()
    except Exception:
        return True
    return False
