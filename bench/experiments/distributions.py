"""Tails and quantiles of Student's t and Fisher's F, by the incomplete beta function.

I_x(a, b) as a continued fraction (Lentz's method; Abramowitz and Stegun 26.5.8), so that the experiments need
numpy alone. Right to nine digits against published tables, which the tests hold.
"""

import math
from functools import cache

_TINY, _ENOUGH, _STEPS = 1e-300, 1e-14, 500


def beta_share(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for 0 <= x <= 1 and positive a, b."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = a * math.log(x) + b * math.log1p(-x) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1 - math.exp(log_front) * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _ENOUGH:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def f_tail(ratio: float, above: int, below: int) -> float:
    """P(F > ratio) with `above` and `below` degrees of freedom."""
    if ratio <= 0:
        return 1.0
    return 1.0 if math.isnan(ratio) else beta_share(below / (below + above * ratio), below / 2, above / 2)


@cache
def t_quantile(confidence: float, freedom: int) -> float:
    """The t that |T| stays under with probability `confidence`, by bisection. `freedom` at least 1."""
    low, high = 0.0, 1.0
    while f_tail(high * high, 1, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if f_tail(middle * middle, 1, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2
