"""Samples that begin in waves: when a vote ends between them, and what a joule budget lets begin."""

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from engine.energy.forecast import Forecast
from engine.engine import Engine
from engine.steps import EnergySoFar, Phase, Step, StopReason
from engine.strategy import BestOfN, Vote, run
from engine.strategy.ballot import POINTS, expected_gain
from engine.strategy.likelihood import Likelihood
from engine.strategy.samples import Samples, as_written
from engine.strategy.vote import Until, Watch
from tests.letters import CountedMeter

CHAIN = "47+35-18+6="  # the bundled model thinks it through, and answers 70
EASY = {"temperature": 0.7, "seed": 5}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(backend="cpu", meter=CountedMeter()) as loaded:  # type: ignore[arg-type]
        yield loaded


class Scripted:
    """A session whose rows answer what they are told to, for `Watch` alone."""

    def __init__(self, answers: Sequence[str], at_once: int) -> None:
        self.answers, self.rows_at_once, self.cancelled = answers, at_once, set[int]()
        self.over: dict[int, StopReason] = {}

    def answer(self, row: int) -> str:
        return self.answers[row]

    def ended(self, row: int) -> StopReason | None:
        return self.over.get(row)

    def cancel(self, rows: set[int]) -> None:
        self.cancelled |= rows


def watched(
    vote: Vote,
    answers: Sequence[str],
    spent_j: Sequence[float],
    budget_j: float | None,
    *,
    at_once: int | None = None,
) -> Any:
    """(rows cancelled, why) when rows end one after the other, with so many joules spent by then.

    `at_once`: fewer rows begin together than the vote would have.
    """
    waves = vote.until in (Until.POSTERIOR, Until.UNANIMOUS, Until.PRICE)
    session: Any = Scripted(answers, at_once or (vote.wave if waves else vote.samples))
    watch = Watch(vote, Samples(session, Likelihood(), as_written, vote.samples))
    for row, joules in [(-1, spent_j[0]), *enumerate(spent_j[1:])]:
        if row in session.cancelled:
            break
        ended = None if row < 0 else StopReason.EOS
        if ended is not None:
            session.over[row] = ended
        spent = EnergySoFar(joules, None, joules)
        step = Step(max(row, 0), 0, 0, "", Phase.ANSWER, 1, stop=ended)
        step._energy, step._budget_j = partial(lambda so_far: so_far, spent), budget_j
        watch(step)
    return session.cancelled, watch.ended


def test_an_answer_that_the_budget_cut_in_the_middle_is_no_vote() -> None:
    ends = [StopReason.EOS, StopReason.JOULE_BUDGET, StopReason.MAX_TOKENS]
    session: Any = SimpleNamespace(
        ended=lambda row: ends[row], answer=lambda row: ["70", "7", "70"][row], rows_at_once=3
    )
    rows = Samples(session, Likelihood(), as_written, 3)
    assert not rows.catch_up(Step(0, 0, 0, "", Phase.ANSWER, 3)), "no other wave waits"
    assert rows.answers == {0: "70", 1: None, 2: "70"}


def test_no_wave_begins_that_the_budget_may_not_hold() -> None:
    """The prefill took 7 J, which no further wave will take; two rows 2 J each."""
    vote = Vote(8, until=Until.UNANIMOUS, wave=2)
    spent_j = [7, 9, 11, 13, 15, 17, 19, 21, 23]
    assert watched(vote, "abcdefgh", spent_j, None) == (set(), "all samples were drawn")
    assert watched(vote, "abcdefgh", spent_j, 15.0)[0] == {2 + 2, 5, 6, 7}
    assert watched(vote, "abcdefgh", spent_j, 14.9)[0] == {2, 3, 4, 5, 6, 7}
    assert watched(vote, "abcdefgh", spent_j, 14.9)[1].startswith("budget")


def test_samples_that_a_budget_held_back_begin_only_if_another_wave_fits() -> None:
    """Two at a time because of a budget, 2 J each; whatever else ends the vote."""
    spent_j = [7, 9, 11, 13, 15, 17, 19, 21, 23]
    for until in (Until.ALL, Until.DECIDED):
        cancelled, why = watched(Vote(8, until=until), "abcdefgh", spent_j, 15.0, at_once=2)
        assert cancelled == {4, 5, 6, 7}
        assert why == "budget: 4 of 8 samples; another wave may not fit in it"
        assert watched(Vote(8, until=until), "abcdefgh", spent_j, 99.0, at_once=2)[0] == set()


def test_one_sample_alone_is_not_unanimous() -> None:
    vote = Vote(8, until=Until.UNANIMOUS)
    assert watched(vote, "aaaaaaaa", [0.0] * 9, 99.0, at_once=1)[0] == {4, 5, 6, 7}


@pytest.mark.parametrize("strategy", [Vote(16, until=Until.ALL), Vote(16), BestOfN(16)])
def test_a_budget_begins_no_more_samples_than_it_holds_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    asked: list[tuple[Sequence[int], Sequence[int], int]] = []

    def rows_held(self: Forecast, budget_j: float, *given: Any) -> int:
        asked.append(given)
        return 2

    monkeypatch.setattr(Forecast, "rows_held", rows_held)
    outcome = run(engine, CHAIN, strategy, budget_joules=1e9, **EASY)
    prompt, answer = len(engine.encode(CHAIN)), 18  # closer, prefix and 16 tokens
    assert asked == [([prompt], [prompt] * 16, answer)], "one prefill for all rows"
    assert len(outcome.samples or ()) > 2, "there was enough for further waves"
    monkeypatch.setattr(Step, "budget_left_j", lambda step: 0.0)
    outcome = run(engine, CHAIN, strategy, budget_joules=1e9, **EASY)
    assert len(outcome.samples or ()) == 2
    assert outcome.ended == "budget: 2 of 16 samples; another wave may not fit in it"
    assert outcome.answer == "70"


def test_without_a_budget_all_samples_begin_together(engine: Engine) -> None:
    assert BestOfN(16).begin(engine, CHAIN, **EASY).session.rows_at_once == 16
    assert Vote(16).begin(engine, CHAIN, budget_joules=1e12, **EASY).session.rows_at_once == 16


def test_a_wave_is_priced_by_what_its_samples_took() -> None:
    vote = Vote(8, until=Until.PRICE, wave=2, price_joules=1.0)
    gain = max(POINTS * expected_gain([1, 1], more) / more for more in range(1, 7))  # points a sample
    for cost_j, drawn in ((gain * 0.99, 4), (gain * 1.01, 2)):
        spent_j = [100 + cost_j * ended for ended in range(4)]
        cancelled, why = watched(vote, "ababcccc", [*spent_j, *[1e9] * 5], None)  # the second wave is dear
        assert len(cancelled) == 8 - drawn
        assert why.startswith("price")


@pytest.mark.parametrize(
    ("answers", "cancelled"), [("aaaaazzz", {5, 6, 7}), ("ababaaaa", {7}), ("abababab", set())]
)
def test_rows_are_cancelled_at_the_very_vote_that_decides(answers: str, cancelled: set[int]) -> None:
    found, why = watched(Vote(8), answers, [0.0] * 9, None)
    assert found == cancelled
    assert why.startswith("decided" if cancelled else "all")
    assert watched(Vote(8, until=Until.ALL), answers, [0.0] * 9, None)[0] == set()
