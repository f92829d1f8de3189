"""CPU energy from the kernel's powercap tree: the sum of the package counters (RAPL).

Intel CPUs and, under the same names, AMD CPUs. The packages' counters include their cores and caches,
not the memory modules nor the rest of the machine, and everything that runs on the machine.
"""

import os
import time
from pathlib import Path

from engine.energy.meter import MICROJOULES_PER_JOULE, Clock, Reading, Sensor
from engine.errors import MeterError

POWERCAP = Path("/sys/class/powercap")

# "The energy status registers are updated about every millisecond", Intel SDM vol. 3B, RAPL domains.
_PERIOD_S = 0.001
_RESOLUTION_UJ = 61  # 2^-14 J, the usual unit of Intel CPUs; AMD counts in 2^-16 J
# A counter that falls has wrapped round or was reset (suspend); no package draws this much, so an
# increase that would need it tells the two apart.
_IMPLAUSIBLE_W = 2000.0


class RaplMeter:
    """Energy of all CPU packages since the meter was opened.

    `root` holds the powercap zones; only `intel-rapl:N` named `package…` are read, so that nothing is
    counted twice in a sub-zone, the platform zone (psys) or the memory-mapped copy. The meter must be
    read at least once per wrap of the counter: 262 kJ on most CPUs, 40 minutes at 100 W.
    Raises `MeterError` where there are no packages or they may not be read.
    """

    name = "rapl"
    measured = True

    def __init__(self, root: Path = POWERCAP, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._packages: list[_Package] = []
        try:
            for zone in sorted(root.glob("intel-rapl:*")):
                if (zone / "name").read_text().startswith("package"):
                    self._packages.append(_Package(zone))
            if not self._packages:
                raise MeterError(f"no RAPL package counters in {root}: this CPU or kernel has none")
            opened_s = self._clock()
            for package in self._packages:
                package.advance(opened_s)
        except PermissionError as error:
            self.close()
            raise MeterError(
                f"no permission to read the RAPL counters; until the next boot: "
                f"sudo chmod a+r {root}/intel-rapl:*/energy_uj"
            ) from error
        except OSError as error:
            self.close()
            raise MeterError(f"cannot read the RAPL counters: {error}") from error
        except MeterError:
            self.close()
            raise
        count = len(self._packages)
        self.device = f"{count} CPU package{'s' if count > 1 else ''}"
        self.note = "CPU packages, all processes included; memory modules are not"
        self.sensor = Sensor(period_s=_PERIOD_S, resolution_uj=_RESOLUTION_UJ)

    def read(self) -> Reading:
        """µJ since opening, summed over the packages. Raises `MeterError` when a counter cannot be read."""
        if not self._packages:
            raise MeterError("the RAPL meter is closed")
        before_s = self._clock()
        try:
            energy_uj = sum(package.advance(before_s) for package in self._packages)
        except OSError as error:
            raise MeterError(f"cannot read the RAPL counters: {error}") from error
        return Reading(before_s, self._clock(), energy_uj)

    def close(self) -> None:
        for package in self._packages:
            os.close(package.file)
        self._packages = []


class _Package:
    """One counter, unwrapped: `advance` gives its µJ since the first call."""

    def __init__(self, zone: Path) -> None:
        self.zone = zone
        self.range_uj = _whole_number((zone / "max_energy_range_uj").read_bytes(), zone)
        self.file = os.open(zone / "energy_uj", os.O_RDONLY)
        self._raw_uj: int | None = None
        self._total_uj = 0
        self._time_s = 0.0

    def advance(self, now_s: float) -> int:
        raw_uj = _whole_number(os.pread(self.file, 32, 0), self.zone)
        if self._raw_uj is not None:
            step_uj = raw_uj - self._raw_uj
            if step_uj < 0:
                step_uj += self.range_uj  # short of the truth by one unit of the counter per wrap
                most_uj = _IMPLAUSIBLE_W * (now_s - self._time_s) * MICROJOULES_PER_JOULE
                if not 0 <= step_uj <= most_uj:
                    raise MeterError(f"the RAPL counter {self.zone.name} was reset (suspended machine?)")
            self._total_uj += step_uj
        self._raw_uj, self._time_s = raw_uj, now_s
        return self._total_uj


def _whole_number(text: bytes, zone: Path) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise MeterError(f"the RAPL counter {zone.name} holds {text!r}, not a number") from error
