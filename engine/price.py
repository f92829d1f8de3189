"""A mean of joules to spend, as the price of a joule that spends it: for stopping rules and for routers."""

import math
from collections.abc import Callable

_LEAST, _MOST = 1e-9, 1e15  # points a joule: everything is worth its joules, and nothing
_TO = 1e-6


def price_for_budget(mean_j: Callable[[float], float], budget_j: float) -> float:
    """The least price, to a millionth, that spends at most `budget_j` on average; inf where none does.

    `mean_j`: what choices at a price cost on average, falling in it. Never 0: joules settle ties.
    """
    low, high = 0.0, _LEAST
    while mean_j(high) > budget_j:
        low, high = high, high * 4
        if high > _MOST:
            return math.inf
    while low and high - low > _TO * high:
        middle = (low + high) / 2
        low, high = (low, middle) if mean_j(middle) <= budget_j else (middle, high)
    return high
