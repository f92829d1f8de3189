"""When a sensor changed its reading, from a log that polled it: the updates and their period.

A change is seen at a poll and happened after the poll before it. The updates of a sensor are regular, so all
those brackets together give its times far more sharply than any one of them.
"""

from dataclasses import dataclass

import numpy as np

from engine.energy.power_trace import Array

MIN_CHANGES = 8  # fewer do not show a period
_GAPS_AHEAD = 2.2  # in polls: two brackets of one poll each, and a little


@dataclass(frozen=True, slots=True, eq=False)
class Updates:
    """The updates that a polled log shows.

    `times_s`, `readings`: (n,), an update that changed nothing counts too; `period_s` between two of them;
    `poll_s`: the log's own spacing; `regular`: the share of the seen changes that a strictly periodic
    sensor explains; `resolution`: the smallest step between two readings.
    """

    times_s: Array
    readings: Array
    period_s: float
    poll_s: float
    regular: float
    resolution: float

    def part(self, chosen: np.ndarray) -> "Updates":
        """The updates that a mask (n,) chooses."""
        return Updates(
            self.times_s[chosen],
            self.readings[chosen],
            self.period_s,
            self.poll_s,
            self.regular,
            self.resolution,
        )


def find_updates(times_s: Array, readings: Array) -> Updates:
    """Updates of a log (m,) of polls at rising times.

    Raises `ValueError`, one line for the user, where the log shows fewer than `MIN_CHANGES` changes or was
    polled too slowly to tell one update from the next.
    """
    seen = np.flatnonzero(np.diff(readings) != 0)
    if len(seen) < MIN_CHANGES:
        raise ValueError(
            f"the reading changes {len(seen)} times in the recording; its period needs {MIN_CHANGES} changes"
        )
    after_s, until_s = times_s[seen], times_s[seen + 1]
    poll_s = float(np.median(np.diff(times_s)))
    first_s, period_s, number = _regular_grid(after_s, until_s)
    # Half as long a period as the polls' would pass for the polls' own; so would any shorter one.
    if poll_s > period_s / 2:
        raise ValueError(
            f"the log was polled every {poll_s * 1e3:.3g} ms and finds a change nearly each time: "
            f"the sensor's period is shorter than that can tell"
        )
    grid_s = first_s + number * period_s
    inside = (grid_s >= after_s - 1e-6) & (grid_s <= until_s + 1e-6)
    # A sensor that is not quite regular stays inside what was seen.
    change_s = np.clip(grid_s, after_s, until_s)
    every = np.arange(number[-1] + 1)
    latest = np.searchsorted(number, every, side="right") - 1
    steps = np.diff(np.unique(np.round(readings, 4)))
    return Updates(
        times_s=np.interp(every, number, change_s),
        readings=readings[seen + 1][latest],
        period_s=period_s,
        poll_s=poll_s,
        regular=float(inside.mean()),
        resolution=round(float(steps.min()), 4),
    )


def per_update(counter: Updates) -> Updates:
    """Of a counter's updates in J the mean power in W between each and the one before."""
    return Updates(
        times_s=counter.times_s[1:],
        readings=np.diff(counter.readings) / np.diff(counter.times_s),
        period_s=counter.period_s,
        poll_s=counter.poll_s,
        regular=counter.regular,
        resolution=counter.resolution / counter.period_s,
    )


def _regular_grid(after_s: Array, until_s: Array) -> tuple[float, float, Array]:
    """(first update, period, number of each change): the grid that leaves the brackets the least.

    Middles of brackets give a start by least squares; what counts is the sum of distances outside the
    brackets, for which a late poll weighs no more than it is late.
    """
    middle_s = (after_s + until_s) / 2
    gaps_s = np.diff(middle_s)
    bracket_s = float(np.median(until_s - after_s))
    shortest_s = float(np.quantile(gaps_s, 0.2))
    # Gaps of one period: longer ones hold updates that changed nothing.
    single_s = max(shortest_s + _GAPS_AHEAD * bracket_s, 1.3 * shortest_s)
    period_s = float(gaps_s[gaps_s <= single_s].mean())
    for _ in range(3):
        apart = np.maximum(np.round(gaps_s / period_s), 1)
        number = np.concatenate([[0.0], np.cumsum(apart)])
        period_s, first_s = (float(value) for value in np.polyfit(number, middle_s, 1))
    middle = number.mean()  # period and start are told apart best from the middle of the log
    centre_s = first_s + middle * period_s
    for scale in (1.0, 0.2, 0.04):
        centres_s = centre_s + np.linspace(-1, 1, 41) * scale * bracket_s
        periods_s = period_s + np.linspace(-1, 1, 41) * scale * 4 * bracket_s / number[-1]
        outside = np.stack([_outside(after_s, until_s, centres_s, p, number - middle) for p in periods_s])
        best = np.argwhere(outside <= outside.min() + 1e-12)
        period_s, centre_s = float(periods_s[best[:, 0]].mean()), float(centres_s[best[:, 1]].mean())
    return centre_s - middle * period_s, period_s, number


def _outside(after_s: Array, until_s: Array, centres_s: Array, period_s: float, steps: Array) -> Array:
    """For each of the centres, the summed distance of the grid's updates from their brackets."""
    grid_s = centres_s[:, None] + steps * period_s
    return np.maximum(np.maximum(after_s - grid_s, grid_s - until_s), 0.0).sum(axis=1)
