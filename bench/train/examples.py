"""Training sequences for the test bed's models: questions, thinking of all or part of its length, answers.

Knows the test bed's problems and vocabulary, nothing of tensors.
"""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bench.testbed.chain import OPERATIONS
from bench.testbed.folds import TRAINING
from bench.testbed.problem import Problem
from bench.testbed.question import CHOICE
from bench.testbed.sample import problem
from bench.testbed.search import NONE
from bench.testbed.verify import RESULT as LAST_SUM
from bench.testbed.verify import Verify
from bench.testbed.vocabulary import (
    ANSWER_PREFIX,
    BOS,
    CLOSER,
    EOS,
    LETTERS,
    STEP_SEPARATOR,
    TOKEN_ID,
    tokens,
)

FAMILY_SHARES = {"chain": 0.3, "verify": 0.25, "search": 0.2, "recall": 0.25}
CHOICE_SHARE = 0.5
# Of all sequences, this share is drill: behind a question with options, its values in any order, each once,
# so that no letter can be copied; the letters alone are learned. Thoughts ask for a letter once in a hundred
# tokens; from them alone, letters were little better than chance after 3,700 steps, when all else was known.
DRILL_SHARE = 0.2
# Of the cut sequences, this share ends inside a line: a token budget does not wait for a line to end.
MID_LINE_SHARE = 0.2
FIRST_LENGTH = 2  # the curriculum of the chains begins here


# Weights in the loss, by place and never by outcome: weighing what came of a choice would bias the choice.
# With all at 1, letters of options, ends of searches and sums of attempts, a few tokens in a thousand, were
# not learned in 2200 steps, while chains were.
ANSWER_WEIGHT = 8.0
DECISION_WEIGHT = 4.0  # the computed or chosen characters of a line whose others are copied or drawn
# verify: lines that are wrong whatever stood before them, and of no weight themselves, their letter excepted.
# What a pass does depends on the line before it alone; as the generator writes them, nine in ten of those are
# right, and passes over wrong ones were not learned, nor letters, which could be copied from the line before.
PLANTED_SHARE = 0.4


# Places in a line: values and letters of chains, sums and letters of checks, products and marks of tries.
DECISIONS = {"chain": {4, 5, 6}, "verify": {2, 4, 6, 7}, "search": {2, 3}, "recall": set()}


class Kind(Enum):
    """How a training sequence reaches its answer."""

    FULL = "full"
    DIRECT = "direct"
    CUT = "cut"
    DRILL = "drill"


# Shares of each family's sequences. Where thinking is mostly copies or noise, little of it is enough.
KIND_SHARES = {
    "chain": {Kind.FULL: 0.6, Kind.DIRECT: 0.15, Kind.CUT: 0.25},
    "verify": {Kind.FULL: 0.3, Kind.DIRECT: 0.1, Kind.CUT: 0.6},
    "search": {Kind.FULL: 0.6, Kind.DIRECT: 0.15, Kind.CUT: 0.25},
    "recall": {Kind.FULL: 0.1, Kind.DIRECT: 0.5, Kind.CUT: 0.4},
}


