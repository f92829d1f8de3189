"""Training sequences for the test bed's models: questions, thinking of all or part of its length, answers.

Knows the test bed's problems and vocabulary, nothing of tensors.
"""

import random
from dataclasses import dataclass
from enum import Enum

from bench.testbed.chain import OPERATIONS
from bench.testbed.folds import TRAINING
from bench.testbed.problem import Problem
from bench.testbed.question import CHOICE
from bench.testbed.sample import problem
from bench.testbed.vocabulary import ANSWER_PREFIX, BOS, CLOSER, EOS, TOKEN_ID

FAMILY_SHARES = {"chain": 0.4, "verify": 0.2, "search": 0.2, "recall": 0.2}
CHOICE_SHARE = 0.5
# Of the cut sequences, this share ends inside a line: a token budget does not wait for a line to end.
MID_LINE_SHARE = 0.2
FIRST_LENGTH = 2  # the curriculum of the chains begins here


class Kind(Enum):
    """How a training sequence reaches its answer. The value is its share of the mix."""

    FULL = 0.45
    DIRECT = 0.25
    CUT = 0.30


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `thought`: what is written before the closer. `answer`: what is taught."""

    prompt: str
    kind: Kind
    thought: str
    answer: str
    category: str

    def tokens(self) -> tuple[list[int], list[bool]]:
        """Ids of the whole sequence, and for each whether the model is to learn to produce it.

        The prompt is not learned. Nor is the closer of a direct or cut sequence: there it comes from
        outside (a budget ran out), and a model that learned to produce it would give up early by itself.
        """
        prompt = [BOS, *self.prompt]
        body = [*self.thought, CLOSER, ANSWER_PREFIX, *self.answer, EOS]
        learned = [False] * len(prompt) + [True] * len(body)
        if self.kind is not Kind.FULL:
            learned[len(prompt) + len(self.thought)] = False
        return [TOKEN_ID[token] for token in prompt + body], learned


def sample_example(rng: random.Random, *, longest: int = OPERATIONS[-1]) -> Example:
    """A sequence of the mix, of no held-out question, its chain of at most `longest` (2..8) operations."""
    if not FIRST_LENGTH <= longest <= OPERATIONS[-1]:
        raise ValueError(f"longest must be in {FIRST_LENGTH}..{OPERATIONS[-1]}, found {longest}")
    family = rng.choices(list(FAMILY_SHARES), list(FAMILY_SHARES.values()))[0]
    category = family + CHOICE if rng.random() < CHOICE_SHARE else family
    kind = rng.choices(list(Kind), [kind.value for kind in Kind])[0]
    if kind is Kind.CUT:
        return _cut(rng, category, longest)
    drawn = _problem(rng, category, kind, longest)
    lines = drawn.think(rng) if kind is Kind.FULL else []
    return Example(drawn.prompt, kind, "".join(lines), drawn.conclude(lines, rng), category)


def _cut(rng: random.Random, category: str, longest: int) -> Example:
    """Thinking that ends after whole lines, or inside a line, before it would have closed by itself.

    A place is drawn, and where the thought does not get there, place and question are drawn anew: cutting
    each thought somewhere would show short searches, which end in a hit, more often than they come to pass
    at that place, and a forced answer's probability would be wrong.
    """
    mid_line = rng.random() < MID_LINE_SHARE
    while True:
        share = rng.random()
        drawn = _problem(rng, category, Kind.CUT, longest)
        lines = drawn.think(rng)
        whole = int(share * drawn.most_lines) if mid_line else 1 + int(share * (drawn.most_lines - 1))
        if whole < len(lines):
            break
    part = lines[whole][: rng.randrange(1, len(lines[whole]))] if mid_line else ""
    kept = lines[:whole]
    return Example(drawn.prompt, Kind.CUT, "".join(kept) + part, drawn.conclude(kept, rng), category)


def _problem(rng: random.Random, category: str, kind: Kind, longest: int) -> Problem:
    chain = category.removesuffix(CHOICE) == "chain"
    return problem(
        category, rng, folds=TRAINING, difficulty=_chain_length(rng, kind, longest) if chain else None
    )


def _chain_length(rng: random.Random, kind: Kind, longest: int) -> int:
    """Full chains lean to long ones, which have more places to fail; direct answers to short ones.

    Beyond two operations a direct answer is hardly learnable, so half of them ask for one or two.
    """
    if kind is Kind.DIRECT and rng.random() < 0.5:
        return rng.randint(1, FIRST_LENGTH)
    if kind is Kind.FULL and rng.random() < 0.5:
        return rng.randint((longest + 1) // 2, longest)
    return rng.randint(2 if kind is Kind.CUT else 1, longest)  # one step cannot be cut between steps
