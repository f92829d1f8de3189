"""Thoughts and answers of a model of the test bed, through the engine: sampled thinking, greedy answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.problem import Problem
from bench.testbed.search import MOST_TRIES
from bench.testbed.vocabulary import ANSWER_PREFIX, CLOSER, STEP_SEPARATOR, TOKEN_ID
from engine.engine import Engine

ROWS = 64  # of one request, decoded together
ANSWER_TOKENS = 3  # two characters and <eos>
# Four lines more than the longest thought, to see one that runs on.
THINK_TOKENS = 4 * (MOST_TRIES + 4)


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model wrote before the closer. `closed`: it wrote the closer too, in the room that it had."""

    text: str
    closed: bool

    @property
    def lines(self) -> list[str]:
        """The whole lines, each with its newline."""
        return [line for line in self.text.splitlines(keepends=True) if line.endswith(STEP_SEPARATOR)]


def think(engine: Engine, problems: Sequence[Problem], *, seed: int) -> list[Thought]:
    """One thought for each problem, sampled at temperature 1."""
    found = []
    for first in range(0, len(problems), ROWS):
        rows = engine.generate_many(
            [problem.prompt for problem in problems[first : first + ROWS]],
            max_new_tokens=THINK_TOKENS,
            temperature=1.0,
            seed=seed + first,
            stop_sequences=[CLOSER],
        )
        found += [Thought(row.text, TOKEN_ID[CLOSER] in row.token_ids) for row in rows]
    return found


def answer(engine: Engine, problems: Sequence[Problem], thinking: Sequence[str]) -> list[str]:
    """The greedy answer to each problem after exactly this thinking; "" for direct answers."""
    end = [TOKEN_ID[CLOSER], TOKEN_ID[ANSWER_PREFIX]]
    prompts = [
        engine.encode(problem.prompt) + [TOKEN_ID[character] for character in text] + end
        for problem, text in zip(problems, thinking, strict=True)
    ]
    found = []
    for first in range(0, len(prompts), ROWS):
        rows = engine.generate_many(prompts[first : first + ROWS], max_new_tokens=ANSWER_TOKENS)
        found += [row.answer or "" for row in rows]
    return found