def mix() -> dict[str, Any]:
    """The shares and weights of this module, for the record of a run."""
    return {
        "families": {
            family: {
                "share": FAMILY_SHARES[family],
                "with_options": CHOICE_SHARE,
                **{kind.value: share for kind, share in kinds.items()},
            }
            for family, kinds in KIND_SHARES.items()
        },
        "cut_inside_a_line": MID_LINE_SHARE,
        "planted": PLANTED_SHARE,
        "drill": DRILL_SHARE,
        "weights": {
            "answer": ANSWER_WEIGHT,
            "decision": DECISION_WEIGHT,
            "decisions": {family: sorted(places) for family, places in DECISIONS.items()},
        },
    }


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `lines`: what is written before the closer, the last perhaps in part.

    `answer`: what is taught. `planted`: which lines are of no weight up to their last sum.
    """

    prompt: str
    kind: Kind
    lines: tuple[str, ...]
    answer: str
    category: str
    planted: frozenset[int] = frozenset()

    def tokens(self) -> tuple[list[int], list[float]]:
        """Ids of the whole sequence, and for each its weight in the loss.

        The prompt is not learned. Nor is the closer of a direct or cut sequence: there it comes from
        outside (a budget ran out), and a model that learned to produce it would give up early by itself.
        """
        prompt = [BOS, *tokens(self.prompt)]
        if self.kind is Kind.DRILL:
            drill = list("".join(self.lines))
            weights = [0.0] * len(prompt) + [DECISION_WEIGHT * (character in "abcd") for character in drill]
            return [TOKEN_ID[token] for token in prompt + drill], weights
        body = [*"".join(self.lines), CLOSER, ANSWER_PREFIX, *self.answer, EOS]
        weights = [0.0] * len(prompt)
        for index, line in enumerate(self.lines):
            taught = LAST_SUM + 1 if index in self.planted else 0
            weights += [0.0] * min(taught, len(line)) + [
                self._weight(place) for place in range(taught, len(line))
            ]
        weights += [1.0 if self.kind is Kind.FULL else 0.0, 1.0] + [ANSWER_WEIGHT] * len(self.answer) + [1.0]
        return [TOKEN_ID[token] for token in prompt + body], weights

    def _weight(self, place: int) -> float:
        """Of a character of a line, by its place there."""
        return DECISION_WEIGHT if place in DECISIONS[self.category.removesuffix(CHOICE)] else 1.0


def sample_example(rng: random.Random, *, longest: int = OPERATIONS[-1]) -> Example:
    """A sequence of the mix, of no held-out question, its chain of at most `longest` (2..8) operations."""
    if not FIRST_LENGTH <= longest <= OPERATIONS[-1]:
        raise ValueError(f"longest must be in {FIRST_LENGTH}..{OPERATIONS[-1]}, found {longest}")
    family = rng.choices(list(FAMILY_SHARES), list(FAMILY_SHARES.values()))[0]
    if rng.random() < DRILL_SHARE:
        return _drill(rng, family + CHOICE, longest)
    category = family + CHOICE if rng.random() < CHOICE_SHARE else family
    shares = KIND_SHARES[family]
    kind = rng.choices(list(shares), list(shares.values()))[0]
    if kind is Kind.CUT:
        return _cut(rng, category, longest)
    drawn = _problem(rng, category, kind, longest)
    lines, planted = _think(drawn, rng) if kind is Kind.FULL else ((), frozenset())
    return Example(drawn.prompt, kind, lines, drawn.conclude(lines, rng), category, planted)


def _drill(rng: random.Random, category: str, longest: int) -> Example:
    drawn = _problem(rng, category, Kind.DRILL, longest)
    assert drawn.options is not None
    values = [value for value in rng.sample(drawn.options.values, len(LETTERS)) if value != NONE]
    lines = tuple(f"{value}{drawn.options.written(value)}{STEP_SEPARATOR}" for value in values)
    return Example(drawn.prompt, Kind.DRILL, lines, "", category)


def _cut(rng: random.Random, category: str, longest: int) -> Example:
    """Thinking that ends after whole lines, or inside a line, before it would have closed by itself.

    A place is drawn, early ones more often, as they cost less. Where the thought does not get there, place
    and question are drawn anew: cutting each thought somewhere would show short searches, which end in a hit,
    more often than they come to pass at that place, and a forced answer's probability would be wrong.
    """
    mid_line = rng.random() < MID_LINE_SHARE
    while True:
        share = rng.random() ** 3
        drawn = _problem(rng, category, Kind.CUT, longest)
        lines, planted = _think(drawn, rng)
        whole = int(share * drawn.most_lines) if mid_line else 1 + int(share * (drawn.most_lines - 1))
        if whole < len(lines):
            break
    part = (lines[whole][: rng.randrange(1, len(lines[whole]))],) if mid_line else ()
    kept = lines[:whole]
    return Example(drawn.prompt, Kind.CUT, (*kept, *part), drawn.conclude(kept, rng), category, planted)


def _think(drawn: Problem, rng: random.Random) -> tuple[tuple[str, ...], frozenset[int]]:
    """A whole thought, and which of its lines were planted."""
    if not isinstance(drawn, Verify):
        return tuple(drawn.think(rng)), frozenset()
    lines: list[str] = []
    planted = {index for index in range(drawn.most_lines) if rng.random() < PLANTED_SHARE}
    for index in range(drawn.most_lines):
        lines.append(drawn.wrong_line(rng) if index in planted else drawn.next_line(lines, rng))
    return tuple(lines), frozenset(planted)


def _problem(rng: random.Random, category: str, kind: Kind, longest: int) -> Problem:
    length = None
    if category.removesuffix(CHOICE) == "chain":
        length = _chain_length(rng, kind, longest, choice=category.endswith(CHOICE))
    return problem(category, rng, folds=TRAINING, difficulty=length)


def _chain_length(rng: random.Random, kind: Kind, longest: int, *, choice: bool) -> int:
    """Full chains lean to long ones, which have more places to fail; direct answers to short ones.

    Beyond two operations a direct answer is hardly learnable, so half of them ask for one or two. So do half
    of the full chains with options: what they teach is the letter of the last value.
    """
    if (kind is Kind.DIRECT or (kind is Kind.FULL and choice)) and rng.random() < 0.5:
        return rng.randint(1, FIRST_LENGTH)
    if kind is Kind.FULL and rng.random() < 0.5:
        return rng.randint((longest + 1) // 2, longest)
    return rng.randint(2 if kind is Kind.CUT else 1, longest)  # one step cannot be cut between steps
