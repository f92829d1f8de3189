"""Price and budget that change while a request runs."""

import copy
from threading import Thread

import pytest

from engine.errors import UsageError
from engine.session import Session
from engine.steps import Context, Step, Stop, StopReason
from engine.stop import Dial, JouleBudget, Policy
from engine.stop.dial import dial_of
from tests.stop.scripted import play, thinker, thought

ENDLESS = thinker(["thought"], ["42"], closes=False)


class Dear(Policy):
    """Stops when a joule costs more than ten points."""

    reads_price = True

    def reset(self, context: Context) -> None:
        self._context = context

    def on_token(self, step: Step) -> Stop | None:
        price = self._context.price
        return Stop() if price is not None and price > 10 else None


def test_a_budget_that_is_lowered_ends_the_thinking_earlier() -> None:
    def tokens(lowered_j: float | None) -> int:
        def during(session: Session, step: Step) -> None:
            if step.index == 20 and lowered_j is not None:
                thread = Thread(target=setattr, args=(session.dial, "budget_j", lowered_j))
                thread.start()
                thread.join()

        dial = Dial(budget_j=500.0)
        [result], _ = play(ENDLESS, JouleBudget(dial), dial=dial, during=during, answer_tokens=4)
        assert result.stop.reason is StopReason.JOULE_BUDGET
        assert (result.answer, result.budget.joules) == ("42", lowered_j or 500.0)  # type: ignore[union-attr]
        assert result.budget.overshoot_j == 0  # type: ignore[union-attr]
        return len(thought(result))

    assert tokens(250.0) < 0.55 * tokens(None)
    assert tokens(900.0) > 1.7 * tokens(None)


def test_a_budget_below_what_is_spent_ends_it_at_once() -> None:
    def during(session: Session, step: Step) -> None:
        if step.index == 20:
            session.dial.budget_j = 1.0

    dial = Dial(budget_j=500.0)
    [result], _ = play(ENDLESS, JouleBudget(dial), dial=dial, during=during, answer_tokens=4)
    assert len(thought(result)) == 22
    assert result.budget.overshoot_j > 0  # type: ignore[union-attr]


def test_a_price_is_read_again_at_every_token() -> None:
    def during(session: Session, step: Step) -> None:
        if step.index == 30:
            session.dial.price = 11.0

    [result], _ = play(ENDLESS, Dear(), dial=Dial(price=9.0), during=during)
    assert (len(thought(result)), result.stop.policy) == (32, "Dear")


def test_a_copy_of_a_dial_is_the_dial() -> None:
    """Rows get copies of a policy; one budget is for all of them."""
    dial = Dial(budget_j=5.0)
    budget = copy.deepcopy(JouleBudget(dial))
    dial.budget_j = 3.0
    assert budget.joules == 3.0
    assert budget.parameters == {"joules": 3.0, "gain_bound": 0.0}


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="began without a joule budget"):
        Dial().budget_j = 3.0
    dial = Dial(budget_j=5.0)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="must be positive"):
            dial.budget_j = value
    with pytest.raises(UsageError, match="price"):
        dial.price = -1.0
    with pytest.raises(UsageError, match="needs a dial"):
        JouleBudget(Dial(price=3.0))
    assert dial.budget_j == 5.0


def test_a_request_has_the_dial_of_its_budget_and_no_price_that_nobody_reads() -> None:
    dial = Dial(budget_j=5.0)
    assert dial_of([Policy(), JouleBudget(dial), Dear()], 0.5) is dial
    assert dial.price == 0.5
    assert dial_of([Policy()], None).budget_j is None
    with pytest.raises(UsageError, match="no stop policy here weighs it"):
        dial_of([Policy()], 0.5)
