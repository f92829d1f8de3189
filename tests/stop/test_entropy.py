"""Stopping when the entropy behind the closer has settled."""

import math

import pytest

from engine.errors import UsageError
from engine.steps import StopReason
from engine.stop import EAT
from tests.stop.scripted import play, thinker, thought


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def stop_at(readings: list[float], alpha: float, delta: float, least: int) -> int | None:
    """The formula once more, over whole sums: weights of the readings in place of a recursion."""
    for n in range(least, len(readings) + 1):
        means = []
        for i in range(n):
            weights = [(1 - alpha) ** i if j == 0 else alpha * (1 - alpha) ** (i - j) for j in range(i + 1)]
            means.append(sum(w * h for w, h in zip(weights, readings, strict=False)))
        weights = [alpha * (1 - alpha) ** (n - 1 - i) for i in range(1, n)]
        squares = [(readings[i] - means[i]) ** 2 for i in range(1, n)]
        if sum(w * s for w, s in zip(weights, squares, strict=True)) / sum(weights) < delta:
            return n
    return None


@pytest.mark.parametrize(("alpha", "delta", "least"), [(0.2, 0.01, 4), (0.5, 0.004, 2), (0.3, 0.0001, 4)])
def test_it_stops_where_the_formula_says(alpha: float, delta: float, least: int) -> None:
    confidence = [0.5, 0.6, 0.9, 0.55, 0.8, 0.97, 0.98, 0.97, 0.98, 0.98, 0.98, 0.98]
    expected = stop_at([entropy(p) for p in confidence[1:]], alpha, delta, least)
    [result], _ = play(thinker("abcdefghijk", ["7"], confidence), EAT(alpha, delta, least=least))
    assert (thought(result).count("\n") if result.stop.forced_answer else None) == expected
    assert result.stop.reason is (StopReason.POLICY if expected else StopReason.EOS)


def test_one_steady_reading_after_another_is_settled() -> None:
    [result], _ = play(thinker("abcdefgh", ["7"], [0.9]), EAT(least=3))
    assert thought(result) == "a\nb\nc\n"


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1}, {"delta": 0}, {"least": 1}, {"every": 0}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        EAT(**wrong)  # type: ignore[arg-type]
