"""A meter that is off: the baseline of what metering costs."""

import time
from dataclasses import dataclass, field

from engine.energy.meter import Reading, Sensor


@dataclass
class NoMeter:
    """Reads nothing: the baseline of an engine whose meter is off. Its joules are never shown."""

    name: str = "off"
    measured: bool = False
    device: str = "none"
    note: str = "the meter is off"
    sensor: Sensor = field(default_factory=Sensor)

    def read(self) -> Reading:
        now_s = time.monotonic()
        return Reading(now_s, now_s, int(now_s * 1e6))

    def close(self) -> None:
        """Nothing is held."""
