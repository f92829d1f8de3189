"""Thoughts and answers of a model of the test bed, through the engine: sampled thinking, greedy answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.problem import Problem
from bench.testbed.search import LINE, MOST_TRIES
from bench.testbed.vocabulary import ANSWER_PREFIX, CLOSER, EOS, STEP_SEPARATOR, TOKEN_ID, VOCABULARY
from engine.engine import Engine

ROWS = 16  # of one request: more leave the CPU backend's own path, 0.54 ms a token becomes 0.82 with 64
ANSWER_TOKENS = 3  # two characters and <eos>
# Four lines more than the longest thought, to see one that runs on.
THINK_TOKENS = LINE * (MOST_TRIES + 4)


@dataclass(frozen=True, slots=True)
class Thought:
    """The tokens a model wrote before the closer. `closed`: it wrote the closer too, in the room it had."""

    tokens: tuple[str, ...]
    closed: bool

    @property
    def lines(self) -> list[str]:
        """The whole lines, each with its newline."""
        lines = "".join(self.tokens).splitlines(keepends=True)
        return [line for line in lines if line.endswith(STEP_SEPARATOR)]

    def half(self) -> tuple[str, ...]:
        """The tokens of the first half of the lines, the smaller half of an odd number."""
        ends = [index + 1 for index, token in enumerate(self.tokens) if token == STEP_SEPARATOR]
        return self.tokens[: ends[len(ends) // 2 - 1]] if len(ends) > 1 else ()


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
        for row in rows:
            tokens = tuple(VOCABULARY[token] for token in row.token_ids)
            closed = CLOSER in tokens
            # A thought that stops without closing ends in <eos>, which is no part of it.
            end = tokens.index(CLOSER) if closed else len(tokens) - (tokens[-1] == EOS)
            found.append(Thought(tokens[:end], closed))
    return found


def answer(engine: Engine, problems: Sequence[Problem], thinking: Sequence[Sequence[str]]) -> list[str]:
    """The greedy answer to each problem after exactly these tokens; none of them for direct answers."""
    prompts = [
        engine.encode(problem.prompt) + [TOKEN_ID[token] for token in (*tokens, CLOSER, ANSWER_PREFIX)]
        for problem, tokens in zip(problems, thinking, strict=True)
    ]
    found = []
    for first in range(0, len(prompts), ROWS):
        rows = engine.generate_many(prompts[first : first + ROWS], max_new_tokens=ANSWER_TOKENS)
        found += [row.answer or "" for row in rows]
    return found
