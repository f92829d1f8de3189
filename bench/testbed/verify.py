r"""Noisy attempts and checking passes: a known Markov chain, so that the best place to stop can be computed.

`38592~` asks for the last digit of the digits' sum. A line holds the running sums modulo 10 from the second
digit on, `1657\n`. The first line is an attempt, every later one a checking pass over the line before it.
The answer that is taught after any line is that line's last digit, right or wrong. With options every line
ends in the letter of its last digit, or `N` where the digit is not among them: `1657A\n`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.testbed.folds import fold
from bench.testbed.options import LETTERS, Options
from bench.testbed.vocabulary import STEP_SEPARATOR

MARK = "~"
DIGITS = 5
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
    """Five digits."""

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
        value = self.right_line[DIGITS - 2]
        return value if self.options is None else str(self.options.letter(value))

    @property
    def difficulty(self) -> int:
        return 1

    @property
    def most_lines(self) -> int:
        return RATES.lines

    def think(self, rng: random.Random) -> Sequence[str]:
        right = self.right_line
        lines = [self._attempt(rng)]
        while len(lines) < RATES.lines:
            if lines[-1] != right:
                lines.append(right if rng.random() < RATES.fix else lines[-1])
            else:
                lines.append(self._wrong_line(rng) if rng.random() < RATES.break_ else right)
        return lines

    def conclude(self, lines: Sequence[str], rng: random.Random) -> str:
        """The last line's digit; with none written yet, that of a fresh attempt.

        With options its letter, and a random one where the digit is not among them.
        """
        digit = (lines[-1] if lines else self._attempt(rng))[DIGITS - 2]
        if self.options is None:
            return digit
        return self.options.letter(digit) or rng.choice(LETTERS)

    def _attempt(self, rng: random.Random) -> str:
        return self._wrong_line(rng) if rng.random() < RATES.epsilon else self.right_line

    def _wrong_line(self, rng: random.Random) -> str:
        """One running sum is off by 1..9 and the sums behind it go on from there: the last digit is wrong."""
        return self._line(rng.randrange(1, DIGITS), rng.randrange(1, 10))

    def _line(self, error_at: int | None, offset: int) -> str:
        """Running sums, `offset` added to the one at `error_at` and thereby to those behind it."""
        total, line = int(self.digits[0]), ""
        for position, digit in enumerate(self.digits[1:], 1):
            total += int(digit) + (offset if position == error_at else 0)
            line += str(total % 10)
        if self.options is not None:
            line += self.options.letter(line[-1]) or UNLISTED
        return line + STEP_SEPARATOR


def sample(rng: random.Random, *, folds: range, choice: bool, difficulty: int | None = None) -> Verify:
    """Five uniform digits; the options hold the right digit and three others."""
    while True:
        digits = f"{rng.randrange(10**DIGITS):0{DIGITS}d}"
        if fold(digits) in folds:
            break
    if not choice:
        return Verify(digits)
    right = Verify(digits).answer
    wrong = rng.sample([digit for digit in "0123456789" if digit != right], 3)
    return Verify(digits, Options.shuffled(right, wrong, rng))
