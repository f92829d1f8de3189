"""One question of a benchmark, whatever file it came from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """`id` is unique within the benchmark. `choices`: None where the answer is free-form.

    `answer`: the letter of the right choice, else the reference as the benchmark words it; None where it
    has none (MT-Bench). `category`: MMLU's and MATH's subject, MT-Bench's category.
    """

    id: str
    question: str
    choices: tuple[str, ...] | None
    answer: str | None
    category: str
    benchmark: str


def letters(choices: tuple[str, ...]) -> str:
    """The letters of the choices, as "ABCD"."""
    return "".join(chr(ord("A") + place) for place in range(len(choices)))
