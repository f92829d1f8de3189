"""A stopping rule as data: what answering and thinking on were worth at each checkpoint of calibrating runs.

The state of a row is its checkpoint k and a cell s of signals. Answering there is worth the probability g of
a right answer less what the answer costs; thinking on is worth what the end of the thinking or the next
checkpoint is worth, less what the way there costs. With a price λ of accuracy per joule

    V(k, s) = max( g - λ·answer,  c·(g' - λ·closing) + (1 - c)·(Σ p(s')·V(k+1, s') - λ·onward) )

c: the model ends its thinking by itself before the next checkpoint, g' its answer's accuracy then. The price
is known only when a request runs, so the rule holds the probabilities and `decisions` solves it, backwards
from the last checkpoint. `bench.calibrate` fits; the rule lies in the operating-curve file, in whose joules
it is.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields

from engine.errors import UsageError
from engine.stop.signals import Signals

POOLED = "all"  # the rule of every category together, for those that no calibration saw
POINTS = 100.0  # accuracy points are hundredths

Cell = tuple[int, ...]  # each signal's number of its bin, in the order of the fields of `Axes`
ANY: Cell = ()  # all cells of a checkpoint together


@dataclass(frozen=True, slots=True)
class Axes:
    """Where each signal is cut into bins: a value belongs to as many bins further up as cuts are not above
    it.

    No cuts: the signal is not looked at. `size`: of the prompt in tokens. `surprisal`, `worst`: of the tokens
    written, see `Signals`. `confidence`: of a probe's first token; with cuts, every checkpoint is probed.
    Raises `ValueError` for cuts that do not rise.
    """

    stability: tuple[float, ...] = ()
    distinct: tuple[float, ...] = ()
    size: tuple[float, ...] = ()
    confidence: tuple[float, ...] = ()
    surprisal: tuple[float, ...] = ()
    worst: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for cuts in self._all:
            if any(not math.isfinite(cut) for cut in cuts) or list(cuts) != sorted(set(cuts)):
                raise ValueError(f"cuts must be finite and rise, not {list(cuts)}")

    def cell(self, at: Signals, prompt_tokens: int, confidence: float = 0.0) -> Cell:
        values = (at.stability, at.distinct, prompt_tokens, confidence, at.surprisal, at.worst)
        return tuple(bisect_right(cuts, value) for cuts, value in zip(self._all, values, strict=True))

    @property
    def needs(self) -> frozenset[str]:
        """Of a policy that looks at these."""
        asked = {"probe": self.confidence, "logprob": self.surprisal or self.worst}
        return frozenset(need for need, cuts in asked.items() if cuts)

    @property
    def _all(self) -> tuple[tuple[float, ...], ...]:
        return self.stability, self.distinct, self.size, self.confidence, self.surprisal, self.worst


@dataclass(frozen=True, slots=True)
class State:
    """What the calibrating runs, `runs` of them, showed at one checkpoint in one cell. Joules from here on.

    `correct`: of answers forced here. `closes`: probability that the thinking ends before the next
    checkpoint, `closing_correct` and `closing_j` in that case, the answer's joules included. `onward`: the
    next checkpoint's cells, probabilities that add up to 1, empty where no run went on; `onward_j` on the
    way.
    """

    checkpoint: int
    cell: Cell
    runs: int
    correct: float
    answer_j: float
    closes: float
    closing_correct: float
    closing_j: float
    onward_j: float
    onward: tuple[tuple[Cell, float], ...]

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.correct, self.closes, self.closing_correct)):
            raise ValueError(f"a share outside [0, 1] at checkpoint {self.checkpoint}, cell {self.cell}")
        if not all(math.isfinite(j) and j >= 0 for j in (self.answer_j, self.closing_j, self.onward_j)):
            raise ValueError(f"joules that are negative or no number at checkpoint {self.checkpoint}")
        if self.onward and not math.isclose(sum(p for _, p in self.onward), 1.0, abs_tol=1e-6):
            raise ValueError(f"probabilities that do not add up to 1 at checkpoint {self.checkpoint}")


@dataclass(frozen=True, slots=True)
class CategoryRule:
    """States of one category; those of ANY cell stand in, checkpoint by checkpoint, for cells not seen."""

    axes: Axes
    states: tuple[State, ...]

    def __post_init__(self) -> None:
        coarse = {state.checkpoint for state in self.states if state.cell == ANY}
        if coarse != set(range(len(coarse))) or coarse != {state.checkpoint for state in self.states}:
            raise ValueError("checkpoints are numbered from 0, and each needs a state of any cell")
        signals = len(fields(self.axes))
        if any(len(cell) not in (0, signals) for s in self.states for cell in (s.cell, *dict(s.onward))):
            raise ValueError(f"a cell tells the bins of {signals} signals: calibrate again")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a state is worth either way, in accuracy (1: certain to be right) at the price asked for."""

    stop: float
    go_on: float

    @property
    def stops(self) -> bool:
        return self.stop >= self.go_on


