"""How much CO2e a kilowatt-hour is now: a fixed figure, a recorded series, or a public service.

Average and marginal intensities answer different questions: every figure says which it is, one is never
compared with the other, and WattTime's (marginal, in pounds) are not read at all.
"""

import csv
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.errors import TokenjouleError, UsageError
from engine.fetch import fetch

AVERAGE, MARGINAL = "average", "marginal"
KEEP_S, TIMEOUT_S = 300.0, 3.0
OLDEST = timedelta(hours=2)  # what is older says nothing of now
AHEAD = timedelta(minutes=5)  # by which clocks may differ; what is dated later is no reading
ELECTRICITY_MAPS = "https://api.electricitymaps.com/v3/carbon-intensity/latest?zone="
UK = "https://api.carbonintensity.org.uk/intensity"
TOKEN_VARIABLE = "ELECTRICITY_MAPS_TOKEN"
# What files and answers that are not as they should be raise: a field or a nesting without end, a year 10000.
_MALFORMED: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, TypeError, AttributeError)
_MALFORMED += (TokenjouleError, csv.Error, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Intensity:
    """`g_per_kwh`: None where `problem` says why. `estimated`: by the service, in place of a measurement."""

    g_per_kwh: float | None
    kind: str = AVERAGE
    source: str = ""
    estimated: bool = False
    problem: str | None = None

    @property
    def notes(self) -> list[str]:
        """What is not as it should be."""
        doubts = [f"the intensity of {self.source} is estimated"] if self.estimated else []
        return [self.problem, *doubts] if self.problem else doubts


@dataclass
class Grid:
    """`spec`: grams per kWh, FILE.csv, "electricitymaps:ZONE" or "uk". Raises `UsageError` for anything else.

    `kind`: which intensities are wanted; a source of the other kind has none.
    A CSV has the columns `time` (ISO 8601 with its offset) and `average_g_per_kwh` or `marginal_g_per_kwh`.
    """

    spec: str
    kind: str = AVERAGE
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    url: str | None = None  # of a service's stand-in
    _kept: tuple[float, Intensity] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        name, _, zone = self.spec.partition(":")
        service = name == "electricitymaps" if zone else name == "uk"
        if _number(self.spec) is None and not self.spec.endswith(".csv") and not service:
            raise UsageError(
                f"carbon intensity: grams per kWh, a .csv, electricitymaps:ZONE or uk, not {self.spec!r}"
            )

    def now(self) -> Intensity:
        """Never raises and never waits for longer than `TIMEOUT_S`; kept for five minutes."""
        if (grams := _number(self.spec)) is not None:
            return Intensity(grams, self.kind, "as given")
        if self._kept is not None and time.monotonic() - self._kept[0] < KEEP_S:
            return self._kept[1]
        try:
            found = self._csv() if self.spec.endswith(".csv") else self._service()
        except _MALFORMED as error:
            plain = isinstance(error, ValueError | TokenjouleError)
            why = str(error) if plain else f"{type(error).__name__}: {error}"
            told = getattr(error, "strerror", None) or why  # which names the file as well
            found = Intensity(None, source=self.spec, problem=f"{self.spec}: {told}")
        self._kept = time.monotonic(), found
        return found

    def _csv(self) -> Intensity:
        with open(Path(self.spec), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        kinds = [kind for kind in (AVERAGE, MARGINAL) if rows and f"{kind}_g_per_kwh" in rows[0]]
        if len(kinds) != 1 or "time" not in rows[0]:
            raise ValueError("needs rows, a column time, and one of average_g_per_kwh and marginal_g_per_kwh")
        past = [(at, row) for row in rows if (at := _time(row["time"])) <= self.clock()]
        if not past:
            raise ValueError("tells of no time before now")
        at, row = max(past, key=lambda pair: pair[0])
        return self._dated(at, row[f"{kinds[0]}_g_per_kwh"], kinds[0], False)

    def _service(self) -> Intensity:
        name, _, zone = self.spec.partition(":")
        if name == "uk":
            [entry] = _fetched(self.url or UK, {})["data"]
            actual = entry["intensity"]["actual"]
            grams = entry["intensity"]["forecast"] if actual is None else actual
            return self._dated(_time(entry["from"]), grams, AVERAGE, actual is None)
        if not (token := os.environ.get(TOKEN_VARIABLE)):
            raise TokenjouleError(f"the environment variable {TOKEN_VARIABLE} holds no token")
        answer = _fetched(self.url or ELECTRICITY_MAPS + quote(zone), {"auth-token": token})
        if answer["zone"] != zone:  # of one that it does not know it takes the caller's place in the world
            raise TokenjouleError(f"was asked for {zone}, and tells of {answer['zone']}")
        estimated = bool(answer.get("isEstimated"))
        return self._dated(_time(answer["datetime"]), answer["carbonIntensity"], AVERAGE, estimated)

    def _dated(self, at: datetime, grams: Any, kind: str, estimated: bool) -> Intensity:
        value = _number(str(grams))
        if kind != self.kind:
            raise ValueError(f"is {kind}; {self.kind} intensities are wanted")
        if value is None:
            raise ValueError(f"{grams!r} is no intensity")
        age = self.clock() - at
        hours = age.total_seconds() / 3600
        if age > OLDEST:
            return Intensity(None, kind, self.spec, estimated, f"{self.spec}: stale, {hours:.1f} h old")
        if -age > AHEAD:
            return Intensity(None, kind, self.spec, estimated, f"{self.spec}: dated {-hours:.1f} h ahead")
        return Intensity(value, kind, self.spec, estimated)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if found.tzinfo is None:
        raise ValueError(f"the time {text!r} has no offset")
    return found


def _fetched(url: str, headers: dict[str, str]) -> Any:
    reply = fetch(url, within_s=TIMEOUT_S, headers=headers)
    if reply.problem or reply.status != 200:
        raise TokenjouleError(reply.problem or f"answers with status {reply.status}")
    return json.loads(reply.body)
