"""What the power of a step may depend on, and which of it a pool of requests can tell apart.

Every kind of step has a constant; a prefill's power also goes with the tokens it computes, a decode step's
with the cached length of all its rows and with their number. A slope whose x hardly varies in the pool is
merged into the constant, and `seen` remembers the x for which that holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.energy.attribution import StepMark
from engine.energy.power_model import IDLE, NotIdentifiable, PowerModel
from engine.energy.power_trace import Array

SLOPES = {"prefill": ("tokens",), "decode": ("length", "rows")}
_VARIES = 0.05  # of the largest x: below that a slope and its constant are one
_BEYOND = 0.05  # of the x of a merged slope, within which it still holds


@dataclass(frozen=True, slots=True)
class Features:
    """`names`: idle first, then each kind's constant and slopes. `seen`: lowest, highest x of each slope."""

    names: tuple[str, ...]
    seen: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, marks: Iterable[StepMark]) -> "Features":
        """Those that these steps can tell apart by their x."""
        values: dict[str, list[float]] = {}
        kinds: dict[str, None] = {}
        for mark in marks:
            kinds[mark.kind] = None
            for name, x in _slopes(mark):
                values.setdefault(name, []).append(x)
        names, seen = [IDLE], {}
        for kind in kinds:
            if kind == IDLE:
                continue
            names.append(f"{kind}.const")
            for slope in SLOPES.get(kind, ()):
                name = f"{kind}.{slope}"
                if name in values:
                    seen[name] = (min(values[name]), max(values[name]))
                    if seen[name][1] - seen[name][0] > _VARIES * seen[name][1]:
                        names.append(name)
        return cls(tuple(names), seen)

    @classmethod
    def of_model(cls, power: PowerModel) -> "Features":
        return cls(power.features, power.seen)

    def with_new_kinds(self, marks: Sequence[StepMark]) -> "Features":
        """These, and those of kinds of step that have no constant here."""
        new = [mark for mark in marks if f"{mark.kind}.const" not in self.names and mark.kind != IDLE]
        more = Features.of(new)
        return Features(self.names + more.names[1:], {**self.seen, **more.seen})

    def matrix(self, marks: Sequence[StepMark]) -> Array:
        """(m, p): each step's value of each feature; its power is this times theta.

        Raises `NotIdentifiable` for a step outside of what a merged slope holds for.
        """
        column = {name: index for index, name in enumerate(self.names)}
        found = np.zeros((len(marks), len(self.names)))
        for row, mark in enumerate(marks):
            found[row, column[IDLE if mark.kind == IDLE else f"{mark.kind}.const"]] = 1.0
            for name, x in _slopes(mark):
                if name in column:
                    found[row, column[name]] = x
                elif name in self.seen:
                    self._require(name, x)
        return found

    def _require(self, name: str, x: float) -> None:
        low, high = self.seen[name]
        if not low - _BEYOND * high <= x <= high * (1 + _BEYOND):
            raise NotIdentifiable(
                f"the power model has seen {name.replace('.', ' ')} of {low:g} to {high:g} only, not {x:g}"
            )


def _slopes(mark: StepMark) -> list[tuple[str, float]]:
    """(name, x) of every slope of a step; none where its work is not known."""
    if not mark.work:
        return []
    if mark.kind == "prefill":
        return [("prefill.tokens", float(sum(row.new for row in mark.work)))]
    if mark.kind == "decode":
        return [
            ("decode.length", float(sum(row.length for row in mark.work))),
            ("decode.rows", float(len(mark.work))),
        ]
    return []