Decisions = Mapping[tuple[int, Cell], Decision]


def decisions(rule: CategoryRule, price: float) -> Decisions:
    """Of every state, by backward induction. `price`: accuracy points per joule. A millisecond or two."""
    per_j = price / POINTS
    solved: dict[tuple[int, Cell], Decision] = {}
    for state in sorted(rule.states, key=lambda s: (-s.checkpoint, s.cell != ANY)):
        closing = state.closing_correct - per_j * state.closing_j
        if state.onward:
            ahead = 0.0
            for cell, probability in state.onward:
                following = look_up(solved, state.checkpoint + 1, cell)
                if following is not None:
                    ahead += probability * max(following.stop, following.go_on)
            onward = ahead - per_j * state.onward_j
            go_on = state.closes * closing + (1 - state.closes) * onward
        else:
            go_on = closing if state.closes else -math.inf
        solved[state.checkpoint, state.cell] = Decision(state.correct - per_j * state.answer_j, go_on)
    return solved


def look_up(solved: Decisions, checkpoint: int, cell: Cell) -> Decision | None:
    """Of a state, else of its checkpoint's coarse one; None beyond the last that any run reached."""
    return solved.get((checkpoint, cell)) or solved.get((checkpoint, ANY))


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """The rules of one model's categories, POOLED among them. `price`: where a request names none.

    `temperature`: of the calibrating runs' thoughts.

    `energy_source`: whose joules these are; `runs`: how many calibrating runs, `date` of the fit, ISO 8601.
    """

    model: str
    quantization: str
    energy_source: str
    date: str
    runs: int
    price: float
    categories: Mapping[str, CategoryRule]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if POOLED not in self.categories:
            raise ValueError(f"the stopping rule has no category {POOLED!r}")
        if not (math.isfinite(self.price) and self.price >= 0):
            raise ValueError(f"a price must be finite and not negative, not {self.price}")

    def __deepcopy__(self, memo: object) -> "StoppingRule":
        return self  # frozen: rows share it

    @property
    def needs(self) -> frozenset[str]:
        """Of a policy that follows it, whatever the category."""
        return frozenset[str]().union(*(rule.axes.needs for rule in self.categories.values()))

    def of(self, category: str | None) -> tuple[str, CategoryRule]:
        """(name, rule) for a category; POOLED where none is given or no calibration saw it."""
        name = category if category in self.categories else None
        return (POOLED, self.categories[POOLED]) if name is None else (name, self.categories[name])

    def require(self, model: str, quantization: str) -> None:
        """Raises `UsageError` of one line where this is no rule of that model as it is quantised."""
        for name, own, asked in (
            ("model", self.model, model),
            ("quantization", self.quantization, quantization),
        ):
            if own != asked:
                raise UsageError(
                    f"the stopping rule was calibrated on {name} {own!r}, this run has {asked!r}: "
                    f"python -m bench.calibrate fits one"
                )
