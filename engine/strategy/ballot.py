"""Counting answers, and when more of them would not change the count: arithmetic that needs no model.

The rules look at the two most frequent answers alone. With v₁ and v₂ votes for them, the chance p that a
further vote among the two is for the first has the posterior Beta(v₁ + 1, v₂ + 1), and the first is the
majority of infinitely many votes where p > 1/2 (Adaptive Self-Consistency, arXiv 2305.11860).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIE_RULE = "highest mean log-probability of a sample, then the first"
POINTS = 100.0  # accuracy points in an accuracy of 1


@dataclass(frozen=True, slots=True)
class Ballot:
    """`votes`: how often each answer was given, the most frequent first. `tied`: those that share the lead.

    `winner`: the sample that stands for the vote, None where no sample had an answer; `answer` is its.
    """

    answer: str | None
    winner: int | None
    votes: Mapping[str, int]
    tied: tuple[str, ...]


def majority(answers: Sequence[str | None], log_probabilities: Sequence[float | None]) -> Ballot:
    """The most frequent answer; a None abstains. Ties, and which sample stands for it, by `TIE_RULE`.

    `log_probabilities`: of each sample, mean over its tokens; None where not known, which comes last.
    """
    votes = _counted(answers)
    if not votes:
        return Ballot(None, None, {}, ())
    most = max(votes.values())
    leading = tuple(answer for answer, count in votes.items() if count == most)
    scores = {
        number: -math.inf if score is None else score
        for number, (answer, score) in enumerate(zip(answers, log_probabilities, strict=True))
        if answer in leading
    }
    winner = max(scores, key=lambda number: (scores[number], -number))
    return Ballot(answers[winner], winner, votes, leading if len(leading) > 1 else ())


def is_decided(counts: Sequence[int], remaining: int) -> bool:
    """Whether `remaining` votes more, all for the second, could not even make a tie."""
    first, second = _two(counts)
    return first > second + remaining


def is_unanimous(answers: Sequence[str | None]) -> bool:
    """Whether a window of samples agrees (Early-Stopping Self-Consistency, arXiv 2401.10480)."""
    return len(answers) > 1 and answers[0] is not None and len(set(answers)) == 1


def confidence(counts: Sequence[int]) -> float:
    """P(the leading answer is the majority of infinitely many votes)."""
    first, second = _two(counts)
    return _above_half(first, second)


def adaptive_stop(counts: Sequence[int], threshold: float = 0.95) -> bool:
    """Whether the lead is as certain as `threshold`: Adaptive Self-Consistency's rule and its own value."""
    return confidence(counts) > threshold


def expected_gain(counts: Sequence[int], more: int) -> float:
    """How much likelier `more` votes are expected to make it that the leader is the true majority.

    Votes for third answers are left out. Never negative: after the votes the better of the two is taken.
    """
    first, second = _two(counts)
    after = 0.0
    for ahead in range(more + 1):
        chance = _above_half(first + ahead, second + more - ahead)
        after += _beta_binomial(ahead, more, first + 1, second + 1) * max(chance, 1 - chance)
    return max(after - max(now := _above_half(first, second), 1 - now), 0.0)


def pays(counts: Sequence[int], remaining: int, sample_j: float, price: float) -> bool:
    """Whether some number of further samples, `remaining` at most, gains more than it costs.

    `sample_j`: joules of one. `price`: accuracy points (hundredths) that a joule must gain. A gain is counted
    as if the majority were always right, which is its upper bound.
    """
    return any(
        POINTS * expected_gain(counts, more) > price * more * sample_j for more in range(1, remaining + 1)
    )


def _counted(answers: Sequence[str | None]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))  # stable: equal ones in order of coming


def _two(counts: Sequence[int]) -> tuple[int, int]:
    if any(count < 0 for count in counts):
        raise ValueError(f"votes are counted from 0, not {list(counts)}")
    first, second = sorted([*counts, 0, 0], reverse=True)[:2]
    return first, second


def _above_half(first: int, second: int) -> float:
    """P(p > 1/2) under Beta(first + 1, second + 1): a binomial tail, since both are whole numbers."""
    trials = first + second + 1
    return sum(math.comb(trials, successes) for successes in range(first + 1)) / 2**trials


def _beta_binomial(successes: int, trials: int, alpha: int, beta: int) -> float:
    """P(`successes` of `trials`) where the chance of each has the distribution Beta(alpha, beta)."""

    def log_beta(a: int, b: int) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    ratio = log_beta(alpha + successes, beta + trials - successes) - log_beta(alpha, beta)
    return math.comb(trials, successes) * math.exp(ratio)
