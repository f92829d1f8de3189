r"""Noisy attempts and checking passes: a known Markov chain, so that the best place to stop can be computed.

`3859~` asks for the last digit of the digits' sum. A line holds the digits with the running sum's last digit
behind each but the first, `3815695\n`: 3 and 8 make 1, and 5 makes 6, and 9 makes 5. The first line is an
attempt, every later one a checking pass over the line before it. The answer that is taught after any line is
that line's last digit, right or wrong. With options every line ends in the letter of its last digit, or `N`
where the digit is not among them: `3815695a\n`. Lines hold the digits so that what a pass computes stands
beside what it would copy: with running sums alone, a model of 0.9 M parameters copied wrong lines and hardly
ever mended one (0.8 taught, 0.014 seen).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.folds import fold
from bench.testbed.options import Options
from bench.testbed.vocabulary import LETTERS, STEP_SEPARATOR

MARK = "~"
DIGITS = 4
RESULT = 2 * DIGITS - 2  # where a line has its answer
UNLISTED = "N"


@dataclass(frozen=True, slots=True)
class VerifyRates:
    """The Markov chain of right and wrong lines, as probabilities.

    `epsilon`: the attempt holds an error. `fix`: a pass over a wrong line writes the right one (else it
    copies). `break_`: a pass over a right line writes a fresh error (else it copies). `lines`: attempt and
    passes, after which the thinking closes.
    """

    epsilon: float = 0.5
    fix: float = 0.8
    break_: float = 0.02
    lines: int = 16


RATES = VerifyRates()


@dataclass(frozen=True, slots=True)
class Verify:
    """Four digits."""

    digits: str
    options: Options | None = None

    @property
    def core(self) -> str:
        return self.digits

    @property
    def prompt(self) -> str:
        return self.digits + (self.options.text if self.options else "") + MARK

    @property
    def right_line(self) -> str:
        return self._line(None, 0)

    @property
    def answer(self) -> str:
        value = self.right_line[RESULT]
        return value if self.options is None else str(self.options.letter(value))

    @property
    def difficulty(self) -> int:
        return 1

    @property
    def most_lines(self) -> int:
        return RATES.lines

    def think(self, rng: random.Random) -> Sequence[str]:
        lines: list[str] = []
        while len(lines) < RATES.lines:
            lines.append(self.next_line(lines, rng))
        return lines

    def next_line(self, lines: Sequence[str], rng: random.Random) -> str:
        """The attempt, or a pass over the line before."""
        if not lines:
            return self.wrong_line(rng) if rng.random() < RATES.epsilon else self.right_line
        if lines[-1] == self.right_line:
            return self.wrong_line(rng) if rng.random() < RATES.break_ else lines[-1]
        return self.right_line if rng.random() < RATES.fix else lines[-1]

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        """The last line's digit; with none written yet, that of a fresh attempt.

        With options its letter, and a random one where the digit is not among them.
        """
        digit = (lines or [self.next_line((), rng)])[-1][RESULT]
        if self.options is None:
            return digit
        return self.options.letter(digit) or rng.choice(LETTERS)

    def wrong_line(self, rng: random.Random) -> str:
        """One running sum is off by 1..9 and the sums behind it go on from there: the last digit is wrong."""
        return self._line(rng.randrange(1, DIGITS), rng.randrange(1, 10))

    def _line(self, error_at: int | None, offset: int) -> str:
        """Running sums, `offset` added to the one at `error_at` and thereby to those behind it."""
        total, line = int(self.digits[0]), self.digits[0]
        for position, digit in enumerate(self.digits[1:], 1):
            total += int(digit) + (offset if position == error_at else 0)
            line += digit + str(total % 10)
        if self.options is not None:
            line += self.options.written(line[-1]) or UNLISTED
        return line + STEP_SEPARATOR


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Verify:
    """Four uniform digits; the options hold the right digit and three others."""
    while True:
        digits = f"{rng.randrange(10**DIGITS):0{DIGITS}d}"
        if fold(digits) in folds:
            break
    if not choice:
        return Verify(digits)
    right = Verify(digits).answer
    wrong = rng.sample([digit for digit in "0123456789" if digit != right], 3)
    return Verify(digits, Options.shuffled(right, wrong, rng))
