"""Accuracy of a model of the test bed by category, difficulty and technique, and what its thinking does.

    python -m bench.train.evaluate DIR

Three ways to an answer, all greedy: `direct`, forced at once; `half`, forced after half the lines of the
model's own thought; `full`, after all of it. Thinking is sampled at temperature 1. Questions come from the
development folds, which no model was trained on. Writes evaluation.json and the card.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.testbed.folds import DEVELOPMENT
from bench.testbed.problem import Problem
from bench.testbed.question import CATEGORIES
from bench.testbed.sample import family_of, problem
from bench.testbed.search import Search
from bench.testbed.verify import Verify
from bench.train.behaviour import transitions, tries
from bench.train.card import render_card
from bench.train.thoughts import Thought, answer, think
from engine.engine import Engine
from engine.errors import TokenjouleError

SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class Cell:
    """The problems of one category and difficulty, and what the model thought about them."""

    category: str
    difficulty: int
    problems: list[Problem]
    thoughts: list[Thought]


def think_about(engine: Engine, category: str, difficulty: int, questions: int) -> Cell:
    """The same problems and draws on every call."""
    rng = random.Random(f"{SEED} {category} {difficulty}")
    problems = [problem(category, rng, folds=DEVELOPMENT, difficulty=difficulty) for _ in range(questions)]
    return Cell(category, difficulty, problems, think(engine, problems, seed=SEED))


def accuracy(engine: Engine, cell: Cell) -> dict[str, object]:
    """Shares of right answers in 0..1, and the mean new tokens of a full answer."""
    answers = {
        "direct": answer(engine, cell.problems, [()] * len(cell.problems)),
        "half": answer(engine, cell.problems, [thought.half() for thought in cell.thoughts]),
        "full": answer(engine, cell.problems, [thought.tokens for thought in cell.thoughts]),
    }
    ends = sum(len(text) + 3 for text in answers["full"])  # closer, answer prefix and <eos>
    tokens = sum(len(thought.tokens) for thought in cell.thoughts) + ends
    return {
        "category": cell.category,
        "difficulty": cell.difficulty,
        "questions": len(cell.problems),
        **{name: _right(cell.problems, texts) for name, texts in answers.items()},
        "closed": round(sum(thought.closed for thought in cell.thoughts) / len(cell.thoughts), 4),
        "full_tokens": round(tokens / len(cell.problems), 1),
    }


def evaluate(
    engine: Engine,
    *,
    questions: int,
    report: Callable[[str], None],
    categories: tuple[str, ...] = CATEGORIES,
) -> dict[str, object]:
    """The whole record: accuracies, and the behaviour of verify and search where they are asked."""
    rows, verify, search = [], {}, {}
    report(f"{'category':15s} difficulty  direct    half    full  closed  tokens")
    for category in categories:
        cells = [
            think_about(engine, category, difficulty, questions)
            for difficulty in family_of(category).difficulties
        ]
        for cell in cells:
            row = accuracy(engine, cell)
            rows.append(row)
            shares = "  ".join(f"{row[key]:6.1%}" for key in ("direct", "half", "full", "closed"))
            report(f"{category:15s} {cell.difficulty:10d}  {shares}  {row['full_tokens']:6.1f}")
        problems = [problem for cell in cells for problem in cell.problems]
        thoughts = [thought for cell in cells for thought in cell.thoughts]
        if all(isinstance(problem, Verify) for problem in problems):
            verify[category] = transitions(problems, thoughts)  # type: ignore[arg-type]
            report(f"{category:15s} {verify[category]}")
        if all(isinstance(problem, Search) for problem in problems):
            search[category] = tries(problems, thoughts)  # type: ignore[arg-type]
            report(f"{category:15s} {search[category]}")
    return {
        "seed": SEED,
        "folds": [DEVELOPMENT.start, DEVELOPMENT.stop],
        "thinking_temperature": 1.0,
        "answers": "greedy",
        "accuracy": rows,
        "transitions": verify,
        "tries": search,
    }


def _right(problems: list[Problem], answers: list[str]) -> float:
    hits = [problem.answer == text for problem, text in zip(problems, answers, strict=True)]
    return round(sum(hits) / len(hits), 4)


def main(argv: list[str] | None = None) -> int:
    """Evaluates a model directory. Returns 0, or 1 where there is no model; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="bench.train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="model directory; its evaluation and card are rewritten")
    parser.add_argument("--questions", type=int, default=300, help="questions per category and difficulty")
    parser.add_argument(
        "--category", action="append", choices=CATEGORIES, help="only this one; nothing is written"
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    if options.questions < 1:
        parser.error(f"--questions must be at least 1, found {options.questions}")
    torch.set_num_threads(options.threads)
    try:
        with Engine.load(options.directory, backend=options.backend) as engine:
            record = evaluate(
                engine,
                questions=options.questions,
                report=lambda line: print(line, file=sys.stderr, flush=True),
                categories=tuple(options.category or CATEGORIES),
            )
    except TokenjouleError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.category:
        text = json.dumps(record, indent=2) + "\n"
        (options.directory / "evaluation.json").write_text(text, encoding="utf-8")
        render_card(options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
