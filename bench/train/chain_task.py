r"""The arithmetic-chain task of the bundled model: problems, written-out solutions, training sequences.

Owns the vocabulary and the hold-out split. Pure Python and seeded by the caller's `random.Random`; it
knows nothing of tensors or of tokenizer files.

A problem is `47+35-18=`, worked from left to right. Its solution is one step per line, then the closer,
the answer prefix and the result: `47+35=82\n82-18=64\n</think><answer>64<eos>`.
"""

import hashlib
import random
from dataclasses import dataclass
from enum import Enum

MAX_VALUE = 99
MAX_OPERATIONS = 12

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
CLOSER, ANSWER_PREFIX, STEP_SEPARATOR = "</think>", "<answer>", "\n"
CONTROL_TOKENS = (PAD, BOS, EOS, UNK)
PHASE_TOKENS = (CLOSER, ANSWER_PREFIX)
CHARACTERS = tuple("\n+-=0123456789")
VOCABULARY = (*CONTROL_TOKENS, *PHASE_TOKENS, *CHARACTERS)
TOKEN_ID = {token: index for index, token in enumerate(VOCABULARY)}

# One prompt in ten is never trained on. For n = 1 that is about 1000 of the 10100 prompts.
HELD_OUT_ONE_IN = 10

DIRECT_SHARE, FULL_SHARE, CUT_SHARE = 0.30, 0.45, 0.25
# Of the cut chains, this share ends inside a step: a token budget does not wait for a line to end.
MID_STEP_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Chain:
    """One problem: a start value and signed operands, each running value in 0..99.

    `operations`: pairs of "+" or "-" and an operand in 0..99. Raises `ValueError` for a running value
    out of range, an unknown operator, or none or more than 12 operations.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.operations) <= MAX_OPERATIONS:
            raise ValueError(f"a chain has 1..{MAX_OPERATIONS} operations, found {len(self.operations)}")
        for operator, operand in self.operations:
            if operator not in ("+", "-") or not 0 <= operand <= MAX_VALUE:
                raise ValueError(f"operations are + or - with 0..{MAX_VALUE}, found {operator}{operand}")
        for value in self.values:
            if not 0 <= value <= MAX_VALUE:
                raise ValueError(f"running values stay in 0..{MAX_VALUE}, found {value} in {self.prompt}")

    @property
    def values(self) -> tuple[int, ...]:
        """The start and the value after each operation: one more than there are operations."""
        values = [self.start]
        for operator, operand in self.operations:
            values.append(values[-1] + operand if operator == "+" else values[-1] - operand)
        return tuple(values)

    @property
    def result(self) -> int:
        return self.values[-1]

    @property
    def prompt(self) -> str:
        tail = "".join(f"{operator}{operand}" for operator, operand in self.operations)
        return f"{self.start}{tail}="

    @property
    def steps(self) -> tuple[str, ...]:
        """The written-out solution, one line per operation, each with its newline."""
        values = self.values
        return tuple(
            f"{values[index]}{operator}{operand}={values[index + 1]}{STEP_SEPARATOR}"
            for index, (operator, operand) in enumerate(self.operations)
        )


class Kind(Enum):
    """How a training sequence reaches its answer. The value is its share of the mix."""

    FULL = FULL_SHARE
    DIRECT = DIRECT_SHARE
    CUT = CUT_SHARE


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `thought` is the part of the solution that is written before the closer."""

    chain: Chain
    kind: Kind
    thought: str

    def tokens(self) -> tuple[list[int], list[bool]]:
        """Ids of the whole sequence, and for each whether the model is to learn to produce it.

        The prompt is not learned. Nor is the closer of a direct or cut sequence: there it comes from
        outside (a budget ran out), and a model that learned to produce it would give up early by itself.
        """
        prompt = [BOS, *self.chain.prompt]
        body = [*self.thought, CLOSER, ANSWER_PREFIX, *str(self.chain.result), EOS]
        learned = [False] * len(prompt) + [True] * len(body)
        if self.kind is not Kind.FULL:
            learned[len(prompt) + len(self.thought)] = False
        return [TOKEN_ID[token] for token in prompt + body], learned


def is_held_out(prompt: str) -> bool:
    """Whether this prompt (with its `=`) belongs to the evaluation. A property of the text alone."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def sample_chain(rng: random.Random, operations: int, *, held_out: bool) -> Chain:
    """A chain of that many operations from one side of the split.

    The start is uniform in 0..99; each operator is fair and its operand uniform over those that keep the
    running value in 0..99. Raises `ValueError` unless `operations` is in 1..12.
    """
    while True:
        value = start = rng.randint(0, MAX_VALUE)
        drawn = []
        for _ in range(operations):
            operator = rng.choice("+-")
            operand = rng.randint(0, MAX_VALUE - value if operator == "+" else value)
            value = value + operand if operator == "+" else value - operand
            drawn.append((operator, operand))
        chain = Chain(start, tuple(drawn))
        if is_held_out(chain.prompt) == held_out:
            return chain


def sample_example(rng: random.Random, *, longest: int = MAX_OPERATIONS) -> Example:
    """A training sequence from the mix, of at most `longest` (2..12) operations, never a held-out prompt."""
    if not 2 <= longest <= MAX_OPERATIONS:
        raise ValueError(f"longest must be in 2..{MAX_OPERATIONS}, found {longest}")
    kind = rng.choices(list(Kind), [kind.value for kind in Kind])[0]
    chain = sample_chain(rng, _sample_length(rng, kind, longest), held_out=False)
    text = "".join(chain.steps)
    if kind is Kind.FULL:
        return Example(chain, kind, text)
    if kind is Kind.DIRECT:
        return Example(chain, kind, "")
    if rng.random() < MID_STEP_SHARE:
        return Example(chain, kind, text[: rng.randrange(1, len(text))])
    return Example(chain, kind, "".join(chain.steps[: rng.randrange(1, len(chain.steps))]))


def _sample_length(rng: random.Random, kind: Kind, longest: int) -> int:
    """Full chains lean to long ones, which have more places to fail; direct answers to short ones.

    Beyond two operations a direct answer is hardly learnable, so half of them ask for one or two.
    """
    if kind is Kind.DIRECT and rng.random() < 0.5:
        return rng.randint(1, min(2, longest))
    if kind is Kind.FULL and rng.random() < 0.5:
        return rng.randint((longest + 1) // 2, longest)
    return rng.randint(2 if kind is Kind.CUT else 1, longest)  # one step cannot be cut between steps
