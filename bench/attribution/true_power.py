"""The true power of a simulated device, and what lies between it and a sensor: exact, by closed forms.

Power is constant in pieces. Behind a filter of first order, tau·y' = power - y, the energy follows without
integrating y: since ∫y = ∫power - tau·Δy, every integral below comes from the pieces and the state y at their
edges. Written for the attribution study and shares no code with the fit that it judges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TruePower:
    """W between edges, and its filtered twin.

    `edges_s` (m+1,) ascending; `power_w` (m,); `tau_s` 0 for no filter. At the first edge the filter is
    settled at the first piece's power. Times outside the edges raise `ValueError`.
    """

    edges_s: Array
    power_w: Array
    tau_s: float = 0.0
    _energy_j: Array = field(init=False, repr=False)
    _moment_js: Array = field(init=False, repr=False)
    _state_w: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths_s = np.diff(self.edges_s)
        if len(self.power_w) != len(lengths_s) or len(lengths_s) == 0:
            raise ValueError(f"{len(self.edges_s)} edges do not fit {len(self.power_w)} pieces")
        if not (lengths_s >= 0).all():
            raise ValueError("edges must ascend")
        energy_j = _from_zero(self.power_w * lengths_s)
        moments = energy_j[:-1] * lengths_s + self.power_w * lengths_s**2 / 2
        object.__setattr__(self, "_energy_j", energy_j)
        object.__setattr__(self, "_moment_js", _from_zero(moments))
        object.__setattr__(self, "_state_w", self._states(lengths_s))

    def _states(self, lengths_s: Array) -> Array:
        """y at every edge (m+1,); zeros without a filter, where nobody asks."""
        if self.tau_s == 0:
            return np.zeros(len(lengths_s) + 1)
        decay = np.exp(-lengths_s / self.tau_s).tolist()
        state_w = float(self.power_w[0])
        states = [state_w]
        for power_w, kept in zip(self.power_w.tolist(), decay, strict=True):
            state_w = power_w + (state_w - power_w) * kept
            states.append(state_w)
        return np.array(states)

    def energy_j(self, times_s: ArrayLike) -> Array:
        """J truly used from the first edge up to each time, shape of `times_s`."""
        _, piece, into_s = self._find(times_s)
        return np.asarray(self._energy_j[piece] + self.power_w[piece] * into_s)

    def between_j(self, start_s: ArrayLike, end_s: ArrayLike) -> Array:
        """J truly used between two times each."""
        return self.energy_j(end_s) - self.energy_j(start_s)

    def seen_energy_j(self, times_s: ArrayLike) -> Array:
        """∫y from the first edge up to each time."""
        used_j = self.energy_j(times_s)
        return used_j - self.tau_s * (self._state(times_s) - self.power_w[0]) if self.tau_s else used_j

    def seen_mean_w(self, from_s: ArrayLike, to_s: ArrayLike) -> Array:
        """Mean of y over each span of more than no length."""
        width_s = np.asarray(to_s, float) - np.asarray(from_s, float)
        return np.asarray((self.seen_energy_j(to_s) - self.seen_energy_j(from_s)) / width_s)

    def boxed_energy_j(self, times_s: ArrayLike, window_s: float) -> Array:
        """What an integrating counter behind a boxcar shows: the mean of ∫y over the last `window_s`."""
        if window_s == 0:
            return self.seen_energy_j(times_s)
        to_s = np.asarray(times_s, float)
        return np.asarray((self._seen_moment_js(to_s) - self._seen_moment_js(to_s - window_s)) / window_s)

    def _seen_moment_js(self, times_s: Array) -> Array:
        """∫∫y from the first edge up to each time."""
        times, piece, into_s = self._find(times_s)
        moment = self._moment_js[piece] + self._energy_j[piece] * into_s + self.power_w[piece] * into_s**2 / 2
        if self.tau_s:
            settled_j = self.power_w[0] * (times - self.edges_s[0])
            moment = moment - self.tau_s * (self.seen_energy_j(times) - settled_j)
        return np.asarray(moment)

    def _state(self, times_s: ArrayLike) -> Array:
        _, piece, into_s = self._find(times_s)
        power_w = self.power_w[piece]
        return np.asarray(power_w + (self._state_w[piece] - power_w) * np.exp(-into_s / self.tau_s))

    def _find(self, times_s: ArrayLike) -> tuple[Array, NDArray[np.intp], Array]:
        """(times, the piece that each is in, how far into it)."""
        times = np.asarray(times_s, float)
        if times.size and not (self.edges_s[0] <= times.min() and times.max() <= self.edges_s[-1]):
            raise ValueError(f"asked for a time outside {self.edges_s[0]:g} to {self.edges_s[-1]:g} s")
        piece = np.clip(np.searchsorted(self.edges_s, times, side="right") - 1, 0, len(self.power_w) - 1)
        return times, piece, times - self.edges_s[piece]


def _from_zero(parts: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(parts)])


def from_steps(
    spans_s: Sequence[tuple[float, float]],
    power_w: Sequence[float],
    *,
    idle_w: float,
    begin_s: float,
    end_s: float,
    tau_s: float = 0.0,
    drift: float = 0.0,
    drift_tau_s: float = math.inf,
) -> TruePower:
    """A device that idles from `begin_s` to `end_s` except in `spans_s` (ordered, disjoint).

    `drift`: by how much power grows with the temperature while the device works, in the end, approached with
    `drift_tau_s`; a piece of more than 5 ms is then cut up, and each takes the growth at its middle.
    """
    edges = [begin_s]
    watts: list[float] = []
    for (start, stop), step_w in zip(spans_s, power_w, strict=True):
        cuts = max(math.ceil((stop - start) / 0.005), 1) if drift else 1
        edges += [start + (stop - start) * cut / cuts for cut in range(cuts)] + [stop]
        watts += [idle_w] + [step_w] * cuts
    edges_s = np.array([*edges, end_s])
    pieces_w = np.array([*watts, idle_w])
    if drift and spans_s:
        warm_s = np.clip((edges_s[:-1] + edges_s[1:]) / 2 - spans_s[0][0], 0.0, None)
        pieces_w = pieces_w * (1 + drift * (1 - np.exp(-warm_s / drift_tau_s)))
    return TruePower(edges_s, pieces_w, tau_s)
