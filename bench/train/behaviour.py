"""What a model's thinking does, line by line, beside what the generator of its training texts did."""

from collections.abc import Sequence
from itertools import pairwise

from bench.testbed.search import LINE, Search, last_digit
from bench.testbed.verify import Verify
from bench.train.thoughts import Thought


def transitions(problems: Sequence[Verify], thoughts: Sequence[Thought]) -> dict[str, float | int]:
    """The Markov chain of right and wrong lines as the model writes it, with the counts behind each rate.

    `epsilon`: wrong first lines. `fix`: right lines after wrong ones. `break`: wrong ones after right ones.
    `rewritten`: wrong lines after wrong ones that are no copy, which the generator never writes. NaN where
    nothing was seen.
    """
    firsts = wrong_firsts = after_wrong = fixed = rewritten = after_right = broken = 0
    for problem, thought in zip(problems, thoughts, strict=True):
        lines, right = thought.lines, problem.right_line
        firsts += bool(lines)
        wrong_firsts += bool(lines) and lines[0] != right
        for before, line in pairwise(lines):
            if before == right:
                after_right += 1
                broken += line != right
            else:
                after_wrong += 1
                fixed += line == right
                rewritten += line not in (right, before)
    return {
        "epsilon": _share(wrong_firsts, firsts),
        "fix": _share(fixed, after_wrong),
        "break": _share(broken, after_right),
        "rewritten": _share(rewritten, after_wrong),
        "attempts": firsts,
        "passes_over_wrong": after_wrong,
        "passes_over_right": after_right,
    }


def tries(problems: Sequence[Search], thoughts: Sequence[Thought]) -> dict[str, float | int]:
    """`right`: lines of a pair of the question with its product. `ended_at_hit`: of the thoughts that hit.

    `ran_through`: of the thoughts that never hit, those with exactly the generator's number of tries.
    """
    lines = right = hits = ended = misses = through = 0
    for problem, thought in zip(problems, thoughts, strict=True):
        hitting = None
        for index, line in enumerate(thought.lines):
            lines += 1
            valid = len(line) == LINE and line[:2] in problem.pairs and line[2] == last_digit(line[:2])
            right += valid
            if hitting is None and valid and line[2] == problem.target:
                hitting = index
        if hitting is None:
            misses += 1
            through += thought.closed and len(thought.lines) == problem.most_lines
        else:
            hits += 1
            ended += thought.closed and len(thought.lines) == hitting + 1
    return {
        "right": _share(right, lines),
        "ended_at_hit": _share(ended, hits),
        "ran_through": _share(through, misses),
        "tries": lines,
        "hits": hits,
        "misses": misses,
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else float("nan")
