"""MATH-500: 500 problems of MATH (Hendrycks et al., arXiv 2103.03874), as Lightman et al. split it off."""

from collections.abc import Iterable

from bench.benchmarks.files import Line, text_of
from bench.benchmarks.item import Item

NAME = "math-500"


def parse_math500(lines: Iterable[Line]) -> list[Item]:
    """`category` is the subject, `answer` the LaTeX of the final answer. Raises `TokenjouleError`."""
    return [
        Item(
            id=text_of(where, line, "unique_id"),
            question=text_of(where, line, "problem"),
            choices=None,
            answer=text_of(where, line, "answer"),
            category=text_of(where, line, "subject"),
            benchmark=NAME,
        )
        for where, line in lines
    ]
