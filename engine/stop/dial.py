"""Price and budget of a request, to be turned while it runs, from any thread."""

import math
from collections.abc import Sequence

from engine.errors import UsageError


class Dial:
    """`price`: accuracy points per joule that an answer must still gain. `budget_j`: joules of the request.

    Policies read it at every token or checkpoint. Rows that share a policy share its dial: a copy of one is
    the dial itself. Reading and setting are single steps, so no lock is needed. A request that began without
    a budget can get none later (nothing would read it): setting one raises `UsageError`, as a value does that
    is not positive (a price may be 0: joules then cost nothing).
    """

    __slots__ = ("_budget_j", "_price")

    def __init__(self, *, price: float | None = None, budget_j: float | None = None) -> None:
        self._price = None if price is None else _price(price)
        self._budget_j = None if budget_j is None else _budget(budget_j)

    def __deepcopy__(self, memo: object) -> "Dial":
        return self

    @property
    def price(self) -> float | None:
        return self._price

    @price.setter
    def price(self, price: float) -> None:
        self._price = _price(price)

    @property
    def budget_j(self) -> float | None:
        return self._budget_j

    @budget_j.setter
    def budget_j(self, budget_j: float) -> None:
        if self._budget_j is None:
            raise UsageError("this request began without a joule budget, and nothing would read one now")
        self._budget_j = _budget(budget_j)


def dial_of(policies: Sequence[object], price: float | None) -> Dial:
    """A request's dial: that of its joule budget where it has one, with `price` on it.

    Raises `UsageError` for a price that none of `policies` weighs.
    """
    dials = (getattr(policy, "dial", None) for policy in policies)
    dial = next((dial for dial in dials if isinstance(dial, Dial)), Dial())
    if price is not None:
        if not any(getattr(policy, "reads_price", False) for policy in policies):
            raise UsageError(
                "a price per joule was given, and no stop policy here weighs it; auto does, and a vote "
                "until its price"
            )
        dial.price = price
    return dial


def _price(price: float) -> float:
    """`price`, if it is one."""
    if not (math.isfinite(price) and price >= 0):
        raise UsageError(f"a price must be a number of at least 0, not {price}")
    return price


def _budget(budget_j: float) -> float:
    """`budget_j`, if it is one."""
    if not (math.isfinite(budget_j) and budget_j > 0):
        raise UsageError(f"a joule budget must be positive, not {budget_j}")
    return budget_j
