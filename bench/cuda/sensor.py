"""The power sensor in its shortest useful form: period, window, lag; counter against power; idle power.

The recording is kept beside the records (`sensor.npz`), so that everything can be worked out anew later; the
profiles where meters find them, which the parts after this one start from.
"""

import numpy as np

from bench.characterise import Characterisation, characterise
from bench.cuda.setting import Setting, arm_of
from bench.record import Case, Metric, Record, Value
from bench.sensor import keep_profiles, report
from bench.sensor_live import IDLE_S, record_gpu
from engine.energy.power_recording import PowerRecording
from engine.errors import TokenjouleError

# Of a characterisation's figures: name there, unit here, factor.
FIGURES = {
    "period_ms": ("s", 1e-3),
    "window_ms": ("s", 1e-3),
    "lag_ms": ("s", 1e-3),
    "tau_ms": ("s", 1e-3),
    "duty": ("1", 1.0),
    "resolution_w": ("W", 1.0),
    "rmse_w": ("W", 1.0),
    "noise_w": ("W", 1.0),
}
# Here, with the clock running; the rest can be fitted from the recording on any machine.
FITTED = ("counter", "instant")
SETTLED_S = 1.0  # of the idle time before the load, what comes first may be the end of a process before


def run(setting: Setting) -> None:
    """Record once, then each channel by itself: one that cannot be fitted costs the other nothing."""
    path = None if setting.out is None else setting.out.with_name("sensor.npz")
    recording = record_gpu(setting.cuda_device or 0, path, wave_s=setting.scale.waves_s)
    _compare(setting, recording)
    for channel in (name for name in FITTED if name in recording.channels):
        case = Case("sensor", True, channel, 1, 0)
        arm = arm_of(setting, "none", channel, recording.driver)
        try:
            found = characterise(recording, channel, None)
        except Exception as error:
            setting.failed(arm, case, error, "characterise")
            continue
        setting.say("\n" + report(found))
        _emit(setting, found)
        try:
            keep_profiles([found])
        except (TokenjouleError, ValueError) as error:  # the other channel is still worth knowing
            setting.say(f"channel {channel}: no profile was kept: {error}")


def _emit(setting: Setting, found: Characterisation) -> None:
    derived = {}
    for name, (unit, factor) in FIGURES.items():
        value = found.figures.get(name)
        reason = found.missing.get(name) or found.reason or "not told"
        derived[name.rsplit("_", 1)[0] if name != "duty" else name] = (
            Value(unit, None, reason=reason) if value is None else Value(unit, value * factor)
        )
    updates = 0 if found.updates is None else len(found.updates.times_s)
    arm = arm_of(setting, "none", found.channel, f"identifiable: {found.identifiable}")
    metric = Metric("1", (float(updates),))
    case = Case("sensor", True, found.channel, 1, 0)
    setting.emit(
        Record(
            setting.benchmark,
            setting.where,
            arm,
            case,
            setting.group("characterise"),
            {"updates": metric},
            derived,
        )
    )


def _compare(setting: Setting, recording: PowerRecording) -> None:
    """Joules of the whole recording by counter and by instant power, and what the idle device draws."""
    arm, group = arm_of(setting, "none", "counter and power", recording.driver), setting.group("compare")
    case = Case("sensor", True, "compare", 1, 0)
    channels = recording.channels
    power = next((channels[name] for name in ("instant", "draw") if name in channels), None)
    derived = {}
    if power is None:
        derived["idle"] = Value("W", None, reason="this GPU tells no power")
    else:
        times_s, watts = power
        idle = watts[(times_s > SETTLED_S) & (times_s < IDLE_S)]
        derived["idle"] = (
            Value("W", float(np.median(idle)), source="instant power before the load", measured=True)
            if len(idle)
            else Value("W", None, reason="no reading fell into the idle time before the load")
        )
    if power is not None and "counter" in channels:
        at_s, joules = channels["counter"]
        times_s, watts = power
        inside = (times_s >= at_s[0]) & (times_s <= at_s[-1])
        means_w = (watts[inside][1:] + watts[inside][:-1]) / 2
        integral = float(np.sum(means_w * np.diff(times_s[inside])))
        counted = float(joules[-1] - joules[0])
        derived |= {
            "counter": Value("J", counted, source="nvml counter", measured=True),
            "integral": Value("J", integral, source="instant power, trapezoids", measured=True),
            "counter_over_power": Value("1", counted / integral, source="joules of the recording"),
        }
        setting.say(
            f"counter {counted:.1f} J, instant power {integral:.1f} J over {at_s[-1] - at_s[0]:.0f} s"
        )
    else:
        derived["counter_over_power"] = Value("1", None, reason="one of the two is missing")
    metrics = {"span_s": Metric("s", (float(max(times[-1] for times, _ in channels.values())),))}
    setting.emit(Record(setting.benchmark, setting.where, arm, case, group, metrics, derived))
