"""Joules that may be taken in any hour: what the last 60 minutes have left."""

import math
import time
from collections import deque
from collections.abc import Callable

from engine.errors import UsageError

HOUR_S = 3600.0


class HourlyBudget:
    """`joules`: of any 60 minutes. `clock`: monotonic seconds. Raises `UsageError` for none at all."""

    def __init__(self, joules: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < joules < math.inf:
            raise UsageError(f"the joules of an hour must be a number above 0, not {joules}")
        self.joules, self.clock = joules, clock
        self._spent: deque[tuple[float, float]] = deque()

    def spend(self, joules: float) -> None:
        """Now."""
        self._spent.append((self.clock(), joules))

    def left_j(self) -> float:
        """At least 0."""
        while self._spent and self._spent[0][0] <= self.clock() - HOUR_S:
            self._spent.popleft()
        return max(self.joules - sum(spent for _, spent in self._spent), 0.0)
